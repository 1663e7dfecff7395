"""What an earlier step won and a training must not lose: zeros, and weights that are equal."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.bridge.libraries import import_tf_keras


@dataclasses.dataclass(frozen=True)
class Kept:
    """A variable of a tf_keras model, and what must stay.

    Attributes:
        mask: of the variable's shape, false where a zero must stay; or None.
        clusters: integers from 0 on, of the variable's shape: weights with the same number stay equal; or None.
    """

    variable: Any
    mask: np.ndarray | None = None
    clusters: np.ndarray | None = None


def keeping(kept: Sequence[Kept]) -> list[Any]:
    """One callback of tf_keras that restores the variables after each step; none where nothing is to be kept.

    Weights of a cluster become their mean: each then takes the mean of their steps, as a shared weight would (Han et
    al., 2016, section 3, sum the gradients, which is the same direction).
    """
    if not kept:
        return []
    # Tensors that the function takes from outside: arrays within would be copied into its graph, which has a limit.
    tensors = [
        (
            each.variable,
            None if each.mask is None else tf.constant(each.mask, each.variable.dtype),
            None if each.clusters is None else tf.constant(each.clusters.ravel()),
            0 if each.clusters is None else int(each.clusters.max()) + 1,
        )
        for each in kept
    ]

    @tf.function
    def restore() -> None:
        for variable, mask, labels, count in tensors:
            value = tf.convert_to_tensor(variable)
            if labels is not None:
                means = tf.math.unsorted_segment_mean(tf.reshape(value, [-1]), labels, count)
                value = tf.reshape(tf.gather(means, labels), value.shape)
            if mask is not None:
                value *= mask
            variable.assign(value)

    return [import_tf_keras().callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: restore())]
