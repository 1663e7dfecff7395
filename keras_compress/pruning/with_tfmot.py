"""`prune_magnitude(engine="tfmot")`: tfmot's own graph, in Keras 2, behind the bridge."""

from typing import Any

import keras
import numpy as np

from keras_compress.bridge import training as bridge
from keras_compress.bridge.compiling import compile_for
from keras_compress.bridge.conversion import convert, copy_weights, weight_pairs
from keras_compress.bridge.tfmot import import_tfmot
from keras_compress.fitting.strategies import scope
from keras_compress.fitting.training import Fitting
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import clone_model
from keras_compress.result import Result


def pruned_by_tfmot(
    source: Result,
    fitting: Fitting,
    chosen: set[str],
    schedule: Any,
    m_by_n: tuple[int, int] | None,
    block_size: tuple[int, int] | None,
    optimizer: Any,
) -> tuple[keras.Model, dict[str, np.ndarray], dict[str, Any]]:
    """The pruned model, its masks and its figures: tfmot does the work on a copy in tf_keras.

    Raises:
        InputError: a model, or a setting of `compile`, that tf_keras does not have.
    """
    shared: dict[str, Any] = {"pruning_schedule": schedule}
    if m_by_n is not None:
        shared["sparsity_m_by_n"] = m_by_n
    if block_size is not None:
        shared["block_size"] = block_size
    paths = {id(layer): path for path, layer in layers_by_path(source.model).items()}
    sparsity = import_tfmot().sparsity.keras
    wrappers: dict[str, Any] = {}

    def wrap(layer: keras.Layer, converted: Any) -> Any:
        path = paths.get(id(layer), "")  # none for a layer within another one
        if path in chosen:
            wrappers[path] = converted = sparsity.prune_low_magnitude(converted, **shared)
        return converted

    with scope(fitting.training.strategy):
        conversion = convert(source.model, wrap)
        compile_for(conversion.model, source.model, fitting.feed.labels, optimizer)
        figures = bridge.figures("before", conversion.model, fitting.tested)
        bridge.fit(conversion.model, fitting, [sparsity.UpdatePruningStep()])
        for wrapper in wrappers.values():
            for weight, mask, _ in wrapper.pruning_vars:
                weight.assign(weight * mask)
        figures |= bridge.figures("after", conversion.model, fitting.tested)
    return *_returned(source, conversion.pairs, wrappers, paths), figures


def _returned(
    source: Result, pairs: list[tuple[Any, Any]], wrappers: dict[str, Any], paths: dict[int, str]
) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """A copy of the model with the trained weights, and the zeros of its kernels, those to keep of before too."""
    pruned = clone_model(source.model)
    layers = layers_by_path(pruned)
    kernels = {id(view.variable): (path, view) for path, view in views_by_path(pruned).items()}
    masks = dict(source.masks)
    for layer, converted in pairs:
        path = paths[id(layer)]
        copy_weights(converted, layers[path])
        if path not in wrappers:
            continue
        zeros = {id(weight): mask.numpy() > 0 for weight, mask, _ in wrappers[path].pruning_vars}
        for trained, weight in weight_pairs(converted, layers[path]):
            if id(trained) in zeros and id(weight) in kernels:
                name = kernels[id(weight)][0]
                masks[name] = zeros[id(trained)] & masks.get(name, True)
    for path, view in kernels.values():
        if path in masks:
            view.variable.assign(view.kernel * masks[path])
    return pruned, masks
