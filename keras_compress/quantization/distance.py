"""How far the outputs of a network are from those of the analog one, without labels, on a few calibration samples."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.calibration.calibration import Calibration
from keras_compress.calibration.walk import execute
from keras_compress.layers.graph import Graph
from keras_compress.measurement.scores import PROBABILITY_TOLERANCE

SAMPLES = 256  # the first ones of the calibration
LEAST = 1e-12  # probability of which a logarithm is taken


class OutputDistance:
    """Of outputs that are probabilities their divergence from the analog ones; of others the squared relative error.

    The mean over the samples, and the sum over outputs.

    Args:
        source: open calibration data of the analog network.
    """

    def __init__(self, source: Calibration):
        self._blocks = list(source.input_blocks(source.block_size, SAMPLES))
        self._wanted = Outputs(source.graph).of(self._blocks)

    def __call__(self, outputs: "Outputs") -> float:
        return sum(_distance(*pair) for pair in zip(self._wanted, outputs.of(self._blocks), strict=True))


class Outputs:
    """The outputs of a network, with its weights as they are then."""

    def __init__(self, graph: Graph):
        def step(inputs: list[Any]) -> list[Any]:
            values = dict(zip(graph.inputs, inputs, strict=True))
            execute(graph, range(len(graph.calls)), values)
            return [values[tensor] for tensor in graph.outputs]

        specs = [tf.TensorSpec(graph.shapes[tensor], graph.dtypes[tensor]) for tensor in graph.inputs]
        self._step = tf.function(step, input_signature=[specs], autograph=False).get_concrete_function()

    def of(self, blocks: list[list[Any]]) -> list[np.ndarray]:
        """Of all samples, float64."""
        parts = [[np.asarray(values, np.float64) for values in self._step(inputs)] for inputs in blocks]
        return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _distance(wanted: np.ndarray, found: np.ndarray) -> float:
    probable = wanted.ndim > 1 and wanted.shape[-1] > 1 and (wanted >= 0).all()
    if probable and (np.abs(wanted.sum(axis=-1) - 1) <= PROBABILITY_TOLERANCE).all():
        logarithms = [np.log(np.maximum(values, LEAST)) for values in (wanted, found)]
        return float((wanted * (logarithms[0] - logarithms[1])).sum() / len(wanted))
    norm = np.square(wanted).sum()
    return float(np.square(wanted - found).sum() / (norm if norm > 0 else 1.0))
