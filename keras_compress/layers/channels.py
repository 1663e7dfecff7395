"""Channels that must go together: what makes them, what reads them, and on which axis of which weight.

A channel is one index of the last axis of a tensor. Additions make channels of several layers one, a depthwise kernel
has one of its own for each, flattening makes a block of features of each: the groups follow from what
`keras_compress/layers/operations.py` says of every operation. Where a channel is zero throughout, `shrink` takes it out
of all these weights and the network computes the same.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.layers.graph import ACTIVATION, LINEAR, Call, Graph, is_linear
from keras_compress.layers.operations import Channels, Kind, Role, kind_of
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import Change, Rewrite, copy_layer, rebuild

MAKES, READS, KEEPS = "makes", "reads", "keeps"  # what a layer does to channels
# Functions of one number: any other activation may mix channels.
ELEMENTWISE = tuple(
    getattr(keras.activations, name)
    for name in (
        "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
        "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus",
        "softsign", "squareplus", "tanh", "tanh_shrink", "threshold",
    )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Member:
    """A layer or operation that makes, reads or passes on the channels of a group.

    Attributes:
        path: of the layer or operation.
        does: "makes", "reads" or "keeps".
        weight: name of the variable with these channels; "" where it has none.
        axis: of the weight, counted from the last.
        positions: (channels, k) indices on that axis: k > 1 where a channel became a block of features.
    """

    path: str
    does: str
    weight: str
    axis: int
    positions: np.ndarray = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of which one can go only from all weights at once.

    Attributes:
        size: number of channels.
        members: in the order of the network.
        frozen: why the channels must stay; empty where they need not.
    """

    size: int
    members: tuple[Member, ...]
    frozen: tuple[str, ...]

    def paths(self, *does: str) -> list[str]:
        """Paths of the members that do one of these, each once."""
        return list(dict.fromkeys(member.path for member in self.members if member.does in does))

    def __str__(self) -> str:
        makers = self.paths(MAKES)
        readers = [path for path in self.paths(READS, KEEPS) if path not in makers]
        channels = f"{self.size} channel{'s' if self.size > 1 else ''}"
        text = f"{' and '.join(makers)} make{'' if len(makers) > 1 else 's'} {channels}" if makers else channels
        text += f"; read by {', '.join(readers)}" if readers else ""
        return text + (f"; frozen: {'; '.join(self.frozen)}" if self.frozen else "")


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """All groups of a model, in the order in which their channels are made.

    Raises:
        InputError: no built Keras model.
    """
    return _Tracer(model).groups()


