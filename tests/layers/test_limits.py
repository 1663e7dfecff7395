"""Files on both sides of what runtimes compute with, each in a process of its own: some end it."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.export import ranges
from keras_compress.export.conversion import convert
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.folding import fold_all
from keras_compress.layers.limits import HARD_SWISH_STEPS, LEAST, PRODUCT_STEPS, SUM_STEPS, limits
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.tflite import Runner

pytestmark = pytest.mark.slow
L = keras.layers
RUN = """
import sys
import numpy as np
from keras_compress.measurement.tflite import Runner
runner = Runner(open(sys.argv[1], "rb").read())
runner.run([np.zeros(entry["shape"], np.float32) for entry in runner.inputs])
"""
PRODUCTS = {
    "Conv2D": lambda: L.Conv2D(2, 2, use_bias=False, name="made"),
    "DepthwiseConv2D": lambda: L.DepthwiseConv2D(2, use_bias=False, name="made"),
    "Conv2DTranspose": lambda: L.Conv2DTranspose(2, 2, use_bias=False, name="made"),
    "Dense": lambda: L.Dense(2, use_bias=False, name="made"),
}


def rounding(scale, name):
    return QuantizeActivation(8, scale, name=name, dtype="float32")


def network(kind, ratio):
    """One operator, with inputs in steps of `ratio` and outputs in steps of 1."""
    inputs = [keras.Input((4, 4, 2), batch_size=1) for _ in range(1 + (kind == "Add"))]
    rounded = [rounding(ratio, f"in{number}")(x) for number, x in enumerate(inputs)]
    if kind == "Add":
        outputs = L.Add(name="made")(rounded)
    elif kind == "hard swish":
        outputs = L.Activation("hard_swish", name="made")(rounded[0])
    else:
        outputs = PRODUCTS[kind]()(L.Flatten()(rounded[0]) if kind == "Dense" else rounded[0])
    model = keras.Model(inputs, rounding(1.0, "out")(outputs))
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([np.full(layer.weights[0].shape, 127.0)])  # 1 a step
    return model


def runs(model, path) -> bool:
    path.write_bytes(convert(ranges.with_ranges(model), "int8", batch=1))
    return subprocess.run([sys.executable, "-c", RUN, str(path)], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("kind", "most"),
    [*((kind, PRODUCT_STEPS) for kind in PRODUCTS), ("Add", SUM_STEPS), ("hard swish", HARD_SWISH_STEPS)],
)
def test_what_is_within_the_limit_runs_and_what_is_well_beyond_does_not(tmp_path, kind, most):
    assert runs(network(kind, most), tmp_path / "within.tflite")
    assert not runs(network(kind, 2.1 * most), tmp_path / "beyond.tflite")


@pytest.mark.parametrize(
    ("kind", "most"), [*((kind, PRODUCT_STEPS) for kind in PRODUCTS), ("Add", SUM_STEPS), ("hard swish", 127.0)]
)
def test_limits_name_the_operator_and_the_roundings_on_both_sides(kind, most):
    (limit,) = limits(*fold_all(network(kind, 1.0)), {})
    assert limit.path == "made"
    assert limit.inputs == (("in0", "in1") if kind == "Add" else ("in0",))
    assert limit.output == "out"
    np.testing.assert_allclose(limit.factor, 1 / most, rtol=1e-6)


def test_codes_and_batch_normalization_count_with_their_scales():
    """A code of 1 bit stands for the whole weight; a folded factor multiplies it."""
    x = rounding(1.0, "in")(keras.Input((4, 4, 2)))
    y = L.BatchNormalization(name="norm")(L.Conv2D(3, 1, name="made")(x))
    model = keras.Model(x._keras_history.operation.input, rounding(1.0, "out")(L.ReLU()(y)))
    gamma, _, _, variance = model.get_layer("norm").weights
    gamma.assign([1.0, -50.0, 1.0])
    variance.assign(np.ones(3) - model.get_layer("norm").epsilon)
    (limit,) = limits(*fold_all(model), {"made": np.array([[2.0, 3.0, 4.0]])})
    np.testing.assert_allclose(limit.factor, 150 / PRODUCT_STEPS, rtol=1e-5)


def with_outlier(*, joined=False):
    """A weight of 10^5 for an input that the calibration data do not use."""
    inputs = keras.Input((4, 4, 2), name="x")
    x = L.Conv2D(2, 1, name="first")(inputs)
    large = L.Conv2D(2, 1, name="large")(x)
    x = L.Concatenate()([x, large]) if joined else large
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))
    model.get_layer("large").kernel.assign(np.array([[1.0, 1e5], [0.5, 1.0]]).reshape(1, 1, 2, 2))
    model.get_layer("first").kernel.assign(np.array([[0.0, 1e-4], [0.0, 1.0]]).reshape(1, 1, 2, 2))
    return model


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_scales_are_raised_until_the_file_runs(tmp_path, rng, bits):
    model, x = with_outlier(), rng.normal(size=(16, 4, 4, 2)).astype(np.float32)
    result = kc.quantize(model, kc.MSQ(bits=bits), x)
    rounded = kc.quantize_activations(result, x)
    path = tmp_path / "net.tflite"
    kc.export_tflite(rounded, path, activations="int8")
    outputs = Runner(path.read_bytes()).outputs([x])[0]
    expected = rounded.model.predict(x, verbose=0)
    assert np.linalg.norm(outputs - expected) <= 0.02 * np.linalg.norm(expected)


def test_a_scale_that_would_rise_without_end_is_refused_by_name(rng):
    x = rng.normal(size=(16, 4, 4, 2)).astype(np.float32)
    with pytest.raises(kc.InputError, match="outputs of layer 'large' are in a group with one scale"):
        kc.quantize_activations(with_outlier(joined=True), x)
    kept = kc.quantize_activations(with_outlier(joined=True), x, layers=["x", "head"])
    assert [row.path for row in kept.report.steps[-1].rows] == ["x_quantized", "head_quantized"]


def test_ranges_of_next_to_nothing_are_those_that_the_converter_keeps(tmp_path, rng):
    """Below a span of 1e-6 it takes other ends, on both sides of zero."""
    inputs = keras.Input((6,), name="x")
    small = L.Dense(4, name="small", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-9))(inputs)
    model = keras.Model(inputs, [small, L.Dense(2, name="head")(inputs)])
    x = rng.normal(size=(16, 6)).astype(np.float32)
    rounded = kc.quantize_activations(model, x)
    path = tmp_path / "net.tflite"
    kc.export_tflite(rounded, path, activations="int8")
    scale = rounded.model.get_layer("small_quantized").scale
    assert scale == np.float32(LEAST)
    file = flatbuffer.parse(path.read_bytes())
    held = [tensor.quantization.scale for tensor in file.subgraphs[0].tensors]
    assert any(each is not None and np.array_equal(each, [np.float32(scale)]) for each in held)


@pytest.mark.parametrize(("scale", "message"), [(1e-4, "Expected: at least 0"), (1e-10, f"keeps none below {LEAST:g}")])
def test_ranges_of_ones_own_that_no_runtime_takes_are_refused_before_there_is_a_file(tmp_path, rng, scale, message):
    x = rounding(1.0, "in")(keras.Input((4, 4, 2)))
    model = keras.Model(x._keras_history.operation.input, rounding(scale, "out")(L.Conv2D(2, 1, name="made")(x)))
    model.get_layer("made").kernel.assign(np.full((1, 1, 2, 2), 127.0))
    with pytest.raises(kc.InputError, match=message):
        kc.export_tflite(model, tmp_path / "net.tflite", activations="int8")
    assert not list(tmp_path.iterdir())
