"""Which tensors a full-integer network rounds, and on which of them it must use the same alphabet.

What is written here is what TFLite's converter does to a Keras model (docs/decisions.md, 45): a product with its bias,
the BatchNormalization that can be folded into it and the ReLU behind it are one operation with one quantized output;
pooling, reshaping and joining keep the alphabet of their inputs.
"""

import collections
import dataclasses
from typing import Any

import keras

# Keras exports no names for the operations of `keras.ops.relu(x)`.
from keras.src.ops import nn

from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import ACTIVATION, LINEAR, Call, Graph, is_linear
from keras_compress.layers.operations import Role, kind_of

L = keras.layers

MOVES = (Role.MOVE, Role.POOL)  # the outputs have the alphabet of the inputs, without another rounding
# Functions whose alphabet in TFLite does not depend on data: name, least and largest value.
FUNCTIONS = {"softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "log_softmax": (-16.0, 0.0)}


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that a full-integer network rounds.

    Attributes:
        symbol: the tensor in the Keras model.
        tensors: its numbers in the graph; several where a nested model is called more than once.
        path: of the layer or operation that makes it, or name of the input.
        kind: class of that layer.
        group: tensors of one group have the same alphabet.
        function: least and largest value of a function that has an alphabet of its own; `None` where data decides.
        range_of: numbers of the tensors whose values the group's alphabet must cover: what is joined, as it leaves
            the join, else what is rounded for the first time.
    """

    symbol: keras.KerasTensor
    tensors: tuple[int, ...]
    path: str
    kind: str
    group: int
    function: tuple[float, float] | None
    range_of: tuple[int, ...]


def quantized_tensors(graph: Graph) -> list[QuantizedTensor]:
    """What a full-integer network rounds, in the order of the graph.

    Args:
        graph: of a model that `split_layers` gave.
    """
    return _Plan(graph).tensors()


@dataclasses.dataclass
class _Rounding:
    """A rounding as long as nothing that follows takes it over."""

    path: str
    kind: str
    again: bool = False


class _Plan:
    """One pass over the calls, in their order."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.roundings: dict[int, _Rounding] = {}
        self.product: set[int] = set()  # tensors that a BatchNormalization behind them would become part of
        self.open: set[int] = set()  # tensors that a ReLU behind them would become part of
        self.pooled: set[int] = set()  # the same for pooling, which leaves the alphabet as it is
        self.same: dict[int, int] = {}  # tensor -> the one that it equals in inference
        self.parents: list[int] = []  # group -> group that it went into
        self.group: dict[int, int] = {}  # tensor -> group; none for what is not floating point
        self.functions: dict[int, tuple[float, float]] = {}  # group -> values of the function that makes it
        self.joined: list[int] = []  # tensors that a join makes
        self.readers = self._readers()
        for tensor in graph.inputs:
            self._round(tensor, maker_of(graph.symbols[tensor]).name, "InputLayer")
        for call in graph.calls:
            self._visit(call)

    def tensors(self) -> list[QuantizedTensor]:
        by_symbol = collections.defaultdict(list)  # several tensors in a nested model that is called twice
        for tensor, symbol in enumerate(self.graph.symbols):
            by_symbol[id(symbol)].append(tensor)
        rounded = [
            tensors
            for tensors in by_symbol.values()
            if self.roundings.keys() & tensors and any(self.readers[self._real(tensor)] for tensor in tensors)
        ]
        for tensors in rounded:
            for tensor in tensors[1:]:
                self._unite(tensors[0], tensor)
        joined: dict[int, list[int]] = collections.defaultdict(list)  # group -> tensors, here and below
        new: dict[int, list[int]] = collections.defaultdict(list)
        for tensor in self.joined:
            joined[self._root(tensor)].append(tensor)
        for tensors in rounded:
            if any(not self.roundings[tensor].again for tensor in self.roundings.keys() & tensors):
                new[self._root(tensors[0])] += tensors
        result = []
        for tensors in rounded:
            first = self.roundings[min(self.roundings.keys() & tensors)]
            group, symbol = self._root(tensors[0]), self.graph.symbols[tensors[0]]
            range_of = tuple(joined.get(group) or new[group])
            function = self.functions.get(group)
            result.append(QuantizedTensor(symbol, tuple(tensors), first.path, first.kind, group, function, range_of))
        return result

    def _readers(self) -> collections.Counter[int]:
        """How many calls read each tensor; leaving the model counts as one."""
        readers: collections.Counter[int] = collections.Counter()
        for call in self.graph.calls:
            if is_identity(call.operation):
                self.same[call.outputs[0]] = self._real(call.inputs[0])
            else:
                readers.update({self._real(tensor) for tensor in call.inputs})
        readers.update(self._real(tensor) for tensor in self.graph.outputs)
        return readers

    def _visit(self, call: Call) -> None:
        operation = call.operation
        if call.part == LINEAR or is_identity(operation):
            return
        sources = [self._real(tensor) for tensor in call.inputs]
        alone = len(sources) == 1 and self.readers[sources[0]] == 1
        kind = kind_of(operation)
        if type(operation) is L.BatchNormalization:
            folded = alone and sources[0] in self.product
            if folded:
                self.roundings.pop(sources[0], None)
            self._round_outputs(call, product=folded, opened=True)
        elif is_relu(operation) and alone and sources[0] in self.open:
            self.roundings.pop(sources[0], None)
            self._round_outputs(call)
        elif is_relu(operation) and alone and sources[0] in self.pooled:
            self.roundings.pop(sources[0], None)
            self._round_outputs(call, group=self._group(sources[0]), again=True)
        elif kind.role is Role.JOIN and len(sources) > 1:
            self._join(call, sources)
        elif kind.role in MOVES and _is_exact(operation) and len(sources) == 1:
            self.group |= {tensor: self.group[sources[0]] for tensor in call.outputs if sources[0] in self.group}
            self.pooled.update(call.outputs if kind.role is Role.POOL else ())
        elif kind.role in (Role.MEAN, *MOVES) and len(sources) == 1:
            self._round_outputs(call, group=self._group(sources[0]), again=True)
            self.pooled.update(call.outputs if kind.role is Role.MEAN else ())
        else:
            linear = kind.role is Role.PRODUCT and is_linear(operation)
            self._round_outputs(call, product=linear and bool(kind.folds), opened=linear or kind.role is Role.SUM)
            if name := _function(operation):
                self.functions |= {self.group[tensor]: FUNCTIONS[name] for tensor in call.outputs}

    def _round_outputs(
        self,
        call: Call,
        *,
        product: bool = False,
        opened: bool = False,
        group: int | None = None,
        again: bool = False,
    ) -> None:
        """Rounds the outputs of a call, with an alphabet of their own or with that of a group."""
        for tensor in call.outputs:
            self._round(tensor, call.path, type(call.operation).__name__, group, again)
        self.product.update(call.outputs if product else ())
        self.open.update(call.outputs if opened else ())

    def _join(self, call: Call, sources: list[int]) -> None:
        """All inputs get the alphabet of the output, except those of a function: these are rounded again."""
        free = [tensor for tensor in sources if tensor in self.group and self._root(tensor) not in self.functions]
        for tensor in free[1:]:
            self._unite(free[0], tensor)
        group = self._group(free[0]) if free else None
        if len(free) == len(sources):
            self.group |= dict.fromkeys(call.outputs, self.group[free[0]])
        else:
            self._round_outputs(call, group=group)
        self.joined += [tensor for tensor in call.outputs if tensor in self.group]

    def _round(self, tensor: int, path: str, kind: str, group: int | None = None, again: bool = False) -> None:
        symbol: Any = self.graph.symbols[tensor]
        if "float" not in keras.backend.standardize_dtype(symbol.dtype):
            return
        if group is None:
            group = len(self.parents)
            self.parents.append(group)
            again = False
        self.group[tensor] = group
        self.roundings[tensor] = _Rounding(path, kind, again)

    def _real(self, tensor: int) -> int:
        return self.same.get(tensor, tensor)

    def _group(self, tensor: int) -> int | None:
        return self._root(tensor) if tensor in self.group else None

    def _root(self, tensor: int) -> int:
        group = self.group[tensor]
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def _unite(self, first: int, second: int) -> None:
        """Joins two groups; one that a function has fixed is from then on measured, unless both are alike."""
        first, second = self._root(first), self._root(second)
        if first == second:
            return
        self.parents[second] = first
        values = self.functions.pop(first, None), self.functions.pop(second, None)
        if values[0] is not None and values[0] == values[1]:
            self.functions[first] = values[0]


class Names:
    """Names for new layers that no other one of the same model has."""

    def __init__(self, graph: Graph):
        self.taken = {call.path for call in graph.calls} | {
            maker_of(graph.symbols[tensor]).name for tensor in graph.inputs
        }

    def new(self, path: str, ending: str) -> str:
        """The name of the layer at `path` with an ending, and a number if need be."""
        first = name = f"{path}_{ending}"
        number = 1
        while name in self.taken:
            number += 1
            name = f"{first}_{number}"
        self.taken.add(name)
        return name.rpartition("/")[2]


def keeps_alphabet(operation: Any) -> bool:
    """Whether what an operation makes has the levels of its inputs without being rounded again."""
    role = kind_of(operation).role
    return (role in MOVES and _is_exact(operation)) or role is Role.JOIN or is_identity(operation)


def rounding_of(graph: Graph, tensor: int) -> Call | None:
    """The call of the `QuantizeActivation` whose levels a tensor has; None where it is not rounded."""
    while tensor in graph.producer:
        maker = graph.calls[graph.producer[tensor]]
        if isinstance(maker.operation, QuantizeActivation):
            return maker
        if not keeps_alphabet(maker.operation):
            return None
        tensor = maker.inputs[0]
    return None


def operator_of(graph: Graph, tensor: int) -> Call | None:
    """The call that makes a tensor, before the ReLU that is a part of it; None for an input of the model."""
    while tensor in graph.producer:
        call = graph.calls[graph.producer[tensor]]
        if call.part != ACTIVATION and not is_relu(call.operation) and not is_identity(call.operation):
            return call
        tensor = call.inputs[0]
    return None


def is_relu(operation: Any) -> bool:
    """Whether the operation is max(x, 0), perhaps with an upper bound: TFLite makes it part of what comes before."""
    if type(operation) is L.ReLU:
        return not operation.negative_slope and not operation.threshold
    if type(operation) is L.Activation:
        return operation.activation in (keras.activations.relu, keras.activations.relu6)
    return type(operation) in (nn.Relu, nn.Relu6)


def is_function(operation: Any) -> bool:
    """Whether an operation is an activation function that is not a part of a product: looked up or approximated."""
    return kind_of(operation).role is Role.FUNCTION and not is_relu(operation)


def _function(operation: Any) -> str | None:
    """Name in `FUNCTIONS` of what an operation computes."""
    if type(operation) is L.Activation:
        return next((name for name in FUNCTIONS if operation.activation is getattr(keras.activations, name)), None)
    return kind_of(operation).function or None


def is_identity(operation: Any) -> bool:
    """Whether an operation does nothing in inference."""
    return kind_of(operation).role is Role.IDENTITY or (type(operation) is L.Activation and is_linear(operation))


def _is_exact(operation: Any) -> bool:
    """Whether a layer that moves values makes no new ones between them."""
    return getattr(operation, "interpolation", "nearest") == "nearest"


def maker_of(tensor: keras.KerasTensor) -> Any:
    """The operation that makes a tensor; Keras has no public way to it."""
    return tensor._keras_history.operation
