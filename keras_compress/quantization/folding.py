"""`fold_batch_normalization()`: the technique around `layers.folding`."""

import time

import keras

from keras_compress.layers.paths import layers_by_path
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result


def fold_batch_normalization(model: keras.Model | Result) -> Result:
    """A copy of a model in which BatchNorm layers are folded into the kernels before them, wherever that is exact.

    A BatchNorm stays where folding would change what the model computes (after an activation, after a tensor with two
    readers, after padding, ...); the report says why. Fold before quantizing: each channel then gets a scale that suits
    its folded weights. Codes of a result are kept: only their scales are multiplied, and a negative factor flips them;
    a BatchNorm with one stays behind codes whose levels are not symmetric, such as the four of 2 bits.

    Args:
        model: a built Functional or Sequential model, or the result of an earlier step.

    Raises:
        InputError: a subclassed model, or one that is not built.
    """
    started = time.perf_counter()
    source_result = Result.of(model)
    folded, folds, reasons = source_result.folded()
    old_layers = layers_by_path(source_result.model)
    step = Step("fold_batch_normalization", {})
    gone = {fold.batch_normalization: path for path, fold in folds.items()}
    for path, layer in old_layers.items():
        if path in gone:
            step.add(LayerRow(path, type(layer).__name__, "folded", f"folded into {gone[path]}"))
        elif path in reasons:
            step.add(LayerRow(path, type(layer).__name__, "kept", reasons[path], parameters=layer.count_params()))
    step.figures = {"folded": len(folds), "kept": len(reasons), "seconds": time.perf_counter() - started}
    return folded.after(folded.model, step)
