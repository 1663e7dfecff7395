"""The simulation of a file of integers, rounded as the runtime rounds that has each operator."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_compress.export.placing import Placed
from keras_compress.export.simulation import RoundInTwoSteps, RoundTies, fractions_of, run_graph
from keras_compress.export.tensors import IntegerFile, Tensors
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import Graph
from keras_compress.layers.operations import Role, kind_of
from keras_compress.layers.rewrite import Change, rebuild
from keras_compress.layers.rounding import operator_of


def with_ties(simulation: keras.Model) -> keras.Model:
    """The simulation with half steps rounded as runtimes round them where these are common."""
    graph = Graph(simulation)
    changes: dict[str, Change] = {}
    for call in graph.calls:
        if type(call.operation) is QuantizeActivation:
            operator = operator_of(graph, call.inputs[0])
            kind = None if operator is None else kind_of(operator.operation)
            if kind is not None and (kind.role is Role.MEAN or kind.operator in ("+", "-")):
                changes[call.path] = Change([RoundTies.of(call.operation, away=kind.role is Role.MEAN)])
    return rebuild(simulation, changes).model if changes else simulation


def as_run(
    file: IntegerFile, simulation: keras.Model, kernels: Mapping[str, Placed], batches: Iterable[list[np.ndarray]]
) -> keras.Model:
    """The simulation with the sums of some kernels rounded twice, the way that the file's tensors show.

    Which channels a kernel computes in vectors, and which one by one, depends on the processor and on their number.
    """
    graph = Graph(simulation)
    tensors = Tensors(file, graph)
    behind = {tensor: path for tensor, path in tensors.sums.items() if path in kernels}
    sources = {tensors.roundings[tensor].inputs[0] for tensor in behind}
    unrounded: dict[int, np.ndarray] = {}
    ways: dict[int, list[RoundInTwoSteps]] = {}
    for tensor, path in behind.items():
        layer, step = tensors.roundings[tensor].operation, kernels[path].step
        assert step is not None
        fractions = fractions_of(step / layer.scale)
        settings = (fractions, True), (fractions, False), (0 * fractions, True)
        ways[tensor] = [RoundInTwoSteps.of(layer, parts, np.full(len(parts), up)) for parts, up in settings]
    mistakes: dict[int, np.ndarray] = {tensor: np.zeros(()) for tensor in behind}

    def compare(tensor: int, value: Any) -> Any:
        if tensor in sources:
            unrounded[tensor] = np.asarray(value, np.float32)
        held = tensors.compared(tensor, value)
        if tensor in behind:
            before, half = unrounded[tensors.roundings[tensor].inputs[0]], ways[tensor][0].scale / 2
            differ = [np.abs(np.asarray(way(before)) - np.asarray(held)) > half for way in ways[tensor]]
            counts = [each.reshape(-1, each.shape[-1]).sum(axis=0) for each in differ]
            mistakes[tensor] = mistakes[tensor] + np.stack(counts)
        return held

    for arrays in batches:
        file.runner.run(arrays)
        if tensors.partners is None:
            tensors.pair(run_graph(graph, arrays))
        run_graph(graph, arrays, after=compare)
    changes: dict[str, Change] = {}
    for tensor, (twice, _, _) in ways.items():
        best = np.argmin(mistakes[tensor], axis=0)
        call = tensors.roundings[tensor]
        layer = RoundInTwoSteps.of(call.operation, np.where(best == 2, 0, twice.fractions), best == 0)
        changes[call.path] = Change([layer])
    return rebuild(simulation, changes).model
