"""Gradients of convolutions' kernels that are the same on any number of threads.

TensorFlow's own deal samples to threads, each of which sums its own part; after some steps of training other threads
are other weights.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_compress.calibration.correlation import tall_gradient
from keras_compress.layers.convolution import ConvolutionGeometry

NAMES = {"Conv2D": "KerasCompressConv2D", "DepthwiseConv2dNative": "KerasCompressDepthwiseConv2dNative"}


@contextlib.contextmanager
def fixed_gradients() -> Iterator[None]:
    """Convolutions that a traced function calls in this block get these gradients, from `tf.gradients` alone."""
    with tf.compat.v1.get_default_graph().gradient_override_map(NAMES):
        yield


@tf.RegisterGradient(NAMES["Conv2D"])
def _of_convolution(operation: Any, gradient: Any) -> tuple[Any, Any]:
    images, kernel = operation.inputs
    settings = _settings(operation)
    of_images = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(images), filter=kernel, out_backprop=gradient, **settings
    )
    geometry = _geometry(operation)
    if geometry is None:
        return of_images, tf.raw_ops.Conv2DBackpropFilter(
            input=images, filter_sizes=tf.shape(kernel), out_backprop=gradient, **settings
        )
    padded = geometry.read(geometry.pad(images), gradient.shape[1:3])
    return of_images, tall_gradient(padded, gradient, kernel.shape, geometry.strides, geometry.dilation)


@tf.RegisterGradient(NAMES["DepthwiseConv2dNative"])
def _of_depthwise_convolution(operation: Any, gradient: Any) -> tuple[Any, Any]:
    images, kernel = operation.inputs
    settings = _settings(operation)
    of_images = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=tf.shape(images), filter=kernel, out_backprop=gradient, **settings
    )
    geometry = _geometry(operation)
    if geometry is None:
        return of_images, tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=images, filter_sizes=tf.shape(kernel), out_backprop=gradient, **settings
        )
    *sizes, channels, multiplier = kernel.shape
    gradient = tf.reshape(gradient, [-1, *gradient.shape[1:3], channels, multiplier])
    taps = [tf.reduce_sum(window[..., None] * gradient, axis=(0, 1, 2)) for window in geometry.windows(images)]
    return of_images, tf.reshape(tf.stack(taps), [*sizes, channels, multiplier])


def _settings(operation: Any) -> dict[str, Any]:
    return {name: operation.get_attr(name) for name in ("strides", "padding", "dilations", "data_format")}


def _geometry(operation: Any) -> ConvolutionGeometry | None:
    """None for what is told by other words: channels first, explicit padding, open sizes."""
    images, kernel = operation.inputs
    settings = _settings(operation)
    padding = settings["padding"].decode().lower()
    known = None not in images.shape[1:] and settings["data_format"] == b"NHWC" and padding in ("same", "valid")
    if not known:
        return None
    return ConvolutionGeometry(
        tuple(kernel.shape[:2]), tuple(settings["strides"][1:3]), tuple(settings["dilations"][1:3]), padding
    )