def shrink(model: keras.Model, channels: Mapping[ChannelGroup, Iterable[int]]) -> Rewrite:
    """A new model without some channels. Where these are zero throughout, it computes the same.

    Args:
        model: not written to.
        channels: of groups of `channel_groups(model)`: the channels to take out.

    Raises:
        InputError: a frozen group, a channel that is not there, or all channels of a group.
    """
    gone: dict[tuple[str, str], dict[int, list[int]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    reshaped: dict[str, int] = collections.Counter()
    for group, indices in channels.items():
        chosen = sorted(set(indices))
        if group.frozen:
            raise InputError(f"These channels cannot be taken out: {group}.")
        if not chosen:
            continue
        if chosen[0] < 0 or chosen[-1] >= group.size or len(chosen) == group.size:
            raise InputError(f"Expected some of channels 0 to {group.size - 1}, and not all. Received: {chosen}.")
        for member in group.members:
            positions = member.positions[chosen].ravel().tolist()
            if member.weight:
                gone[member.path, member.weight][member.axis] += positions
            else:
                reshaped[member.path] += len(positions)
    layers = layers_by_path(model)
    weights: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    for (path, name), axes in gone.items():
        value = next(np.asarray(variable) for variable in layers[path].variables if variable.name == name)
        for axis, indices in axes.items():
            value = np.delete(value, indices, axis=axis)
        weights[path][name] = value
    changes = {path: Change([_resized(layers[path], arrays)], [arrays]) for path, arrays in weights.items()}
    for path, count in reshaped.items():
        if type(layers.get(path)) is keras.layers.Reshape:
            shape = layers[path].target_shape
            if shape[-1] != -1:
                changes[path] = Change([copy_layer(layers[path], target_shape=(*shape[:-1], shape[-1] - count))])
    return rebuild(model, changes)


def _resized(layer: keras.Layer, weights: Mapping[str, np.ndarray]) -> keras.Layer:
    """The layer with as many channels as its weights now have."""
    kind = kind_of(layer)
    name = [*kind.weights, *kind.kernels][-1] if kind.weights else ""  # what makes its channels
    resized = kind.size and name in weights
    return copy_layer(layer, **({kind.size: weights[name].shape[kind.weights[name].makes[-1]]} if resized else {}))


class _Tracer:
    """One pass over the calls: which channel each index of the last axis of a tensor is."""

    def __init__(self, model: keras.Model):
        self.graph = Graph(model)
        self.paths = {id(layer): path for path, layer in layers_by_path(model).items()} if not self.graph.opaque else {}
        self.parents: list[int] = []  # channel -> channel that it is one with
        self.channels: dict[int, np.ndarray] = {}  # tensor -> channels
        self.touched: dict[tuple[str, str, str, int], np.ndarray] = {}  # member -> channels by position
        self.frozen: dict[str, list[int]] = collections.defaultdict(list)  # reason -> channels
        for tensor in self.graph.inputs:
            self._new(tensor)
            self._freeze([tensor], "an input of the model")
        for call in self.graph.calls:
            self._visit(call)
        self._freeze(self.graph.outputs, "an output of the model")

    def groups(self) -> list[ChannelGroup]:
        roots = np.array([self._root(channel) for channel in range(len(self.parents))], dtype=int)
        reasons: dict[int, list[str]] = collections.defaultdict(list)
        for reason, channels in self.frozen.items():
            for root in np.unique(roots[channels]):
                reasons[root].append(reason)
        positions: dict[int, dict[tuple[str, str, str, int], list[int]]] = {root: {} for root in roots.tolist()}
        for member, touched in self.touched.items():
            for position, root in enumerate(roots[touched].tolist()):
                positions[root].setdefault(member, []).append(position)
        alike: dict[Any, list[int]] = {}  # channels with the same members, as often, and the same reasons
        for root, members in positions.items():
            key = tuple((member, len(indices)) for member, indices in members.items()), tuple(reasons[root])
            alike.setdefault(key, []).append(root)
        return [
            ChannelGroup(
                len(same),
                tuple(
                    Member(
                        path, does, weight, axis, np.array([positions[root][path, does, weight, axis] for root in same])
                    )
                    for (path, does, weight, axis), _ in members
                ),
                why,
            )
            for (members, why), same in alike.items()
        ]

    def _visit(self, call: Call) -> None:
        kind, layer = kind_of(call.operation), call.operation
        path = self.paths.get(id(layer), call.path)
        if call.part == ACTIVATION:
            self._activation(call, path)
        elif reason := self._reason_to_freeze(call, kind):
            self._freeze_call(call, f"{path}: {reason}")
        elif call.part == LINEAR:
            self._product(call, kind, path)
        elif kind.role is Role.FUNCTION and type(layer) is keras.layers.Activation:
            self._activation(call, path)
        elif kind.channels is Channels.MADE:
            self._freeze(call.inputs, f"{path} reads them")
            self._new(call.outputs[0])
            for name, axes in kind.weights.items():
                self._touch(path, MAKES, name, axes.makes[-1], self.channels[call.outputs[0]])
        elif kind.channels is Channels.JOINED:
            self._join(call, path)
        elif kind.channels is Channels.SHAPED:
            self._reshape(call, path)
        else:
            self._same(call, kind, path)

    def _reason_to_freeze(self, call: Call, kind: Kind) -> str:
        layer = call.operation
        if kind.channels is Channels.FROZEN:
            return kind.reason
        if kind.role is Role.PRODUCT and call.part != LINEAR:
            return "its product, bias and activation are one step"
        if any(self.graph.shapes[tensor][-1:] in ((), (None,)) for tensor in (*call.inputs, *call.outputs)):
            return "a tensor's last axis has no size"
        if getattr(layer, "data_format", None) == "channels_first":
            return "its data format is channels_first"
        if getattr(layer, "groups", 1) > 1:
            return "its groups must stay equal"
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            return "Keras has quantized it or given it LoRA weights"
        rank = len(self.graph.shapes[call.inputs[0]])
        if kind.role is Role.NORMALIZATION and layer.axis not in (-1, rank - 1):
            return f"it normalizes axis {layer.axis}"
        if kind.channels is Channels.REDUCED:
            axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
            if any(axis is None or axis % rank == rank - 1 for axis in axes):
                return "it goes along the channels"
        if _has_constants(call, self.graph):
            return "it has a constant for each channel"
        return ""

    def _activation(self, call: Call, path: str) -> None:
        function = call.operation.activation
        elementwise = is_linear(call.operation) or function in ELEMENTWISE
        if isinstance(function, keras.Operation):
            elementwise = kind_of(function).channels is Channels.SAME and not kind_of(function).weights
        self.channels[call.outputs[0]] = self.channels[call.inputs[0]]
        if not elementwise:
            name = getattr(function, "__name__", type(function).__name__)
            self._freeze(call.outputs, f"{path}: its activation {name} may mix channels")

    def _product(self, call: Call, kind: Kind, path: str) -> None:
        (source,), (target,) = call.inputs, call.outputs
        layer = call.operation
        views = kind.views
        weight = next(view.weight for view in views if call.path == path or call.path.endswith(f"/{view.weight}"))
        axes = kind.weights[weight]
        read = self.channels[source]
        if len(axes.makes) == 2:  # a depthwise kernel
            self._touch(path, KEEPS, weight, axes.reads[0], read)
            self.channels[target] = np.repeat(read, getattr(layer, weight).shape[-1])
        else:
            self._touch(path, READS, weight, axes.reads[0], read)
            self._new(target)
            self._touch(path, MAKES, weight, axes.makes[0], self.channels[target])
        if layer.use_bias and weight == views[-1].weight:
            self._touch(path, MAKES if len(axes.makes) == 1 else KEEPS, "bias", -1, self.channels[target])

    def _same(self, call: Call, kind: Kind, path: str) -> None:
        (target,) = call.outputs
        size = self.graph.shapes[target][-1]
        whole = [tensor for tensor in call.inputs if len(self.channels[tensor]) == size]
        others = [tensor for tensor in call.inputs if tensor not in whole]
        self._freeze(others, f"{path} spreads them over other channels")
        if not whole:
            self._new(target)
            self._freeze([target], f"{path} spreads one channel over them")
            return
        for tensor in whole[1:]:
            self._unite(self.channels[whole[0]], self.channels[tensor])
        self.channels[target] = self.channels[whole[0]]
        variables = {variable.name: variable for variable in getattr(call.operation, "variables", ())}
        weights = [name for name in kind.weights if name in variables and variables[name].shape[-1] == size]
        for name in weights:
            self._touch(path, KEEPS, name, -1, self.channels[target])
        if not weights and kind.role is not Role.IDENTITY:
            self._touch(path, KEEPS, "", 0, self.channels[target])

    def _join(self, call: Call, path: str) -> None:
        (target,) = call.outputs
        rank = len(self.graph.shapes[target])
        if call.operation.axis % rank != rank - 1:
            self._same(call, kind_of(call.operation), path)
            return
        sizes = [len(self.channels[tensor]) for tensor in call.inputs]
        if sum(sizes) != self.graph.shapes[target][-1]:  # one tensor twice, of which the graph tells once
            self._freeze_call(call, f"{path}: it joins a tensor with itself")
            return
        self.channels[target] = np.concatenate([self.channels[tensor] for tensor in call.inputs])
        self._touch(path, KEEPS, "", 0, self.channels[target])

    def _reshape(self, call: Call, path: str) -> None:
        (source,), (target,), layer = call.inputs, call.outputs, call.operation
        before, after = self.graph.shapes[source], self.graph.shapes[target]
        read = self.channels[source]
        moves = type(layer) is keras.layers.Permute
        explicit = not isinstance(layer, keras.Layer) and layer.newshape[-1] != -1
        if (moves and layer.dims[-1] == len(before) - 1) or (not moves and not explicit and before[-1] == after[-1]):
            self.channels[target] = read
        elif not moves and not explicit and len(after) == 2 and None not in before[1:]:
            self.channels[target] = np.tile(read, math.prod(size for size in before[1:-1] if size))
        else:
            self._freeze_call(call, f"{path}: it moves channels among other axes")
            return
        self._touch(path, KEEPS, "", 0, self.channels[target])

    def _freeze_call(self, call: Call, reason: str) -> None:
        for tensor in call.outputs:
            self._new(tensor)
        self._freeze([*call.inputs, *call.outputs], reason)

    def _freeze(self, tensors: Iterable[int], reason: str) -> None:
        for tensor in tensors:
            self.frozen[reason] += self.channels[tensor].tolist()

    def _new(self, tensor: int) -> None:
        size = (self.graph.shapes[tensor][-1:] or (None,))[0] or 0
        self.channels[tensor] = np.arange(len(self.parents), len(self.parents) + size)
        self.parents += self.channels[tensor].tolist()

    def _touch(self, path: str, does: str, weight: str, axis: int, channels: np.ndarray) -> None:
        """Notes a member; a layer that is called again has the same channels in every call."""
        first = self.touched.setdefault((path, does, weight, axis), channels)
        if first is not channels and weight:
            self._unite(first, channels)

    def _unite(self, first: np.ndarray, second: np.ndarray) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.parents[self._root(other)] = self._root(one)

    def _root(self, channel: int) -> int:
        root = channel
        while self.parents[root] != root:
            root = self.parents[root]
        while self.parents[channel] != root:
            self.parents[channel], channel = root, self.parents[channel]
        return root


def _has_constants(call: Call, graph: Graph) -> bool:
    """Whether an operation has arrays with more than one value on their last axis among its arguments or settings."""
    if isinstance(call.operation, keras.layers.Rescaling):
        values = [call.operation.scale, call.operation.offset]
    elif isinstance(call.operation, keras.Layer):
        return False
    else:
        symbol: Any = graph.symbols[call.outputs[0]]
        history = symbol._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        values = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    arrays = [value for value in values if not isinstance(value, (keras.KerasTensor, str)) and hasattr(value, "shape")]
    lists = [value for value in values if isinstance(value, (list, tuple))]
    return any(len(array.shape) and array.shape[-1] != 1 for array in (*arrays, *map(np.asarray, lists)))
