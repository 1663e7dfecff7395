"""`Affine`: a factor and an offset for each channel, in the form that integers compute exactly."""

from typing import Any

import keras
import numpy as np

from keras_compress.layers.graph import Graph

L = keras.layers


class Affine(keras.layers.Layer):
    """`x * factor + offset`, one of each a channel (the last axis), as a depthwise convolution of 1 x 1.

    TFLite computes a product and a sum of constants in two steps, each rounded to 8 bits; a depthwise convolution has a
    weight scale for each channel, a bias of 32 bits, and one rounding. A weight alone in its channel is exact.

    Args:
        factor, offset: (channels,).
    """

    # As the depthwise convolution that it is.
    kernel_size = strides = dilation_rate = (1, 1)
    padding, data_format, depth_multiplier, use_bias = "valid", "channels_last", 1, True

    def __init__(self, factor: Any, offset: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = np.asarray(factor, np.float32)
        self.offset = np.asarray(offset, np.float32)

    def build(self, input_shape: Any) -> None:
        shape = (1, 1, len(self.factor), 1)
        kernel, bias = self.factor.reshape(shape), self.offset
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=lambda *_, **__: kernel)
        self.bias = self.add_weight(name="bias", shape=bias.shape, initializer=lambda *_, **__: bias)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if len(inputs.shape) == 4:
            return self._product(inputs)
        # -1 is the batch axis, which the converter then need not compute.
        sizes = keras.ops.shape(inputs) if None in inputs.shape[1:] else (-1, *inputs.shape[1:])
        inner = 1
        for size in sizes[1:-1]:
            inner *= size
        image = keras.ops.reshape(inputs, (sizes[0], inner, 1, sizes[-1]))
        return keras.ops.reshape(self._product(image), sizes)

    def _product(self, image: Any) -> Any:
        return keras.ops.depthwise_conv(image, self.kernel, data_format="channels_last") + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"factor": self.factor.tolist(), "offset": self.offset.tolist()}


def affine_layers(graph: Graph) -> dict[str, Affine]:
    """Path -> what can take the place of a layer that multiplies and shifts channels, whatever its name is.

    Of a model whose foldable BatchNormalization is folded. A factor alone is one operator already; an offset alone is
    too, but the runtime is wrong where the scales of what it adds are a thousandfold apart.
    """
    replacements: dict[str, Affine] = {}
    for call in graph.calls:
        shape = graph.shapes[call.inputs[0]] if call.inputs else ()
        numbers = _numbers(call.operation, len(shape))
        if numbers is None or len(shape) < 2 or shape[-1] is None:
            continue
        factor, offset = (np.broadcast_to(each, (shape[-1],)).astype(np.float32) for each in numbers)
        if np.isfinite(factor).all() and np.isfinite(offset).all():
            replacements[call.path] = Affine(factor, offset, name=call.operation.name, dtype="float32")
    return replacements


def _numbers(layer: Any, rank: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and offset of a layer, float64, for each channel or for all; None for other layers."""
    if getattr(layer, "compute_dtype", "float32") != "float32":
        return None
    if type(layer) is L.BatchNormalization and layer.axis in (-1, rank - 1):
        gamma = _float64(layer.gamma) if layer.scale else 1.0
        factor = gamma / np.sqrt(_float64(layer.moving_variance) + layer.epsilon)
        return factor, (_float64(layer.beta) if layer.center else 0.0) - _float64(layer.moving_mean) * factor
    if type(layer) is L.Rescaling:
        factor, offset = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
        return (factor, offset) if max(factor.ndim, offset.ndim) < 2 and offset.any() else None
    if type(layer) is L.Normalization and layer.built:
        mean, deviation = _float64(layer.mean), np.sqrt(_float64(layer.variance))
        if mean.size != (mean.shape[-1] if mean.ndim else 1) or mean.shape != deviation.shape:
            return None
        mean, deviation = mean.ravel(), np.maximum(deviation.ravel(), keras.backend.epsilon())
        return (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return None


def _float64(values: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(values), np.float64)
