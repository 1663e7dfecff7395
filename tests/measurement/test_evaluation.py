import keras
import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.measurement.evaluation import evaluate

L = keras.layers


def scores_as_they_are(num_classes: int) -> keras.Model:
    """A model whose outputs are its inputs."""
    return keras.Sequential([keras.Input((num_classes,)), L.Identity()])


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_accuracy_is_counted_over_all_samples(rng, batch_size):
    scores, labels = rng.normal(size=(100, 10)), rng.integers(0, 10, 100)
    evaluation = evaluate(scores_as_they_are(10), scores, labels, batch_size=batch_size)
    ranked = np.argsort(-scores, axis=1)
    assert evaluation.top1 == np.mean(ranked[:, 0] == labels)
    assert evaluation.top5 == np.mean((ranked[:, :5] == labels[:, None]).any(axis=1))
    assert evaluation.num_samples == 100


def test_of_equal_scores_the_first_class_is_higher():
    scores = np.zeros((8, 8))
    evaluation = evaluate(scores_as_they_are(8), scores, np.arange(8))
    assert (evaluation.top1, evaluation.top5) == (1 / 8, 5 / 8)
    assert evaluation.top1 == np.mean(scores.argmax(axis=1) == np.arange(8))


def test_nan_is_wrong():
    scores = np.eye(6)
    scores[2] = np.nan
    scores[3, 0] = np.nan
    evaluation = evaluate(scores_as_they_are(6), scores, np.arange(6))
    assert (evaluation.top1, evaluation.top5, evaluation.loss) == (4 / 6, 4 / 6, None)


def test_loss_is_keras_cross_entropy_of_probabilities(rng):
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    model = keras.Sequential([keras.Input((4,)), L.Softmax()])
    evaluation = evaluate(model, logits, labels, batch_size=16)
    expected = keras.losses.SparseCategoricalCrossentropy()(labels, model(logits))
    assert evaluation.loss == pytest.approx(float(expected), rel=1e-5)
    assert evaluation.top5 is None
    assert evaluate(scores_as_they_are(4), logits, labels).loss is None


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_labels_may_be_a_column_or_one_hot(rng, dtype):
    scores, labels = rng.normal(size=(20, 7)), rng.integers(0, 7, 20)
    model = scores_as_they_are(7)
    expected = evaluate(model, scores, labels)
    assert evaluate(model, scores, labels.astype(dtype)[:, None]) == expected
    assert evaluate(model, scores, np.eye(7, dtype=dtype)[labels]) == expected
    assert evaluate(model, scores, np.eye(7, dtype=bool)[labels]) == expected
    assert evaluate(model, scores, labels.tolist()) == expected


def two_inputs(as_dictionary: bool) -> keras.Model:
    first, second = keras.Input((3,), name="zebra"), keras.Input((3,), name="ant")
    inputs = {"zebra": first, "ant": second} if as_dictionary else [first, second]
    return keras.Model(inputs, first * 2 - second)


@pytest.mark.parametrize("as_dictionary", [True, False])
def test_several_inputs(rng, as_dictionary):
    zebra, ant = rng.normal(size=(2, 30, 3))
    labels = (2 * zebra - ant).argmax(axis=1)
    model = two_inputs(as_dictionary)
    assert evaluate(model, {"ant": ant, "zebra": zebra}, labels, batch_size=8).top1 == 1
    if not as_dictionary:
        assert evaluate(model, [zebra, ant], labels, batch_size=8).top1 == 1


def test_dropout_sleeps_and_the_model_is_left_alone(rng):
    model = keras.Sequential([keras.Input((5,)), L.Dropout(0.9), L.BatchNormalization()])
    weights, nodes = model.get_weights(), len(model.layers[1]._inbound_nodes)
    scores = rng.normal(size=(40, 5)) + 3
    assert evaluate(model, scores, scores.argmax(axis=1)).top1 == 1
    assert len(model.layers[1]._inbound_nodes) == nodes
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_integers_in_bytes_are_inputs_too():
    images = np.eye(4, dtype="uint8") * 255
    assert evaluate(scores_as_they_are(4), images, np.arange(4)).top1 == 1


