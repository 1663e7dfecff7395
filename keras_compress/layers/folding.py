"""Batch normalization folded into the layers around it, where the folded model computes the same function.

In inference, BatchNormalization is `(z - mean) * factor + beta` with `factor = gamma / sqrt(variance + epsilon)`, one
of each a channel. Where z = XW + b goes nowhere else, that is XW' + b' with W' = W * factor and
b' = (b - mean) * factor + beta. Where it stands before a Dense layer, what it adds can go into that layer's bias:
(x * factor + offset) W + b = (x * factor) W + (b + offset W).
"""

import collections
import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np

from keras_compress.layers.graph import LINEAR, Graph
from keras_compress.layers.operations import KINDS, kind_of
from keras_compress.layers.paths import functional_graph, is_graph, layers_by_path, nodes_in_order
from keras_compress.layers.rewrite import Change, copy_layer, rebuild


@dataclasses.dataclass(frozen=True)
class Fold:
    """What a layer took over from the BatchNormalization behind it.

    Attributes:
        batch_normalization: path of the layer that is gone.
        kernel: path of the kernel: that of the layer, and its name where the layer has several.
        factor: (n_out,) float64: what each output channel of the kernel was multiplied by.
    """

    batch_normalization: str
    kernel: str
    factor: np.ndarray


# Exact types of layers that a BatchNormalization can be folded into.
FOLDABLE = tuple(kind for kind, row in KINDS.items() if row.folds)


def fold(
    model: keras.Model, kinds: Collection[type] = FOLDABLE, left: Callable[[Fold], str | None] | None = None
) -> tuple[keras.Model, dict[str, Fold], dict[str, str]]:
    """A new model that computes the same as `model` in inference, with fewer BatchNormalization layers.

    Args:
        model: a built Functional or Sequential model; not written to.
        kinds: types of the layers to fold into.
        left: says of what could be folded why it is not; None where it is.

    Returns:
        The new model, in which each folded layer has a bias; what was folded, by the path of the layer with the kernel;
        and why the other BatchNormalization layers stay, by their path.

    Raises:
        InputError: a subclassed model, one that is not built, or a layer that its configuration does not describe.
    """
    plan = _Plan(model, kinds)
    if left is not None:
        plan.reasons |= {each.batch_normalization: why for each in plan.folds.values() if (why := left(each))}
        plan.folds = {path: each for path, each in plan.folds.items() if each.batch_normalization not in plan.reasons}
    layers = layers_by_path(model)
    changes = {folded.batch_normalization: Change() for folded in plan.folds.values()}
    for path, folded in plan.folds.items():
        weights = _folded_weights(layers[path], layers[folded.batch_normalization], folded.factor)
        changes[path] = Change([copy_layer(layers[path], use_bias=True)], [weights])
    return rebuild(model, changes).model, plan.folds, plan.reasons


def fold_all(model: keras.Model) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """Folded wherever that is exact: the new model, and path of a kernel -> what its channels were multiplied by.

    A subclassed model stays as it is.
    """
    if not is_graph(model):
        return model, {}
    folded, folds, _ = fold(model)
    return folded, {each.kernel: each.factor for each in folds.values()}


def foldable(model: keras.Model) -> dict[str, Fold]:
    """What `fold` would fold, by the path of the layer with the kernel; nothing is changed."""
    return _Plan(model, FOLDABLE).folds


class Factor(keras.layers.Layer):
    """Multiplies each channel, the last axis, by a constant; called as a BatchNormalization is."""

    def __init__(self, factor: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = np.asarray(factor, np.float32)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return inputs * self.factor

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"factor": self.factor.tolist()}


def move_offsets(model: keras.Model, paths: Collection[str]) -> keras.Model:
    """A copy in which BatchNormalization before some Dense layers only multiplies, and their biases have what it added.

    Args:
        model: a built Functional or Sequential model; not written to.
        paths: of the Dense kernels. Layers among them that have no such BatchNormalization to themselves stay.
    """
    graph = Graph(model)
    layers = layers_by_path(model)
    calls = collections.Counter(call.path for call in graph.calls)
    factors: dict[str, np.ndarray] = {}
    offsets: dict[str, np.ndarray] = {}
    for call in graph.calls:
        normalization, readers = call.operation, [each for each in graph.calls if set(call.outputs) & set(each.inputs)]
        movable = (
            type(normalization) is keras.layers.BatchNormalization
            and normalization.axis in (-1, len(graph.shapes[call.inputs[0]]) - 1)
            and not set(call.outputs) & set(graph.outputs)
            and calls[call.path] == 1
            and all(each.part == LINEAR and each.path in paths for each in readers)
            and all(type(each.operation) is keras.layers.Dense for each in readers)
            and all(len(graph.linear_calls(each.path)) == 1 for each in readers)
        )
        if movable:
            factors[call.path] = _factor(normalization)
            beta = _float64(normalization.beta) if normalization.center else 0.0
            offset = beta - _float64(normalization.moving_mean) * factors[call.path]
            offsets |= {each.path: offset for each in readers}

    changes = {path: Change([Factor(factor, name=layers[path].name)]) for path, factor in factors.items()}
    for path, offset in offsets.items():
        layer = layers[path]
        bias = _float64(layer.bias) if layer.use_bias else 0.0
        moved = (bias + offset @ _float64(layer.kernel)).astype(np.float32)
        changes[path] = Change([copy_layer(layer, use_bias=True)], [{"bias": moved}])
    return rebuild(model, changes).model


