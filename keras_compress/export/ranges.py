"""Models that round their activations already: the ranges that `quantize_activations` chose go into the file."""

from typing import Any

import keras
import tensorflow as tf

from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.clone import rebuild
from keras_compress.layers.paths import is_graph, layers_by_path

BITS = 8  # of activations in TFLite
LOWEST, HIGHEST = -(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1


class Range(keras.layers.Layer):
    """Tells the converter the range of a tensor: it makes the tensor's scale and zero point of it, and no operator."""

    def __init__(self, rounding: QuantizeActivation, **kwargs: Any):
        super().__init__(**kwargs)
        self.low, self.high = (rounding.scale * (code - rounding.zero_point) for code in (LOWEST, HIGHEST))

    def call(self, inputs: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(inputs, self.low, self.high, BITS)


def rounded(model: keras.Model) -> dict[str, QuantizeActivation]:
    """Path -> layer, of those that round activations."""
    layers = layers_by_path(model) if is_graph(model) else {}
    return {path: layer for path, layer in layers.items() if isinstance(layer, QuantizeActivation)}


def without_rounding(model: keras.Model) -> keras.Model:
    """The model without these layers; itself where it has none."""
    found = rounded(model)
    return rebuild(model, skip=found) if found else model


def with_ranges(model: keras.Model) -> keras.Model:
    """The model with a `Range` in place of each of these layers."""
    found = rounded(model)
    return rebuild(model, lambda path, layer: Range(found[path], name=layer.name) if path in found else None)
