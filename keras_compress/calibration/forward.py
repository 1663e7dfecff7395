"""One network over calibration samples: all of it at once, or stage by stage while its layers change."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.calibration.calibration import Calibration
from keras_compress.calibration.store import ANALOG, COMPRESSED
from keras_compress.calibration.walk import execute
from keras_compress.layers.graph import Graph
from keras_compress.samples.blocks import block_length, in_blocks

TOGETHER = 8  # blocks' worth of numbers that tensors which are shown together may take
# Gets the number of a tensor, and its values for some samples.
Visit = Callable[[int, Any], None]


def visit_tensors(
    calibration: Calibration, graph: Graph, tensors: Collection[int], visit: Visit, *, stride: int = 1
) -> None:
    """Runs a network once, some samples at a time, and shows some of its tensors.

    Args:
        calibration: the samples; it is open.
        graph: of a network with the inputs of the calibration's own.
        tensors: numbers of the tensors to show.
        visit: called for each of them, with samples in their order.
        stride: 2 takes every second sample, and so on.
    """
    shown = sorted(tensors)
    step = _traced(graph, graph.inputs, shown, [calibration.store.spec(key) for key in _input_keys(calibration)])
    numbers = sum(int(np.prod([size or 1 for size in graph.shapes[tensor][1:]])) for tensor in shown)
    rows = min(calibration.block_size, block_length(numbers // TOGETHER, least=1))
    first = 0  # index of the block's first sample
    for inputs in calibration.input_blocks(rows):
        offset = -first % stride
        first += len(inputs[0])
        if offset < len(inputs[0]):
            for tensor, values in zip(shown, step([array[offset::stride] for array in inputs]), strict=True):
                visit(tensor, values)


class Stages:
    """A network whose layers change on the way: a call runs once, when all changes that its inputs depend on are made.

    Between two stages the store keeps the tensors that a later call reads.

    Args:
        calibration: the samples; it is open.
        graph: of the network that changes, with the inputs of the calibration's own.
        tensors: numbers of all tensors that will be shown.
    """

    def __init__(self, calibration: Calibration, graph: Graph, tensors: Iterable[int]):
        self.store = calibration.store
        self.graph = graph
        self._block_size = calibration.block_size
        self._num_chunks = _num_chunks(calibration)
        self._keys = dict(zip(graph.inputs, _input_keys(calibration), strict=True))  # tensor -> where it is kept
        self._to_show = set(tensors)
        self._to_come = set(graph.needed(self._to_show, graph.inputs))  # calls

    def show(self, tensors: Collection[int], visit: Visit) -> None:
        """Runs the calls that make some tensors, and shows them, block by block."""
        graph, keys = self.graph, self._keys
        calls = graph.needed(tensors, keys)
        self._to_come.difference_update(calls)
        self._to_show.difference_update(tensors)
        later = {tensor for index in self._to_come for tensor in graph.calls[index].inputs} | self._to_show
        outputs = {tensor for index in calls for tensor in graph.calls[index].outputs}
        new = sorted(outputs & later)
        read = sorted({tensor for index in calls for tensor in graph.calls[index].inputs}.union(tensors) & keys.keys())
        shown = sorted(tensors)
        step = _traced(graph, read, new + shown, [self.store.spec(keys[tensor]) for tensor in read])
        for chunk in range(self._num_chunks):
            parts: list[list[Any]] = [[] for _ in new]  # what is kept, block by block
            for block in in_blocks([self.store.read(keys[tensor], chunk) for tensor in read], self._block_size):
                values = step(block)
                for part, value in zip(parts, values, strict=False):
                    part.append(value)
                for tensor, value in zip(shown, values[len(new) :], strict=True):
                    visit(tensor, value)
            for tensor, part in zip(new, parts, strict=True):
                self.store.write((COMPRESSED, tensor), chunk, part[0] if len(part) == 1 else tf.concat(part, axis=0))
        self._keys = keys | {tensor: (COMPRESSED, tensor) for tensor in new}
        for tensor in self._keys.keys() - later:
            network, number = self._keys.pop(tensor)
            if network == COMPRESSED:  # the inputs belong to the calibration
                self.store.discard((network, number))


def _input_keys(calibration: Calibration) -> list[tuple[str, int]]:
    return [(ANALOG, tensor) for tensor in calibration.graph.inputs]


def _num_chunks(calibration: Calibration) -> int:
    assert calibration.store.num_chunks is not None, "the calibration is open"
    return calibration.store.num_chunks


def _traced(graph: Graph, sources: Iterable[int], targets: Iterable[int], specs: list[tf.TensorSpec]) -> Any:
    """A traced function from the values of some tensors, of these types, to those of others."""
    sources, targets = list(sources), list(targets)
    calls = graph.needed(targets, sources)

    def step(values: list[Any]) -> list[Any]:
        known = dict(zip(sources, values, strict=True))
        execute(graph, calls, known)
        return [known[tensor] for tensor in targets]

    # a call of the function itself, not of the concrete one, would warn of many functions that are alike
    return tf.function(step, input_signature=[specs], autograph=False).get_concrete_function()
