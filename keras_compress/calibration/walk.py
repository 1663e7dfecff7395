"""The walk of the two networks: each call runs once in each of them, and each layer's inputs in both are seen together.

The analog network is the model as it came; the compressed network is its twin, whose layers change one by one. A tensor
that no changed layer has a part in is the same in both, and is computed and kept once. Between two stops only the
tensors that a later call reads are kept.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.calibration.calibration import Calibration
from keras_compress.calibration.store import ANALOG, COMPRESSED
from keras_compress.layers.graph import ACTIVATION, LINEAR, Graph

ERROR_SAMPLES = 1024  # that measure the layers' errors, spread over the data: more digits cost seconds
Visit = Callable[[list[Any], list[Any]], None]


@dataclasses.dataclass
class _Stage:
    """What one pass over the samples has to do."""

    differing: set[int]  # tensors that differ between the networks
    analog_calls: list[int]
    compressed_calls: list[int]
    analog_reads: list[int]  # tensors from the store
    compressed_reads: list[int]
    analog_live: list[int]  # tensors that a later stage reads
    compressed_live: list[int]
    sources: list[int]  # tensors to show to the visitor
    linear: list[int]  # compressed calls whose error is measured


class Walk:
    """One walk over a model, from its inputs to its outputs.

    Args:
        calibration: the data and the analog network.
        twin: graph of the compressed network, equal in architecture.
        paths: the layers that `advance` will be called with, in this order.
    """

    def __init__(self, calibration: Calibration, twin: Graph, paths: Iterable[str]):
        self.calibration = calibration
        self.store = calibration.store
        self.analog = calibration.graph
        self.twin = twin
        self.changed: set[str] = set()  # paths of layers that differ between the networks
        self.offsets: dict[str, np.ndarray] = {}  # path -> what a BatchNorm adds later to the layer's outputs, (n_out,)
        self._squares: dict[str, list[float]] = {}  # path -> sums of squares: of errors, of outputs without bias
        self._measured: set[int] = set()
        assert self.store.num_chunks is not None, "the calibration is open"
        self.num_chunks = self.store.num_chunks
        self._error_stride = max(1, calibration.num_samples // ERROR_SAMPLES)
        linear = [self.analog.calls[index] for path in paths for index in self.analog.linear_calls(path)]
        self._sources = {call.inputs[0] for call in linear}  # tensors that will be shown
        self._outputs = {call.outputs[0] for call in linear}  # that errors will be measured against

    def inputs(self, path: str) -> list[int]:
        """Numbers of the tensors that a layer reads, one for each of its calls."""
        return [self.analog.calls[index].inputs[0] for index in self.analog.linear_calls(path)]

    def differing(self) -> set[int]:
        """Tensors that differ between the networks."""
        tensors: set[int] = set()
        for call in self.twin.calls:
            if (call.path in self.changed and call.part != ACTIVATION) or tensors.intersection(call.inputs):
                tensors.update(call.outputs)
        return tensors

    def advance(self, path: str, visit: Visit, *, keep_inputs: bool = False) -> None:
        """Moves both networks to the first call of a layer, and shows the inputs of all of its calls.

        A later call that hangs on this layer's output, or on layers in between, is shown as these layers are now.

        Args:
            visit: called for each chunk with the inputs in the analog and in the compressed network, as tensors; the
                same object twice where they are the same.
            keep_inputs: whether the store keeps the inputs until the next call of `advance`.
        """
        sources = self.inputs(path)
        self._run(self._stage(self.analog.linear_calls(path)[0], sources, sources if keep_inputs else []), visit)

    def finish(self) -> None:
        """Moves the compressed network behind its last changed layer, whose error is then known."""
        self._run(self._stage(len(self.analog.calls), [], []), None)

    def relative_error(self, path: str) -> float | None:
        """||Z - Z~|| / ||Z - b||: Z, Z~ are the outputs before the activation in both networks, b the analog bias.

        Measured on about `ERROR_SAMPLES` samples, spread over the data; on all of them where there are fewer.
        """
        if path not in self._squares:
            return None
        error, norm = self._squares[path]
        return math.sqrt(error / norm) if norm > 0 else (0.0 if error == 0 else math.inf)

    def input_keys(self, path: str) -> list[tuple[Any, Any]]:
        """Keys in the store of the inputs that `advance(keep_inputs=True)` kept: (analog, compressed) for each call."""
        differing = self.differing()
        return [((ANALOG, t), (COMPRESSED, t) if t in differing else (ANALOG, t)) for t in self.inputs(path)]

    def _stage(self, boundary: int, sources: list[int], keep: list[int]) -> _Stage:
        differing = self.differing()
        graph = self.analog
        stored_analog = {key[1] for key in self.store if key[0] == ANALOG}
        stored_compressed = {key[1] for key in self.store if key[0] == COMPRESSED}

        def made_before(tensor: int, limit: int) -> bool:
            return graph.producer.get(tensor, -1) < limit

        analog_live: set[int] = set()
        compressed_live: set[int] = set()
        for tensor in range(len(graph.shapes)):
            if made_before(tensor, boundary) and graph.last_use.get(tensor, -1) >= boundary:
                # what is the same in both networks, the compressed one reads too
                (compressed_live if tensor in differing else analog_live).add(tensor)
        # The analog network is one call ahead. What it makes is either kept for later walks, so that a reference is as
        # good as its inputs, or read by calls to come, or the reference of this very layer.
        targets = self._sources if self.calibration.keep else self._sources | self._outputs
        to_come = graph.needed({t for t in targets if not made_before(t, boundary + 1)}, stored_analog)
        read = {tensor for index in to_come if index > boundary for tensor in graph.calls[index].inputs}
        analog_live.update(tensor for tensor in read if made_before(tensor, boundary + 1))
        if boundary < len(graph.calls):
            analog_live.update(targets.intersection(graph.calls[boundary].outputs))
        linear = [
            index
            for index, call in enumerate(graph.calls[:boundary])
            if call.part == LINEAR and call.path in self.changed and index not in self._measured
        ]
        if self.calibration.keep:
            analog_live.update(sources)  # a later walk finds them and need not run the analog network
        for tensor in keep:
            analog_live.add(tensor)
            if tensor in differing:
                compressed_live.add(tensor)
        products = {graph.calls[index].outputs[0] for index in linear}
        # what the errors are measured against: the analog outputs where they are, else the inputs that give them
        references = {
            call.outputs[0] if call.outputs[0] in stored_analog else call.inputs[0]
            for call in (graph.calls[index] for index in linear)
        }
        compressed_wanted = compressed_live | differing.intersection(sources) | products
        same = set(range(len(graph.shapes))) - differing
        compressed_calls = self.twin.needed(compressed_wanted, stored_compressed | same)
        read_by_compressed = {tensor for index in compressed_calls for tensor in graph.calls[index].inputs}
        analog_wanted = analog_live | set(sources) | references | (read_by_compressed - differing)
        analog_calls = graph.needed(analog_wanted, stored_analog)
        read_by_analog = {tensor for index in analog_calls for tensor in graph.calls[index].inputs}
        shown = set(sources) | products | references
        return _Stage(
            differing,
            analog_calls,
            compressed_calls,
            sorted(stored_analog & (read_by_analog | shown | (read_by_compressed - differing))),
            sorted(stored_compressed & (read_by_compressed | shown)),
            sorted(analog_live),
            sorted(compressed_live),
            sources,
            linear,
        )

    def _run(self, stage: _Stage, visit: Visit | None) -> None:
        store = self.store
        write_analog = [tensor for tensor in stage.analog_live if (ANALOG, tensor) not in store]
        write_compressed = [tensor for tensor in stage.compressed_live if (COMPRESSED, tensor) not in store]
        dying = self._dying(stage)
        differ = [tensor in stage.differing for tensor in stage.sources]
        if stage.analog_calls or stage.compressed_calls or visit or stage.linear:
            step = self._step(stage, write_analog, write_compressed)
            first = 0  # index of the chunk's first sample
            for chunk in range(self.num_chunks):
                analog_in = [store.read((ANALOG, tensor), chunk) for tensor in stage.analog_reads]
                compressed_in = [store.read((COMPRESSED, tensor), chunk) for tensor in stage.compressed_reads]
                for key in dying:
                    store.discard_chunk(key, chunk)
                shown, kept, squares = step(analog_in, compressed_in, tf.constant(-first % self._error_stride))
                first += len((analog_in + compressed_in)[0])
                del analog_in, compressed_in
                keys = [(ANALOG, tensor) for tensor in write_analog]
                keys += [(COMPRESSED, tensor) for tensor in write_compressed]
                for key, value in zip(keys, kept, strict=True):
                    store.write(key, chunk, value, lasting=self.calibration.keep and key[0] == ANALOG)
                for index, pair in zip(stage.linear, squares, strict=True):
                    sums = self._squares.setdefault(self.twin.calls[index].path, [0.0, 0.0])
                    sums[0] += float(pair[0])
                    sums[1] += float(pair[1])
                if visit is not None:
                    analog, compressed = shown[: len(stage.sources)], shown[len(stage.sources) :]
                    pairs = zip(analog, compressed, differ, strict=True)
                    visit(analog, [theirs if differs else ours for ours, theirs, differs in pairs])
        for key in dying:
            store.discard(key)
        self._measured.update(stage.linear)

    def _dying(self, stage: _Stage) -> list[Any]:
        """Keys that nobody reads after this stage."""
        live = {(ANALOG, tensor) for tensor in stage.analog_live}
        live |= {(COMPRESSED, tensor) for tensor in stage.compressed_live}
        kept = self._sources.union(self.analog.inputs) if self.calibration.keep else set()
        return [key for key in self.store if key not in live and not (key[0] == ANALOG and key[1] in kept)]

    def _step(self, stage: _Stage, write_analog: list[int], write_compressed: list[int]) -> Any:
        """The stage's work on one chunk, as one traced function for both networks."""

        def step(analog_in: list[Any], compressed_in: list[Any], offset: Any) -> Any:
            analog = dict(zip(stage.analog_reads, analog_in, strict=True))
            _execute(self.analog, stage.analog_calls, analog)
            compressed = {tensor: value for tensor, value in analog.items() if tensor not in stage.differing}
            compressed |= dict(zip(stage.compressed_reads, compressed_in, strict=True))
            _execute(self.twin, stage.compressed_calls, compressed)
            measured = slice(offset, None, self._error_stride)
            squares = [self._squared_norms(index, analog, compressed, measured) for index in stage.linear]
            shown = [analog[tensor] for tensor in stage.sources] + [compressed[tensor] for tensor in stage.sources]
            kept = [analog[tensor] for tensor in write_analog] + [compressed[tensor] for tensor in write_compressed]
            return shown, kept, squares

        signature = [
            [self.store.spec((ANALOG, tensor)) for tensor in stage.analog_reads],
            [self.store.spec((COMPRESSED, tensor)) for tensor in stage.compressed_reads],
            tf.TensorSpec([], tf.int32),  # the chunk's first sample that measures the errors
        ]
        traced = tf.function(step, input_signature=signature, autograph=False)
        return traced.get_concrete_function()  # a call of `traced` would warn of many functions that are alike

    def _squared_norms(
        self, index: int, analog: dict[int, Any], compressed: dict[int, Any], measured: slice
    ) -> tuple[Any, Any]:
        """Of a linear call's error, and of the analog network's output without bias, over the measured samples."""
        call = self.analog.calls[index]
        if call.outputs[0] in analog:
            output = tf.cast(analog[call.outputs[0]][measured], tf.float32)
        else:
            (output,) = call.run({call.inputs[0]: analog[call.inputs[0]][measured]})
            output = tf.cast(output, tf.float32)
        error = output - tf.cast(compressed[call.outputs[0]][measured], tf.float32)
        if call.path in self.offsets:
            error -= tf.constant(self.offsets[call.path], tf.float32)
        if call.operation.use_bias:
            output -= tf.cast(call.operation.bias, tf.float32)
        return 2 * tf.nn.l2_loss(error), 2 * tf.nn.l2_loss(output)


def _execute(graph: Graph, calls: Iterable[int], values: dict[int, Any]) -> None:
    for index in calls:
        call = graph.calls[index]
        values.update(zip(call.outputs, call.run(values), strict=True))
