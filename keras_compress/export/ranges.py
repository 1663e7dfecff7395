"""Models that round their activations already: the ranges that `quantize_activations` chose go into the file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.calibration.calibration import calibrating
from keras_compress.calibration.ranges import Activation, choose_alphabets, rounded_network
from keras_compress.errors import InputError
from keras_compress.export.operations import one_operation, rebuilt
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import Graph
from keras_compress.layers.limits import LEAST, limits
from keras_compress.layers.paths import is_graph, layers_by_path
from keras_compress.layers.rewrite import Change, rebuild
from keras_compress.layers.rounding import quantized_tensors
from keras_compress.layers.splitting import split_layers
from keras_compress.result import Result, weight_scales

BITS = 8  # of activations in TFLite
SLACK = 0.999  # limits leave room for float32
LOWEST, HIGHEST = -(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1


class Range(keras.layers.Layer):
    """Tells the converter the range of a tensor: it makes the tensor's scale and zero point of it, and no operator."""

    def __init__(self, rounding: QuantizeActivation, *, apart: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.apart = apart
        self.low, self.high = (rounding.scale * (code - rounding.zero_point) for code in (LOWEST, HIGHEST))

    def call(self, inputs: Any) -> Any:
        ranged = tf.quantization.fake_quant_with_min_max_args(inputs, self.low, self.high, BITS)
        return tf.maximum(ranged, ranged) if self.apart else ranged  # what `Barrier` computes

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


def rounded(model: keras.Model) -> dict[str, QuantizeActivation]:
    """Path -> layer, of those that round activations."""
    layers = layers_by_path(model) if is_graph(model) else {}
    return {path: layer for path, layer in layers.items() if isinstance(layer, QuantizeActivation)}


def without_rounding(model: keras.Model) -> keras.Model:
    """The model without these layers; itself where it has none."""
    roundings = rounded(model)
    return rebuild(model, dict.fromkeys(roundings, Change())).model if roundings else model


def check_limits(result: Result, folded: keras.Model, factors: Mapping[str, np.ndarray]) -> None:
    """Refuses ranges with which runtimes end the process, before there is a file.

    Args:
        result: whose model rounds activations.
        folded, factors: its model, as `fold_all` gives it.

    Raises:
        InputError: a step of what a layer reads is too many steps of what it makes.
    """
    scales = {path: layer.scale for path, layer in rounded(result.model).items()}
    for path, scale in scales.items():
        if scale < SLACK * LEAST:
            raise InputError(
                f"Layer {path!r} rounds to steps of {scale:.3g}, and TensorFlow's converter keeps none below "
                f"{LEAST:g}. Let quantize_activations choose the ranges."
            )
    for each in limits(folded, factors, weight_scales(result.kernels)):
        largest = max(scales[path] for path in each.inputs)
        if scales[each.output] < SLACK * each.factor * largest:
            raise InputError(
                f"Layer {each.path!r} makes values in steps that are too small for TFLite's runtimes. Expected: at "
                f"least {each.factor * largest:.3g}, since it reads steps of {largest:.3g}. Received: "
                f"{scales[each.output]:.3g}. Let quantize_activations choose the ranges."
            )


def with_ranges(model: keras.Model, *, apart: bool = False) -> keras.Model:
    """The model for the converter: a `Range` in place of each of these layers, a convolution as one operation.

    `apart` puts a barrier behind each range: the converter moves a reshape before the product with a constant that it
    reads, with the product's scale, and then finds that the two do not agree.
    """

    def form(layer: keras.Layer) -> keras.Layer | None:
        if isinstance(layer, QuantizeActivation):
            return Range(layer, apart=apart, name=layer.name)
        return one_operation(layer)

    return rebuilt(model, form)


def measured(result: Result, samples: list[np.ndarray]) -> tuple[Result, dict[str, str]]:
    """The result with activations of 8 bits whose ranges are the least and the largest values for these samples.

    As TensorFlow's converter measures ranges; what it computes in several steps within one layer of Keras is not
    rounded. Also says where kernels have moved: new path -> old path.
    """
    split = split_layers(result.model)
    network, graph = split.model, Graph(split.model)
    chosen = [Activation(tensor, BITS) for tensor in quantized_tensors(graph)]
    with calibrating(result.model, samples, "2GB", None, None) as source:
        assert source is not None
        choose_alphabets(source, graph, chosen, False, "minmax", lambda name: None)
    kernels = split.by_new_paths(result.kernels)
    model = rounded_network(network, graph, chosen, weight_scales(kernels))
    ranged = dataclasses.replace(result, model=model, states=split.by_new_paths(result.states))
    return ranged, {new: old for old, new in split.moved.items() if new is not None}
