"""In whole networks, every layer gets the codes that a slow implementation gives it, whatever is connected to what."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from tests import architectures
from tests.reference import network as reference

# Decisions closer than this, in steps, could fall either way: products run in float32.
CLOSE = 1e-5
ABSORBERS = {"small": {"conv": "norm"}, "cnn": {"conv3": "norm"}, "residual": {"inner": "inner_norm"}}


def values_of(result):
    """Path -> (n_out, num_levels), the values of each channel's alphabet."""
    return {
        path: np.broadcast_to(kernel.scale.astype(np.float64), kernel.codes.shape[-1])[:, None] * kernel.levels
        for path, kernel in result.kernels.items()
    }


def assert_follows_the_reference(name, result, model, samples, **settings):
    compressed = architectures.build(name)
    chosen, closest = reference.quantize(model, compressed, samples, values_of(result), **settings)
    assert closest > CLOSE, "choose another seed: a decision is too close to compare codes"
    assert chosen.keys() == result.kernels.keys()
    for path, kernel in result.kernels.items():
        np.testing.assert_allclose(
            kernel.decode().reshape(chosen[path].shape), chosen[path], rtol=1e-6, atol=1e-7, err_msg=path
        )
    for weight, expected in zip(result.model.weights, compressed.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4, err_msg=weight.path)


BOTH_FORMS = [
    pytest.param(name, "gram", marks=[pytest.mark.slow] * (name in ("cnn", "two_inputs_and_outputs", "shared_nested")))
    for name in architectures.MODELS
] + [pytest.param("cnn", "direct", marks=pytest.mark.slow), ("recurrent", "direct")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), BOTH_FORMS)
@pytest.mark.parametrize("centered", [False, True], ids=["plain", "centered"])
@pytest.mark.sampled(8)
def test_codes_and_biases_are_those_of_the_reference(name, form, centered):
    model = architectures.build(name)
    samples = architectures.samples(model, 12)
    result = kc.quantize(model, kc.GPFQ(3, centered=centered), samples, form=form, batch_size=5)
    assert_follows_the_reference(name, result, model, samples, centered=centered, absorbers=ABSORBERS.get(name, {}))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gram", "direct"])
def test_the_mode_of_2021_quantizes_each_input_channel_alone(form):
    model = architectures.build("cnn")
    samples = architectures.samples(model, 12)
    quantizer = kc.GPFQ(3, centered=False, patches="per_channel")
    result = kc.quantize(model, quantizer, samples, form=form)
    assert_follows_the_reference("cnn", result, model, samples, per_channel=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "recurrent"])
def test_layers_left_in_floating_point_let_the_error_through(name):
    """A layer that is not quantized still gets other inputs in the compressed network, and hands them on."""
    model = architectures.build(name)
    samples = architectures.samples(model, 12)
    left_out = {"residual": "inner", "recurrent": "between"}[name]
    result = kc.quantize(model, kc.GPFQ(3, centered=False), samples, overrides={left_out: None})
    assert left_out not in result.kernels
    assert_follows_the_reference(name, result, model, samples)


