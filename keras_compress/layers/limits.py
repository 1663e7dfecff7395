"""What runtimes can compute with integers: how many steps of its output one step of an operator's inputs may be.

Beyond these XNNPACK makes no runtime for the whole file (products), TFLite refuses to (hard swish), and its kernels for
sums end the process. Networks come there where a weight is an outlier that calibration data hardly use, or where sums
cancel (tests/layers/test_limits.py runs files on both sides of each limit).
"""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.affine import affine_layers
from keras_compress.layers.graph import Call, Graph
from keras_compress.layers.operations import kind_of
from keras_compress.layers.rounding import operator_of, rounding_of

L = keras.layers

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


def limits(folded: keras.Model, factors: Mapping[str, np.ndarray], scales: Mapping[str, np.ndarray]) -> list[Limit]:
    """The limits of a model's operators, in the order of the graph.

    Args:
        folded, factors: a model with `QuantizeActivation` layers, as `fold_all` gives it.
        scales: path of a kernel with codes -> (groups, n_out) or (groups, 1): scales of its weights before folding.
            Others have 8 bits.
    """
    graph = Graph(folded)
    largest = _largest_scales(graph, factors, scales)
    operator_limits = []
    for call in graph.calls:
        operator = operator_of(graph, call.inputs[0]) if isinstance(call.operation, QuantizeActivation) else None
        factor = None if operator is None else _factor(operator, largest)
        if operator is None or factor is None:
            continue
        roundings = [rounding_of(graph, tensor) for tensor in operator.inputs]
        if inputs := tuple(each.path for each in roundings if each is not None):
            operator_limits.append(Limit(operator.path, inputs, call.path, factor))
    return operator_limits


def _largest_scales(
    graph: Graph, factors: Mapping[str, np.ndarray], scales: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Path of a kernel, or of a layer that becomes one -> the largest scale of its channels."""
    largest = {path: float(np.abs(view.kernel).max()) / HIGHEST for path, view in graph.views.items()}
    coded = {path: float(np.max(scale * np.abs(factors.get(path, 1.0)))) for path, scale in scales.items()}
    affine = {path: float(np.abs(layer.factor).max()) / HIGHEST for path, layer in affine_layers(graph).items()}
    return largest | coded | affine


def _factor(operator: Call, largest: Mapping[str, float]) -> float | None:
    """The least ratio of the scale of what an operator makes to that of what it reads; None where there is none."""
    if operator.path in largest:
        return largest[operator.path] / PRODUCT_STEPS
    if kind_of(operator.operation).operator in ("+", "-"):
        return 1 / SUM_STEPS
    if type(operator.operation) is L.Activation and operator.operation.activation is keras.activations.hard_silu:
        return 1 / HARD_SWISH_STEPS
    return None
