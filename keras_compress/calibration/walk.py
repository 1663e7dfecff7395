"""The walk of the two networks: each call runs once in each of them, and each layer's inputs in both are seen together.

The analog network is the model as it came; the compressed network is its copy, whose layers change one by one. A tensor
that no changed layer has a part in is the same in both, and is computed and kept once. Between two stops only the
tensors that a later call reads are kept.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.calibration.calibration import Calibration
from keras_compress.calibration.store import ANALOG, COMPRESSED
from keras_compress.layers.capture import observed_inputs
from keras_compress.layers.graph import ACTIVATION, LINEAR, Call, Graph
from keras_compress.samples.blocks import in_blocks

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
        compressed_graph: graph of the compressed network, equal in architecture.
        paths: the layers that `advance` will be called with, in this order.
        skip_inputs: for some of them, the other tensors that it may be called with.
    """

    def __init__(
        self,
        calibration: Calibration,
        compressed_graph: Graph,
        paths: Iterable[str],
        skip_inputs: Mapping[str, tuple[int, ...]] | None = None,
    ):
        self.calibration = calibration
        self.store = calibration.store
        self.analog = calibration.graph
        self.compressed_graph = compressed_graph
        self.changed: set[str] = set()  # paths of layers that differ between the networks
        self.offsets: dict[str, np.ndarray] = {}  # path -> what a BatchNorm adds later to the layer's outputs, (n_out,)
        self._squares: dict[str, list[float]] = {}  # path -> sums of squares: of errors, of outputs without bias
        self._measured: set[int] = set()
        assert self.store.num_chunks is not None, "the calibration is open"
        self.num_chunks = self.store.num_chunks
        self._error_stride = max(1, calibration.num_samples // ERROR_SAMPLES)
        self._observers: dict[tuple[Graph, int, str], Any] = {}  # functions that show what an inner layer is called on
        paths = list(paths)
        linear = [self.analog.calls[index] for path in paths for index in self.analog.linear_calls(path)]
        self._to_come = {path: {*self.inputs(path), *(skip_inputs or {}).get(path, ())} for path in paths}
        self._sources = set().union(*self._to_come.values())  # tensors that will be shown
        self._outputs = {call.outputs[0] for call in linear}  # that errors will be measured against

    def inputs(self, path: str) -> list[int]:
        """Numbers of the tensors that a kernel's calls read; of a kernel within another layer, those of that layer."""
        if self.is_inner(path):
            calls = (self.analog.calls[index] for index in self.analog.holders(path))
            return list(dict.fromkeys(tensor for call in calls for tensor in call.inputs))
        return [self.analog.calls[index].inputs[0] for index in self.analog.linear_calls(path)]

    def is_inner(self, path: str) -> bool:
        """Whether a kernel is read within the call of another layer, so that its inputs must be observed."""
        return not self.analog.linear_calls(path)

    def same_inputs(self, path: str) -> bool:
        """Whether both networks give a kernel the same inputs."""
        held = {kernel for index in self.analog.holders(path) for kernel in self.analog.calls[index].kernels}
        inner_change = self.is_inner(path) and self.changed.intersection(held)
        return not inner_change and not self.differing().intersection(self.inputs(path))

    def differing(self) -> set[int]:
        """Tensors that differ between the networks."""
        tensors: set[int] = set()
        for call in self.compressed_graph.calls:
            changed = call.part != ACTIVATION and self.changed.intersection((call.path, *call.kernels))
            if changed or tensors.intersection(call.inputs):
                tensors.update(call.outputs)
        return tensors

    def advance(self, path: str, visit: Visit, *, keep_inputs: bool = False, skip_inputs: tuple[int, ...] = ()) -> None:
        """Moves both networks to the first call of a layer, and shows the inputs of all of its calls.

        A later call that depends on this layer's output, or on layers in between, is shown as these layers are now.

        Args:
            visit: called for each block with the inputs in the analog and in the compressed network, as tensors; the
                same object twice where they are the same.
            keep_inputs: whether the store keeps the inputs until the next call of `advance`.
            skip_inputs: other tensors to show behind the inputs, which are made before the layer's first call.
        """
        sources = [*self.inputs(path), *skip_inputs]
        boundary = self.analog.holders(path)[0]
        self._to_come.pop(path, None)
        shown = self._observing(path, sources, visit) if self.is_inner(path) else visit
        self._run(self._stage(boundary, sources, self.inputs(path) if keep_inputs else []), shown)

    def _observing(self, path: str, sources: list[int], visit: Visit) -> Visit:
        """A visitor of an outer layer's inputs that passes on those of an inner one."""
        same = self.same_inputs(path)

        def outer(analog: list[Any], compressed: list[Any]) -> None:
            analog_inputs = self._inner_inputs(self.analog, path, dict(zip(sources, analog, strict=True)))
            compressed_inputs = (
                analog_inputs
                if same
                else self._inner_inputs(self.compressed_graph, path, dict(zip(sources, compressed, strict=True)))
            )
            visit(analog_inputs, compressed_inputs)

        return outer

    def _inner_inputs(self, graph: Graph, path: str, values: dict[int, Any]) -> list[Any]:
        inputs = []
        for index in graph.holders(path):
            call = graph.calls[index]
            key = (graph, index, path)
            if key not in self._observers:
                self._observers[key] = _observer(call, graph.views[path].layer, graph)
            inputs += self._observers[key](*(values[tensor] for tensor in call.inputs))
        return inputs

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
        read.update(*self._to_come.values())  # also what is made already and no later call reads
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
        compressed_targets = compressed_live | differing.intersection(sources) | products
        same = set(range(len(graph.shapes))) - differing
        compressed_calls = self.compressed_graph.needed(compressed_targets, stored_compressed | same)
        read_by_compressed = {tensor for index in compressed_calls for tensor in graph.calls[index].inputs}
        analog_targets = analog_live | set(sources) | references | (read_by_compressed - differing)
        analog_calls = graph.needed(analog_targets, stored_analog)
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
            keys = [(ANALOG, tensor) for tensor in write_analog]
            keys += [(COMPRESSED, tensor) for tensor in write_compressed]
            first = 0  # index of the block's first sample
            for chunk in range(self.num_chunks):
                read = [store.read((ANALOG, tensor), chunk) for tensor in stage.analog_reads]
                read += [store.read((COMPRESSED, tensor), chunk) for tensor in stage.compressed_reads]
                for key in dying:
                    store.discard_chunk(key, chunk)
                parts: list[list[Any]] = [[] for _ in keys]  # what is kept, block by block
                for block in in_blocks(read, self.calibration.block_size):
                    inputs = block[: len(stage.analog_reads)], block[len(stage.analog_reads) :]
                    shown, kept, squares = step(*inputs, tf.constant(-first % self._error_stride))
                    first += len(block[0])
                    for part, value in zip(parts, kept, strict=True):
                        part.append(value)
                    self._add_squares(stage.linear, squares)
                    if visit is not None:
                        analog, compressed = shown[: len(stage.sources)], shown[len(stage.sources) :]
                        pairs = zip(analog, compressed, differ, strict=True)
                        visit(analog, [copy if differs else original for original, copy, differs in pairs])
                del read
                for key, part in zip(keys, parts, strict=True):
                    value = part[0] if len(part) == 1 else tf.concat(part, axis=0)
                    store.write(key, chunk, value, lasting=self.calibration.keep and key[0] == ANALOG)
        for key in dying:
            store.discard(key)
        self._measured.update(stage.linear)

    def _add_squares(self, linear: list[int], squares: list[tuple[Any, Any]]) -> None:
        for index, pair in zip(linear, squares, strict=True):
            sums = self._squares.setdefault(self.compressed_graph.calls[index].path, [0.0, 0.0])
            sums[0] += float(pair[0])
            sums[1] += float(pair[1])

    def _dying(self, stage: _Stage) -> list[Any]:
        """Keys that nobody reads after this stage."""
        live = {(ANALOG, tensor) for tensor in stage.analog_live}
        live |= {(COMPRESSED, tensor) for tensor in stage.compressed_live}
        kept = self._sources.union(self.analog.inputs) if self.calibration.keep else set()
        return [key for key in self.store if key not in live and not (key[0] == ANALOG and key[1] in kept)]

    def _step(self, stage: _Stage, write_analog: list[int], write_compressed: list[int]) -> Any:
        """The stage's work on one block, as one traced function for both networks."""

        def step(analog_in: list[Any], compressed_in: list[Any], offset: Any) -> Any:
            analog = dict(zip(stage.analog_reads, analog_in, strict=True))
            execute(self.analog, stage.analog_calls, analog)
            compressed = {tensor: value for tensor, value in analog.items() if tensor not in stage.differing}
            compressed |= dict(zip(stage.compressed_reads, compressed_in, strict=True))
            execute(self.compressed_graph, stage.compressed_calls, compressed)
            measured = slice(offset, None, self._error_stride)
            squares = [self._squared_norms(index, analog, compressed, measured) for index in stage.linear]
            shown = [analog[tensor] for tensor in stage.sources] + [compressed[tensor] for tensor in stage.sources]
            kept = [analog[tensor] for tensor in write_analog] + [compressed[tensor] for tensor in write_compressed]
            return shown, kept, squares

        signature = [
            [self.store.spec((ANALOG, tensor)) for tensor in stage.analog_reads],
            [self.store.spec((COMPRESSED, tensor)) for tensor in stage.compressed_reads],
            tf.TensorSpec([], tf.int32),  # the block's first sample that measures the errors
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
        bias = self.analog.views[call.path].bias  # type: ignore[attr-defined]
        if bias is not None:
            output -= tf.cast(bias, tf.float32)
        return 2 * tf.nn.l2_loss(error), 2 * tf.nn.l2_loss(output)


def _observer(call: Call, layer: Any, graph: Graph) -> Any:
    """A traced function of a call's inputs that gives what `layer` is called on meanwhile."""

    def observe(*values: Any) -> list[Any]:
        with observed_inputs([layer]) as noted:
            call.run(dict(zip(call.inputs, values, strict=True)))
        return [value for _, value in noted]

    specs = [tf.TensorSpec(graph.shapes[tensor], graph.dtypes[tensor]) for tensor in call.inputs]
    return tf.function(observe, input_signature=specs, autograph=False).get_concrete_function()


def execute(graph: Graph, calls: Iterable[int], values: dict[int, Any]) -> None:
    """Runs some calls, and adds what they make to `values`."""
    for index in calls:
        call = graph.calls[index]
        values.update(zip(call.outputs, call.run(values), strict=True))