CONNECTED = ["residual", "two_inputs_and_outputs", "nested", "shared"]
ERRORS = [(name, kc.GPFQ(2)) for name in [*CONNECTED, "recurrent"]] + [
    ("residual", kc.MSQ(2, bias_correction=True)),
    ("recurrent", kc.MSQ(3)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantizer"), ERRORS, ids=str)
def test_the_reported_error_is_that_of_the_finished_networks(name, quantizer):
    model = architectures.build(name)
    samples = architectures.samples(model, 12)
    result = kc.quantize(model, quantizer, samples, batch_size=5)
    layers, compressed_layers = reference.layers(model), reference.layers(result.model)
    analog, compressed = reference.record(model, samples), reference.record(result.model, samples)
    for path, layer in layers.items():
        outputs = reference.outputs(layer, analog[path])
        error = outputs - reference.outputs(compressed_layers[path], compressed[path])
        if layer.use_bias:
            error += np.asarray(layer.bias) - np.asarray(compressed_layers[path].bias)
        elif path in ABSORBERS.get(name, {}):
            norm = ABSORBERS[name][path]
            error -= model.get_layer(norm).moving_mean.numpy() - result.model.get_layer(norm).moving_mean.numpy()
        expected = np.linalg.norm(error) / np.linalg.norm(outputs)
        assert result.report.row(path).relative_error == pytest.approx(expected, rel=1e-4)


# not "recurrent": the second call of `step` is corrected for inputs that change once `between` is quantized
CORRECTED = [(name, kc.GPFQ(2)) for name in CONNECTED] + [
    ("residual", kc.MSQ(2, bias_correction=True)),
    ("residual", kc.GPFQ(2, centered=False, bias_correction=True)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantizer"), CORRECTED, ids=str)
def test_corrected_biases_leave_no_mean_error(name, quantizer):
    """Seen right behind each layer, or behind the BatchNormalization that takes the error in its place."""
    model = architectures.build(name)
    samples = architectures.samples(model, 12)
    result = kc.quantize(model, quantizer, samples)
    layers, compressed_layers = reference.layers(model), reference.layers(result.model)
    analog, compressed = reference.record(model, samples), reference.record(result.model, samples)
    for path, layer in layers.items():
        expected = reference.outputs(layer, analog[path])
        outputs = reference.outputs(compressed_layers[path], compressed[path])
        if layer.use_bias:
            expected = expected + np.asarray(layer.bias)
            outputs = outputs + np.asarray(compressed_layers[path].bias)
        elif path in ABSORBERS.get(name, {}):
            norm = ABSORBERS[name][path]
            expected = expected - model.get_layer(norm).moving_mean.numpy()
            outputs = outputs - result.model.get_layer(norm).moving_mean.numpy()
        else:
            continue
        tolerance = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(outputs.mean(axis=0), expected.mean(axis=0), rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", [kc.GPFQ(4, centered=False), kc.MSQ(4)], ids=["gpfq", "msq"])
def test_biases_stay_where_nothing_is_corrected(quantizer):
    model = architectures.build("residual")
    result = kc.quantize(model, quantizer, architectures.samples(model, 12))
    for weight, original in zip(result.model.weights, model.weights, strict=True):
        if weight.name != "kernel":
            np.testing.assert_array_equal(weight.numpy(), original.numpy())
    assert {row.bias for row in result.report.steps[-1].rows if row.action == "quantized"} == {"kept"}


def bare(*behind):
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(4, 3, use_bias=False, name="conv"), *behind])
    keras.utils.set_random_seed(3)
    for variable in model.weights:
        variable.assign(np.random.uniform(0.5, 1.5, variable.shape))
    return model


def test_a_normalization_takes_the_mean_error_of_a_layer_without_a_bias():
    model = bare(keras.layers.BatchNormalization(name="norm"))
    samples = architectures.samples(model, 30)
    result = kc.quantize(model, kc.GPFQ(2), samples)
    assert result.report.row("conv").bias == "centered"
    moved = result.model.get_layer("norm").moving_mean.numpy() - model.get_layer("norm").moving_mean.numpy()
    assert np.abs(moved).max() > 1e-3
    means = [np.asarray(network(samples)).mean(axis=(0, 1, 2)) for network in (model, result.model)]
    np.testing.assert_allclose(*means, rtol=0, atol=1e-4)


def test_a_layer_with_nothing_to_take_the_mean_error_is_quantized_uncentered():
    model = bare(keras.layers.ReLU())
    samples = architectures.samples(model, 30)
    result = kc.quantize(model, kc.GPFQ(2), samples)
    plain = kc.quantize(model, kc.GPFQ(2, centered=False), samples)
    np.testing.assert_array_equal(result.kernels["conv"].codes, plain.kernels["conv"].codes)
    assert result.report.row("conv").bias not in ("centered", "corrected")
