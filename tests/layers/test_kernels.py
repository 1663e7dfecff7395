"""A layer is a matrix: `rows(inputs) @ matrix + bias` is what the layer computes, for every layer in the table."""

import keras
import numpy as np
import pytest

from keras_compress.layers.convolution_views import Conv2DView
from keras_compress.layers.kernels import kernel_views, named_views, refusal, views_by_path
from keras_compress.layers.operations import KINDS
from keras_compress.layers.view import LinearView
from tests.layers.geometries import CONVOLUTIONS
from tests.reference import convolution as reference

L = keras.layers

EXAMPLES = {
    "dense": ((6,), lambda: L.Dense(5)),
    "dense_without_bias": ((6,), lambda: L.Dense(5, use_bias=False)),
    "dense_on_sequences": ((4, 6), lambda: L.Dense(5)),
    "dense_on_images": ((3, 2, 6), lambda: L.Dense(5)),
    "einsum_to_heads": ((4, 6), lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")),
    "einsum_from_heads": ((4, 2, 3), lambda: L.EinsumDense("abcd,cde->abe", (None, 6), bias_axes="e")),
    "einsum_ellipsis": ((3, 4, 6), lambda: L.EinsumDense("...x,xy->...y", 5, bias_axes="y")),
    "einsum_turned": ((4, 6), lambda: L.EinsumDense("abc,dc->adb", (5, 4), bias_axes="d")),
    "einsum_kernel_turned": ((4, 6), lambda: L.EinsumDense("abc,dec->abed", (4, 3, 5), bias_axes="ed")),
    "conv1d": ((9, 4), lambda: L.Conv1D(6, 3)),
    "conv1d_causal": ((9, 4), lambda: L.Conv1D(6, 3, padding="causal", dilation_rate=2, groups=2)),
    "conv1d_same": ((9, 4), lambda: L.Conv1D(6, 4, padding="same", use_bias=False)),
    "conv1d_strided": ((9, 4), lambda: L.Conv1D(6, 3, strides=2, padding="same")),
    "conv2d_without_bias": ((7, 6, 4), lambda: L.Conv2D(8, 3, use_bias=False)),
    "depthwise": ((7, 6, 4), lambda: L.DepthwiseConv2D(3)),
    "depthwise_same": ((7, 6, 4), lambda: L.DepthwiseConv2D((3, 2), padding="same", use_bias=False)),
    "depthwise_strided": ((7, 8, 3), lambda: L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)),
    "depthwise_dilated": ((9, 8, 3), lambda: L.DepthwiseConv2D(3, dilation_rate=2, depth_multiplier=3)),
    "depthwise1d": ((9, 4), lambda: L.DepthwiseConv1D(3, strides=2, padding="same", depth_multiplier=2)),
    "separable": ((7, 6, 4), lambda: L.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2)),
    "separable_valid": ((7, 6, 4), lambda: L.SeparableConv2D(5, (2, 3), dilation_rate=2, use_bias=False)),
    "separable1d": ((9, 4), lambda: L.SeparableConv1D(5, 3, padding="same")),
    "embedding": ((5,), lambda: L.Embedding(11, 3)),
    "simple_rnn": ((5, 4), lambda: L.SimpleRNN(3)),
    "gru": ((5, 4), lambda: L.GRU(3, return_sequences=True)),
    "lstm": ((5, 4), lambda: L.LSTM(3)),
} | {
    "conv2d-" + "-".join(map(str, settings)): (
        (9, 7, 4),
        lambda size=size, strides=strides, dilation=dilation, padding=padding, groups=groups: L.Conv2D(
            8, size, strides=strides, dilation_rate=dilation, padding=padding, groups=groups
        ),
    )
    for settings in CONVOLUTIONS
    for size, strides, dilation, padding, groups in [settings]
} | {
    f"transposed-{size}-{strides}-{dilation}-{padding}-{extra}": (
        (5, 6, 3),
        lambda size=size, strides=strides, dilation=dilation, padding=padding, extra=extra: L.Conv2DTranspose(
            4, size, strides=strides, dilation_rate=dilation, padding=padding, output_padding=extra
        ),
    )
    for size, strides, dilation, padding, extra in [
        (3, 1, 1, "valid", None), (3, 1, 1, "same", None), ((2, 3), 2, 1, "same", None), (2, 3, 1, "valid", None),
        (3, 2, 1, "valid", None), ((4, 1), (2, 1), 1, "same", None), (3, 1, 2, "valid", None), (3, 1, 2, "same", None),
        (3, 2, 1, "same", 1), (3, (3, 2), 1, "valid", 1), (1, 2, 1, "same", None), (5, 2, 1, "same", 0),
    ]
} | {
    f"transposed1d-{size}-{strides}-{padding}": (
        (7, 3), lambda size=size, strides=strides, padding=padding: L.Conv1DTranspose(4, size, strides, padding),
    )
    for size, strides, padding in [(3, 2, "same"), (2, 3, "valid"), (4, 1, "same")]
}  # fmt: skip
LINEAR = [name for name in EXAMPLES if name not in ("embedding", "simple_rnn", "gru", "lstm")]


