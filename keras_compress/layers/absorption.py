"""Where the mean error of a layer can go: its own bias, or the moving mean of a BatchNorm that follows it."""

import dataclasses

import keras
import numpy as np

from keras_compress.layers.graph import ACTIVATION, Graph, is_linear


@dataclasses.dataclass(frozen=True)
class MeanAbsorber:
    """A variable that takes a constant which the layer's outputs lack.

    Attributes:
        path: of the layer that holds the variable.
        variable: bias or moving mean, (n_out,).
        sign: 1 where the constant is added to the variable, -1 where the variable is subtracted from the outputs.
    """

    path: str
    variable: keras.Variable
    sign: int

    def absorb(self, shift: np.ndarray) -> None:
        """Adds `shift` (n_out,) to the layer's outputs."""
        value = np.asarray(self.variable, np.float64) + self.sign * shift
        self.variable.assign(value.astype(np.float32))


def mean_absorber(graph: Graph, path: str) -> MeanAbsorber | None:
    """What takes the mean error of the layer at `path`; None if nothing can.

    A BatchNorm takes it if it alone reads the layer's outputs, they have no activation, and neither of both is shared.
    """
    layer = graph.views[path].layer
    if layer.use_bias:
        return MeanAbsorber(path, layer.bias, 1)
    reader = sole_batch_normalization(graph, path)
    return None if reader is None else MeanAbsorber(reader[0], reader[1].moving_mean, -1)


def sole_batch_normalization(graph: Graph, path: str) -> tuple[str, keras.layers.BatchNormalization] | None:
    """Path and layer of the BatchNorm over channels that alone reads the layer's outputs; None if there is none."""
    calls = [call for call in graph.calls if call.path == path and call.part == ACTIVATION]
    if len(calls) != 1 or not is_linear(calls[0].operation):
        return None
    (output,) = calls[0].outputs
    readers = graph.consumers(output)
    if len(readers) != 1 or output in graph.outputs:
        return None
    call = graph.calls[readers[0]]
    normalization = call.operation
    if type(normalization) is not keras.layers.BatchNormalization:
        return None
    last = len(graph.shapes[output]) - 1
    shared = sum(other.path == call.path for other in graph.calls) > 1
    if shared or normalization.axis not in (-1, last):
        return None
    return call.path, normalization
