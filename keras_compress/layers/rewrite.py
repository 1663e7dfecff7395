"""New models with the layers of old ones: equal, or with some layers left out, replaced, or turned into several."""

import dataclasses
import tempfile
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

# Keras exports neither the class of `keras.Model(inputs, outputs)` nor its test for a constructor with these arguments.
from keras.src.models.functional import Functional, functional_like_constructor

from keras_compress.errors import InputError
from keras_compress.layers.kernels import named_views
from keras_compress.layers.paths import check_model, functional_graph, is_graph, layers_by_path, nodes_in_order

T = TypeVar("T")
Inserter = Callable[[keras.KerasTensor], Iterable[keras.Layer]]


@dataclasses.dataclass(frozen=True)
class Change:
    """What takes the place of a layer.

    Attributes:
        layers: none leaves the layer out, which must read one tensor; one replaces or resizes it; several are a chain,
            of which the first is called as the layer was. Unbuilt, or with weights that are kept.
        weights: for each of `layers`, name of a variable -> its value. Another variable has the value of the old
            layer's variable of the same name and shape, or else its first value.
    """

    layers: Sequence[keras.Layer] = ()
    weights: Sequence[Mapping[str, np.ndarray]] = ()


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A new model, and where the kernels of the old one are in it.

    Attributes:
        model: the new model.
        moved: path of a kernel of a changed layer -> its path in the new model; None where it is gone. A layer's
            kernels become those of the layers in its place, in their order, if there are as many. All other kernels
            have the paths that they had.
    """

    model: keras.Model
    moved: dict[str, str | None]

    def by_new_paths(self, held: Mapping[str, T]) -> dict[str, T]:
        """What is known of kernels of the old model, by their paths in the new one; without those that are gone."""
        paths = {path: self.moved.get(path, path) for path in held}
        return {new: held[path] for path, new in paths.items() if new is not None}


def clone_model(model: keras.Model) -> keras.Model:
    """A model equal to `model` that shares no layer, weight or node with it.

    Class, names, structure of inputs and outputs, weights, random seeds and trainable flags are the same. Layers that
    were shared stay shared, nested models are cloned, a Lambda layer gets the same Python function.

    A subclassed model is built again from its configuration; its layers are those that its constructor makes.

    Two things cannot always be copied. A class derived from Functional or Sequential with a constructor of its own
    becomes a plain Functional or Sequential model. A compiled model is compiled alike, with a new optimizer, if Keras
    can serialize how it was compiled; otherwise (a custom loss that is not registered) the clone is not compiled.

    Raises:
        InputError: a model that is not built, or a layer or model that its configuration does not describe.
    """
    return rebuild(model).model if is_graph(model) else _clone_subclassed(model)


def rebuild(
    model: keras.Model, changes: Mapping[str, Change] | None = None, *, insert: Inserter | None = None
) -> Rewrite:
    """A new model in which some layers are left out, replaced, or turned into several.

    Args:
        model: a built Functional or Sequential model; not written to.
        changes: path of a layer -> what takes its place.
        insert: gets each tensor of `model` once, inputs and outputs of all calls, those within nested models too;
            returns new layers, one behind the other, whose output takes the tensor's place for all that read it.

    Raises:
        InputError: as `clone_model`; a path that no layer has; weights that do not fit.
    """
    functional_graph(model)  # refuses what cannot be rebuilt, before any work starts
    layers, changes = layers_by_path(model), changes or {}
    if unknown := sorted(changes.keys() - layers.keys()):
        raise InputError(f"Expected paths of layers of model {model.name!r}. Received: {unknown}.")
    by_layer = {id(layers[path]): change for path, change in changes.items()}
    rebuilt = _Rebuild(by_layer, insert or (lambda tensor: ())).run(model)
    moved: dict[str, str | None] = {}
    for path, change in changes.items():
        old, folder = list(named_views(path, layers[path])), path.removesuffix(layers[path].name)
        new = [kernel for layer in change.layers for kernel in named_views(folder + layer.name, layer)]
        moved |= dict(zip(old, new, strict=True)) if len(old) == len(new) else dict.fromkeys(old)
    return Rewrite(rebuilt, moved)


def _clone_subclassed(model: keras.Model) -> keras.Model:
    check_model(model)
    copy = copy_layer(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns where building fails: see below
            copy.build_from_config(model.get_build_config())
            copy.built = True  # Keras leaves it False where it calls the model on symbols, for want of a `build`
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"Model {model.name!r} cannot be built again: {' '.join(str(error).split())[:200]}") from error
    _copy_state(model, copy)
    for old_variable, new_variable in zip(model.variables, copy.variables, strict=True):
        new_variable.trainable = old_variable.trainable
    _copy_compile_state(model, copy)
    return copy


def copy_layer(layer: keras.Layer, **changes: Any) -> keras.Layer:
    """A new, unbuilt layer with the configuration of `layer`, some entries changed.

    Raises:
        InputError: the configuration does not lead back to such a layer.
    """
    if type(layer) is keras.layers.Lambda:
        return _copy_lambda(layer, **changes)
    if type(layer) is keras.layers.TimeDistributed:  # its configuration would hold the code of a Lambda within
        inner = rebuild(layer.layer).model if is_graph(layer.layer) else copy_layer(layer.layer)
        return keras.layers.TimeDistributed(inner, **(keras.Layer.get_config(layer) | changes))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a lambda as an activation is not serialized in the end: see below
            config = layer.get_config() | changes
        # A function of the user's own need not be registered with Keras: the very same object is handed over.
        for name in config.keys() - changes.keys():
            if isinstance(getattr(layer, name, None), types.FunctionType):
                config[name] = getattr(layer, name)
        copy = type(layer).from_config(config)
        if "name" not in changes:
            copy.name = layer.name  # a get_config() of the user's own may leave it out
        return copy
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"Layer {layer.name!r} ({type(layer).__name__}) cannot be rebuilt from its configuration: {reason} "
            "Its get_config() and from_config() must lead back to an equal layer; register the custom objects in it "
            "with @keras.saving.register_keras_serializable."
        ) from error


def _copy_lambda(layer: keras.layers.Lambda, **changes: Any) -> keras.layers.Lambda:
    """The same Python function in a new layer: the configuration would hold its byte code."""
    config = keras.Layer.get_config(layer) | {
        "function": layer.function,
        "output_shape": layer._output_shape,  # private: kept nowhere else
        "mask": layer.mask,
        "arguments": dict(layer.arguments),
    }
    return keras.layers.Lambda(**(config | changes))


def _copy_operation(operation: keras.Operation) -> keras.Operation:
    """A new operation (`x + y`, `keras.ops.relu(x)`) with the same attributes and no calls.

    Not through its configuration: Keras makes one only of plain numbers and strings, and an operation such as
    `keras.ops.cond` holds functions.
    """
    copy = object.__new__(type(operation))
    vars(copy).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return copy


class _Rebuild:
    """One run of `rebuild`: remembers the copies of every layer, so that what was shared stays shared."""

    def __init__(self, changes: Mapping[int, Change], insert: Inserter):
        self.changes = changes  # id of a layer -> what takes its place
        self.insert = insert
        self.copies: dict[int, tuple[keras.Operation, list[Any]]] = {}  # id of a layer -> it, and what takes its place

    def run(self, model: keras.Model) -> keras.Model:
        built = {id(layer) for change in self.changes.values() for layer in change.layers if layer.built}
        copy = self.graph(model)
        for identity, (old, new) in self.copies.items():
            if identity in self.changes:
                weights = [*self.changes[identity].weights, *({} for _ in new)]
                for layer, values in zip(new, weights, strict=False):
                    if id(layer) not in built:
                        _write(old, layer, values)
            elif isinstance(old, keras.Layer) and not is_graph(old):
                _copy_state(old, new[0])
        self.copy_trainable(model, copy)
        _copy_compile_state(model, copy)
        return copy

    def graph(self, model: keras.Model) -> keras.Model:
        build = self.sequential if isinstance(model, keras.Sequential) else self.functional
        copy = build(model)
        copy.dtype_policy = model.dtype_policy
        return copy

    def sequential(self, model: keras.Sequential) -> keras.Sequential:
        kind = type(model) if type(model).__init__ is keras.Sequential.__init__ else keras.Sequential
        (source,) = functional_graph(model).inputs
        layers = [*self.insert(source)]
        for node in nodes_in_order(model):
            if isinstance(node.operation, keras.Layer):  # not an operation by which a layer makes its mask
                copies = self.copies_of(node.operation)
                layers += [*copies, *self.insert(node.output_tensors[0])] if copies else []
        return kind([_copy_input(source), *layers], name=model.name)

    def functional(self, model: Functional) -> Functional:
        inputs = keras.tree.map_structure(_copy_input, model.input)
        tensors = {
            id(old): self.behind(old, new)
            for old, new in zip(keras.tree.flatten(model.input), keras.tree.flatten(inputs), strict=True)
        }
        for node in nodes_in_order(model):
            copies = self.copies_of(node.operation)
            if not copies:
                (source,) = node.input_tensors
                tensors[id(node.output_tensors[0])] = tensors[id(source)]
                continue
            _check_arguments(model, node)
            args, kwargs = node.arguments.fill_in(tensors)
            results = copies[0](*args, **kwargs)
            for layer in copies[1:]:
                results = layer(results)
            pairs = zip(node.output_tensors, keras.tree.flatten(results), strict=True)
            tensors |= {id(old): self.behind(old, new) for old, new in pairs}
        outputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], model.output)
        kind = type(model) if functional_like_constructor(type(model)) else keras.Model
        return kind(inputs, outputs, name=model.name)

    def behind(self, old: keras.KerasTensor, new: keras.KerasTensor) -> keras.KerasTensor:
        for layer in self.insert(old):
            new = layer(new)
        return new

    def copies_of(self, operation: keras.Operation) -> list[Any]:
        if id(operation) not in self.copies:
            self.copies[id(operation)] = operation, self.new_copies(operation)
        return self.copies[id(operation)][1]

    def new_copies(self, operation: keras.Operation) -> list[Any]:
        if id(operation) in self.changes:
            return list(self.changes[id(operation)].layers)
        if not isinstance(operation, keras.Layer):
            return [_copy_operation(operation)]
        return [self.graph(operation) if is_graph(operation) else copy_layer(operation)]

    def copy_trainable(self, old: keras.Layer, new: keras.Layer) -> None:
        """From the outside in, since setting the flag of a model sets it in all of its layers."""
        if new.trainable != old.trainable:
            new.trainable = old.trainable
        if not is_graph(old):
            for old_variable, new_variable in zip(old.variables, new.variables, strict=False):
                new_variable.trainable = old_variable.trainable
            return
        for layer in old.layers:
            for copy in self.copies.get(id(layer), (layer, []))[1]:
                self.copy_trainable(layer, copy)


def _copy_input(tensor: keras.KerasTensor) -> keras.KerasTensor:
    source = tensor._keras_history.operation  # private: no other way from a tensor to its InputLayer
    return keras.layers.InputLayer(**source.get_config()).output


def _check_arguments(model: keras.Model, node: Any) -> None:
    for argument in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
        if isinstance(argument, keras.Variable):
            raise InputError(
                f"Operation {node.operation.name!r} in model {model.name!r} reads variable {argument.path!r} itself: "
                "a copy of the model would share it. Put the operation into a layer that owns the variable."
            )


def _write(old: keras.Layer, new: keras.Layer, weights: Mapping[str, np.ndarray]) -> None:
    """Gives a new layer its weights: those named, and the old layer's of the same name and shape."""
    before = {variable.name: variable for variable in old.variables}
    if unknown := sorted(weights.keys() - {variable.name for variable in new.variables}):
        raise InputError(f"Layer {new.name!r} has no weights {unknown}.")
    for variable in new.variables:
        value: Any = weights.get(variable.name, before.get(variable.name))
        if value is not None and tuple(value.shape) == tuple(variable.shape):
            variable.assign(value)
        elif variable.name in weights:
            raise InputError(
                f"Expected {variable.name!r} of layer {new.name!r} of shape {tuple(variable.shape)}. "
                f"Received: {tuple(value.shape)}."
            )


def _copy_state(old: keras.Layer, new: keras.Layer) -> None:
    """Weights, seeds, and what a layer keeps in addition to its variables (statistics, vocabularies)."""
    if [variable.shape for variable in old.variables] != [variable.shape for variable in new.variables]:
        raise InputError(
            f"Layer {old.name!r} ({type(old).__name__}) has other weights when it is rebuilt from its configuration: "
            f"{[tuple(variable.shape) for variable in old.variables]} became "
            f"{[tuple(variable.shape) for variable in new.variables]}. Its get_config() must describe all of them."
        )
    for old_variable, new_variable in zip(old.variables, new.variables, strict=True):
        new_variable.assign(old_variable.value)
    if type(old).load_own_variables is not keras.Layer.load_own_variables:
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def _copy_compile_state(old: keras.Model, new: keras.Model) -> None:
    if not old.compiled:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a loss that cannot be serialized, or a compile() of the user's own
            new.compile_from_config(old.get_compile_config())
    except Exception:  # whatever the user's own loss, metric or optimizer raises when Keras serializes it
        return
