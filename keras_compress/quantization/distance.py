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
    """The divergence from the analog outputs where these are probabilities, else the squared relative error.

    It is a mean over samples and a sum over outputs.

    Args:
        source: open calibration data of the analog network.
    """

    def __init__(self, source: Calibration):
        self._blocks = list(source.input_blocks(source.block_size, SAMPLES))
        self._analog = Outputs(source.graph).of(self._blocks)

    def __call__(self, outputs: "Outputs") -> float:
        return sum(_distance(*pair) for pair in zip(self._analog, outputs.of(self._blocks), strict=True))


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


def _distance(analog: np.ndarray, compressed: np.ndarray) -> float:
    probable = analog.ndim > 1 and analog.shape[-1] > 1 and (analog >= 0).all()
    if probable and (np.abs(analog.sum(axis=-1) - 1) <= PROBABILITY_TOLERANCE).all():
        logarithms = [np.log(np.maximum(values, LEAST)) for values in (analog, compressed)]
        return float((analog * (logarithms[0] - logarithms[1])).sum() / len(analog))
    norm = np.square(analog).sum()
    return float(np.square(analog - compressed).sum() / (norm if norm > 0 else 1.0))
