"""Names for the layers of a model that may hold other models, and the order in which a model calls its layers."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import keras

# Keras exports no name for the class of `keras.Model(inputs, outputs)`.
from keras.src.models.functional import Functional

from keras_compress.errors import InputError


def model_in(model_or_result: Any) -> Any:
    """The model of a result; anything else as it is."""
    is_model = isinstance(model_or_result, keras.Model)
    return model_or_result if is_model else getattr(model_or_result, "model", model_or_result)


def is_graph(layer: Any) -> bool:
    """Whether `layer` is a model whose connections are known: Functional or Sequential, with Keras' own `call`."""
    if isinstance(layer, keras.Sequential):
        return type(layer).call is keras.Sequential.call
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def no_model(value: Any) -> str:
    """What something is that is no Keras 3 model, and how it becomes one: the end of a message."""
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if isinstance(value, (str, os.PathLike)):
        return f"{kind}, {os.fspath(value)!r}. Load the file first: kc.load_model(path)."
    if kind.startswith("tf_keras."):
        return f"{kind}, a model of Keras 2. Convert it first: kc.from_tf_keras(model)."
    return f"{kind}. Save a model of another library and load it with kc.load_model(path)."


def functional_graph(model: keras.Model) -> Functional:
    """The Functional model that holds the connections of `model`: itself, or what a Sequential model built.

    Raises:
        InputError: not a Keras 3 model, a subclassed model, or one that is not built.
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"A keras.Model is expected. Received: {no_model(model)}")
    if not is_graph(model):
        raise InputError(
            f"Model {model.name!r} is subclassed (class {type(model).__name__} with its own `call`), so that the "
            "connections of its layers are not known. Build it with the Functional API, keras.Model(inputs, outputs), "
            "or as a keras.Sequential model."
        )
    if not isinstance(model, keras.Sequential):
        return model
    # Private: a Sequential model tells its layers, but not the tensors between them.
    if model._functional is None:
        raise InputError(
            f"Model {model.name!r} is not built: its input shape is not known. "
            "Begin it with keras.Input(shape), or call model.build(input_shape)."
        )
    return model._functional


@dataclasses.dataclass(frozen=True)
class ModelInputs:
    """What a model is called on.

    Attributes:
        names: of the inputs; the keys where they are a dictionary.
        tensors: their shapes, batch axis first, and types.
        structure: nested as the model expects them; a dictionary of arguments where there are several.
        several_arguments: whether `call` takes the inputs as arguments of their own.
    """

    names: list[str]
    tensors: list[keras.KerasTensor]
    structure: Any
    several_arguments: bool = False

    @classmethod
    def of(cls, model: keras.Model) -> "ModelInputs":
        """The inputs of a built model, also of a subclassed one.

        Raises:
            InputError: see `check_model`.
        """
        check_model(model)
        if not is_graph(model):
            return cls._of_build(model)
        graph = functional_graph(model)
        names = sorted(graph.input) if isinstance(graph.input, dict) else [tensor.name for tensor in graph.inputs]
        return cls(names, list(graph.inputs), graph.input)

    @classmethod
    def _of_build(cls, model: keras.Model) -> "ModelInputs":
        """Those that a subclassed model was first called on, or built with."""
        config = model.get_build_config() or {}
        shapes = config.get("shapes_dict", config.get("input_shape"))
        several = "shapes_dict" in config
        if several and shapes is not None:
            shapes = {name.removesuffix("_shape"): shape for name, shape in shapes.items()}
        structure = _tensors_of(shapes, model.input_dtype)
        tensors = keras.tree.flatten(structure)
        names = sorted(structure) if isinstance(structure, dict) else [f"input_{i}" for i in range(len(tensors))]
        return cls(names, tensors, structure, several)

    def call(self, model: keras.Model, values: list[Any]) -> Any:
        """The outputs of the model in inference mode."""
        packed = keras.tree.pack_sequence_as(self.structure, values)
        return model(**packed, training=False) if self.several_arguments else model(packed, training=False)


def _tensors_of(shapes: Any, dtype: str) -> Any:
    if isinstance(shapes, dict):
        return {name: _tensors_of(shape, dtype) for name, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((None, *shapes[1:]), dtype)
    return [_tensors_of(shape, dtype) for shape in shapes]


def check_model(model: Any) -> None:
    """Raises InputError for what is no Keras 3 model, or is not built."""
    if not isinstance(model, keras.Model):
        functional_graph(model)
    if is_graph(model):
        functional_graph(model)
    elif not model.built or not model.get_build_config():
        raise InputError(
            f"Model {model.name!r} is not built: its input shape is not known. Call it once on a batch of samples."
        )


def nodes_in_order(model: keras.Model) -> list[Any]:
    """The calls (Keras' nodes) of a model's own graph, each after those it reads from; input nodes are left out.

    A nested model is one call. Nodes that its layers have in other models are not among them.

    Raises:
        InputError: see `functional_graph`.
    """
    # Private: `model.operations` tells the operations, but not which of their calls belong to this model.
    by_depth = functional_graph(model)._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def layers_by_path(model: keras.Model) -> dict[str, keras.Layer]:
    """Every layer of a model once, by path, in the order of `model.layers`.

    The path of a layer is its name, after the names of the nested models that hold it: `conv1`, `encoder/conv1`. Nested
    Functional and Sequential models are opened and are not listed themselves. A layer in two places has its first path.
    Wrappers such as TimeDistributed, and nested subclassed models, are listed and not opened.
    """
    layers: dict[str, keras.Layer] = {}
    seen: set[int] = set()

    def visit(parent: keras.Model, prefix: str) -> None:
        for layer in parent.layers:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            if is_graph(layer):
                visit(layer, f"{prefix}{layer.name}/")
            else:
                layers[prefix + layer.name] = layer

    visit(model, "")
    return layers


def all_layers_by_path(model: keras.Model) -> dict[str, keras.Layer]:
    """Every layer at any depth, by path: those of `layers_by_path`, each before the layers that it holds itself.

    A layer that another one holds, such as a projection of MultiHeadAttention or a part of a subclassed model, goes by
    the name of the attribute that holds it, without leading underscores: `attention/query_dense`, `blocks/0/dense`.
    Attributes have the same names in a copy of the layer, which the names of layers need not have.
    """
    if not is_graph(model):
        return held_layers(model)
    layers: dict[str, keras.Layer] = {}
    for path, layer in layers_by_path(model).items():
        layers[path] = layer
        layers |= {f"{path}/{name}": inner for name, inner in held_layers(layer).items()}
    return layers


def held_layers(holder: keras.Layer) -> dict[str, keras.Layer]:
    """The layers that a layer holds in its attributes, at any depth; see `all_layers_by_path`."""
    return dict(_held_layers(holder, "", {id(holder)}))


def _held_layers(holder: keras.Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, keras.Layer]]:
    tracked = {id(layer) for layer in holder._flatten_layers(include_self=False)}  # private: there is no other list
    for attribute, value in vars(holder).items():
        if attribute in ("_layers", "_functional") or attribute.startswith("_self_"):
            continue  # lists of the same layers that Keras and TensorFlow keep
        for name, layer in _layers_in(attribute.lstrip("_"), value):
            if id(layer) in seen or id(layer) not in tracked:
                continue
            seen.add(id(layer))
            if is_graph(layer):
                for path, inner in layers_by_path(layer).items():
                    yield f"{prefix}{name}/{path}", inner
                    yield from _held_layers(inner, f"{prefix}{name}/{path}/", seen)
            else:
                yield prefix + name, layer
                yield from _held_layers(layer, f"{prefix}{name}/", seen)


def _layers_in(name: str, value: Any) -> Iterator[tuple[str, keras.Layer]]:
    if isinstance(value, keras.Layer):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _layers_in(f"{name}/{index}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _layers_in(f"{name}/{key}", item)
