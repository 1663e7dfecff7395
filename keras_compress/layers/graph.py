"""A model as a flat list of calls, in topological order: nested models opened, shared layers once for each use."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.capture import observed_inputs
from keras_compress.layers.kernels import named_views, views_by_path
from keras_compress.layers.operations import kind_of
from keras_compress.layers.paths import (
    ModelInputs,
    functional_graph,
    held_layers,
    is_graph,
    layers_by_path,
    nodes_in_order,
)
from keras_compress.layers.view import KernelView, LinearView

LINEAR = "linear"  # the product with one kernel of a known layer, and the bias
ACTIVATION = "activation"  # the same layer's activation
WHOLE = "whole"  # any other operation
Run = Callable[[dict[int, Any]], list[Any]]


@dataclasses.dataclass(frozen=True)
class Call:
    """One operation on tensors, which are numbered in the order in which they are made.

    Attributes:
        path: of the kernel for LINEAR, of the layer otherwise: `encoder/conv1`.
        part: LINEAR and ACTIVATION for layers whose product with the kernel is a step of its own, else WHOLE.
        operation: the Keras layer or operation.
        inputs, outputs: numbers of the tensors that it reads and makes.
        kernels: paths of the kernels that it reads.
    """

    path: str
    part: str
    operation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Run = dataclasses.field(repr=False, compare=False)
    kernels: tuple[str, ...] = ()


class Graph:
    """Calls of a model.

    Every call is in inference mode, also one that the model makes with training=True, such as a Dropout at random.
    Two models of equal architecture give equal graphs: call for call and tensor for tensor. A model whose connections
    are not known, or that passes on masks, is one call.

    Attributes:
        calls: in topological order.
        inputs: tensor numbers of the model's inputs, flat.
        outputs: tensor numbers of the model's outputs, flat.
        shapes: shape of each tensor, batch axis first.
        symbols: the KerasTensor that each tensor stands for, within the nested model that makes it; `None` between the
            parts of a known layer. The tensors of a nested model that is called twice stand for the same symbols.
        producer: tensor -> index of the call that makes it; the model's inputs have none.
        last_use: tensor -> index of the last call that reads it; none for a tensor that only leaves the model.
        views: path of a kernel -> KernelView, in order of first use.
        unseen: path of a kernel within another layer -> why its inputs cannot be seen there.
        opaque: why the model is one call, or "".

    Raises:
        InputError: no built Keras model, or a layer that changes its statistics whenever it is called.
    """

    def __init__(self, model: keras.Model):
        self.calls: list[Call] = []
        self.shapes: list[tuple[int | None, ...]] = []
        self.dtypes: list[str] = []
        self.symbols: list[keras.KerasTensor | None] = []
        self.views: dict[str, KernelView] = {}
        self.unseen: dict[str, str] = {}
        inputs = ModelInputs.of(model)
        self.inputs = tuple(self._new_tensor(tensor) for tensor in inputs.tensors)
        self.opaque = _reason_opaque(model)
        if self.opaque:
            self.outputs = self._add_opaque(model, inputs)
        else:
            self._paths = {id(layer): path for path, layer in layers_by_path(model).items()}
            numbers = {id(tensor): number for tensor, number in zip(inputs.tensors, self.inputs, strict=True)}
            self.outputs = self._add_model(model, numbers, "", None)
        self.producer = {tensor: index for index, call in enumerate(self.calls) for tensor in call.outputs}
        self.last_use = {tensor: index for index, call in enumerate(self.calls) for tensor in call.inputs}

    def check_known(self, message: str) -> None:
        """Raises InputError for a model that is one call, where what `message` refuses ("Tensors within it
        cannot be rounded") depends on its connections."""
        if self.opaque:
            raise InputError(f"{message}: {self.opaque}. Build it with the Functional API, and without masks.")

    def linear_calls(self, path: str) -> list[int]:
        """Indices of a kernel's own calls; more than one where its layer is shared; none within another layer."""
        return [index for index, call in enumerate(self.calls) if call.path == path and call.part == LINEAR]

    def holders(self, path: str) -> list[int]:
        """Indices of the calls that read a kernel: its own, or those of the layer that holds its layer."""
        return [index for index, call in enumerate(self.calls) if path in call.kernels]

    def skip_inputs(self, path: str) -> tuple[int, ...]:
        """Tensors that are there before a kernel's only call, and are added to its outputs, which go nowhere else."""
        calls = self.linear_calls(path)
        if len(calls) != 1:
            return ()
        (output,) = self.calls[calls[0]].outputs
        readers = [call for call in self.calls if output in call.inputs]
        while len(readers) == 1 and readers[0].part == ACTIVATION and is_linear(readers[0].operation):
            (output,) = readers[0].outputs
            readers = [call for call in self.calls if output in call.inputs]
        if len(readers) != 1 or kind_of(readers[0].operation).operator != "+" or output in self.outputs:
            return ()
        others = tuple(tensor for tensor in readers[0].inputs if tensor != output)
        before = all(self.producer.get(tensor, -1) < calls[0] for tensor in others)
        return others if before and all(self.shapes[tensor] == self.shapes[output] for tensor in others) else ()

    def needed(self, targets: Iterable[int], available: Iterable[int]) -> list[int]:
        """Indices of the calls that make the tensors `targets` from `available` ones, in order.

        Raises:
            KeyError: a target depends on an input that is not available.
        """
        available = set(available)
        indices: set[int] = set()
        pending = [tensor for tensor in targets if tensor not in available]
        while pending:
            index = self.producer[pending.pop()]
            if index not in indices:
                indices.add(index)
                pending += [tensor for tensor in self.calls[index].inputs if tensor not in available]
        return sorted(indices)

    def _new_tensor(self, tensor: Any, *, is_symbol: bool = True) -> int:
        self.symbols.append(tensor if is_symbol else None)
        self.shapes.append(tuple(tensor.shape))
        self.dtypes.append(keras.backend.standardize_dtype(tensor.dtype))
        return len(self.shapes) - 1

    def _add_opaque(self, model: keras.Model, inputs: ModelInputs) -> tuple[int, ...]:
        def run(values: dict[int, Any]) -> list[Any]:
            return keras.tree.flatten(inputs.call(model, [values[number] for number in self.inputs]))

        views = views_by_path(model)
        results = self._observe_inputs(model.name, self.inputs, run, views)
        outputs = tuple(self._new_tensor(tensor, is_symbol=False) for tensor in results)
        self.calls.append(Call(model.name, WHOLE, model, self.inputs, outputs, run, tuple(views)))
        return outputs

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
        outputs = self._add_model(node.operation, inner, f"{prefix}{node.operation.name}/", inner_training)
        return {id(tensor): number for tensor, number in zip(node.outputs, outputs, strict=True)}

    def _add_node(self, node: Any, numbers: dict[int, int], prefix: str, training: bool | None) -> None:
        operation = node.operation
        path = self._paths.get(id(operation), prefix + operation.name)
        inputs = tuple(dict.fromkeys(numbers[id(tensor)] for tensor in node.input_tensors))
        views = _views_within(path, operation)
        if views and all(isinstance(view, LinearView) and view.layer is operation for view in views.values()):
            self._add_known(views, path, inputs[0], numbers, node)  # type: ignore[arg-type]
            return
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

        if views.keys() - self.views.keys():
            self._observe_inputs(path, inputs, run, views)
        outputs = tuple(self._new_tensor(tensor) for tensor in node.outputs)
        numbers |= {id(tensor): number for tensor, number in zip(node.outputs, outputs, strict=True)}
        self.calls.append(Call(path, WHOLE, operation, inputs, outputs, run, tuple(views)))

    def _add_known(
        self, views: dict[str, LinearView], path: str, source: int, numbers: dict[int, int], node: Any
    ) -> None:
        (result,) = node.outputs
        for kernel_path, view in views.items():
            self.views.setdefault(kernel_path, view)
            shape = result.shape if len(views) == 1 else view.output_shape(self.shapes[source])
            linear = self._new_tensor(keras.KerasTensor(shape, result.dtype), is_symbol=False)

            def multiply(values: dict[int, Any], view: LinearView = view, source: int = source) -> list[Any]:
                return [view.linear(values[source])]

            self.calls.append(Call(kernel_path, LINEAR, view.layer, (source,), (linear,), multiply, (kernel_path,)))
            source = linear
        layer, activated = node.operation, self._new_tensor(result)

        def activate(values: dict[int, Any]) -> list[Any]:
            return [values[source] if is_linear(layer) else layer.activation(values[source])]

        self.calls.append(Call(path, ACTIVATION, layer, (source,), (activated,), activate))
        numbers[id(result)] = activated

    def _observe_inputs(self, path: str, inputs: tuple[int, ...], run: Run, views: dict[str, KernelView]) -> list[Any]:
        """Notes the order in which a call's inner layers are called, and which of them cannot be seen."""
        called: list[int] = []
        hidden: set[int] = set()

        def trace(*values: Any) -> Any:
            with observed_inputs(view.layer for view in views.values()) as noted:
                outputs = run(dict(zip(inputs, values, strict=True)))
            graph = tf.compat.v1.get_default_graph()
            called.extend(id(layer) for layer, _ in noted)
            hidden.update(id(layer) for layer, value in noted if getattr(value, "graph", None) is not graph)
            return outputs

        specs = [tf.TensorSpec(self.shapes[tensor], self.dtypes[tensor]) for tensor in inputs]
        try:
            traced = tf.function(trace, input_signature=specs, autograph=False).get_concrete_function()
        except Exception as error:  # whatever the user's own layer raises
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"Layer {path!r} cannot be traced in inference mode ({type(error).__name__}: {reason}). Its call must "
                "work on tensors with an open batch axis, as under model.predict."
            ) from error
        order = {layer: index for index, layer in reversed(list(enumerate(called)))}
        for kernel_path in sorted(views, key=lambda name: order.get(id(views[name].layer), len(called))):
            view = views[kernel_path]
            if not view.memoryless and id(view.layer) not in order:
                self.unseen[kernel_path] = f"{path} does not call this layer"
            elif not view.memoryless and id(view.layer) in hidden:
                self.unseen[kernel_path] = f"{path} calls this layer within a loop, which hides its inputs"
            else:
                self.views.setdefault(kernel_path, view)
        return list(traced.outputs)


def is_linear(layer: keras.Layer) -> bool:
    """Whether the layer has no activation of its own."""
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _views_within(path: str, operation: Any) -> dict[str, KernelView]:
    """Views of a layer's kernels, or of those of the layers that it holds."""
    if not isinstance(operation, keras.Layer):
        return {}
    views = named_views(path, operation)
    for name, layer in {} if views else held_layers(operation).items():
        views |= named_views(f"{path}/{name}", layer)
    return views


def _reason_opaque(model: keras.Model) -> str:
    if not is_graph(model):
        return f"model {model.name!r} is subclassed"
    for node in nodes_in_order(model):
        if any(getattr(tensor, "_keras_mask", None) is not None for tensor in node.outputs):
            return f"layer {node.operation.name!r} passes on a mask"
        if is_graph(node.operation) and (reason := _reason_opaque(node.operation)):
            return reason
    return ""
