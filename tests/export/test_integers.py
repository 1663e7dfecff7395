"""Files of integers compute what is simulated, on networks of kinds where they once did not; or there is no file."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.export import editing, integers, placing
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.tflite import Runner

pytestmark = pytest.mark.slow
L = keras.layers
NEAR = 0.01  # relative: ties aside, the file is the simulation


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def exported(path, simulated, x, **settings):
    """Relative distance of a file's outputs from those of the simulation, and the step of its report."""
    report = kc.export_tflite(simulated, path, activations="int8", **settings)
    outputs = Runner(path.read_bytes()).outputs(x if isinstance(x, list) else [x])
    expected = keras.tree.flatten(simulated.model.predict(x, verbose=0))
    pairs = zip(outputs, expected, strict=True)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs), report.steps[-1]


def both(path, model, x, quantizer=None, **settings):
    """The same for ranges by least squared error, and for least and largest values that the export measures."""
    result = kc.quantize(model, quantizer or kc.GPFQ(bits=8), x)
    yield exported(path, kc.quantize_activations(result, x), x, **settings)
    kc.export_tflite(result, path, activations="int8", calibration=x, **settings)
    simulated = kc.quantize_activations(result, x, ranges="minmax").model
    outputs = Runner(path.read_bytes()).outputs(x if isinstance(x, list) else [x])
    expected = keras.tree.flatten(simulated.predict(x, verbose=0))
    pairs = zip(outputs, expected, strict=True)
    yield max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs), None


# What stands in front of a kernel

FRONTS = {
    "Rescaling": lambda x: L.Rescaling(1 / 255)(x),
    "Rescaling with an offset": lambda x: L.Rescaling(1 / 127.5, offset=-1.0)(x),
    "Normalization": lambda x: L.Normalization(mean=[100.0, 120.0], variance=[3000.0, 4000.0])(x),
    "constants": lambda x: x * 0.01 + 0.5,
    "a subtraction": lambda x: x - 127.0,
    "BatchNormalization": lambda x: L.BatchNormalization()(x),
}
KERNELS = {
    "Conv2D": lambda: L.Conv2D(4, 3, activation="relu"),
    "DepthwiseConv2D": lambda: L.DepthwiseConv2D(3, activation="relu"),
    "SeparableConv2D": lambda: L.SeparableConv2D(4, 3, activation="relu"),
    "Dense": lambda: L.Dense(4, activation="relu"),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.sampled(4)
def test_constants_in_front_of_a_kernel_count_once(tmp_path, rng, front, kernel):
    x = rng.integers(0, 256, (48, 8, 8, 2)).astype(np.float32)
    inputs = keras.Input((8, 8, 2))
    hidden = KERNELS[kernel]()(FRONTS[front](inputs))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(FRONTS["Rescaling"](hidden))))
    difference, step = exported(
        tmp_path / "net.tflite", kc.quantize_activations(kc.quantize(model, kc.GPFQ(8), x), x), x
    )
    assert difference <= NEAR and "operators in floating point" not in step.figures


# Channels that died


def with_dead_channels(tiny):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            L.Conv2D(8, 3, name="a"),
            L.ReLU(6.0),
            L.DepthwiseConv2D(3, name="d"),
            L.ReLU(6.0),
            L.Conv2D(8, 1),
            L.ReLU(6.0),
            L.GlobalAveragePooling2D(),
            L.Dense(4),
        ]
    )
    for name in "ad":
        kernel, bias = model.get_layer(name).get_weights()
        bias[:] = np.linspace(0.5, 1.5, len(bias))
        (kernel[..., :4] if name == "a" else kernel[:, :, :4])[:] *= tiny
        model.get_layer(name).set_weights([kernel, bias])
    return model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tiny", [1e-3, 1e-5, 1e-6, 1e-15, 1e-30, 0])
@pytest.mark.sampled(2)
def test_biases_of_dead_channels_fit(tmp_path, rng, tiny, bits):
    x = rng.random((64, 16, 16, 3)).astype(np.float32)
    for difference, _ in both(tmp_path / "net.tflite", with_dead_channels(tiny), x, kc.GPFQ(bits)):
        assert difference <= NEAR


@pytest.mark.parametrize("storage", ["fast", "small"])
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("tiny", [1e-7, 1e-8, 1e-9, 1e-15])
@pytest.mark.sampled(3)
def test_biases_of_dead_neurons_fit(tmp_path, rng, tiny, bits, storage):
    """XNNPACK multiplies the sums of 4-bit weights by 16: 2^28 steps of a bias were 0."""
    model = keras.Sequential([keras.Input((16,)), L.Dense(8, "relu", name="a"), L.Dense(4)])
    kernel, _ = model.get_layer("a").get_weights()
    kernel[:, :4] *= tiny
    model.get_layer("a").set_weights([kernel, np.linspace(0.5, 1.5, 8)])
    x = rng.random((64, 16)).astype(np.float32)
    for difference, _ in both(tmp_path / "net.tflite", model, x, kc.GPFQ(bits=bits), storage=storage):
        assert difference <= 5 * NEAR


