"""Operations between layers, such as `x * 2`, in Keras 3 and in tf_keras.

In Keras 3 an operation is an object of a class, with its settings as attributes; in tf_keras it is a layer TFOpLambda
around a function of TensorFlow. Where tf_keras has a layer for it, that layer is taken: tfmot knows layers only.
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Keras exports the functions, and not the classes that stand in a model's graph.
from keras.src.ops import core as core_operations
from keras.src.ops import nn as nn_operations
from keras.src.ops import numpy as numpy_operations

from keras_compress.bridge.counterparts import NoCounterpartError
from keras_compress.bridge.libraries import Library

ops = keras.ops

# Class in Keras 3, function of TensorFlow, its names in tf_keras, function of Keras 3; both take one or two tensors.
ELEMENTWISE: list[tuple[type, Callable[..., Any], tuple[str, ...], Callable[..., Any]]] = [
    (numpy_operations.Add, tf.add, ("math.add", "__operators__.add"), ops.add),
    (numpy_operations.Subtract, tf.subtract, ("math.subtract",), ops.subtract),
    (numpy_operations.Multiply, tf.multiply, ("math.multiply",), ops.multiply),
    (numpy_operations.Divide, tf.divide, ("math.divide",), ops.divide),
    (numpy_operations.TrueDivide, tf.truediv, ("math.truediv",), ops.true_divide),
    (numpy_operations.Maximum, tf.maximum, ("math.maximum",), ops.maximum),
    (numpy_operations.Minimum, tf.minimum, ("math.minimum",), ops.minimum),
    (numpy_operations.Power, tf.pow, ("math.pow",), ops.power),
    (numpy_operations.Matmul, tf.matmul, ("linalg.matmul",), ops.matmul),
    (numpy_operations.Negative, tf.negative, ("math.negative",), ops.negative),
    (numpy_operations.Absolute, tf.abs, ("math.abs",), ops.absolute),
    (numpy_operations.Exp, tf.exp, ("math.exp",), ops.exp),
    (numpy_operations.Log, tf.math.log, ("math.log",), ops.log),
    (numpy_operations.Log1p, tf.math.log1p, ("math.log1p",), ops.log1p),
    (numpy_operations.Sqrt, tf.sqrt, ("math.sqrt",), ops.sqrt),
    (numpy_operations.Square, tf.square, ("math.square",), ops.square),
    (numpy_operations.Reciprocal, tf.math.reciprocal, ("math.reciprocal",), ops.reciprocal),
    (numpy_operations.Sin, tf.sin, ("math.sin",), ops.sin),
    (numpy_operations.Cos, tf.cos, ("math.cos",), ops.cos),
    (numpy_operations.Sign, tf.sign, ("math.sign",), ops.sign),
    (numpy_operations.Floor, tf.floor, ("math.floor",), ops.floor),
    (numpy_operations.Ceil, tf.math.ceil, ("math.ceil",), ops.ceil),
    (numpy_operations.Tanh, tf.tanh, ("math.tanh", "nn.tanh"), ops.tanh),
    (nn_operations.Sigmoid, tf.sigmoid, ("math.sigmoid", "nn.sigmoid"), ops.sigmoid),
    (nn_operations.Relu, tf.nn.relu, ("nn.relu",), ops.relu),
    (nn_operations.Relu6, tf.nn.relu6, ("nn.relu6",), ops.relu6),
    (nn_operations.Selu, tf.nn.selu, ("nn.selu",), ops.selu),
    (nn_operations.Softplus, tf.math.softplus, ("math.softplus", "nn.softplus"), ops.softplus),
    (nn_operations.Softsign, tf.nn.softsign, ("nn.softsign", "math.softsign"), ops.softsign),
]  # fmt: skip
# Class in Keras 3: what makes the same of tf_keras' tensors, from the operation and its arguments.
WITH_SETTINGS: dict[type, Callable[..., Any]] = {
    core_operations.Cast: lambda op, x: tf.cast(x, op.dtype),
    nn_operations.Elu: lambda op, x: tf.nn.elu(x) if op.alpha == 1 else _refuse(op, "alpha", op.alpha),
    nn_operations.Gelu: lambda op, x: tf.nn.gelu(x, approximate=op.approximate),
    nn_operations.LeakyRelu: lambda op, x: tf.nn.leaky_relu(x, alpha=op.negative_slope),
    nn_operations.LogSoftmax: lambda op, x: tf.nn.log_softmax(x, axis=op.axis),
    nn_operations.Silu: lambda op, x: tf.nn.silu(x),
    nn_operations.Softmax: lambda op, x: tf.nn.softmax(x, axis=op.axis),
    numpy_operations.Clip: lambda op, x: tf.clip_by_value(x, op.x_min, op.x_max),
    numpy_operations.Concatenate: lambda op, xs: tf.concat(xs, axis=op.axis),
    numpy_operations.ExpandDims: lambda op, x: tf.expand_dims(x, axis=op.axis),
    numpy_operations.GetItem: lambda op, x, key: x[key],
    numpy_operations.Max: lambda op, x: tf.reduce_max(x, axis=op.axis, keepdims=op.keepdims),
    numpy_operations.Mean: lambda op, x: tf.reduce_mean(x, axis=op.axis, keepdims=op.keepdims),
    numpy_operations.Min: lambda op, x: tf.reduce_min(x, axis=op.axis, keepdims=op.keepdims),
    numpy_operations.Reshape: lambda op, x: tf.reshape(x, _open(op.newshape)),
    numpy_operations.Squeeze: lambda op, x: tf.squeeze(x, axis=op.axis),
    numpy_operations.Stack: lambda op, xs: tf.stack(xs, axis=op.axis),
    numpy_operations.Sum: lambda op, x: tf.reduce_sum(x, axis=op.axis, keepdims=op.keepdims),
    numpy_operations.Transpose: lambda op, x: tf.transpose(x, perm=op.axes),
}
# Name in tf_keras: what makes the same of Keras 3's tensors, from the arguments of TensorFlow's function.
FROM_TENSORFLOW: dict[str, Callable[..., Any]] = {
    "__operators__.getitem": lambda tensor, slice_spec: tensor[_slices(slice_spec)],
    "cast": lambda x, dtype: ops.cast(x, tf.as_dtype(dtype).name),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "math.reduce_max": lambda input_tensor, axis=None, keepdims=False: ops.max(input_tensor, axis, keepdims),
    "math.reduce_mean": lambda input_tensor, axis=None, keepdims=False: ops.mean(input_tensor, axis, keepdims),
    "math.reduce_min": lambda input_tensor, axis=None, keepdims=False: ops.min(input_tensor, axis, keepdims),
    "math.reduce_sum": lambda input_tensor, axis=None, keepdims=False: ops.sum(input_tensor, axis, keepdims),
    "nn.elu": lambda features: ops.elu(features),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.log_softmax": lambda logits, axis=-1: ops.log_softmax(logits, -1 if axis is None else axis),
    "nn.silu": lambda features, beta=1.0: ops.silu(features if beta == 1 else beta * features) / beta,
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, -1 if axis is None else axis),
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "squeeze": lambda input, axis=None: ops.squeeze(input, axis),
    "stack": lambda values, axis=0: ops.stack(values, axis),
    "transpose": lambda a, perm=None: ops.transpose(a, perm),
}
SAME_NAMES = {"nn.swish": "nn.silu"}

_functions = {kind: function for kind, function, _, _ in ELEMENTWISE}
_ours = {name: function for _, _, names, function in ELEMENTWISE for name in names}
KNOWN = frozenset((*FROM_TENSORFLOW, *_ours, *SAME_NAMES))  # what a TFOpLambda of a file may call


def bare_name(function: str) -> str:
    """The name of a function of TensorFlow as the tables have it."""
    return function.removeprefix("compat.v1.")


def to_tf_keras(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], library: Library) -> Any:
    """What tf_keras makes of its tensors where Keras 3 has this operation.

    Raises:
        NoCounterpartError: an operation that is in neither table.
    """
    kind = type(operation)
    if kind in WITH_SETTINGS:
        return WITH_SETTINGS[kind](operation, *args, **kwargs)
    if kind not in _functions:
        raise NoCounterpartError(
            f"Operation {operation.name!r} ({kind.__name__}) has no counterpart in tf_keras. Use a layer in its place."
        )
    layer = _layer(operation, args, library)
    if layer is not None:
        tensors = [each for each in args if library.is_tensor(each)]
        return layer(tensors if len(tensors) > 1 else tensors[0])
    return _functions[kind](*args, **kwargs)


def from_tf_keras(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What Keras 3 makes of its tensors where tf_keras has this TFOpLambda.

    Raises:
        NoCounterpartError: a function that is in neither table.
    """
    name = bare_name(layer.symbol)
    name = SAME_NAMES.get(name, name)
    function = FROM_TENSORFLOW.get(name) or _ours.get(name)
    if function is None:
        raise NoCounterpartError(
            f"Layer {layer.name!r} calls tf.{name}, which has no counterpart in Keras 3. Use a layer in its place."
        )
    bound = dict(inspect.signature(layer.function).bind(*args, **kwargs).arguments)
    for unused in ("name", "conjugate", "squeeze_dims"):
        if not bound.get(unused):
            bound.pop(unused, None)
    bound.pop("name", None)
    values = {key: each.numpy() if isinstance(each, tf.Tensor) else each for key, each in bound.items()}
    return function(**values) if name in FROM_TENSORFLOW else function(*values.values())


