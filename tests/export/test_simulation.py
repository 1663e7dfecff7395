"""Simulations that round as runtimes do: against their integer arithmetic, and against files that run."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.export.simulation import RoundInTwoSteps, RoundTies, fractions_of, in_two_steps, run_graph
from keras_compress.export.tflite import exported
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import Graph
from keras_compress.measurement.tflite import Runner

L = keras.layers


def multiplied(total: int, ratio: float, *, upward: bool) -> int:
    """gemmlowp's MultiplyByQuantizedMultiplier in Python's integers: a product of 31 bits, then a shift."""
    mantissa, exponent = np.frexp(ratio)
    multiplier, shift = round(mantissa * 2**31), -int(exponent)
    high = (total * multiplier + 2**30) >> 31  # half a step goes up, as for the totals of these tests
    if shift <= 0:
        return high << -shift
    threshold = (2**shift - 1) >> 1
    if not upward:
        threshold += high < 0
    return (high >> shift) + ((high & (2**shift - 1)) > threshold)


@pytest.mark.parametrize("upward", [True, False])
def test_sums_are_rounded_as_by_an_integer_multiplier_and_a_shift(rng, upward):
    ratios = rng.uniform(0.01, 0.99, 40)
    totals = np.arange(-200, 201)
    steps = (totals[:, np.newaxis] * ratios).astype(np.float32)
    simulated = np.asarray(in_two_steps(steps, fractions_of(ratios), np.full(len(ratios), upward)))
    expected = np.array([[multiplied(int(total), ratio, upward=upward) for ratio in ratios] for total in totals])
    # Where float32 is too coarse to say on which side of the middle a product lies.
    parts = 2.0 ** fractions_of(ratios)
    clear = np.abs((totals[:, np.newaxis] * ratios * parts) % 1 - 0.5) > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(simulated[clear], expected[clear])
    assert (simulated != np.rint(steps)).any()


def test_ratios_beyond_what_float32_sees_are_rounded_once(rng):
    steps = rng.normal(size=(50, 3)).astype(np.float32) * 20
    assert fractions_of(np.array([1.5, 0.5, 0.26, 1e-9, 1e-40])).tolist() == [0, 0, 1, 0, 0]
    np.testing.assert_array_equal(in_two_steps(steps, np.zeros(3), np.ones(3, bool)), np.rint(steps))


@pytest.mark.parametrize("zero_point", [-128, -3, 0, 40])
def test_half_steps_go_up_or_away_from_the_code_zero(zero_point):
    plain = QuantizeActivation(8, 0.5, zero_point)
    codes = np.arange(-20, 20) + 0.5
    values = ((codes - zero_point) * 0.5).astype(np.float32)

    def rounded(*, away):
        return np.asarray(RoundTies.of(plain, away=away)(values)) / 0.5 + zero_point

    np.testing.assert_array_equal(rounded(away=False), np.clip(np.floor(codes + 0.5), -128, 127))
    np.testing.assert_array_equal(rounded(away=True), np.sign(codes) * np.floor(np.abs(codes) + 0.5))


def test_graphs_compute_what_layers_compute(rng):
    """TensorFlow's graphs divide by vectors through an approximate reciprocal."""
    inputs = keras.Input((64,))
    layer = RoundInTwoSteps(8, 0.0371, 3, fractions=np.arange(64) % 4, upward=np.arange(64) % 3 > 0)
    model = keras.Model(inputs, layer(inputs))
    x = rng.normal(size=(200, 64)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(x, verbose=0), model(x))


def networks():
    """Each has a layer that some runtime kernel rounds in its own way."""

    def conv(**settings):
        return lambda x: L.Conv2D(12, 3, activation="relu", **settings)(x)

    builds = {
        "Conv2D": conv(),
        "strides": conv(strides=2, padding="same"),
        "dilation": conv(dilation_rate=2),
        "groups": conv(groups=2),
        "DepthwiseConv2D, 4 channels": lambda x: L.DepthwiseConv2D(3)(x),
        "DepthwiseConv2D, 12 channels": lambda x: L.DepthwiseConv2D(3, depth_multiplier=3)(x),
        "Conv2DTranspose": lambda x: L.Conv2DTranspose(4, 3, strides=2)(x),
        "AveragePooling2D": lambda x: L.AveragePooling2D(2)(L.Conv2D(4, 1)(x)),
        "AveragePooling2D, same": lambda x: L.AveragePooling2D(3, padding="same")(L.Conv2D(4, 1)(x)),
        "Add": lambda x: L.Add()([x, L.Conv2D(4, 1)(x)]),
    }
    return {f"{name}, {bits} bits": (build, bits) for name, build in builds.items() for bits in (4, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("name", networks())
@pytest.mark.sampled(8)
def test_the_file_is_the_simulation_bit_for_bit(tmp_path, rng, name, batch):
    build, bits = networks()[name]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4))
    model = keras.Model(inputs, L.Dense(5)(L.Flatten()(build(inputs))))
    x, new = (rng.normal(size=(16, 9, 9, 4)).astype(np.float32) for _ in range(2))
    rounded = kc.quantize_activations(kc.quantize(model, kc.MSQ(bits=bits), x), x)
    path = tmp_path / "net.tflite"
    report, simulation = exported(rounded, path, None, activations="int8", storage="small", static_batch=batch)
    assert report.steps[-1].figures["difference of the outputs"] < 0.01  # single steps of the head
    (outputs,) = Runner(path.read_bytes()).outputs([new])
    graph = Graph(simulation)
    expected = np.asarray(run_graph(graph, [new])[graph.outputs[0]])
    assert np.mean(np.abs(outputs - expected) > 1e-6 * np.abs(expected).max()) < 0.02  # ties of XNNPACK's products
    assert np.abs(outputs - expected).max() <= 1.01 * Runner(path.read_bytes()).output_scales[0]


DYNAMIC = {
    "Conv2D": lambda x: L.Conv2D(12, 3)(x),
    "Conv2D of one pixel": lambda x: L.Conv2D(12, 1)(x),
    "Conv2D of one pixel, strides": lambda x: L.Conv2D(12, 1, strides=2)(x),
    "Conv2D of one pixel, dilation": lambda x: L.Conv2D(12, 1, dilation_rate=2)(x),
    "SeparableConv2D": lambda x: L.SeparableConv2D(12, 3, strides=2)(x),
    "Conv1D of one pixel": lambda x: L.Conv1D(12, 1)(L.Reshape((81, 4))(x)),
    "Dense of pixels": lambda x: L.Dense(12)(x),
}


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("storage", ["fast", "small"])
@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.sampled(8)
def test_what_is_rounded_at_each_call_is_as_simulated(tmp_path, rng, name, storage, bits):
    """XNNPACK takes the range of each pixel where it computes a convolution as a product of rows."""
    inputs = keras.Input((9, 9, 4))
    model = keras.Model(inputs, L.Dense(5)(L.Flatten()(L.ReLU()(DYNAMIC[name](inputs)))))
    x = rng.normal(size=(16, 9, 9, 4)).astype(np.float32) * np.exp(rng.normal(size=(16, 9, 9, 1))).astype(np.float32)
    result = kc.quantize(model, kc.MSQ(bits=bits), x)
    report = kc.export_tflite(result, tmp_path / "net.tflite", activations="dynamic", storage=storage)
    assert report.steps[-1].figures["difference of the outputs"] < (0.05 if (bits, storage) == (4, "small") else 1e-3)
