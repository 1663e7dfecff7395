"""Kernels as matrices: one table says which layers we know, by exact type.

For each group of a kernel, `outputs = rows(inputs) @ matrix (+ bias)`, exactly. To add a layer type, write a view and
give it a row in `VIEWS`; tests/layers/test_kernels.py then needs one example of the layer.
"""

from typing import Any

import keras

from keras_compress.layers import convolution_views as convolutions
from keras_compress.layers import dense_views as dense
from keras_compress.layers.paths import all_layers_by_path
from keras_compress.layers.view import KernelView

L = keras.layers
RECURRENT = (dense.RecurrentInputView, dense.RecurrentStateView)

# The views of a layer's kernels, in the order in which its inputs meet them.
VIEWS: dict[type, tuple[type[KernelView], ...]] = {
    L.Dense: (dense.DenseView,),
    L.EinsumDense: (dense.EinsumDenseView,),
    L.Conv1D: (convolutions.Conv1DView,),
    L.Conv2D: (convolutions.Conv2DView,),
    L.DepthwiseConv1D: (convolutions.Depthwise1DView,),
    L.DepthwiseConv2D: (convolutions.Depthwise2DView,),
    L.SeparableConv1D: (convolutions.SeparableDepthwise1DView, convolutions.SeparablePointwise1DView),
    L.SeparableConv2D: (convolutions.SeparableDepthwise2DView, convolutions.SeparablePointwise2DView),
    L.Conv1DTranspose: (convolutions.Conv1DTransposeView,),
    L.Conv2DTranspose: (convolutions.Conv2DTransposeView,),
    L.Embedding: (dense.EmbeddingView,),
    L.SimpleRNN: RECURRENT,
    L.GRU: RECURRENT,
    L.LSTM: RECURRENT,
}


def kernel_views(layer: Any) -> list[KernelView]:
    """The views of a layer's kernels; none for a layer that we do not know or cannot view."""
    views = VIEWS.get(type(layer), ())
    return [] if any(view.refusal(layer) for view in views) else [view(layer) for view in views]


def named_views(path: str, layer: Any) -> dict[str, KernelView]:
    """A layer's views by the path of the kernel: the layer's own, or with the kernel's name where it has several."""
    views = kernel_views(layer)
    return {path if len(views) == 1 else f"{path}/{view.weight}": view for view in views}


def views_by_path(model: keras.Model) -> dict[str, KernelView]:
    """All kernels that we know in a model, also those of layers within other layers."""
    found: dict[str, KernelView] = {}
    for path, layer in all_layers_by_path(model).items():
        found |= named_views(path, layer)
    return found


def refusal(layer: keras.Layer) -> str:
    """Why `kernel_views` gave none for a layer that has weights."""
    for view in VIEWS.get(type(layer), ()):
        if reason := view.refusal(layer):
            return reason
    return f"{type(layer).__name__} layers are left in floating point"