def _layer(operation: Any, args: tuple[Any, ...], library: Library) -> Any:
    """The layer of tf_keras for an operation on floating-point tensors, or None."""
    layers, kind, name = library.keras.layers, type(operation), operation.name
    tensors = [each for each in args if library.is_tensor(each)]
    if not all(each.dtype.is_floating for each in tensors):
        return None
    if len(tensors) == 2:
        merges = {
            numpy_operations.Add: layers.Add,
            numpy_operations.Subtract: layers.Subtract,
            numpy_operations.Multiply: layers.Multiply,
            numpy_operations.Maximum: layers.Maximum,
            numpy_operations.Minimum: layers.Minimum,
        }
        alike = len(tensors[0].shape) == len(tensors[1].shape)
        return merges[kind](name=name) if kind in merges and alike else None
    if kind is numpy_operations.Negative:
        return layers.Rescaling(-1.0, name=name)
    if len(args) == 2:
        first = library.is_tensor(args[0])
        scale, offset = _linear(kind, np.asarray(args[1] if first else args[0], np.float64), first)
        if scale is not None:
            return layers.Rescaling(scale.tolist(), offset.tolist(), name=name)
    return None


def _linear(kind: type, constant: np.ndarray, first: bool) -> tuple[Any, Any]:
    """What x op constant, or constant op x, multiplies x by and adds to it; None where it is not of this form."""
    one, zero = np.ones(()), np.zeros(())
    if kind is numpy_operations.Add:
        return one, constant
    if kind is numpy_operations.Subtract:
        return (one, -constant) if first else (-one, constant)
    if kind is numpy_operations.Multiply:
        return constant, zero
    if kind in (numpy_operations.Divide, numpy_operations.TrueDivide) and first:
        return 1 / constant, zero
    return None, None


def _open(shape: Any) -> list[int]:
    return [-1 if size is None else int(size) for size in shape]


def _slices(spec: Any) -> Any:
    """Indices as tf_keras keeps them: slices as dictionaries."""
    if isinstance(spec, (list, tuple)):
        return tuple(_slices(each) for each in spec)
    if isinstance(spec, dict):
        return slice(spec["start"], spec["stop"], spec["step"])
    return spec


def _refuse(operation: Any, setting: str, value: Any) -> Any:
    raise NoCounterpartError(f"Operation {operation.name!r} has {setting}={value!r}, which tf_keras does not have.")
