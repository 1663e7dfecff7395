"""Biases rounded as a file of integers has them: int32 numbers of steps of input scale times weight scale."""

from collections.abc import Mapping

import keras
import numpy as np

from keras_compress.layers.folding import fold
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rounding import rounding_of
from keras_compress.numerics.biases import bias_step, fit_biases
from keras_compress.result.quantized_kernel import QuantizedKernel


def round_biases(model: keras.Model, kernels: Mapping[str, QuantizedKernel]) -> None:
    """Rounds the biases of kernels with codes, in place, where their inputs are rounded too.

    What counts is the sum that an integer network adds: the bias with the BatchNormalization behind it, whose own
    offset (beta, or where it has none the mean) then takes the difference.

    Args:
        model: with `QuantizeActivation` layers; it is written to.
        kernels: path -> codes.
    """
    folded, folds, _ = fold(model)
    graph, views = Graph(folded), views_by_path(folded)
    layers, factors = layers_by_path(model), {each.kernel: each for each in folds.values()}
    own_views = views_by_path(model)
    for path, kernel in kernels.items():
        calls = graph.linear_calls(path)
        variable = views[path].bias_variable if path in views else None
        roundings = [rounding_of(graph, graph.calls[index].inputs[0]) for index in calls]
        scales = {None if each is None else float(each.operation.scale) for each in roundings}
        scale = scales.pop() if len(scales) == 1 else None
        if variable is None or kernel.storage_bits is None or scale is None:
            continue
        bias = np.asarray(variable, np.float64)
        fold_ = factors.get(path)
        steps = np.broadcast_to(kernel.scale.reshape(-1), bias.shape) * np.abs(1.0 if fold_ is None else fold_.factor)
        fitted = fit_biases(np.zeros((len(bias), 1), np.int64), steps, bias, scale)
        change = fitted.steps * bias_step(scale, fitted.scale) - bias
        if fold_ is None:
            own = own_views[path].bias_variable
            assert own is not None
            own.assign(bias + change)
            continue
        normalization = layers[fold_.batch_normalization]
        if normalization.center:
            normalization.beta.assign_add(change)
        elif fold_.factor.all():
            normalization.moving_mean.assign_add(-change / fold_.factor)
