"""Views of kernels that move over images or sequences: rows are patches."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.layers.convolution import ConvolutionGeometry
from keras_compress.layers.view import LinearView


class ConvolutionView(LinearView):
    """A convolution: rows are patches, (images * output height * output width, kernel height * width * C_in / groups).

    Attributes:
        geometry: how the kernel moves over what `images` gives.
    """

    geometry: ConvolutionGeometry

    def __init__(self, layer: keras.Layer):
        super().__init__(layer)
        self.groups = layer.groups
        self.geometry = self._geometry()

    @property
    def per_channel_groups(self) -> list[np.ndarray] | None:
        """Indices of the features of each input channel of a group; None where a matrix sees one channel."""
        taps, channels = len(self.geometry.taps), self.num_features // len(self.geometry.taps)
        return None if self.solved_together else [np.arange(taps) * channels + channel for channel in range(channels)]

    def images(self, inputs: Any) -> Any:
        """The inputs as images (n, height, width, channels), over which the kernel moves as `geometry` says."""
        return inputs

    def rows(self, inputs: Any) -> Any:
        patches = self.geometry.patches(self.images(inputs))
        taps, channels = patches.shape[3], patches.shape[4] // self.groups
        grouped = tf.reshape(patches, (-1, taps, self.groups, channels))
        return tf.reshape(tf.transpose(grouped, (2, 0, 1, 3)), (self.groups, -1, taps * channels))

    def _geometry(self) -> ConvolutionGeometry:
        layer = self.layer
        return ConvolutionGeometry(
            tuple(layer.kernel_size), tuple(layer.strides), tuple(layer.dilation_rate), layer.padding
        )

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return self.layer.convolution_op(inputs, kernel)

    @classmethod
    def refusal(cls, layer: keras.Layer) -> str | None:
        if layer.data_format != "channels_last":
            return "its data format is channels_first, and channels_last is expected"
        return super().refusal(layer)


class Conv2DView(ConvolutionView):
    """Conv2D, also grouped."""


class SequenceView(ConvolutionView):
    """A convolution over sequences: images of height 1."""

    def images(self, inputs: Any) -> Any:
        return inputs[:, tf.newaxis]

    def _geometry(self) -> ConvolutionGeometry:
        layer = self.layer
        ((taps,), (stride,), (dilation,)) = layer.kernel_size, layer.strides, layer.dilation_rate
        return ConvolutionGeometry((1, taps), (1, stride), (1, dilation), layer.padding)


class Conv1DView(SequenceView):
    """Conv1D, also grouped. Causal padding puts zeros before the sequence, and is "valid" from there on."""

    def images(self, inputs: Any) -> Any:
        return super().images(self._padded(inputs))

    def _geometry(self) -> ConvolutionGeometry:
        layer = self.layer
        ((taps,), (stride,), (dilation,)) = layer.kernel_size, layer.strides, layer.dilation_rate
        causal = layer.padding == "causal"
        self.zeros = (taps - 1) * dilation if causal else 0
        return ConvolutionGeometry((1, taps), (1, stride), (1, dilation), "valid" if causal else layer.padding)

    def _product(self, inputs: Any, kernel: Any) -> Any:
        geometry = self.geometry
        return keras.ops.conv(
            self._padded(inputs), kernel, geometry.strides[1:], geometry.padding, None, geometry.dilation[1:]
        )

    def _padded(self, inputs: Any) -> Any:
        return tf.pad(inputs, [(0, 0), (self.zeros, 0), (0, 0)]) if self.zeros else inputs


class DepthwiseView(ConvolutionView):
    """A depthwise convolution: each input channel is a group, with `depth_multiplier` units."""

    solved_together = True

    def __init__(self, layer: keras.Layer):
        super(ConvolutionView, self).__init__(layer)
        self.groups = self.variable.shape[-2]
        self.geometry = self._geometry()

    @property
    def axes(self) -> tuple[int, ...]:
        rank = len(self.variable.shape)
        return rank - 2, rank - 1

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(kernel.reshape(-1, *kernel.shape[-2:]), 1, 0))

    def kernel_of(self, matrices: np.ndarray) -> np.ndarray:
        return np.moveaxis(matrices, 0, 1).reshape(self.variable.shape)

    def _product(self, inputs: Any, kernel: Any) -> Any:
        layer = self.layer
        return keras.ops.depthwise_conv(
            inputs, kernel, tuple(layer.strides), layer.padding, layer.data_format, tuple(layer.dilation_rate)
        )


class Depthwise2DView(DepthwiseView):
    """DepthwiseConv2D."""


class Depthwise1DView(DepthwiseView, SequenceView):
    """DepthwiseConv1D."""


class SeparableDepthwise2DView(DepthwiseView):
    """The first step of SeparableConv2D."""

    weight = "depthwise_kernel"
    has_bias = False

    def output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*super().output_shape(input_shape)[:-1], self.num_channels)


class SeparableDepthwise1DView(SeparableDepthwise2DView, SequenceView):
    """The first step of SeparableConv1D."""


class SeparablePointwise2DView(ConvolutionView):
    """The second step of SeparableConv2D: a product with each pixel of what the first one gives."""

    weight = "pointwise_kernel"

    def __init__(self, layer: keras.Layer):
        super(ConvolutionView, self).__init__(layer)
        self.geometry = ConvolutionGeometry((1, 1), (1, 1), (1, 1), "valid")

    def output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.num_channels)

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return keras.ops.conv(inputs, kernel, 1, "valid", self.layer.data_format)


class SeparablePointwise1DView(SeparablePointwise2DView, SequenceView):
    """The second step of SeparableConv1D."""


class TransposeView(ConvolutionView):
    """A transposed convolution: stride 1, the kernel turned around, over images with zeros between their pixels."""

    def __init__(self, layer: keras.Layer):
        super(ConvolutionView, self).__init__(layer)
        self.stuffing = self._geometry()
        self.geometry = ConvolutionGeometry(self.stuffing.kernel_size, (1, 1), self.stuffing.dilation, "valid")

    @property
    def axes(self) -> tuple[int, ...]:
        return (len(self.variable.shape) - 2,)

    def images(self, inputs: Any) -> Any:
        images, geometry = super().images(inputs), self.stuffing
        sizes = (1, *self.layer.compute_output_shape((1, *inputs.shape[1:]))[1:-1])[-2:]
        paddings, crops = [(0, 0)], [slice(None)]
        for axis, size in enumerate(sizes):
            stride, reach = geometry.strides[axis], (geometry.kernel_size[axis] - 1) * geometry.dilation[axis]
            # the convolution that this one transposes pads an image of the output's size
            padded = max((images.shape[axis + 1] - 1) * stride + reach + 1 - size, 0)
            images = _with_zeros_between(images, axis + 1, stride)
            before = reach - (padded // 2 if geometry.padding == "same" else 0)
            after = size + reach - before - images.shape[axis + 1]
            paddings.append((max(before, 0), max(after, 0)))
            crops.append(slice(max(-before, 0), images.shape[axis + 1] - max(-after, 0)))
        return tf.pad(images[tuple(crops)], [*paddings, (0, 0)])

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        turned = kernel.reshape(-1, *kernel.shape[-2:])[::-1].swapaxes(-1, -2)  # (taps, C, F)
        return np.ascontiguousarray(turned).reshape(1, -1, kernel.shape[-2])

    def kernel_of(self, matrices: np.ndarray) -> np.ndarray:
        *_, units, channels = self.variable.shape
        turned = matrices.reshape(-1, channels, units).swapaxes(-1, -2)[::-1]
        return np.ascontiguousarray(turned).reshape(self.variable.shape)

    def _product(self, inputs: Any, kernel: Any) -> Any:
        layer = self.layer
        return keras.ops.conv_transpose(
            inputs,
            kernel,
            tuple(layer.strides),
            layer.padding,
            layer.output_padding,
            layer.data_format,
            tuple(layer.dilation_rate),
        )


class Conv2DTransposeView(TransposeView):
    """Conv2DTranspose."""


class Conv1DTransposeView(TransposeView, SequenceView):
    """Conv1DTranspose."""


def _with_zeros_between(images: Any, axis: int, stride: int) -> Any:
    """`stride - 1` zeros after each row (axis 1) or column (axis 2) but the last."""
    if stride == 1:
        return images
    size = images.shape[axis]
    paddings = [(0, 0)] * 5
    paddings[axis + 1] = (0, stride - 1)
    stretched = tf.pad(tf.expand_dims(images, axis + 1), paddings)
    shape = [-1, *images.shape[1:]]
    shape[axis] = size * stride
    whole = tf.reshape(stretched, shape)
    return whole[:, : (size - 1) * stride + 1] if axis == 1 else whole[:, :, : (size - 1) * stride + 1]