def test_it_reads_as_a_line(rng):
    evaluation = evaluate(scores_as_they_are(6), np.eye(6), np.arange(6))
    assert str(evaluation) == "top-1 100.00%, top-5 100.00%, loss 0.0000 on 6 samples"
    assert str(evaluate(scores_as_they_are(2), -np.eye(2), np.arange(2))) == "top-1 0.00% on 2 samples"


MODEL = scores_as_they_are(4)
X = np.ones((6, 4))
Y = np.zeros(6, int)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, np.full(6, 4), r"must lie in 0 to 3.*Received: 4 to 4"),
        (X, np.full(6, -1), r"must lie in 0 to 3.*Received: -1 to -1"),
        (X, np.full(6, 0.5), r"whole numbers.*float64"),
        (X, np.full(6, np.nan), r"must be finite"),
        (X, np.full((6, 4), np.inf), r"must be finite"),
        (X, np.array(["cat"] * 6), r"must be numbers.*<U3"),
        (X, Y[:5], r"x and y must have as many samples.*Received: \[5, 6\]"),
        (X, 3, r"x and y must have as many samples.*Received: \[0, 6\]"),
        (X, np.zeros((6, 2, 2)), r"one label for each sample.*Received: \(6, 2, 2\)"),
        (X, np.eye(10)[Y], r"one-hot for 10 classes, and the model has 4"),
        (X, np.ones((6, 4)), r"a single 1 in each row"),
        (np.ones((6, 5)), Y, r"must have shape \(any, 4\).*Received: \(6, 5\).*preprocess"),
        (np.ones((6, 4, 1)), Y, r"Received: \(6, 4, 1\)"),
        (np.ones((0, 4)), Y[:0], r"x and y is empty"),
        (np.full((6, 4), "a"), Y, r"must hold numbers"),
        ([X, X], Y, r"has 1 inputs.*Received: a batch of 2 arrays"),
        ({"image": X}, Y, r"dictionary of inputs must have the keys.*Received: \['image'\]"),
    ],
)
def test_what_does_not_fit_is_named(x, y, message):
    with pytest.raises(InputError, match=message):
        evaluate(MODEL, x, y)


def test_inputs_of_two_lengths():
    with pytest.raises(InputError, match=r"as many samples.*\[5, 6\]"):
        evaluate(two_inputs(False), [np.ones((6, 3)), np.ones((5, 3))], Y)


def test_several_outputs_need_the_metrics_that_the_model_was_compiled_with(rng):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [L.Dense(3, name="a")(inputs), L.Dense(1, name="b")(inputs)])
    with pytest.raises(InputError, match=r'Expected a model with one output.*task="compiled"'):
        evaluate(model, X, Y)
    labels = [Y, np.zeros((6, 1))]
    with pytest.raises(InputError, match="is not compiled"):
        evaluate(model, X, labels, task="compiled")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", [loss, "mse"], metrics=[["accuracy"], ["mae"]])
    evaluation = evaluate(model, X, labels, task="compiled")
    expected = model.evaluate(X, labels, verbose=0, return_dict=True)
    assert evaluation.task == "compiled" and evaluation.num_samples == 6
    assert evaluation.metrics == pytest.approx(expected) and list(evaluation.metrics)[-1].endswith("loss")


def as_they_are(*shape):
    return keras.Sequential([keras.Input(shape), L.Identity()])


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_one_probability_is_a_binary_classifier(rng, shape, batch_size):
    outputs, labels = rng.uniform(size=(20, 1)), rng.integers(0, 2, shape)
    evaluation = evaluate(as_they_are(1), outputs, labels, batch_size=batch_size)
    assert evaluation.task == "binary" and evaluation.top1 == evaluation.score == np.mean(
        (outputs > 0.5).ravel() == labels.ravel()
    )
    expected = keras.losses.BinaryCrossentropy()(labels.reshape(20, 1).astype("float32"), outputs.astype("float32"))
    assert evaluation.loss == pytest.approx(float(expected), rel=1e-5)
    assert str(evaluation).startswith("accuracy ") and "loss" in str(evaluation)
    masks = rng.uniform(size=(5, 4, 4, 1))
    evaluation = evaluate(as_they_are(4, 4, 1), masks, (masks > 0.5)[..., 0], batch_size=batch_size)
    assert (evaluation.task, evaluation.top1) == ("binary", 1.0)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("shape", [(1,), (3,), (4, 4, 2)])
