"""Names for the layers of a model that may hold other models, and the order in which a model calls its layers."""

from typing import Any

import keras

# Keras exports no name for the class of `keras.Model(inputs, outputs)`.
from keras.src.models.functional import Functional

from keras_compress.errors import InputError


def is_graph(layer: Any) -> bool:
    """Whether `layer` is a model whose connections are known: Functional or Sequential, with Keras' own `call`."""
    if isinstance(layer, keras.Sequential):
        return type(layer).call is keras.Sequential.call
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def functional_graph(model: keras.Model) -> Functional:
    """The Functional model that holds the connections of `model`: itself, or what a Sequential model built.

    Raises:
        InputError: not a Keras 3 model, a subclassed model, or one that is not built.
    """
    if not isinstance(model, keras.Model):
        raise InputError(
            f"A keras.Model is wanted. Received: {type(model).__module__}.{type(model).__name__}. "
            "Save a model of another library and load it with Keras 3."
        )
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


def input_names(model: keras.Model) -> list[str]:
    """Names of a model's inputs, in the order of `model.inputs`: the keys where the inputs are a dictionary."""
    graph = functional_graph(model)
    return sorted(graph.input) if isinstance(graph.input, dict) else [tensor.name for tensor in graph.inputs]


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
