"""Trainings compile the tf_keras model as the Keras 3 model was compiled: one step of both gives the same weights."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.bridge.compiling import compile_for

L, opt, R, M = keras.layers, keras.optimizers, keras.losses, keras.metrics
X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = np.arange(24) % 3
ONE_HOT = np.eye(3, dtype="float32")[Y]


def classifier():
    return keras.Sequential([keras.Input((5,)), L.Dense(4, "relu"), L.Dense(3, "softmax", name="head")], name="net")


def two_outputs():
    inputs = keras.Input((5,))
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3, "softmax", name="deep")], name="kind")
    x = L.Dense(4, "relu")(inputs)
    return keras.Model(inputs, [inner(x), L.Dense(1, name="size")(x)], name="net")


def own_loss(expected, received):
    return keras.ops.mean(keras.ops.square(expected - received), axis=-1)


def own_metric(expected, received):
    return keras.ops.mean(keras.ops.max(received, axis=-1))


def converted(model, labels):
    result = kc.to_tf_keras(model)
    compile_for(result, model, labels)
    return result


def check_one_step(model, labels):
    """Trains both for two batches, and compares losses, metrics and weights."""
    other = converted(model, labels)
    before = model.get_weights()
    for _ in range(2):
        losses = model.train_on_batch(X, labels, return_dict=True)
        converted_losses = other.train_on_batch(X, labels, return_dict=True)
    for one, two, first in zip(model.get_weights(), other.get_weights(), before, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)
        assert not np.array_equal(one, first)
    losses, converted_losses = model.evaluate(X, labels, verbose=0), other.evaluate(X, labels, verbose=0)
    np.testing.assert_allclose(converted_losses, losses, rtol=1e-4)


DECAY = {"initial_learning_rate": 0.1, "decay_steps": 1, "decay_rate": 0.5}
OPTIMIZERS = {
    **{name: lambda name=name: name for name in ("sgd", "adam", "rmsprop", "adagrad", "adamax", "lion")},
    "SGD with momentum": lambda: opt.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam on a schedule": lambda: opt.Adam(opt.schedules.ExponentialDecay(**DECAY), beta_1=0.5),
    "Adam with a clipped norm": lambda: opt.Adam(0.01, clipnorm=0.01),
    "SGD with clipped values": lambda: opt.SGD(0.5, clipvalue=0.01),
    "AdamW": lambda: opt.AdamW(0.01, weight_decay=0.1),
    "RMSprop, centered": lambda: opt.RMSprop(0.01, rho=0.5, momentum=0.1, centered=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.sampled(4)
def test_optimizers_by_name_and_as_objects(optimizer):
    model = classifier()
    model.compile(OPTIMIZERS[optimizer](), "sparse_categorical_crossentropy", metrics=["accuracy"])
    check_one_step(model, Y)


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="tf_keras' Nadam steps otherwise than that of Keras 3, and so does engine=tfmot")
def test_nadam():
    model = classifier()
    model.compile("nadam", "sparse_categorical_crossentropy")
    check_one_step(model, Y)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss, labels, metrics",
    [
        ("sparse_categorical_crossentropy", Y, ["accuracy", M.SparseTopKCategoricalAccuracy(2)]),
        ("categorical_crossentropy", ONE_HOT, ["acc", "categorical_accuracy"]),
        ("mse", ONE_HOT, ["mae", M.RootMeanSquaredError()]),
        (keras.losses.mean_absolute_error, ONE_HOT, None),
        (R.CategoricalCrossentropy(label_smoothing=0.3), ONE_HOT, ["accuracy"]),
        (R.Huber(delta=0.1), ONE_HOT, []),
        (R.CosineSimilarity(axis=0), ONE_HOT, None),
        (R.MeanSquaredError(reduction="sum"), ONE_HOT, None),
        (own_loss, ONE_HOT, [own_metric]),
    ],
    ids=["sparse", "one-hot", "name", "function", "smoothed", "object", "axis", "sum", "own"],
)
@pytest.mark.sampled(4)
def test_losses_and_metrics(loss, labels, metrics):
    model = classifier()
    model.compile(opt.SGD(0.1), loss, metrics=metrics)
    check_one_step(model, labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss, weights",
    [
        (["sparse_categorical_crossentropy", "mse"], [1.0, 5.0]),
        ({"kind": "sparse_categorical_crossentropy", "size": R.Huber()}, {"size": 5.0, "kind": 1.0}),
        ([R.SparseCategoricalCrossentropy(), own_loss], None),
    ],
    ids=["in order", "by name", "own"],
)
def test_several_outputs_and_their_weights(loss, weights):
    model = two_outputs()
    model.compile(opt.SGD(0.1), loss, loss_weights=weights)
    check_one_step(model, [Y, X[:, :1]])


@pytest.mark.slow
def test_a_learning_rate_that_was_set_after_compiling_counts():
    model = classifier()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.75
    assert float(converted(model, Y).optimizer.learning_rate) == pytest.approx(0.75)
    check_one_step(model, Y)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"optimizer": opt.Lamb(0.1)},
            "with optimizer=.*'Lamb', which tf_keras does not have",
        ),
        ({"optimizer": opt.SGD(0.1, gradient_accumulation_steps=4)}, "gradient_accumulation_steps=4, which tf_keras"),
        ({"loss": R.Dice()}, "with loss=.*'Dice', which tf_keras does not have"),
        (
            {"loss": R.MeanSquaredError(reduction="mean_with_sample_weight")},
            "tf_keras refuses loss: .*mean_with_s",
        ),
        ({"metrics": [M.FBetaScore()]}, None),
        (
            {"metrics": [M.ConcordanceCorrelation()]},
            "'ConcordanceCorrelation', which tf_keras does not have",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_tf_keras_does_not_have_is_named_and_not_replaced_in_silence(settings, message):
    model = classifier()
    model.compile(**{"optimizer": "sgd", "loss": "categorical_crossentropy"} | settings)
    if message is None:
        converted(model, ONE_HOT)
        return
    with pytest.raises(kc.InputError, match=message):
        converted(model, ONE_HOT)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("activation, from_logits", [("softmax", False), ("linear", True)])
def test_the_loss_of_a_model_that_is_not_compiled_fits_its_last_activation(activation, from_logits, nested):
    """Also where the last activation lies in a model within the model."""
    layers = [keras.Input((5,)), L.Dense(3, activation)]
    inner = keras.Sequential(layers)
    model = keras.Sequential([keras.Input((5,)), inner]) if nested else inner
    other = converted(model, Y)
    assert other.loss.get_config()["from_logits"] is from_logits
    assert type(other.optimizer).__name__ == "Adam"
