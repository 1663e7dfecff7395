"""Layers as one operation of TensorFlow, which the converter makes one operator of, where Keras makes several.

On an open batch axis a dilated convolution moves pixels into the batch and back, and a Dense layer on sequences
computes sizes, with the product between them; a depthwise convolution of sequences adds its bias to another shape than
that of the product. The converter makes one operator of these where all are floats, and not where ranges of integers
stand behind them.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_compress.layers.paths import is_graph, layers_by_path
from keras_compress.layers.rewrite import Change, copy_layer, rebuild

L = keras.layers


class _Dilated(keras.layers.Layer):
    """The call of a convolution with dilation, written for the converter: it runs on no CPU in all cases."""

    def call(self, inputs: Any) -> Any:
        flat = len(self.kernel_size) == 1  # one axis: an image of one row
        one = [1] * flat
        strides, dilations = ([1, *one, *map(int, each), 1] for each in (self.strides, self.dilation_rate))
        padding = self.padding.upper()
        if padding == "CAUSAL":
            before = int(self.dilation_rate[0]) * (int(self.kernel_size[0]) - 1)
            inputs, padding = tf.pad(inputs, [[0, 0], [before, 0], [0, 0]]), "VALID"
        kernel = tf.convert_to_tensor(self.kernel)
        if flat:
            inputs, kernel = tf.expand_dims(inputs, 1), tf.expand_dims(kernel, 0)
        operation = tf.raw_ops.DepthwiseConv2dNative if hasattr(self, "depth_multiplier") else tf.raw_ops.Conv2D
        outputs = operation(input=inputs, filter=kernel, strides=strides, padding=padding, dilations=dilations)
        outputs = outputs + self.bias if self.use_bias else outputs
        if flat:  # behind the bias, which the converter then makes a part of the product
            outputs = tf.squeeze(outputs, [1])
        return outputs if self.activation is None else self.activation(outputs)


class _Conv1D(_Dilated, keras.layers.Conv1D):
    pass


class _Conv2D(_Dilated, keras.layers.Conv2D):
    pass


class _DepthwiseConv1D(_Dilated, keras.layers.DepthwiseConv1D):
    pass


class _DepthwiseConv2D(_Dilated, keras.layers.DepthwiseConv2D):
    pass


class _Dense(keras.layers.Dense):
    """A product of rows, whatever axes stand before the last one; their sizes are known but for the batch axis."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        rows = tf.matmul(tf.reshape(inputs, (-1, inputs.shape[-1])), self.kernel)
        rows = rows + self.bias if self.use_bias else rows
        outputs = tf.reshape(rows, (-1, *inputs.shape[1:-1], self.units))
        return outputs if self.activation is None else self.activation(outputs)


DILATED: dict[type, type[keras.layers.Layer]] = {
    L.Conv1D: _Conv1D, L.Conv2D: _Conv2D, L.DepthwiseConv1D: _DepthwiseConv1D, L.DepthwiseConv2D: _DepthwiseConv2D,
}  # fmt: skip


def one_operation(layer: keras.Layer) -> keras.Layer | None:
    """An unbuilt layer that the converter makes one operator of; None for a layer that needs no other form."""
    if (written := _with_softplus(layer)) is not None and type(layer) is L.Activation:
        return written
    if type(layer) is L.Dense:
        shapes = [node.input_tensors[0].shape for node in layer._inbound_nodes]  # private: a layer may have many inputs
        several = any(len(shape) > 2 for shape in shapes) and not any(None in shape[1:] for shape in shapes)
        return _Dense.from_config(copy_layer(layer).get_config()) if several else None
    if type(layer) not in DILATED or layer.data_format != "channels_last":
        return None
    if type(layer) is not L.DepthwiseConv1D and set(layer.dilation_rate) == {1}:
        return None
    return DILATED[type(layer)].from_config(copy_layer(layer).get_config())


def for_converter(model: keras.Model) -> keras.Model:
    """The model with softplus written so that it does not overflow: the converter writes log(1 + exp(x))."""
    return rebuilt(model, _with_softplus) if is_graph(model) else model


def rebuilt(model: keras.Model, other: Callable[[keras.Layer], keras.Layer | None]) -> keras.Model:
    """A copy in which some layers have another form, with the same weights; the model itself where none has."""
    forms = {path: other(layer) for path, layer in layers_by_path(model).items()}
    changes = {path: Change([form]) for path, form in forms.items() if form is not None}
    return rebuild(model, changes).model if changes else model


def softplus(inputs: Any) -> Any:
    """log(1 + exp(x)) for every x."""
    return tf.nn.relu(inputs) + tf.math.log(1.0 + tf.exp(-tf.abs(inputs)))


def _with_softplus(layer: keras.Layer) -> keras.Layer | None:
    overflows = getattr(layer, "activation", None) is keras.activations.softplus
    return copy_layer(layer, activation=softplus) if overflows else None
