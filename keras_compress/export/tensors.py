"""Tensors of a file of integers, found in its simulation and compared with it one by one."""

from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import LINEAR, Graph
from keras_compress.layers.rounding import is_function, operator_of
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.tflite import Runner

TINY = 1e-30  # of outputs that are to be zero
FUNCTION_STEPS = 2.0  # of functions that runtimes look up in tables
STEPS = 1.0  # root of the mean square of differences that a tensor of integers may have, in steps of its scale


class IntegerFile:
    """A file of integers, read once, and run by the interpreter's own kernels, which show every tensor."""

    def __init__(self, content: bytes):
        self.model = flatbuffer.parse(content)
        self.runner = Runner(content, "the file", delegate=False, inner=True)
        self.computed = [
            number
            for number in flatbuffer.computed(self.model)
            if flatbuffer.TYPES[self.model.subgraphs[0].tensors[number].type] == "INT8"
        ]

    def quantization(self, number: int) -> Any:
        """Scales and zero points of a tensor."""
        return self.model.subgraphs[0].tensors[number].quantization


class Tensors:
    """Tensors of a file of integers, next to those of its simulation.

    Tensors are paired by sizes, scales and values: among tensors of equal scale the nearest one is taken. Two that are
    mistaken for each other are equal within every limit.
    """

    def __init__(self, file: IntegerFile, graph: Graph):
        self.file = file
        self.roundings = {
            call.outputs[0]: call for call in graph.calls if isinstance(call.operation, QuantizeActivation)
        }
        makers = {
            tensor: graph.calls[graph.producer[call.inputs[0]]]
            for tensor, call in self.roundings.items()
            if call.inputs[0] in graph.producer
        }
        self.sums = {
            tensor: path for tensor, call in self.roundings.items() if (path := _kernel_behind(graph, call.inputs[0]))
        }
        self.functions = {tensor for tensor, maker in makers.items() if is_function(maker.operation)}
        self.partners: dict[int, int] | None = None  # tensor of the simulation -> tensor of the file
        self.squares: dict[int, np.ndarray] = {}  # of differences, of values, and their number

    def compared(self, tensor: int, value: Any) -> Any:
        """Records the difference between a tensor and the file's; returns the file's."""
        partner = (self.partners or {}).get(tensor)
        if partner is None:
            return value
        expected = np.asarray(value, np.float64)
        held = self.file.runner.values(partner).reshape(expected.shape)
        sums = np.array([np.square(held - expected).sum(), np.square(expected).sum(), expected.size])
        self.squares[tensor] = self.squares.get(tensor, 0) + sums
        return keras.ops.convert_to_tensor(held)

    def check(self) -> tuple[str, float] | None:
        """The layer whose tensor differs most, in steps.

        Raises:
            InputError: a tensor beyond the limits.
        """
        worst: tuple[str, float] | None = None
        for tensor, (error, norm, count) in self.squares.items():
            call = self.roundings[tensor]
            layer, steps = call.path.removesuffix("_quantized"), float(np.sqrt(error / count)) / call.operation.scale
            limit = FUNCTION_STEPS if tensor in self.functions else STEPS
            if not steps <= limit:
                raise InputError(
                    f"What layer {layer!r} makes in the file differs from the simulation by {steps:.2f} steps of 8 "
                    f"bits ({np.sqrt(error / max(norm, TINY)):.2%}), and {limit:.2f} are allowed; it was not written."
                )
            if worst is None or steps > worst[1]:
                worst = layer, steps
        return worst

    def pair(self, values: dict[int, Any]) -> None:
        """Finds the partners of all tensors, once.

        Raises:
            InputError: a tensor has none.
        """
        if self.partners is not None:
            return
        candidates: dict[Any, dict[int, np.ndarray]] = {}
        for number, values_held in self.file.runner.values_of(self.file.computed).items():
            quantization, held = self.file.quantization(number), values_held.ravel()
            key = held.size, float(quantization.scale[0]), int(quantization.zeroPoint[0])
            candidates.setdefault(key, {})[number] = held
        self.partners = {}
        for tensor, call in self.roundings.items():
            expected = np.asarray(values[tensor], np.float32).ravel()
            near = candidates.get((expected.size, call.operation.scale, call.operation.zero_point), {})
            if not near:
                raise InputError(
                    f"No tensor of the file has the range that layer {call.path.removesuffix('_quantized')!r} has in "
                    f"the simulation (a scale of {call.operation.scale:.6g}); it was not written."
                )
            self.partners[tensor] = min(near, key=lambda number: float(np.square(near[number] - expected).sum()))


def _kernel_behind(graph: Graph, tensor: int) -> str:
    """Path of the kernel whose sums a tensor has; or ""."""
    operator = operator_of(graph, tensor)
    return operator.path if operator is not None and operator.part == LINEAR else ""
