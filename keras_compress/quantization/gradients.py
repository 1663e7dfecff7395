"""Gradients of convolutions' kernels that are the same on any number of threads.

TensorFlow's own gradients deal samples to threads, each of which sums its own part; after some steps of training, the
weights then depend on the number of threads.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_compress.calibration.correlation import tall_gradient
from keras_compress.layers.convolution import ConvolutionGeometry

NAMES = {"Conv2D": "KerasCompressConv2D", "DepthwiseConv2dNative": "KerasCompressDepthwiseConv2dNative"}
Fixed = Callable[[ConvolutionGeometry, Any, Any, Any], Any]  # of geometry, images, the kernel's shape, the gradient


@contextlib.contextmanager
def fixed_gradients() -> Iterator[None]:
    """Convolutions that a traced function calls in this block get these gradients, from `tf.gradients` alone."""
    with tf.compat.v1.get_default_graph().gradient_override_map(NAMES):
        yield


@tf.RegisterGradient(NAMES["Conv2D"])
def _of_convolution(operation: Any, gradient: Any) -> tuple[Any, Any]:
    ops = tf.raw_ops
    return _gradients(operation, gradient, ops.Conv2DBackpropInput, ops.Conv2DBackpropFilter, _of_kernel)


@tf.RegisterGradient(NAMES["DepthwiseConv2dNative"])
def _of_depthwise_convolution(operation: Any, gradient: Any) -> tuple[Any, Any]:
    ops = tf.raw_ops
    of_images, of_kernel = ops.DepthwiseConv2dNativeBackpropInput, ops.DepthwiseConv2dNativeBackpropFilter
    return _gradients(operation, gradient, of_images, of_kernel, _of_depthwise_kernel)


def _gradients(
    operation: Any, gradient: Any, of_images: Callable[..., Any], of_kernel: Callable[..., Any], fixed: Fixed
) -> tuple[Any, Any]:
    """Gradients of the images and of the kernel; the kernel's is TensorFlow's own where its geometry is not known."""
    images, kernel = operation.inputs
    settings, geometry = _settings(operation), _geometry(operation)
    first = of_images(input_sizes=tf.shape(images), filter=kernel, out_backprop=gradient, **settings)
    if geometry is None:
        return first, of_kernel(input=images, filter_sizes=tf.shape(kernel), out_backprop=gradient, **settings)
    return first, fixed(geometry, images, kernel.shape, gradient)


def _of_kernel(geometry: ConvolutionGeometry, images: Any, shape: Any, gradient: Any) -> Any:
    padded = geometry.read(geometry.pad(images), gradient.shape[1:3])
    return tall_gradient(padded, gradient, shape, geometry.strides, geometry.dilation)


def _of_depthwise_kernel(geometry: ConvolutionGeometry, images: Any, shape: Any, gradient: Any) -> Any:
    *sizes, channels, multiplier = shape
    gradient = tf.reshape(gradient, [-1, *gradient.shape[1:3], channels, multiplier])
    taps = [tf.reduce_sum(window[..., None] * gradient, axis=(0, 1, 2)) for window in geometry.windows(images)]
    return tf.reshape(tf.stack(taps), [*sizes, channels, multiplier])


def _settings(operation: Any) -> dict[str, Any]:
    return {name: operation.get_attr(name) for name in ("strides", "padding", "dilations", "data_format")}


def _geometry(operation: Any) -> ConvolutionGeometry | None:
    """None for settings that are not known: channels first, explicit padding, open sizes."""
    images, kernel = operation.inputs
    settings = _settings(operation)
    padding = settings["padding"].decode().lower()
    known = None not in images.shape[1:] and settings["data_format"] == b"NHWC" and padding in ("same", "valid")
    if not known:
        return None
    return ConvolutionGeometry(
        tuple(kernel.shape[:2]), tuple(settings["strides"][1:3]), tuple(settings["dilations"][1:3]), padding
    )
