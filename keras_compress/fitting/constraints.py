"""What a training must keep of a variable: zeros, and weights that are equal; by constraints that `fit` applies."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class Kept(keras.constraints.Constraint):
    """Behind each step: the user's own constraint, then equal weights are equal, then zeros are zero.

    Weights of a cluster become their mean: each then takes the mean of their steps, as a shared weight would (Han et
    al., 2016, section 3, sum the gradients, which is the same direction).

    Args:
        variable: of the model.
        mask: booleans of its shape, false where a zero must stay; or None. `set_mask` puts another one in its place.
        clusters: integers from 0 on, of its shape: weights with the same number stay equal; or None.
    """

    def __init__(self, variable: keras.Variable, mask: np.ndarray | None = None, clusters: np.ndarray | None = None):
        self.variable = variable
        self.own = variable.constraint
        self.mask: Any = None if mask is None else tf.Variable(mask, dtype=variable.dtype, trainable=False)
        self.labels = None if clusters is None else tf.constant(clusters.ravel(), tf.int32)
        self.count = 0 if clusters is None else int(clusters.max()) + 1

    def __call__(self, value: Any) -> Any:
        value = tf.convert_to_tensor(value if self.own is None else self.own(value))
        if self.labels is not None:
            means = tf.math.unsorted_segment_mean(tf.reshape(value, [-1]), self.labels, self.count)
            value = tf.reshape(tf.gather(means, self.labels), value.shape)
        return value if self.mask is None else value * self.mask

    def set_mask(self, mask: np.ndarray) -> None:
        """Other zeros, at once."""
        self.mask.assign(mask.astype(self.mask.dtype.as_numpy_dtype))
        self.apply()

    def apply(self) -> None:
        """Makes the variable what it must be."""
        self.variable.assign(self(self.variable))

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("it belongs to a training")


def keep(
    variables: Mapping[str, keras.Variable],
    masks: Mapping[str, np.ndarray],
    clusters: Mapping[str, np.ndarray],
) -> dict[str, Kept]:
    """Attaches a constraint to each variable that has a mask or clusters."""
    kept = {}
    for path, variable in variables.items():
        if path in masks or path in clusters:
            kept[path] = Kept(variable, masks.get(path), clusters.get(path))
            variable.constraint = kept[path]
            kept[path].apply()
    return kept
