"""Operators that read integers as their weights and floats as their inputs, which they round at each call."""

from typing import NamedTuple

import keras
import numpy as np

from keras_compress.export.editing import Editor
from keras_compress.export.locating import LOOSE, WEIGHTS, arrange, disarrange, factors
from keras_compress.export.placing import Written
from keras_compress.layers.folding import fold_all
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.view import LinearView
from keras_compress.measurement import flatbuffer


class Hybrid(NamedTuple):
    """An operator that reads integers as its weights and floats as its inputs.

    Attributes:
        operator: its number in the file.
        rows: whether it is a product of rows.
        pointwise: whether it is a convolution of one pixel without strides, which XNNPACK makes a product of rows.
    """

    operator: int
    rows: bool
    pointwise: bool

    @classmethod
    def of(cls, editor: Editor, number: int) -> "Hybrid":
        """Of the operator that is this one of `editor.weighted`."""
        operator, kind, tensor = editor.weighted[number]
        rows, options = kind == "FULLY_CONNECTED", editor.graph.operators[operator].builtinOptions
        pointwise = not rows and editor.shape(tensor)[1:3] == (1, 1) and (options.strideH, options.strideW) == (1, 1)
        return cls(operator, rows, pointwise)


def simulation_of(model: keras.Model, written: Written) -> tuple[keras.Model, dict[str, Hybrid]]:
    """A copy of a model with the weights of a file that rounds inputs at each call, and which of its kernels do.

    Returns:
        The copy; path of a kernel -> its operator, where that is a hybrid one.
    """
    folded, _ = fold_all(model)
    views = {path: view for path, view in views_by_path(folded).items() if isinstance(view, LinearView)}
    editor = Editor(written.content)
    hybrid = {
        each.path: Hybrid.of(editor, each.operator) for each in written.placed if each.placement.reads == "dynamic"
    }
    coded = {each.path for each in written.placed}
    for number, (index, kind, tensor) in enumerate(editor.weighted):
        weights = editor.graph.tensors[tensor]
        if flatbuffer.TYPES[weights.type] != "INT8" or tensor != editor.graph.operators[index].inputs[WEIGHTS]:
            continue
        held = editor.floats(tensor)
        for path in views.keys() - coded:
            view = views[path]
            arranged = arrange(view.kernel, view.axes, kind)
            if arranged is None or arranged.shape != held.shape or factors(held, arranged, kind, LOOSE) is None:
                continue
            view.variable.assign(disarrange(held.astype(np.float32), view.kernel.shape, view.axes, kind))
            hybrid[path] = Hybrid.of(editor, number)
            break
    return folded, hybrid
