"""Kernels as matrices: one table says which layers we know, by exact type.

For each group of a layer, `outputs = rows(inputs) @ matrix (+ bias)`, exactly. To add a layer type, write a view and
give it a row in `VIEWS`; tests/layers/test_kernels.py then needs one example of the layer.
"""

import abc
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.layers.convolution import ConvolutionGeometry


class KernelView(abc.ABC):
    """A layer's kernel as one matrix (N, units) for each group; columns are neurons."""

    groups = 1

    def __init__(self, layer: keras.Layer):
        self.layer = layer

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of the kernel that run over output channels: in their order, units of one group after the other."""
        return (len(self.layer.kernel.shape) - 1,)

    @property
    def kernel(self) -> np.ndarray:
        return np.asarray(self.layer.kernel)

    @property
    def bias(self) -> np.ndarray | None:
        return np.asarray(self.layer.bias) if self.layer.use_bias else None

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        """(groups, N, units) of an array of the kernel's shape."""
        flat = kernel.reshape(-1, self.groups, kernel.shape[-1] // self.groups)
        return np.ascontiguousarray(np.moveaxis(flat, 1, 0))

    def kernel_of(self, matrices: np.ndarray) -> np.ndarray:
        """The kernel-shaped array of (groups, N, units)."""
        return np.moveaxis(matrices, 0, 1).reshape(self.layer.kernel.shape)

    def num_positions(self, input_shape: tuple[int | None, ...]) -> int:
        """Rows that one sample gives."""
        return math.prod(size or 1 for size in self.output_shape(input_shape)[1:-1])

    def output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)

    def linear(self, inputs: Any) -> Any:
        """The layer's outputs before its activation."""
        inputs = keras.ops.cast(inputs, self.layer.compute_dtype)
        outputs = self._product(inputs, keras.ops.cast(self.layer.kernel, self.layer.compute_dtype))
        if self.layer.use_bias:
            outputs = outputs + keras.ops.cast(self.layer.bias, outputs.dtype)
        return outputs

    @abc.abstractmethod
    def _product(self, inputs: Any, kernel: Any) -> Any: ...

    @abc.abstractmethod
    def rows(self, inputs: Any) -> Any:
        """(groups, m, N) tensor: what the neurons see."""

    @classmethod
    def refusal(cls, layer: keras.Layer) -> str | None:
        """Why this layer cannot be viewed, although its type is known; else None."""
        if getattr(layer, "quantization_mode", None):
            return f"Keras has quantized it already ({layer.quantization_mode})"
        if getattr(layer, "lora_enabled", False):
            return "it has LoRA weights"
        if layer.kernel.dtype != "float32":
            return f"its kernel is {layer.kernel.dtype}, and float32 is wanted"
        return None


class DenseView(KernelView):
    """Dense on inputs of any rank: every vector along the last axis is a row."""

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return keras.ops.matmul(inputs, kernel)

    def rows(self, inputs: Any) -> Any:
        return tf.reshape(inputs, (1, -1, inputs.shape[-1]))


class ConvolutionView(KernelView):
    """A convolution: rows are patches, (images * output height * output width, kernel height * width * C_in / groups).

    Attributes:
        geometry: how the kernel moves over what `images` gives.
    """

    geometry: ConvolutionGeometry

    def __init__(self, layer: keras.Layer):
        super().__init__(layer)
        self.groups = layer.groups

    def images(self, inputs: Any) -> Any:
        """The inputs as images (n, height, width, channels)."""
        return inputs

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return self.layer.convolution_op(inputs, kernel)

    def rows(self, inputs: Any) -> Any:
        patches = self.geometry.patches(self.images(inputs))
        taps, channels = patches.shape[3], patches.shape[4] // self.groups
        grouped = tf.reshape(patches, (-1, taps, self.groups, channels))
        return tf.reshape(tf.transpose(grouped, (2, 0, 1, 3)), (self.groups, -1, taps * channels))

    @classmethod
    def refusal(cls, layer: keras.Layer) -> str | None:
        if layer.data_format != "channels_last":
            return "its data format is channels_first, and channels_last is wanted"
        return super().refusal(layer)


class Conv2DView(ConvolutionView):
    def __init__(self, layer: keras.Layer):
        super().__init__(layer)
        self.geometry = ConvolutionGeometry(
            tuple(layer.kernel_size), tuple(layer.strides), tuple(layer.dilation_rate), layer.padding
        )


class Conv1DView(ConvolutionView):
    """Conv1D: images of height 1. Causal padding puts zeros before the sequence, and is "valid" from there on."""

    def __init__(self, layer: keras.Layer):
        super().__init__(layer)
        ((taps,), (stride,), (dilation,)) = layer.kernel_size, layer.strides, layer.dilation_rate
        causal = layer.padding == "causal"
        self.zeros = (taps - 1) * dilation if causal else 0
        padding = "valid" if causal else layer.padding
        self.geometry = ConvolutionGeometry((1, taps), (1, stride), (1, dilation), padding)

    def images(self, inputs: Any) -> Any:
        return self._padded(inputs)[:, tf.newaxis]

    def _product(self, inputs: Any, kernel: Any) -> Any:
        geometry = self.geometry
        return keras.ops.conv(
            self._padded(inputs), kernel, geometry.strides[1:], geometry.padding, None, geometry.dilation[1:]
        )

    def _padded(self, inputs: Any) -> Any:
        return tf.pad(inputs, [(0, 0), (self.zeros, 0), (0, 0)]) if self.zeros else inputs


VIEWS: dict[type, type[KernelView]] = {
    keras.layers.Dense: DenseView,
    keras.layers.Conv1D: Conv1DView,
    keras.layers.Conv2D: Conv2DView,
}


def kernel_view(layer: Any) -> KernelView | None:
    """The view of a layer's kernel, or None for a layer that we do not know or cannot view."""
    view = VIEWS.get(type(layer))
    return view(layer) if view and not view.refusal(layer) else None


def refusal(layer: keras.Layer) -> str:
    """Why `kernel_view` gave None for a layer that has weights."""
    view = VIEWS.get(type(layer))
    if view:
        return view.refusal(layer) or ""
    known = ", ".join(known.__name__ for known in VIEWS)
    return f"{type(layer).__name__} layers are left in floating point (known: {known})"
