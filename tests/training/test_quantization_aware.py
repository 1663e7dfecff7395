"""Quantization-aware training in Keras 3: the trained grid and the trained ranges come back, and go into files."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import layers_by_path
from keras_compress.measurement import flatbuffer
from tests.pictures import Kill, Killed, Mirrored
from tests.trainings import fitted

pytestmark = pytest.mark.slow  # every test trains
L = keras.layers
STANDING = keras.optimizers.SGD(0.0)  # weights and scales stay, ranges move


def network(dropout=0.2):
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            L.DepthwiseConv2D(3, padding="same", name="depthwise"),
            L.ReLU(),
            L.Conv2D(4, 1, name="pointwise"),
        ],
        name="inner",
    )
    inputs = keras.Input((6, 6, 1), name="image")
    x = L.Conv2D(4, 3, padding="same", use_bias=False, name="first")(L.Rescaling(0.5, name="half")(inputs))
    x = L.ReLU()(L.BatchNormalization(name="norm")(x))
    x = L.Concatenate(name="join")([x, inner(x, training=False)])
    x = L.Dropout(dropout)(L.Dense(8, "relu", name="hidden")(L.GlobalAveragePooling2D()(x)))
    return keras.Model(inputs, L.Dense(4, "softmax", name="head")(x), name="network")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return network()


def train(model, data, **settings):
    return fitted(kc.quantization_aware_training, model, data, **({"epochs": 2, "batch_size": 25} | settings))


def rounded(result):
    return {path: each for path, each in layers_by_path(result.model).items() if isinstance(each, QuantizeActivation)}


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.sampled(2)
def test_kernels_lie_on_the_grid(model, data, bits):
    before = [weight.numpy() for weight in model.weights]
    result = train(model, data, bits=bits, validation=data)
    for weight, expected in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)
    assert set(result.kernels) == {"first", "inner/depthwise", "inner/pointwise", "hidden", "head"}
    for path, kernel in result.kernels.items():
        assert kernel.levels.tolist() == kc.Integer(bits).levels_array.tolist()
        assert kernel.codes.min() == kernel.levels[0] or kernel.codes.max() == kernel.levels[-1], path
        assert kernel.scale.size == {"hidden": 1, "head": 1}.get(path, 4)
    assert "norm" not in layers_by_path(result.model)  # folded
    row = result.report.row("head")
    assert row.action == "quantized" and row.num_levels == len(kc.Integer(bits).levels_array)
    figures = result.report.steps[-1].figures
    assert {"validation accuracy before", "validation accuracy after", "ideal bytes"} <= figures.keys()
    assert figures["validation accuracy after"] == pytest.approx(kc.evaluate(result.model, *data).top1, abs=1e-6)


@pytest.mark.parametrize("storage", ["fast", "small"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.sampled(2)
def test_the_file_is_the_model_that_comes_back(model, data, bits, storage, tmp_path):
    """The trained integers and the trained ranges, through `export_tflite` alone."""
    result = train(model, data, bits=bits)
    kc.export_tflite(result, tmp_path / "net.tflite", activations="int8", storage=storage)
    content = flatbuffer.parse((tmp_path / "net.tflite").read_bytes())
    tensors = {tensor.name.decode(): tensor for tensor in content.subgraphs[0].tensors}
    codes = flatbuffer.array_of(content, tensors["hidden/kernel"])
    np.testing.assert_array_equal(codes.T, result.kernels["hidden"].codes)
    scales = {
        round(float(each.quantization.scale[0]), 9) for each in tensors.values() if each.quantization.scale is not None
    }
    assert {round(layer.scale, 9) for layer in rounded(result).values()} <= scales
    difference = kc.evaluate(result.model, *data).top1 - kc.evaluate_tflite(tmp_path / "net.tflite", *data).top1
    assert abs(difference) <= 0.01


def every_kernel():
    image, text = keras.Input((6, 6, 2), name="image"), keras.Input((5,), dtype="int32", name="text")
    x = L.SeparableConv2D(4, 3, activation="relu", name="separable")(image)
    x = L.Conv2DTranspose(3, 2, name="transposed")(x)
    x = L.Flatten()(L.Conv3D(2, 2, name="volume")(L.Reshape((5, 5, 3, 1))(x)))
    y = L.Embedding(9, 4, name="embedding")(text)
    y = L.Bidirectional(L.GRU(3, return_sequences=True), name="both")(y)
    y = L.MultiHeadAttention(2, 3, name="attention")(y, y)
    y = L.Flatten()(L.TimeDistributed(L.Dense(3), name="each")(L.Conv1D(4, 2, name="line")(y)))
    return keras.Model([image, text], L.Dense(3, "softmax", name="head")(L.Concatenate()([x, y])))


def test_every_kernel_that_quantize_knows_is_rounded(tmp_path):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(48, 6, 6, 2)).astype("float32"), rng.integers(0, 9, (48, 5))]
    model = every_kernel()
    result = train(model, (x, np.arange(48) % 3), bits=4, epochs=1, batch_size=16)
    known = set(views_by_path(model))
    halves = {"separable/depthwise_kernel": "separable_depthwise", "separable/pointwise_kernel": "separable"}
    assert set(result.kernels) == {halves.get(path, path) for path in known}
    for path, before in views_by_path(model).items():
        moved = views_by_path(result.model)[halves.get(path, path)].kernel
        assert not np.array_equal(moved, before.kernel), path


# From codes

GIVEN = {
    "integer": kc.GPFQ(bits=3),
    "layer": kc.MSQ(alphabet=kc.Integer(4, per_channel=False)),
    "asymmetric": kc.MSQ(alphabet=kc.Integer(4, symmetric=False)),
    "groups": kc.MSQ(alphabet=kc.Integer(4, group_size=3)),
    "ternary": kc.GPFQ(alphabet=kc.Ternary()),
    "gap": kc.SparseGPFQ(bits=3, regularizer="l0"),
    "odd": kc.Beacon(bits=2),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.sampled(3)
def test_it_begins_at_the_codes_and_scales_of_a_result(data, given):
    keras.utils.set_random_seed(0)
    layers = [
        L.Flatten(),
        L.Dense(12, "relu", name="first"),
        L.Dense(8, "relu", name="second"),
        L.Dense(4, name="head"),
    ]
    quantized = kc.quantize(keras.Sequential([keras.Input((6, 6, 1)), *layers]), GIVEN[given], data)
    standing = train(quantized, data, optimizer=STANDING, activation_bits=None)
    moving = train(quantized, data, optimizer=keras.optimizers.Adam(0.01), activation_bits=None)
    for path, kernel in quantized.kernels.items():
        np.testing.assert_array_equal(standing.kernels[path].codes, kernel.codes, err_msg=path)
        np.testing.assert_array_equal(standing.kernels[path].scale, kernel.scale, err_msg=path)
        np.testing.assert_array_equal(views_by_path(standing.model)[path].kernel, kernel.decode())
        assert moving.kernels[path].levels.tolist() == kernel.levels.tolist()
        assert not np.array_equal(moving.kernels[path].scale, kernel.scale)
    moved = [not np.array_equal(moving.kernels[path].codes, quantized.kernels[path].codes) for path in moving.kernels]
    assert any(moved)


def test_codes_of_another_width_are_dropped(data):
    model = keras.Sequential([keras.Input((6, 6, 1)), L.Flatten(), L.Dense(4, name="head")])
    result = train(kc.quantize(model, kc.MSQ(bits=4), data), data, bits=3)
    assert len(result.kernels["head"].levels) == 7
    assert len(train(kc.quantize(model, kc.MSQ(bits=4), data), data).kernels["head"].levels) == 15


def test_codes_beat_rounding_where_bits_are_few(data):
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(6, 3, activation="relu"), L.Flatten(), L.Dense(16, "relu"), L.Dense(4, "softmax")]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, epochs=20, verbose=0)
    settings = {"bits": 2, "epochs": 3, "validation": data}
    losses = [
        train(given, data, **settings).report.steps[-1].figures["validation loss after"]
        for given in (model, kc.quantize(model, kc.GPFQ(bits=2), data))
    ]
    assert losses[1] < losses[0]


# Ranges


@pytest.mark.parametrize("factor", [0.01, 255.0])
@pytest.mark.sampled(1)
def test_ranges_begin_where_the_data_are(data, factor):
    keras.utils.set_random_seed(0)
    x, y = data[0] * factor, data[1]
    model = network(0.0)
    model.get_layer("half").scale = 0.5 / factor
    result = train(model, (x, y), epochs=1, optimizer=STANDING)
    layers = rounded(result)
    batches = [x[start : start + 200] for start in range(0, len(x), 200)]
    low, high = (np.mean([end(batch) for batch in batches]) for end in (np.min, np.max))
    image = layers["image_quantized"]
    span = image.scale * 255
    assert span == pytest.approx(max(high, 0) - min(low, 0), rel=0.1)
    assert kc.evaluate(result.model, x, model.predict(x, verbose=0).argmax(axis=1)).top1 > 0.9


def test_what_is_joined_has_one_alphabet(model, data):
    layers = rounded(train(model, data))
    relu = next(path for path in layers if path.startswith("re_lu"))
    assert layers[relu].scale == layers["inner/pointwise_quantized"].scale


def test_ranges_move_in_a_nested_model_that_is_called_with_training_false(data):
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((6, 6, 1)), L.Conv2D(4, 3, name="conv")], name="inner")
    inputs = keras.Input((6, 6, 1))
    model = keras.Model(inputs, L.Dense(4, name="head")(L.Flatten()(inner(inputs, training=False))))
    spans = [
        rounded(train(model, data, optimizer=STANDING, epochs=epochs))["inner/conv_quantized"].scale
        for epochs in (1, 9)
    ]
    assert spans[0] != spans[1]


def test_activations_in_floating_point(model, data, tmp_path):
    result = train(model, data, bits=4, activation_bits=None)
    assert not rounded(result) and type(result.model) is type(model)
    assert result.model.output_names == model.output_names
    assert [*layers_by_path(result.model)] == [path for path in layers_by_path(model) if path != "norm"]
    kc.export_tflite(result, tmp_path / "net.tflite", storage="small")
    with pytest.raises(kc.InputError, match="rounds its activations, which only a file of integers does"):
        kc.export_tflite(train(model, data, bits=4), tmp_path / "net.tflite")


@pytest.mark.parametrize("kind", ["masked", "rounded"])
def test_models_whose_activations_are_left_alone_say_so(data, kind):
    x = data[0].reshape(-1, 6, 6)
    layers = [L.Masking(), L.LSTM(4)] if kind == "masked" else [L.Flatten()]
    model = keras.Sequential([keras.Input((6, 6)), *layers, L.Dense(4, name="head")])
    given = model if kind == "masked" else kc.quantize_activations(model, x)
    result = train(given, (x, data[1]))
    reason = {"masked": "passes on a mask", "rounded": "its activations are rounded already"}[kind]
    assert reason in result.report.steps[-1].figures["activations"]
    assert bool(rounded(result)) == (kind == "rounded")


# What stays


def test_zeros_of_pruning_stay(model, data):
    pruned = fitted(kc.prune_magnitude, model, data, epochs=2, batch_size=25, schedule=kc.ConstantSparsity(0.6))
    for given in (pruned, kc.quantize(pruned, kc.GPFQ(bits=4), data)):
        result = train(given, data)
        assert set(result.masks) == set(pruned.masks)
        for path, mask in pruned.masks.items():
            assert (result.kernels[path].codes[~mask] == 0).all(), path


def test_shared_values_of_clusters_stay(data):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), L.Conv2D(8, 3, name="conv"), L.Flatten(), L.Dense(4, name="head")]
    )
    clustered = fitted(kc.cluster_weights, model, data, number_of_clusters=4, epochs=1)
    result = train(clustered, data, bits=8)
    assert set(result.clusters) == set(clustered.clusters)
    assert all(len(np.unique(result.kernels[path].codes)) <= 4 for path in clustered.clusters)


@pytest.mark.parametrize("samples", [lambda data: data, Mirrored], ids=["arrays", "hooks"])
@pytest.mark.sampled(1)
def test_a_killed_run_goes_on_to_the_same_codes_and_ranges(model, data, samples, tmp_path):
    """Also where ranges begin with a look at batches that change with the epoch."""
    whole = train(model, samples(data), bits=4, epochs=3)
    with pytest.raises(Killed):
        train(model, samples(data), bits=4, epochs=3, checkpoint=tmp_path / "state", callbacks=[Kill(1, 4)])
    resumed = train(model, samples(data), bits=4, epochs=3, checkpoint=tmp_path / "state")
    for weight, expected in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy(), err_msg=weight.path)
    for path, kernel in whole.kernels.items():
        np.testing.assert_array_equal(resumed.kernels[path].codes, kernel.codes)
    assert [layer.scale for layer in rounded(resumed).values()] == [layer.scale for layer in rounded(whole).values()]
    assert not (tmp_path / "state").exists()


def test_chosen_layers_only(model, data):
    result = train(model, data, layers=["hidden", "pointwise"])
    assert set(result.kernels) == {"hidden", "inner/pointwise"}
    assert result.report.row("head").reason == "not chosen"
    assert result.report.row("head").action == "float"


def test_what_tensorboard_shows(model, data, tmp_path):
    summaries = kc.TrainingSummaries(tmp_path / "logs")
    train(model, data, callbacks=[summaries])
    written = b"".join(path.read_bytes() for path in (tmp_path / "logs").rglob("events*"))
    assert b"range/image_range/low" in written and b"range/pointwise_range/high" in written
    fitted(kc.prune_magnitude, model, data, epochs=2, callbacks=[kc.TrainingSummaries(tmp_path / "pruned")])
    assert b"zeros/inner/pointwise" in b"".join(each.read_bytes() for each in (tmp_path / "pruned").rglob("events*"))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"bits": 1}, "bits must be an integer from 2 to 8. Received: 1"),
        ({"bits": 9}, "bits must be an integer from 2 to 8. Received: 9"),
        ({"activation_bits": 1}, "bits of an activation must be an integer from 2 to 16. Received: 1"),
        ({"engine": "torch"}, "engine must be one of keras, tfmot. Received: 'torch'"),
        ({"engine": "tfmot", "activation_bits": 4}, "engine='tfmot' rounds activations to 8 bits. Received: 4"),
        ({"layers": "nowhere"}, "'nowhere' matches no layer that can be quantized"),
        ({"validation": 3}, r"validation must be an array"),
    ],
)
def test_bad_settings(model, data, settings, message):
    with pytest.raises(kc.InputError, match=message):
        train(model, data, **settings)


def test_a_model_without_kernels(data):
    model = keras.Sequential([keras.Input((6, 6, 1)), L.Flatten(), L.Softmax()])
    with pytest.raises(kc.InputError, match="has no kernel that can be quantized"):
        train(model, data)


def test_float_weights_begin_on_the_grid_of_the_codes(data):
    keras.utils.set_random_seed(0)
    layers = [
        L.SeparableConv2D(4, 3, name="separable"),
        L.Flatten(),
        L.Dense(8, name="hidden"),
        L.Dense(4, name="head"),
    ]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    quantized = kc.quantize(model, kc.GPFQ(bits=2), data)
    result = train(quantized, data, optimizer=STANDING, float_model=model)
    for path in ("hidden", "head"):
        kernel, expected = result.kernels[path], quantized.kernels[path]
        np.testing.assert_array_equal(kernel.scale, expected.scale)
        nearest = np.clip(np.rint(views_by_path(model)[path].kernel / expected.scale), -2, 1)
        np.testing.assert_array_equal(kernel.codes, nearest)
        assert not np.array_equal(kernel.codes, expected.codes)
    other = keras.Sequential([keras.Input((6, 6, 1)), L.Flatten(), L.Dense(4, name="head")])
    with pytest.raises(kc.InputError, match="float_model must have the kernels of the result"):
        train(quantized, data, float_model=other)
