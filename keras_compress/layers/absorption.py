"""Where the mean error of a layer can go: its own bias, or the moving mean of a BatchNorm that follows it."""

import dataclasses

import keras
import numpy as np

from keras_compress.layers.folding import foldable
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import layers_by_path


@dataclasses.dataclass(frozen=True)
class MeanAbsorber:
    """A variable that takes a constant which the layer's outputs lack.

    Attributes:
        path: of the layer that holds the variable.
        variable: bias or moving mean, (n_out,).
        sign: 1 where the variable is added to the outputs, -1 where it is subtracted from them.
    """

    path: str
    variable: keras.Variable
    sign: int

    def absorb(self, shift: np.ndarray) -> None:
        """Adds `shift` (n_out,) to the layer's outputs."""
        value = np.asarray(self.variable, np.float64) + self.sign * shift
        self.variable.assign(value.astype(np.float32))


def mean_absorbers(model: keras.Model, graph: Graph) -> dict[str, MeanAbsorber]:
    """What takes the mean error of each layer with a kernel view, by path; a layer with nothing to take it is missing.

    A layer without a bias leaves it to the BatchNorm that follows, wherever that one could also be folded into it.
    """
    layers = layers_by_path(model)
    folds = foldable(model)
    absorbers = {}
    for path, view in graph.views.items():
        if view.layer.use_bias:
            absorbers[path] = MeanAbsorber(path, view.layer.bias, 1)
        elif path in folds:
            normalization = folds[path].batch_normalization
            absorbers[path] = MeanAbsorber(normalization, layers[normalization].moving_mean, -1)
    return absorbers
