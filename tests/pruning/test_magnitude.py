"""Pruning by magnitude: zeros where they should be, a model that is otherwise the same, and runs that can be killed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.layers.paths import layers_by_path
from keras_compress.measurement import flatbuffer
from tests.pictures import Kill, Killed, Mirrored
from tests.trainings import fitted

pytestmark = pytest.mark.slow  # every test trains
L = keras.layers


def network(dropout=0.2):
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            L.DepthwiseConv2D(3, padding="same", name="depthwise"),
            L.Conv2D(8, 1, name="pointwise"),
        ],
        name="inner",
    )
    inputs = keras.Input((6, 6, 1), name="image")
    x = L.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = L.ReLU()(L.BatchNormalization()(inner(L.ReLU()(x))))
    shared = L.Dense(8, "relu", name="shared")
    x = L.Dropout(dropout)(shared(shared(L.GlobalAveragePooling2D()(x))))
    return keras.Model(inputs, L.Dense(4, "softmax", name="head")(x), name="network")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return network()


def prune(model, data, **settings):
    return fitted(kc.prune_magnitude, model, data, **({"epochs": 2, "batch_size": 25} | settings))


def test_the_smallest_weights_are_zero_and_the_model_is_the_same_otherwise(model, data):
    before = [weight.numpy() for weight in model.weights]
    result = prune(model, data, validation=data)
    for weight, expected in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)
    assert type(result.model) is type(model) and result.model.name == model.name
    assert list(layers_by_path(result.model)) == list(layers_by_path(model))
    assert result.model.output_names == model.output_names
    assert set(result.masks) == {"first", "inner/pointwise", "shared", "head"}
    for path, mask in result.masks.items():
        kernel = layers_by_path(result.model)[path].kernel.numpy()
        np.testing.assert_array_equal(kernel != 0, mask)
        row = result.report.row(path)
        assert row.action == "pruned" and row.target_zeros == 0.8
        assert abs(row.zeros - 0.8) <= 1 / kernel.size and row.zeros == 1 - mask.mean()
    row = result.report.row("inner/depthwise")
    assert row.action == "kept" and row.reason == "tfmot prunes no kernel of DepthwiseConv2D" and row.zeros == 0
    figures = result.report.steps[-1].figures
    assert figures["gzipped bytes"] < figures["gzipped bytes before"]
    assert figures["validation accuracy before"] == pytest.approx(kc.evaluate(model, *data).top1)
    assert figures["validation accuracy after"] == pytest.approx(kc.evaluate(result.model, *data).top1)
    assert "target" in str(result.report)


def test_it_learns_around_the_zeros(model, data):
    result = prune(model, data, epochs=60, optimizer=keras.optimizers.Adam(0.02), schedule=kc.PolynomialDecay(0, 0.6))
    assert kc.evaluate(result.model, *data).top1 > 0.7  # chance is 0.25


def test_the_same_seed_gives_the_same_weights(model, data):
    one, again, other = (prune(model, data, seed=seed) for seed in (1, 1, 2))
    same = [np.array_equal(a.numpy(), b.numpy()) for a, b in zip(one.model.weights, again.model.weights, strict=True)]
    assert all(same)
    assert not all(
        np.array_equal(a, b) for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    )


@pytest.mark.parametrize("epoch, batch", [(0, 3), (1, 0), (2, 7)])
@pytest.mark.sampled(1)
def test_a_killed_run_goes_on_to_the_same_weights(model, data, tmp_path, epoch, batch):
    settings = {"epochs": 3, "optimizer": keras.optimizers.Adam(0.01), "validation": data}
    whole = prune(model, data, **settings)
    folder = tmp_path / "state"
    with pytest.raises(Killed):
        prune(model, data, **settings, checkpoint=folder, callbacks=[Kill(epoch, batch)])
    assert folder.exists()
    resumed = prune(model, data, **settings, checkpoint=folder)
    for weight, expected in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy(), err_msg=weight.path)
    assert not folder.exists()


def test_batches_of_a_pydataset_go_on_with_the_epoch(model, data, tmp_path):
    whole = prune(model, Mirrored(data), epochs=3)
    with pytest.raises(Killed):
        prune(model, Mirrored(data), epochs=3, checkpoint=tmp_path / "state", callbacks=[Kill(1, 3)])
    resumed = prune(model, Mirrored(data), epochs=3, checkpoint=tmp_path / "state", validation=Mirrored(data))
    for weight, expected in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy(), err_msg=weight.path)
    plain = prune(model, data, epochs=3)
    assert not np.array_equal(plain.model.weights[0].numpy(), whole.model.weights[0].numpy())


def test_a_checkpoint_of_another_run_is_refused(model, data, tmp_path):
    with pytest.raises(Killed):
        prune(model, data, checkpoint=tmp_path, callbacks=[Kill(1, 1)])
    with pytest.raises(kc.InputError, match="is that of another run"):
        prune(model, data, checkpoint=tmp_path, seed=5)
    with pytest.raises(kc.InputError, match="is that of another run"):
        prune(model, (data[0] + 1, data[1]), checkpoint=tmp_path)


def test_two_of_four_neighbours(model, data):
    result = prune(model, data, m_by_n=(2, 4))
    assert set(result.masks) == {"inner/pointwise", "shared", "head"}
    assert "one input channel" in result.report.row("first").reason
    for path, mask in result.masks.items():
        along_inputs = np.moveaxis(mask, -2, -1)
        groups = along_inputs.reshape(-1, 4)
        assert (groups.sum(axis=1) <= 2).all(), path
        assert result.report.row(path).target_zeros == 0.5 and result.report.row(path).zeros == 0.5


def test_blocks_of_four(model, data):
    result = prune(model, data, block_size=(4, 1), schedule=kc.ConstantSparsity(0.5))
    assert set(result.masks) == {"shared", "head"}
    assert "two axes" in result.report.row("first").reason
    for mask in result.masks.values():
        blocks = mask.reshape(-1, 4, mask.shape[1])
        assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all()
        assert mask.mean() == 0.5


def test_chosen_layers_only(model, data):
    result = prune(model, data, layers=["pointwise"])
    assert set(result.masks) == {"inner/pointwise"}
    assert result.report.row("head").reason == "not chosen" and result.report.row("head").zeros == 0


def test_zeros_stay_in_later_steps_and_in_the_file(model, data, tmp_path):
    pruned = prune(model, data, schedule=kc.ConstantSparsity(0.5))
    folded = kc.fold_batch_normalization(pruned)
    quantized = kc.quantize(folded, kc.GPFQ(bits=4), data)
    for path, mask in pruned.masks.items():
        assert (layers_by_path(quantized.model)[path].kernel.numpy()[~mask] == 0).all()
        assert (quantized.kernels[path].codes[~mask] == 0).all()
    kc.export_tflite(quantized, tmp_path / "net.tflite")
    content = flatbuffer.parse((tmp_path / "net.tflite").read_bytes())
    tensors = {tensor.name.decode(): tensor for tensor in content.subgraphs[0].tensors}
    codes = flatbuffer.array_of(content, tensors["head/kernel"])
    assert (codes.T[~pruned.masks["head"]] == 0).all()
    again = prune(quantized, data, schedule=kc.ConstantSparsity(0.1))
    assert again.kernels.keys() < quantized.kernels.keys()  # those of a layer that no gradient reached still hold
    assert "weights changed" in again.report.steps[-1].figures["dropped"]
    for path, mask in pruned.masks.items():
        assert (layers_by_path(again.model)[path].kernel.numpy()[~mask] == 0).all()


def test_attention_and_embeddings(tmp_path):
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 8, name="words")(inputs)
    x = x + L.MultiHeadAttention(2, 4, name="heads")(x, x)
    model = keras.Model(
        inputs, L.Dense(3)(L.GlobalAveragePooling1D()(L.LSTM(4, return_sequences=True, name="lstm")(x)))
    )
    rng = np.random.default_rng(0)
    result = prune(model, (rng.integers(0, 20, (80, 6)), rng.integers(0, 3, 80)), schedule=kc.ConstantSparsity(0.5))
    assert result.report.row("words").zeros == 0.5
    assert result.report.row("lstm").reason == "tfmot prunes no kernel of LSTM"
    assert result.report.row("heads").reason == "tfmot prunes no kernel of MultiHeadAttention"


# Forms of data and settings


def test_a_dataset_of_batches(model, data):
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(25)
    assert prune(model, dataset, validation=dataset).report.row("head").zeros == pytest.approx(0.8, abs=0.02)


def test_weights_of_samples_and_one_hot_labels(model, data):
    x, y = data
    result = prune(model, (x, np.eye(4, dtype="float32")[y], np.ones(len(x), "float32")))
    assert result.report.row("head").zeros == pytest.approx(0.8, abs=0.02)


def test_the_model_says_how_it_was_compiled(model, data):
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    result = prune(model, data, validation=data)
    kept = ~np.isclose(result.model.get_layer("head").kernel.numpy(), 0)
    np.testing.assert_array_equal(
        result.model.get_layer("head").kernel.numpy()[kept], model.get_layer("head").kernel.numpy()[kept]
    )  # at a learning rate of zero


def test_callbacks_of_both_kinds(model, data, tmp_path):
    seen = []

    class Own(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, sorted(logs), self.params["epochs"]))

    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(own.model, "stop_training", epoch == 1)
    )
    own = Own()
    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    prune(model, data, epochs=5, validation=data, callbacks=[own, stop, board])
    assert seen == [(epoch, ["accuracy", "loss", "val_accuracy", "val_loss", "zeros"], 5) for epoch in (0, 1)]
    assert list(tmp_path.rglob("events*"))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"schedule": 0.8}, r"schedule must be kc.PolynomialDecay"),
        ({"epochs": 0}, "epochs must be an integer from 1"),
        ({"batch_size": 0}, "batch_size must be an integer from 1"),
        ({"m_by_n": (2, 4), "block_size": (4, 1)}, "exclude each other"),
        ({"m_by_n": (4, 4)}, "fewer zeros than neighbours"),
        ({"block_size": 4}, "block_size must be a tuple of two integers"),
        ({"layers": "nowhere"}, "'nowhere' matches no layer that can be pruned"),
        ({"schedule": kc.ConstantSparsity(end_step=500)}, "the training has 16 steps"),
        ({"callbacks": [print]}, "Callbacks must be keras.callbacks.Callback"),
        ({"validation": 3}, r"validation must be an array"),
    ],
)
def test_bad_settings(model, data, settings, message):
    with pytest.raises(kc.InputError, match=message):
        prune(model, data, **settings)


def test_bad_data(model, data):
    x, y = data
    with pytest.raises(kc.InputError, match="All arrays of train_data must have as many samples"):
        prune(model, (x, y[:-1]))
    with pytest.raises(kc.InputError, match=r"must have labels: a tuple \(x, y\) of arrays"):
        prune(model, x)
    with pytest.raises(kc.InputError, match="The dataset of train_data never ends"):
        prune(model, tf.data.Dataset.from_tensor_slices(data).batch(5).repeat())
    with pytest.raises(kc.InputError, match="no loss is obvious for its outputs and labels"):
        prune(model, (x, y.astype("float32") / 3))


def test_models_without_kernels_to_prune(data):
    model = keras.Sequential([keras.Input((6, 6, 1)), L.DepthwiseConv2D(3), L.GlobalAveragePooling2D()])
    with pytest.raises(kc.InputError, match="no layer that can be pruned"):
        prune(model, data)


@pytest.mark.slow
def test_a_model_that_is_not_compiled_gets_a_rate_that_falls_after_the_last_masks(model, data):
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            optimizer = self.model.optimizer
            rates.append(float(getattr(optimizer, "learning_rate", None)))

    prune(model, data, callbacks=[Rates()])
    steps, last = len(rates), kc.PolynomialDecay().last_step(len(rates))
    assert rates[: last - 1] == pytest.approx([0.001] * (last - 1))
    assert rates[-1] < 0.001 / 4 and steps - last >= 2
    rates.clear()
    model.compile("sgd", "sparse_categorical_crossentropy")
    prune(model, data, callbacks=[Rates()])
    assert rates == pytest.approx([0.01] * steps)  # as it was compiled


@pytest.mark.slow
def test_lost_accuracy_is_warned_of(model, data, caplog):
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, epochs=30, verbose=0)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    result = prune(model, data, schedule=kc.ConstantSparsity(0.98), validation=data)
    figures = result.report.steps[-1].figures
    lost = figures["validation accuracy before"] - figures["validation accuracy after"]
    assert lost > 0.02 and figures["warning"].startswith("validation accuracy fell from ")
    assert figures["warning"] in caplog.text and "Train for more epochs, or ask for fewer zeros." in str(result.report)
    caplog.clear()
    result = prune(model, data, schedule=kc.ConstantSparsity(0.01), validation=data)
    assert "warning" not in result.report.steps[-1].figures and not caplog.text