@pytest.mark.parametrize("function", ["silu", "hard_silu", "gelu", "tanh", "sigmoid", "hard_sigmoid"])
@pytest.mark.sampled(2)
def test_functions_of_large_numbers(tmp_path, rng, function):
    """Sigmoids within SiLU are multiples of 1/256, which large inputs multiply."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(4, 3),
            L.Activation(function),
            L.Conv2D(4, 3, activation=function),
            L.Flatten(),
            L.Dense(3),
        ]
    )
    kernel, bias = model.layers[0].get_weights()
    model.layers[0].set_weights([kernel * np.array([1, -1, 30, -30]), bias])
    x = rng.normal(size=(64, 8, 8, 2)).astype(np.float32)
    for difference, _ in both(tmp_path / "net.tflite", model, x):
        assert difference <= 2 * NEAR


@pytest.mark.parametrize("gamma", [0.0, 1e-15, -1e-9])
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.sampled(2)
def test_gammas_that_are_next_to_nothing(tmp_path, rng, gamma, fold):
    x = rng.random((64, 12, 12, 3)).astype(np.float32)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            L.Conv2D(6, 3, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.Conv2D(4, 3),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )
    norm = model.get_layer("norm")
    norm.gamma.assign([gamma, gamma, 1, 1, 1, 1])
    norm.beta.assign(rng.uniform(0.5, 1, 6))
    model = kc.fold_batch_normalization(model).model if fold else model
    for difference, _ in both(tmp_path / "net.tflite", model, x):
        assert difference <= NEAR


# Layers and connections


def towers():
    inputs = hidden = keras.Input((32, 4))
    for dilation in (1, 2, 4):
        past = L.Conv1D(8, 3, padding="causal", dilation_rate=dilation, activation="relu")(hidden)
        hidden = L.Add()([past, L.Conv1D(8, 1)(hidden)])
    return keras.Model(inputs, L.Dense(1)(L.Flatten()(hidden)))


def image(build):
    def model():
        inputs = keras.Input((12, 12, 3))
        return keras.Model(inputs, build(inputs))

    return model


def sequence(build):
    def model():
        inputs = keras.Input((10, 6))
        return keras.Model(inputs, build(inputs))

    return model


MODELS = {
    "branches of equal kinds": towers,
    "separable": image(lambda x: L.Dense(3)(L.GlobalAveragePooling2D()(L.SeparableConv2D(8, 3, activation="relu")(x)))),
    "separable of sequences": sequence(
        lambda x: L.Dense(3)(L.Flatten()(L.SeparableConv1D(8, 3, activation="tanh")(x)))
    ),
    "dilated": image(lambda x: L.Conv2D(8, 3, dilation_rate=2, activation="relu")(x)),
    "dilated depthwise": image(lambda x: L.DepthwiseConv2D(3, dilation_rate=2, depth_multiplier=2)(x)),
    "depthwise of sequences": sequence(lambda x: L.BatchNormalization()(L.DepthwiseConv1D(3, dilation_rate=2)(x))),
    "causal": sequence(lambda x: L.Conv1D(4, 3, padding="causal", dilation_rate=2)(x)),
    "Dense on sequences": sequence(lambda x: L.Dense(4)(L.BatchNormalization()(L.Dense(5, "relu")(x)))),
    "a Python constant": image(lambda x: L.Flatten()(L.Conv2D(3, 3, padding="same")(x) + x * 0.5)),
    "hard sigmoid": image(lambda x: L.Conv2D(4, 3)(L.Conv2D(4, 3, activation="hard_sigmoid")(x))),
    "hard sigmoid alone": image(lambda x: L.Conv2D(4, 3)(L.Activation("hard_sigmoid")(x))),
    "an upper end of its own": image(lambda x: L.Conv2D(4, 3)(L.ReLU(0.4)(L.Conv2D(4, 3)(x)))),
    "one by one": image(lambda x: L.Conv2D(1, 1)(L.DepthwiseConv2D(1)(L.DepthwiseConv2D(1)(L.Conv2D(1, 1)(x))))),
    "one layer, two calls": image(lambda x: (lambda c: L.Add()([c(x), c(L.ReLU()(x))]))(L.Conv2D(4, 3))),
    "several outputs": image(lambda x: [L.Dense(2, "softmax")(L.Flatten()(x)), L.Conv2D(2, 3)(x)]),
}


@pytest.mark.parametrize("batch", [None, 1, 5])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.sampled(6)
def test_all_is_integers_and_as_simulated(tmp_path, rng, name, batch):
    model = MODELS[name]()
    x = rng.random((48, *model.input.shape[1:])).astype(np.float32)
    for difference, step in both(tmp_path / "net.tflite", model, x, kc.GPFQ(4), static_batch=batch):
        assert difference <= 3 * NEAR
        assert step is None or "operators in floating point" not in step.figures


def attention(x):
    return L.Dense(4)(L.LayerNormalization()(L.MultiHeadAttention(2, 8)(x, x)))


def recurrent(x):
    return L.Dense(2)(L.LSTM(6, return_state=True, unroll=True)(x)[1])


@pytest.mark.parametrize("build", [attention, recurrent])
@pytest.mark.sampled(1)
def test_what_has_no_integers_stays_in_floating_point_and_is_named(tmp_path, rng, build):
    model = sequence(build)()
    x = rng.normal(size=(48, 10, 6)).astype(np.float32)
    for difference, step in both(tmp_path / "net.tflite", model, x, kc.GPFQ(4), static_batch=1):
        assert difference <= 3 * NEAR and (step is None or step.figures["operators in floating point"])


def test_softplus_of_large_numbers(tmp_path, rng):
    """The converter writes log(1 + exp(x)), which is infinite from 89 on."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [L.Activation("softplus")(inputs), L.Dense(2, "softplus")(inputs)])
    x = rng.uniform(-300, 300, (40, 4)).astype(np.float32)
    for activations in ("float", "dynamic", "int8"):
        kc.export_tflite(model, tmp_path / "net.tflite", activations=activations, calibration=x)
        for output, expected in zip(Runner((tmp_path / "net.tflite").read_bytes()).outputs([x]), model(x), strict=True):
            assert np.linalg.norm(output - expected) <= 2 * NEAR * np.linalg.norm(expected)


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.sampled(1)
def test_ranges_within_loops_are_refused_by_name(tmp_path, rng, layer, coded):
    """TensorFlow's converter ends the process."""
    cell = (
        L.Bidirectional(L.LSTM(4), name="around") if layer == "Bidirectional" else getattr(L, layer)(4, name="around")
    )
    model = keras.Sequential([keras.Input((12, 6)), cell, L.Dense(3)])
    x = rng.normal(size=(32, 12, 6)).astype(np.float32)
    source = kc.quantize(model, kc.MSQ(8), x) if coded else model
    with pytest.raises(kc.InputError, match=r"Layer '.*' of model .* runs a loop.*unroll=True"):
        kc.export_tflite(source, tmp_path / "net.tflite", activations="int8", calibration=x, static_batch=1)
    assert list(tmp_path.iterdir()) == []


