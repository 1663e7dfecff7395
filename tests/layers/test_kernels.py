"""A layer is a matrix: `rows(inputs) @ matrix + bias` is what the layer computes, for every layer in the table."""

import keras
import numpy as np
import pytest

from keras_compress.layers.kernels import VIEWS, Conv2DView, kernel_view, refusal
from tests.layers.geometries import CONVOLUTIONS
from tests.reference import convolution as reference

L = keras.layers

EXAMPLES = {
    "dense": ((6,), lambda: L.Dense(5)),
    "dense_without_bias": ((6,), lambda: L.Dense(5, use_bias=False)),
    "dense_on_sequences": ((4, 6), lambda: L.Dense(5)),
    "dense_on_images": ((3, 2, 6), lambda: L.Dense(5)),
    "conv1d": ((9, 4), lambda: L.Conv1D(6, 3)),
    "conv1d_causal": ((9, 4), lambda: L.Conv1D(6, 3, padding="causal", dilation_rate=2, groups=2)),
    "conv1d_same": ((9, 4), lambda: L.Conv1D(6, 4, padding="same", use_bias=False)),
    "conv1d_strided": ((9, 4), lambda: L.Conv1D(6, 3, strides=2, padding="same")),
    "conv2d_without_bias": ((7, 6, 4), lambda: L.Conv2D(8, 3, use_bias=False)),
} | {
    "conv2d-" + "-".join(map(str, settings)): (
        (9, 7, 4),
        lambda size=size, strides=strides, dilation=dilation, padding=padding, groups=groups: L.Conv2D(
            8, size, strides=strides, dilation_rate=dilation, padding=padding, groups=groups
        ),
    )
    for settings in CONVOLUTIONS
    for size, strides, dilation, padding, groups in [settings]
}  # fmt: skip


@pytest.fixture(params=EXAMPLES)
def layer_and_inputs(request, rng):
    shape, build = EXAMPLES[request.param]
    layer = build()
    layer.build((None, *shape))
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer, rng.normal(size=(3, *shape)).astype(np.float32)


def test_every_known_layer_has_an_example():
    assert {type(build()) for _, build in EXAMPLES.values()} == set(VIEWS)


def test_rows_times_matrix_is_the_output_of_the_layer(layer_and_inputs):
    layer, inputs = layer_and_inputs
    view = kernel_view(layer)
    rows, matrices = np.asarray(view.rows(inputs)), view.matrices(view.kernel)
    outputs = np.concatenate([part @ matrix for part, matrix in zip(rows, matrices, strict=True)], axis=-1)
    if view.bias is not None:
        outputs = outputs + view.bias
    expected = np.asarray(layer(inputs))
    np.testing.assert_allclose(outputs.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_linear_is_the_layer_without_its_activation(layer_and_inputs):
    layer, inputs = layer_and_inputs
    layer.activation = keras.activations.relu
    linear = np.asarray(kernel_view(layer).linear(inputs))
    assert linear.min() < 0
    np.testing.assert_allclose(np.maximum(linear, 0), np.asarray(layer(inputs)), rtol=1e-5, atol=1e-5)


def test_kernel_and_matrices_are_each_other_s_inverse(layer_and_inputs):
    view = kernel_view(layer_and_inputs[0])
    np.testing.assert_array_equal(view.kernel_of(view.matrices(view.kernel)), view.kernel)


def test_columns_of_the_matrices_are_output_channels_in_order(layer_and_inputs):
    """Scales run along the kernel's last axis, so groups must not shuffle it."""
    view = kernel_view(layer_and_inputs[0])
    columns = np.concatenate(list(view.matrices(view.kernel)), axis=1)
    np.testing.assert_array_equal(columns, view.kernel.reshape(-1, view.kernel.shape[-1]))


def test_the_number_of_positions_is_that_of_the_rows(layer_and_inputs):
    layer, inputs = layer_and_inputs
    view = kernel_view(layer)
    assert view.rows(inputs).shape[1] == len(inputs) * view.num_positions((None, *inputs.shape[1:]))


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_rows_of_a_convolution_are_its_patches(rng, settings):
    size, strides, dilation, padding, groups = settings
    layer = L.Conv2D(8, size, strides=strides, dilation_rate=dilation, padding=padding, groups=groups)
    layer.build((None, 9, 7, 4))
    images = rng.normal(size=(2, 9, 7, 4)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(Conv2DView(layer).rows(images)), reference.patches(images, *settings))


def test_a_subclass_of_a_known_layer_is_unknown():
    """Its `call` may do anything."""

    class Louder(L.Dense):
        pass

    layer = Louder(3)
    layer.build((None, 2))
    assert kernel_view(layer) is None
    assert "Louder layers are left in floating point (known: Dense, Conv1D, Conv2D)" in refusal(layer)


def test_channels_first_is_refused_with_the_reason():
    layer = L.Conv2D(3, 3, data_format="channels_first")
    assert kernel_view(layer) is None
    assert "channels_first" in refusal(layer)


def test_a_layer_that_keras_quantized_is_refused_with_the_reason():
    layer = L.Dense(3)
    layer.build((None, 2))
    layer.quantize("int8")
    assert kernel_view(layer) is None
    assert "int8" in refusal(layer)


def test_a_layer_with_lora_weights_is_refused_with_the_reason():
    layer = L.Dense(3)
    layer.build((None, 2))
    layer.enable_lora(1)
    assert kernel_view(layer) is None
    assert "LoRA" in refusal(layer)