def _folded_weights(layer: keras.Layer, normalization: keras.Layer, factor: np.ndarray) -> dict[str, np.ndarray]:
    """The kernel and the bias of `layer` with `normalization` behind it."""
    kind = kind_of(layer)
    kernel, axes = _float64(getattr(layer, kind.folds)), kind.weights[kind.folds].makes
    shape = [size if axis - kernel.ndim in axes else 1 for axis, size in enumerate(kernel.shape)]
    bias = _float64(layer.bias) if layer.use_bias else 0.0
    offset = _float64(normalization.beta) if normalization.center else 0.0
    weights = {
        kind.folds: kernel * factor.reshape(shape),
        "bias": (bias - _float64(normalization.moving_mean)) * factor + offset,
    }
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _factor(normalization: keras.Layer) -> np.ndarray:
    scale = _float64(normalization.gamma) if normalization.scale else 1.0
    with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite gets a reason to stay
        return scale / np.sqrt(_float64(normalization.moving_variance) + normalization.epsilon)


def _float64(variable: Any) -> np.ndarray:
    return variable.numpy().astype(np.float64)


class _Plan:
    """Which BatchNormalization layers of a model can be folded, and why the others cannot."""

    def __init__(self, model: keras.Model, kinds: Collection[type]):
        self.kinds = kinds
        self.folds: dict[str, Fold] = {}
        self.reasons: dict[str, str] = {}
        self.paths = {id(layer): path for path, layer in layers_by_path(model).items()}
        self.graphs: dict[int, keras.Model] = {}
        self.trained: set[int] = set()  # graphs that are somewhere called with training=True
        self.calls: collections.Counter[int] = collections.Counter()
        self._open(model, training=False)
        for graph in self.graphs.values():
            self.calls.update(id(node.operation) for node in nodes_in_order(graph))
        for graph in self.graphs.values():
            self._visit(graph)

    def _open(self, graph: keras.Model, training: bool) -> None:
        if id(graph) in self.graphs and (not training or id(graph) in self.trained):
            return
        self.graphs[id(graph)] = graph
        if training:
            self.trained.add(id(graph))
        for node in nodes_in_order(graph):
            if is_graph(node.operation):
                own = node.arguments.kwargs.get("training")
                self._open(node.operation, training if own is None else bool(own))

    def _visit(self, graph: keras.Model) -> None:
        nodes = nodes_in_order(graph)
        producers = {id(tensor): node for node in nodes for tensor in node.output_tensors}
        readers = collections.defaultdict(list)
        for node in nodes:
            for tensor in {id(tensor): tensor for tensor in node.input_tensors}.values():
                readers[id(tensor)].append(self._name(node.operation))
        for tensor in functional_graph(graph).outputs:
            readers[id(tensor)].append(f"the outputs of model {graph.name!r}")
        for node in nodes:
            if type(node.operation) is not keras.layers.BatchNormalization:
                continue
            path = self.paths[id(node.operation)]
            producer: Any = producers.get(id(node.input_tensors[0]))
            reason = self._reason_to_stay(graph, node, producer, readers[id(node.input_tensors[0])])
            if reason:
                self.reasons[path] = reason
            else:
                layer = self.paths[id(producer.operation)]
                name = kind_of(producer.operation).folds
                self.folds[layer] = Fold(
                    path, layer if name == "kernel" else f"{layer}/{name}", _factor(node.operation)
                )

    def _reason_to_stay(self, graph: keras.Model, node: Any, producer: Any, readers: list[str]) -> str | None:
        """The first thing that makes folding inexact, said of the layer; `None` if there is none."""
        normalization = node.operation
        if self.calls[id(normalization)] > 1:
            return "it is called more than once"
        if node.arguments.kwargs.get("training") or id(graph) in self.trained:
            return "it is called with training=True, so that it normalizes by each batch"
        if normalization.axis not in (-1, len(node.input_tensors[0].shape) - 1):
            return f"it normalizes axis {normalization.axis}, and only the last axis can be folded"
        if producer is None:
            return f"it reads an input of model {graph.name!r}, and no kernel comes before"
        layer = producer.operation
        before = f"it comes after {self._name(layer)}"
        if type(layer) not in self.kinds:
            return f"{before}, which has no kernel to fold into"
        if layer.activation not in (None, keras.activations.linear):
            return f"{before}, whose activation lies between"
        if self.calls[id(layer)] > 1:
            return f"{before}, which is called more than once"
        if len(readers) > 1:
            others = [reader for reader in readers if reader != self._name(normalization)]
            return f"{before}, whose output also goes to {' and '.join(others)}"
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            return f"{before}, whose data format is channels_first"
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            return f"{before}, whose kernel Keras has quantized or extended by LoRA"
        if layer.compute_dtype != normalization.compute_dtype:
            return f"{before}, which computes in {layer.compute_dtype} and not in {normalization.compute_dtype}"
        if not np.isfinite(_factor(normalization)).all():
            return "its moving variance or gamma holds numbers that cannot be folded (NaN, Inf or a negative variance)"
        return None

    def _name(self, operation: keras.Operation) -> str:
        return f"{type(operation).__name__} {self.paths.get(id(operation), operation.name)!r}"