def test_numbers_are_a_regression(rng, shape, batch_size):
    labels = rng.normal(2.0, 3.0, (30, *shape))
    outputs = labels + rng.normal(size=labels.shape)
    evaluation = evaluate(as_they_are(*shape), outputs.astype("float32"), labels, batch_size=batch_size)
    assert evaluation.task == "regression"
    error = outputs.astype("float32") - labels
    expected = {"R2": 1 - np.mean(error**2) / np.mean((labels - labels.mean(axis=0)) ** 2)}
    expected |= {"MSE": np.mean(error**2), "MAE": np.mean(np.abs(error))}
    assert evaluation.metrics == pytest.approx(expected)
    assert evaluation == evaluate(as_they_are(*shape), outputs.astype("float32"), labels, batch_size=7)
    with pytest.raises(AttributeError, match="regression has no top-1, but R2, MSE, MAE"):
        _ = evaluation.top1


def test_zeros_and_ones_with_outputs_that_are_no_probabilities_are_a_regression(rng):
    outputs, labels = rng.normal(size=(20, 1)), rng.integers(0, 2, 20)
    assert evaluate(as_they_are(1), outputs, labels).task == "regression"
    assert evaluate(as_they_are(1), outputs, labels, task="binary").task == "binary"
    assert evaluate(as_they_are(1), np.clip(outputs, 0, 1), labels, task="regression").task == "regression"
    assert evaluate(as_they_are(1), outputs, np.ones(20)).metrics.keys() == {"MSE", "MAE"}  # nothing is to be explained


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("form", ["integers", "a column", "one-hot"])
def test_scores_of_pixels_are_a_segmentation(rng, form, batch_size):
    scores, labels = rng.normal(size=(6, 5, 4, 3)).astype("float32"), rng.integers(0, 2, (6, 5, 4))  # class 2 is absent
    y = {"integers": labels, "a column": labels[..., None], "one-hot": np.eye(3)[labels]}[form]
    model = keras.Sequential([keras.Input((5, 4, 3)), L.Softmax()])
    evaluation = evaluate(model, scores, y, batch_size=batch_size)
    classes = scores.argmax(axis=-1)
    iou = keras.metrics.MeanIoU(3)
    iou.update_state(labels, classes)
    assert evaluation.task == "segmentation" and evaluation.num_samples == 6
    assert evaluation.metrics["pixel accuracy"] == np.mean(classes == labels)
    assert evaluation.metrics["mean IoU"] == pytest.approx(float(iou.result()))
    expected = keras.losses.SparseCategoricalCrossentropy()(labels, model(scores))
    assert evaluation.loss == pytest.approx(float(expected), rel=1e-5)
    assert evaluation == evaluate(model, scores, y, batch_size=2)


@pytest.mark.parametrize(
    ("shape", "y", "task", "message"),
    [
        ((4,), Y, "ranking", "task must be one of classification, binary, segmentation, regression or compiled"),
        ((1,), np.zeros(6), "classification", "Expected outputs with a score for each class"),
        ((4,), Y, "regression", r"Expected labels of the shape of the outputs, \(6, 4\). Received: \(6,\)"),
        ((1,), np.full(6, 2), "binary", "must be 0 and 1"),
        ((3, 3, 2), np.zeros((6, 3)), None, r"Expected a label for each pixel, \(6, 3, 3\)"),
        ((3, 3, 2), np.full((6, 3, 3), 2), None, "must lie in 0 to 1"),
    ],
)
def test_labels_of_another_task_are_refused(shape, y, task, message):
    with pytest.raises(InputError, match=message):
        evaluate(as_they_are(*shape), np.ones((6, *shape)), y, task=task)


def test_other_bad_arguments():
    with pytest.raises(InputError, match=r"batch_size must be at least 1\. Received: 0"):
        evaluate(MODEL, X, Y, batch_size=0)
    with pytest.raises(InputError, match=r"A keras\.Model is expected"):
        evaluate("model.keras", X, Y)


def test_the_accuracy_of_a_network_of_others(data_file):
    model = keras.saving.load_model(data_file("models/mlperf_ic_resnet8.h5"), compile=False)
    with np.load(data_file("cifar10.npz")) as arrays:
        evaluation = evaluate(model, arrays["x_test"], arrays["y_test"])
    assert evaluation.top1 == 0.8719
