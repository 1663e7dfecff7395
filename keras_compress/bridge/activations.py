"""Activations of Keras 3 that tf_keras does not have, or has with other numbers, written out in TensorFlow.

tf_keras saves and loads them by their registered names while this module is loaded.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_compress.bridge.libraries import import_tf_keras

PACKAGE = "keras_compress"
PREFIX = "keras_3_"  # tf_keras would take a function that is called hard_sigmoid for its own


def _hard_sigmoid(x: Any) -> Any:
    return tf.nn.relu6(x + 3.0) / 6.0


FORMULAS: dict[str, Callable[[Any], Any]] = {
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x: x * _hard_sigmoid(x),
    "hard_tanh": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "log_sigmoid": tf.math.log_sigmoid,
    "squareplus": lambda x: (x + tf.sqrt(tf.square(x) + 4.0)) / 2.0,
    "tanh_shrink": lambda x: x - tf.tanh(x),
}


@functools.cache
def written_out(name: str) -> Callable[[Any], Any]:
    """The function of tf_keras for an activation in `FORMULAS`."""

    def activation(x: Any) -> Any:
        return FORMULAS[name](x)

    activation.__name__ = activation.__qualname__ = PREFIX + name
    function: Callable[[Any], Any] = import_tf_keras().saving.register_keras_serializable(PACKAGE)(activation)
    return function


def is_written_out(value: Any) -> bool:
    """Whether tf_keras serialized a function of `written_out` so."""
    return isinstance(value, str) and PREFIX in value


def name_in_keras_3(value: str) -> str:
    """What Keras 3 calls such a function."""
    return value.rpartition(PREFIX)[2]
