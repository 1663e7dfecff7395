"""Kernels as matrices: for each group of a kernel, `outputs = rows(inputs) @ matrix (+ bias)`, exactly.

`keras_compress/layers/operations.py` says which views a layer has, by exact type.
"""

from typing import Any

import keras

from keras_compress.layers.operations import kind_of
from keras_compress.layers.paths import all_layers_by_path
from keras_compress.layers.view import KernelView


def kernel_views(layer: Any) -> list[KernelView]:
    """The views of a layer's kernels; none for a layer that we do not know or cannot view."""
    views = kind_of(layer).views
    return [] if any(view.refusal(layer) for view in views) else [view(layer) for view in views]


def named_views(path: str, layer: Any) -> dict[str, KernelView]:
    """A layer's views by the path of the kernel: the layer's own, or with the kernel's name where it has several."""
    views = kernel_views(layer)
    return {path if len(views) == 1 else f"{path}/{view.weight}": view for view in views}


def views_by_path(model: keras.Model) -> dict[str, KernelView]:
    """All kernels that we know in a model, also those of layers within other layers."""
    views: dict[str, KernelView] = {}
    for path, layer in all_layers_by_path(model).items():
        views |= named_views(path, layer)
    return views


def refusal(layer: keras.Layer) -> str:
    """Why `kernel_views` gave none for a layer that has weights."""
    for view in kind_of(layer).views:
        if reason := view.refusal(layer):
            return reason
    return f"{type(layer).__name__} layers are left in floating point"