def test_the_report_says_which_kernels_are_rounded_anew(tmp_path, rng):
    x = rng.normal(size=(32, 20, 8)).astype(np.float32)
    model = keras.Sequential([keras.Input((20, 8)), L.LSTM(64, name="lstm"), L.Dense(3)])
    result = kc.quantize(model, kc.GPFQ(4), x)
    rows = kc.export_tflite(result, tmp_path / "net.tflite", activations="dynamic", static_batch=1)
    assert rows.row("lstm/kernel").action == rows.row("lstm/recurrent_kernel").action == "rounded anew"
    assert "8 bits anew" in rows.row("lstm/kernel").reason
    assert kc.export_tflite(result, tmp_path / "net.tflite", static_batch=1).row("lstm/kernel").action == "float"


# Samples of the check


@pytest.mark.parametrize("largest", [1, 255])
def test_errors_are_those_on_the_data(tmp_path, rng, largest):
    """On normal noise, which the ranges of images clip, the first layer was 60 to 90 % off."""
    x = (largest * rng.random((100, 16, 16, 3))).astype(np.float32)
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), L.Conv2D(8, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(4, "softmax")]
    )
    result = kc.quantize_activations(kc.quantize(model, kc.GPFQ(8), x), x)
    result.save(tmp_path / "with")
    result.save(tmp_path / "without", samples=False)
    for source in (result, kc.load_result(tmp_path / "with"), kc.load_result(tmp_path / "without")):
        step = kc.export_tflite(source, tmp_path / "net.tflite", activations="int8").steps[-1]
        assert all(row.relative_error < 0.05 for row in step.rows)


