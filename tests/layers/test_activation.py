"""The layer that rounds activations: its arithmetic, its gradient, its way to disk and back."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.rewrite import clone_model
from keras_compress.numerics.ranges import TensorAlphabet
from tests.reference import activations as reference

L = keras.layers
LAYERS = {
    "int8": {"bits": 8, "scale": 0.05, "zero_point": -40},
    "unsigned": {"bits": 8, "scale": 1 / 256, "zero_point": -128},
    "symmetric": {"bits": 8, "scale": 0.03, "symmetric": True},
    "ternary": {"bits": 2, "scale": 1.25, "symmetric": True},
    "four_bits": {"bits": 4, "scale": 0.5, "zero_point": 7},
    "sixteen_bits": {"bits": 16, "scale": 1e-4, "zero_point": 0},
}


@pytest.fixture(params=LAYERS)
def settings(request):
    return LAYERS[request.param]


@pytest.fixture
def values(rng):
    return rng.normal(0, 3, (40, 5)).astype(np.float32)


@pytest.fixture
def near_levels(rng, settings):
    """Values inside and beyond the range, none halfway between two levels: float32 may take another one there."""
    steps = rng.integers(-1.2 * 2 ** settings["bits"], 1.2 * 2 ** settings["bits"], (40, 5))
    return ((steps + rng.uniform(-0.45, 0.45, steps.shape)) * settings["scale"]).astype(np.float32)


def test_each_value_becomes_what_the_specification_says(settings, near_levels):
    outputs = np.asarray(QuantizeActivation(**settings)(near_levels))
    complete = {"zero_point": 0} | settings | {"scale": float(np.float32(settings["scale"]))}
    expected = np.reshape(reference.rounded(near_levels.ravel().tolist(), **complete), outputs.shape)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)


def test_the_outputs_are_codes_times_the_scale_bit_for_bit(settings, values):
    layer = QuantizeActivation(**settings)
    outputs = np.asarray(layer(values))
    codes = np.rint(outputs / np.float32(layer.scale)).astype(np.int32)
    np.testing.assert_array_equal(outputs, codes.astype(np.float32) * np.float32(layer.scale))
    assert codes.min() >= layer.lowest - layer.zero_point and codes.max() <= layer.highest - layer.zero_point
    np.testing.assert_array_equal(np.asarray(layer(outputs)), outputs)


def test_it_agrees_with_the_numerics(settings, near_levels):
    outputs = np.asarray(QuantizeActivation(**settings)(near_levels))
    np.testing.assert_allclose(outputs, TensorAlphabet(**settings).nearest(near_levels), rtol=1e-6)


def test_it_agrees_with_tensorflow_s_fake_quantization(values):
    layer = QuantizeActivation(8, 0.05, -40)
    ends = ((layer.lowest + 40) * layer.scale, (layer.highest + 40) * layer.scale)
    expected = np.asarray(tf.quantization.fake_quant_with_min_max_args(values, *ends, num_bits=8))
    np.testing.assert_allclose(np.asarray(layer(values)), expected, atol=1e-5)


def test_zero_stays_zero_and_ties_go_to_the_even_step():
    layer = QuantizeActivation(8, 0.5, 3)
    np.testing.assert_array_equal(np.asarray(layer(np.float32([0, 0.25, 0.75, -0.25, -0.75]))), [0, 0, 1, 0, -1])


def test_what_lies_beyond_is_clipped():
    layer = QuantizeActivation(4, 1.0, -8)
    np.testing.assert_array_equal(np.asarray(layer(np.float32([-5, 14.4, 15.6, np.inf]))), [0, 14, 15, 15])


def test_it_does_not_hide_nan():
    assert np.isnan(np.asarray(QuantizeActivation(8, 0.1)(np.float32([np.nan])))).all()


def test_the_gradient_is_one_inside_and_zero_beyond():
    values = tf.constant([-3.0, -0.4, 0.3, 0.9, 7.0])
    layer = QuantizeActivation(4, 0.1, 0)
    with tf.GradientTape() as tape:
        tape.watch(values)
        outputs = layer(values)
    # as tf.quantization.fake_quant_with_min_max_args: the values end at -0.8 and 0.7
    np.testing.assert_allclose(tape.gradient(outputs, values), [0, 1, 1, 0, 0], atol=1e-6)


@pytest.mark.slow
def test_a_model_with_it_trains(rng):
    model = keras.Sequential([keras.Input((4,)), QuantizeActivation(8, 0.05, 0), L.Dense(8, "relu"), L.Dense(1)])
    behind = keras.Sequential([*model.layers[:2], QuantizeActivation(8, 0.05, -128), model.layers[2]])
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = x.sum(axis=1, keepdims=True)
    behind.compile("adam", "mse")
    first = behind.layers[1].get_weights()[0].copy()
    losses = behind.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not np.array_equal(behind.layers[1].get_weights()[0], first)  # before the rounding, too


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_outputs_have_the_type_of_the_inputs(values, dtype):
    inputs = keras.Input((5,), dtype=dtype)
    model = keras.Model(inputs, QuantizeActivation(8, 0.05, 0)(inputs))
    assert keras.backend.standardize_dtype(model.output.dtype) == dtype
    outputs = np.asarray(model(values.astype(dtype)))
    assert outputs.dtype == dtype
    np.testing.assert_allclose(outputs, np.asarray(QuantizeActivation(8, 0.05, 0)(values)), atol=0.06)


def test_the_config_rebuilds_it(settings, values):
    layer = QuantizeActivation(**settings, name="rounded")
    config = json.loads(json.dumps(layer.get_config()))
    copy = QuantizeActivation.from_config(config)
    assert copy.get_config() == layer.get_config()
    assert {name: config[name] for name in settings} == settings | {"scale": float(np.float32(settings["scale"]))}
    np.testing.assert_array_equal(np.asarray(copy(values)), np.asarray(layer(values)))


def test_keras_saves_and_clones_it(settings, values, tmp_path):
    model = keras.Sequential([keras.Input((5,)), QuantizeActivation(**settings, name="rounded"), L.Dense(2)])
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.saving.load_model(tmp_path / "model.keras"),
        clone_model(model),
    ):
        assert copy.get_layer("rounded").get_config() == model.get_layer("rounded").get_config()
        np.testing.assert_array_equal(np.asarray(copy(values)), np.asarray(model(values)))


def test_it_has_no_weights():
    layer = QuantizeActivation(8, 0.1)
    layer(np.ones((1, 2)))
    assert layer.weights == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1, "scale": 1.0}, "bits of an activation must be an integer from 2 to 16. Received: 1"),
        ({"bits": 17, "scale": 1.0}, "Received: 17"),
        ({"bits": 7.5, "scale": 1.0}, "Received: 7.5"),
        ({"bits": True, "scale": 1.0}, "Received: True"),
        ({"bits": 8, "scale": 0.0}, "scale must be a positive float32 number. Received: 0.0"),
        ({"bits": 8, "scale": float("nan")}, "Received: nan"),
        ({"bits": 8, "scale": float("inf")}, "Received: inf"),
        ({"bits": 8, "scale": 1e-60}, "Received: 1e-60"),
        ({"bits": 8, "scale": 1.0, "zero_point": 128}, "an integer from -128 to 127. Received: 128"),
        ({"bits": 8, "scale": 1.0, "zero_point": 0.5}, "Received: 0.5"),
        ({"bits": 8, "scale": 1.0, "zero_point": 1, "symmetric": True}, "must be 0 in a symmetric layer. Received: 1"),
    ],
)
def test_bad_settings_are_one_clear_line(settings, message):
    with pytest.raises(InputError, match=message) as raised:
        QuantizeActivation(**settings)
    assert "\n" not in str(raised.value)
