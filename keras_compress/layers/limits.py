"""What runtimes can compute with integers: how many steps of its output one step of an operator's inputs may be.

Beyond these XNNPACK makes no runtime for the whole file (products), TFLite refuses to (hard swish), and its kernels for
sums end the process. Networks come there where a weight is an outlier that calibration data hardly use, or where sums
cancel (tests/layers/test_limits.py runs files on both sides of each limit).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# Keras exports no names for the operations of `x + y`.
from keras.src.ops import numpy as arithmetic

from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.affine import affine_layers
from keras_compress.layers.folding import fold
from keras_compress.layers.graph import ACTIVATION, Call, Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.rounding import is_identity, is_relu, keeps_alphabet

L = keras.layers

SUMS = (L.Add, L.Subtract, arithmetic.Add, arithmetic.Subtract)
# Steps of the output that a step of an input may be; runtimes refuse 256, 2^19 and 128.
PRODUCT_STEPS, SUM_STEPS, HARD_SWISH_STEPS = 255.0, 2.0**18, 127.0
LEAST = 5e-9  # of a scale: TensorFlow's converter gives tensors that span less than 1e-6 other ranges
HIGHEST = 127  # of the codes of a kernel that export rounds to 8 bits


@dataclasses.dataclass(frozen=True)
class Limit:
    """The scale of what an operator makes must be at least `factor` times the largest scale of what it reads.

    Attributes:
        path: of the layer or operation.
        inputs: paths of the `QuantizeActivation` layers whose scales its inputs have.
        output: path of the one that rounds what it makes.
        factor: the least ratio of the two scales.
    """

    path: str
    inputs: tuple[str, ...]
    output: str
    factor: float


def limits(model: keras.Model, scales: Mapping[str, np.ndarray]) -> list[Limit]:
    """The limits of a model's operators, in the order of the graph.

    Args:
        model: with `QuantizeActivation` layers.
        scales: path of a kernel with codes -> (groups, n_out) or (groups, 1): scales of its weights. Others have
            8 bits.
    """
    folded, folds, _ = fold(model)
    return _Walk(Graph(folded), _weight_scales(folded, scales, folds.values())).limits


def _weight_scales(folded: keras.Model, scales: Mapping[str, np.ndarray], folds: Any) -> dict[str, float]:
    """Path of a kernel -> the largest scale of its channels, with the BatchNormalization that is folded into it."""
    factors = {fold_.kernel: np.abs(fold_.factor) for fold_ in folds}
    largest = {path: float(np.abs(view.kernel).max()) / HIGHEST for path, view in views_by_path(folded).items()}
    coded = {path: float(np.max(scale * factors.get(path, 1.0))) for path, scale in scales.items()}
    affine = {path: float(np.abs(layer.factor).max()) / HIGHEST for path, layer in affine_layers(Graph(folded)).items()}
    return largest | coded | affine


class _Walk:
    """One pass over the calls, in their order."""

    def __init__(self, graph: Graph, weights: dict[str, float]):
        self.graph, self.weights = graph, weights
        self.limits: list[Limit] = []
        self.scale_of: dict[int, str] = {}  # tensor -> path of the layer whose scale it has
        self.made: dict[int, tuple[str, tuple[int, ...], float]] = {}  # tensor -> operator, its inputs, the factor
        for call in graph.calls:
            self._visit(call)

    def _visit(self, call: Call) -> None:
        operation, source = call.operation, call.inputs[0] if call.inputs else -1
        if isinstance(operation, QuantizeActivation):
            self.scale_of[call.outputs[0]] = call.path
            if source in self.made:
                path, inputs, factor = self.made[source]
                known = tuple(self.scale_of[tensor] for tensor in inputs if tensor in self.scale_of)
                if known:
                    self.limits.append(Limit(path, known, call.path, factor))
        elif call.part != ACTIVATION and call.path in self.weights:
            self._makes(call, self.weights[call.path] / PRODUCT_STEPS)
        elif type(operation) in SUMS:
            self._makes(call, 1 / SUM_STEPS)
        elif type(operation) is L.Activation and operation.activation is keras.activations.hard_silu:
            self._makes(call, 1 / HARD_SWISH_STEPS)
        elif call.part == ACTIVATION or is_relu(operation) or is_identity(operation):
            self.made |= {tensor: self.made[source] for tensor in call.outputs if source in self.made}
        if source in self.scale_of and keeps_alphabet(operation):
            self.scale_of |= dict.fromkeys(call.outputs, self.scale_of[source])

    def _makes(self, call: Call, factor: float) -> None:
        self.made |= dict.fromkeys(call.outputs, (call.path, call.inputs, factor))