def test_ranges_and_at_most_32_samples_go_with_a_result(tmp_path, rng):
    inputs, words = keras.Input((5,)), keras.Input((2,), dtype="int32")
    hidden = L.Concatenate()([L.Dense(4)(inputs), L.Flatten()(L.Embedding(20, 3)(words))])
    model = keras.Model([inputs, words], L.Dense(2)(hidden))
    x = [rng.normal(size=(50, 5)).astype(np.float32), rng.integers(3, 20, (50, 2)).astype(np.int32)]
    for batch in (None, 7):
        result = kc.quantize(model, kc.GPFQ(4), x, batch_size=batch)
        for samples, array in zip(result.inputs.samples, x, strict=True):
            np.testing.assert_array_equal(samples, array[:32])
        np.testing.assert_array_equal(result.inputs.low, [array.min() for array in x])
        np.testing.assert_array_equal(result.inputs.high, [array.max() for array in x])
    result.save(tmp_path / "with")
    result.save(tmp_path / "without", samples=False)
    again, without = (kc.load_result(tmp_path / name).inputs for name in ("with", "without"))
    for samples, loaded in zip(result.inputs.samples, again.samples, strict=True):
        np.testing.assert_array_equal(samples, loaded)
    assert without.samples == () and np.array_equal(without.low, result.inputs.low)
    noise = without.drawn([(9, 5), (9, 2)], ["float32", "int32"])
    assert [array.dtype.name for array in noise] == ["float32", "int32"]
    assert all(
        (low <= array).all() and (array <= high).all()
        for array, low, high in zip(noise, without.low, without.high, strict=True)
    )


# Checks that something can fail


@pytest.fixture
def ranged(rng):
    x = rng.random((48, 12, 12, 3)).astype(np.float32)
    inputs = keras.Input((12, 12, 3))
    hidden = L.Conv2D(6, 3, padding="same", activation="relu", name="one")(inputs)
    hidden = L.Conv2D(6, 3, padding="same", activation="relu", name="two")(hidden)
    hidden = L.Conv2D(6, 3, padding="same", activation="relu", name="three")(hidden)
    model = keras.Model(inputs, L.Dense(4, "softmax", name="head")(L.GlobalAveragePooling2D()(hidden)))
    for name in ("one", "two", "three"):
        model.get_layer(name).bias.assign(rng.uniform(0.1, 0.5, 6))
    return kc.quantize_activations(kc.quantize(model, kc.GPFQ(8), x), x)


def refused(path, result, match):
    with pytest.raises(kc.InputError, match=match):
        kc.export_tflite(result, path / "net.tflite", activations="int8")
    assert list(path.iterdir()) == []


def test_a_bias_that_is_cut_is_refused(tmp_path, ranged, monkeypatch):
    fit = placing.fit_biases

    def cut(*arguments):
        fitted = fit(*arguments)
        return fitted._replace(steps=np.minimum(fitted.steps, 20))

    monkeypatch.setattr(placing, "fit_biases", cut)
    refused(tmp_path, ranged, r"The bias of channel \d of layer 'one' does not fit: it is 0\.\d+, and the file holds")


def test_scales_of_activations_that_are_off_are_refused(tmp_path, ranged, monkeypatch):
    finish = editing.Editor.finish

    def stretched(self, *arguments):
        for tensor in self.graph.tensors:  # all alike, so that no operator can tell
            scales = getattr(tensor.quantization, "scale", None)
            scales = [] if scales is None else list(scales)
            if len(scales) == 1 and scales[0] != 1 / 256 and flatbuffer.array_of(self.model, tensor) is None:
                tensor.quantization.scale = np.array(scales, np.float32) * np.float32(1.07)
        return finish(self, *arguments)

    monkeypatch.setattr(editing.Editor, "finish", stretched)
    refused(tmp_path, ranged, "it was not written")


def test_two_kernels_in_each_others_place_are_refused(tmp_path, ranged, monkeypatch):
    locate = integers._locate

    def swapped(*arguments):
        located, changed = locate(*arguments)
        other = {"two": "three", "three": "two"}
        return [dataclasses.replace(each, path=other.get(each.path, each.path)) for each in located], changed

    monkeypatch.setattr(integers, "_locate", swapped)
    refused(tmp_path, ranged, "What layer 'two' makes in the file differs from the simulation by .* it was not written")


def test_a_softmax_hides_nothing(tmp_path, ranged, monkeypatch):
    """Layers that were 99 % off passed, since outputs behind a softmax are near each other anyway."""
    head = ranged.model.get_layer("head")
    small = ranged.kernels["head"]
    small = dataclasses.replace(small, scale=small.scale * np.float32(1e-3))
    head.kernel.assign(small.decode())
    hidden = dataclasses.replace(ranged, states=ranged.states | {"head": kc.VariableState(small)})
    write = placing.write

    def halved(base, views, located, codes, *arguments):
        return write(base, views, located, codes // (2 if located.path == "two" else 1), *arguments)

    monkeypatch.setattr(integers, "write", halved)
    monkeypatch.setattr(integers, "_assign", lambda view, placed: None)
    refused(tmp_path, hidden, "What layer 'two' makes in the file differs from the simulation")
