"""A model as a flat list of calls, in topological order: nested models opened, shared layers once for each use."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_compress.errors import InputError
from keras_compress.layers.kernels import KernelView, kernel_view
from keras_compress.layers.paths import functional_graph, is_graph, layers_by_path, nodes_in_order

LINEAR = "linear"  # a known layer's product with its kernel and its bias
ACTIVATION = "activation"  # the same layer's activation
WHOLE = "whole"  # any other operation


@dataclasses.dataclass(frozen=True)
class Call:
    """One operation on tensors, which are numbered in the order in which they are made.

    Attributes:
        path: of the layer: `encoder/conv1`.
        part: LINEAR and ACTIVATION for layers with a kernel view, else WHOLE.
        operation: the Keras layer or operation.
        inputs, outputs: numbers of the tensors that it reads and makes.
    """

    path: str
    part: str
    operation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Callable[[dict[int, Any]], list[Any]] = dataclasses.field(repr=False, compare=False)


class Graph:
    """Calls of a Functional or Sequential model.

    Every call is in inference mode, also one that the model makes with training=True, such as a Dropout at random.
    Two models of equal architecture give equal graphs: call for call and tensor for tensor.

    Attributes:
        calls: in topological order.
        inputs: tensor numbers of the model's inputs, flat.
        outputs: tensor numbers of the model's outputs, flat.
        shapes: shape of each tensor, batch axis first.
        producer: tensor -> index of the call that makes it; the model's inputs have none.
        last_use: tensor -> index of the last call that reads it; none for a tensor that only leaves the model.
        views: layer path -> KernelView, in order of first use.
    """

    def __init__(self, model: keras.Model):
        self.calls: list[Call] = []
        self.shapes: list[tuple[int | None, ...]] = []
        self.views: dict[str, KernelView] = {}
        self._paths = {id(layer): path for path, layer in layers_by_path(model).items()}
        functional = functional_graph(model)
        self.inputs = tuple(self._new_tensor(tensor.shape) for tensor in functional.inputs)
        numbers = {id(tensor): number for tensor, number in zip(functional.inputs, self.inputs, strict=True)}
        self.outputs = self._add_model(model, numbers, "", None)
        self.producer = {tensor: index for index, call in enumerate(self.calls) for tensor in call.outputs}
        self.last_use = {tensor: index for index, call in enumerate(self.calls) for tensor in call.inputs}

    def linear_calls(self, path: str) -> list[int]:
        """Indices of a layer's calls; more than one where the layer is shared."""
        return [index for index, call in enumerate(self.calls) if call.path == path and call.part == LINEAR]

    def needed(self, wanted: Iterable[int], available: Iterable[int]) -> list[int]:
        """Indices of the calls that make `wanted` tensors from `available` ones, in order.

        Raises:
            KeyError: a wanted tensor hangs on an input that is not available.
        """
        available = set(available)
        indices: set[int] = set()
        pending = [tensor for tensor in wanted if tensor not in available]
        while pending:
            index = self.producer[pending.pop()]
            if index not in indices:
                indices.add(index)
                pending += [tensor for tensor in self.calls[index].inputs if tensor not in available]
        return sorted(indices)

    def _new_tensor(self, shape: tuple[int | None, ...]) -> int:
        self.shapes.append(tuple(shape))
        return len(self.shapes) - 1

    def _add_model(
        self, model: keras.Model, numbers: dict[int, int], prefix: str, training: bool | None
    ) -> tuple[int, ...]:
        """Adds the calls of a model whose input tensors already have numbers; returns those of its outputs."""
        for node in nodes_in_order(model):
            if is_graph(node.operation):
                numbers |= self._add_nested(node, numbers, prefix, training)
            else:
                self._add_node(node, numbers, prefix, training)
        return tuple(numbers[id(tensor)] for tensor in functional_graph(model).outputs)

    def _add_nested(self, node: Any, numbers: dict[int, int], prefix: str, training: bool | None) -> dict[int, int]:
        args, kwargs = node.arguments.args, node.arguments.kwargs
        read = keras.tree.flatten(args[0] if args else kwargs["inputs"])
        sources = functional_graph(node.operation).inputs
        inner = {id(tensor): numbers[id(outer)] for tensor, outer in zip(sources, read, strict=True)}
        inner_training = training if kwargs.get("training") is None else kwargs["training"]
        made = self._add_model(node.operation, inner, f"{prefix}{node.operation.name}/", inner_training)
        return {id(tensor): number for tensor, number in zip(node.outputs, made, strict=True)}

    def _add_node(self, node: Any, numbers: dict[int, int], prefix: str, training: bool | None) -> None:
        operation = node.operation
        path = self._paths.get(id(operation), prefix + operation.name)
        for tensor in node.outputs:
            if getattr(tensor, "_keras_mask", None) is not None:
                raise InputError(
                    f"Layer {path!r} passes on a mask, and masks are not followed yet. Remove masking "
                    "(Masking layers, Embedding(mask_zero=True)) or quantize the parts of the model without it."
                )
        inputs = tuple(dict.fromkeys(numbers[id(tensor)] for tensor in node.input_tensors))
        view = kernel_view(operation)
        if view is not None:
            self._add_known(view, path, inputs[0], numbers, node)
            return
        outputs = tuple(self._new_tensor(tensor.shape) for tensor in node.outputs)
        known = {id(tensor): numbers[id(tensor)] for tensor in node.input_tensors}
        settings = {}
        if isinstance(operation, keras.Layer) and "training" in inspect.signature(operation.call).parameters:
            settings["training"] = False
            own = node.arguments.kwargs.get("training")
            if (training if own is None else own) and operation.trainable and operation.non_trainable_weights:
                raise InputError(
                    f"Layer {path!r} is called with training=True, so that each batch changes its statistics. Rebuild "
                    "the model without training=True."
                )

        def run(values: dict[int, Any]) -> list[Any]:
            args, kwargs = node.arguments.fill_in({key: values[number] for key, number in known.items()})
            return keras.tree.flatten(operation(*args, **(kwargs | settings)))

        numbers |= {id(tensor): number for tensor, number in zip(node.outputs, outputs, strict=True)}
        self.calls.append(Call(path, WHOLE, operation, inputs, outputs, run))

    def _add_known(self, view: KernelView, path: str, source: int, numbers: dict[int, int], node: Any) -> None:
        self.views.setdefault(path, view)
        (result,) = node.outputs
        linear = self._new_tensor(result.shape)
        self.calls.append(
            Call(path, LINEAR, view.layer, (source,), (linear,), lambda values: [view.linear(values[source])])
        )
        activated = self._new_tensor(result.shape)
        self.calls.append(
            Call(
                path,
                ACTIVATION,
                view.layer,
                (linear,),
                (activated,),
                lambda values: [values[linear] if is_linear(view.layer) else view.layer.activation(values[linear])],
            )
        )
        numbers[id(result)] = activated


def is_linear(layer: keras.Layer) -> bool:
    """Whether the layer has no activation of its own."""
    return getattr(layer, "activation", None) in (None, keras.activations.linear)
