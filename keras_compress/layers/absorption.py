"""Where the mean error of a kernel's outputs can go: the layer's own bias, or the BatchNorm that follows it."""

import dataclasses

import keras
import numpy as np

from keras_compress.layers.folding import foldable
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import is_graph, layers_by_path


@dataclasses.dataclass(frozen=True)
class MeanAbsorber:
    """A variable that takes a constant which a kernel's outputs lack.

    Attributes:
        path: of the kernel for its own bias, else of the layer that holds the variable.
        variable: bias or moving mean; one number for each output channel, in their order.
        sign: 1 where the variable is added to the outputs, -1 where it is subtracted from them.
    """

    path: str
    variable: keras.Variable
    sign: int

    def absorb(self, shift: np.ndarray) -> None:
        """Adds `shift` (n_out,) to the outputs."""
        value = np.asarray(self.variable, np.float64) + self.sign * shift.reshape(self.variable.shape)
        self.variable.assign(value.astype(np.float32))


def mean_absorbers(model: keras.Model, graph: Graph) -> dict[str, MeanAbsorber]:
    """What takes the mean error of each kernel's outputs, by path; a kernel with nothing to take it is left out.

    A layer without a bias leaves it to the BatchNorm that follows, wherever that one could also be folded into it.
    """
    absorbers = {}
    layers, folds = (layers_by_path(model), foldable(model)) if is_graph(model) else ({}, {})
    for path, view in graph.views.items():
        bias = view.bias_variable
        if bias is not None:
            absorbers[path] = MeanAbsorber(path, bias, 1)
        elif path in folds:
            normalization = folds[path].batch_normalization
            absorbers[path] = MeanAbsorber(normalization, layers[normalization].moving_mean, -1)
    return absorbers