def built(name, rng):
    shape, build = EXAMPLES[name]
    layer = build()
    layer.build((None, *shape))
    for weight in layer.weights:
        if weight.dtype == "float32":
            weight.assign(rng.normal(size=weight.shape))
    return layer, rng.normal(size=(3, *shape)).astype(np.float32)


@pytest.fixture(params=LINEAR)
def layer_and_inputs(request, rng):
    return built(request.param, rng)


@pytest.fixture(params=EXAMPLES)
def views(request, rng):
    return kernel_views(built(request.param, rng)[0])


def test_every_known_layer_has_an_example():
    assert {type(build()) for _, build in EXAMPLES.values()} == {kind for kind, row in KINDS.items() if row.views}


def outputs_of(view, inputs):
    """What rows and matrices give: (m, channels)."""
    rows, matrices = np.asarray(view.rows(inputs)), view.matrices(view.kernel)
    outputs = np.concatenate([part @ matrix for part, matrix in zip(rows, matrices, strict=True)], axis=-1)
    return outputs if view.bias_variable is None else outputs + np.asarray(view.bias_variable).ravel()


def test_rows_times_matrix_is_the_output_of_the_layer(layer_and_inputs):
    layer, inputs = layer_and_inputs
    *earlier, last = kernel_views(layer)
    values = inputs
    for view in earlier:
        linear = np.asarray(view.linear(values))
        np.testing.assert_allclose(outputs_of(view, values).reshape(linear.shape), linear, rtol=1e-4, atol=1e-4)
        values = linear
    expected = np.asarray(layer(inputs))
    if type(layer) is L.EinsumDense:
        expected = expected if last.bias is last.bias_variable else expected - np.asarray(last.bias)
        target = last.output_letters.replace("...", "ZYX")
        rows = [letter for letter in target if letter not in last.units]
        expected = expected.transpose([target.index(letter) for letter in (*rows, *last.units)])
    np.testing.assert_allclose(outputs_of(last, values).reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm"])
def test_the_rows_of_a_recurrent_layer_are_its_steps(rng, name):
    """What the kernel makes of the inputs is what the layer's cell adds to what it makes of its state."""
    layer, inputs = built(name, rng)
    view, state = kernel_views(layer)
    assert view.variable is layer.cell.kernel and state.variable is layer.cell.recurrent_kernel
    np.testing.assert_array_equal(np.asarray(view.rows(inputs))[0], inputs.reshape(-1, 4))
    layer.cell.recurrent_kernel.assign(np.zeros(state.kernel.shape))
    first = np.asarray(view.rows(inputs[:, :1]))[0] @ view.matrices(view.kernel)[0]
    if name == "simple_rnn":
        alone = np.tanh(first + np.asarray(layer.cell.bias))
        np.testing.assert_allclose(np.asarray(layer(inputs[:, :1])), alone, rtol=1e-5)
    assert state.memoryless and not view.memoryless


def test_linear_is_the_layer_without_its_activation(layer_and_inputs):
    layer, inputs = layer_and_inputs
    layer.activation = keras.activations.relu
    linear = inputs
    for view in kernel_views(layer):
        assert isinstance(view, LinearView)
        shape = view.output_shape((None, *linear.shape[1:]))
        linear = np.asarray(view.linear(linear))
        assert linear.shape[1:] == tuple(shape[1:]) or type(layer) is L.EinsumDense  # whose shapes may stay open
    assert linear.min() < 0
    np.testing.assert_allclose(np.maximum(linear, 0), np.asarray(layer(inputs)), rtol=1e-5, atol=1e-5)


def test_kernel_and_matrices_are_each_other_s_inverse(views):
    for view in views:
        matrices = view.matrices(view.kernel)
        assert matrices.shape == (view.groups, view.num_features, view.num_channels // view.groups)
        np.testing.assert_array_equal(view.kernel_of(matrices), view.kernel)


def test_columns_of_the_matrices_are_output_channels_in_order(views):
    """Scales run along `axes`, so that a factor for each column is a factor for each output channel."""
    for view in views:
        factors = np.arange(1.0, view.num_channels + 1)
        matrices = view.matrices(view.kernel) * factors.reshape(view.groups, 1, -1)
        shape = [size if axis in view.axes else 1 for axis, size in enumerate(view.kernel.shape)]
        np.testing.assert_allclose(view.kernel_of(matrices), view.kernel * factors.reshape(shape), rtol=1e-6)


def test_the_number_of_positions_is_that_of_the_rows(layer_and_inputs):
    layer, inputs = layer_and_inputs
    values = inputs
    for view in kernel_views(layer):
        assert view.rows(values).shape[1] == len(values) * view.num_positions((None, *values.shape[1:]))
        values = np.asarray(view.linear(values))


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
    assert kernel_views(layer) == []
    assert refusal(layer) == "Louder layers are left in floating point"


def test_channels_first_is_refused_with_the_reason():
    layer = L.Conv2D(3, 3, data_format="channels_first")
    assert kernel_views(layer) == []
    assert "channels_first" in refusal(layer)


@pytest.mark.slow
def test_a_layer_that_keras_quantized_is_refused_with_the_reason():
    layer = L.Dense(3)
    layer.build((None, 2))
    layer.quantize("int8")
    assert kernel_views(layer) == []
    assert "int8" in refusal(layer)


def test_a_layer_with_lora_weights_is_refused_with_the_reason():
    layer = L.Dense(3)
    layer.build((None, 2))
    layer.enable_lora(1)
    assert kernel_views(layer) == []
    assert "LoRA" in refusal(layer)


def test_an_equation_that_is_no_matrix_is_refused_with_the_reason():
    layer = L.EinsumDense("abc,bcd->abd", (4, 5))
    layer.build((None, 4, 6))
    assert kernel_views(layer) == []
    assert "no product of one matrix with rows" in refusal(layer)


def test_a_layer_with_several_kernels_names_them():
    layer = L.SeparableConv2D(2, 3)
    layer.build((None, 5, 5, 2))
    assert list(named_views("block", layer)) == ["block/depthwise_kernel", "block/pointwise_kernel"]


def test_layers_within_layers_are_found_by_their_attributes():
    class Block(L.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.parts = [L.Dense(3, name="same"), L.Dense(3, name="same")]
            self._tail = keras.Sequential([L.Dense(2, name="inner")])

        def call(self, x):
            return self._tail(self.parts[1](self.parts[0](x)))

    inputs = keras.Input((4, 3))
    attention = L.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model(inputs, Block()(attention(inputs, inputs)))
    assert list(views_by_path(model)) == [
        "attention/query_dense", "attention/key_dense", "attention/value_dense", "attention/output_dense",
        "block/parts/0", "block/parts/1", "block/tail/inner",
    ]  # fmt: skip
