"""`fold_batch_normalization()`: the technique around `layers.folding`."""

import dataclasses
import time

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.layers.folding import fold
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import layers_by_path
from keras_compress.report import LayerRow, Step
from keras_compress.result import QuantizedKernel, Result


def fold_batch_normalization(model: keras.Model | Result) -> Result:
    """A copy of a model in which BatchNorm layers are folded into the kernels before them, wherever that is exact.

    A BatchNorm stays where folding would change what the model computes (after an activation, after a tensor with two
    readers, after padding, ...); the report says why. Fold before quantizing: each channel then gets a scale that suits
    its folded weights. Codes of a result are kept: only their scales are multiplied, and a negative factor flips them.

    Args:
        model: a built Functional or Sequential model, or the result of an earlier step.

    Raises:
        InputError: a subclassed model, or one that is not built; codes that a negative factor cannot flip.
    """
    started = time.perf_counter()
    given = Result.of(model)
    folded, folds, reasons = fold(given.model)
    old_layers = layers_by_path(given.model)
    kernels = dict(given.kernels)
    step = Step("fold_batch_normalization", {})
    views = views_by_path(folded)
    for path, fold_ in folds.items():
        if fold_.kernel in kernels:
            kernels[fold_.kernel] = _rescaled(path, kernels[fold_.kernel], fold_.factor)
            views[fold_.kernel].variable.assign(kernels[fold_.kernel].decode())
    gone = {fold.batch_normalization: path for path, fold in folds.items()}
    for path, layer in old_layers.items():
        if path in gone:
            step.add(LayerRow(path, type(layer).__name__, "folded", f"folded into {gone[path]}"))
        elif path in reasons:
            step.add(LayerRow(path, type(layer).__name__, "kept", reasons[path], parameters=layer.count_params()))
    step.figures = {"folded": len(folds), "kept": len(reasons), "seconds": time.perf_counter() - started}
    return Result(folded, kernels, dict(given.masks), given.report.extended(step))


def _rescaled(path: str, kernel: QuantizedKernel, factor: np.ndarray) -> QuantizedKernel:
    """The same codes with scales times |factor|; the codes of channels with a negative factor change sign."""
    negative = factor < 0
    if negative.any() and (kernel.zero_point is not None or not np.array_equal(kernel.levels, -kernel.levels[::-1])):
        raise InputError(
            f"The BatchNorm after layer {path!r} has negative gammas, and the layer's levels {kernel.levels} are not "
            "symmetric, so that its codes cannot be kept. Fold before quantizing."
        )
    along = [kernel.codes.shape[axis] for axis in kernel.axes]
    shape = [size if axis in kernel.axes else 1 for axis, size in enumerate(kernel.codes.shape)]
    codes = np.where(negative.reshape(shape), -kernel.codes, kernel.codes)
    factor = np.abs(factor).reshape(along)
    scale = (kernel.scale.astype(np.float64) * factor).astype(np.float32)
    gap = None if kernel.gap is None else (kernel.gap.astype(np.float64) * factor).astype(np.float32)
    return dataclasses.replace(kernel, codes=codes, scale=scale, gap=gap)
