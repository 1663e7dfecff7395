"""Keras 3 and tf_keras behind one interface, so that one conversion serves both directions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_compress.layers.paths import functional_graph, is_graph, nodes_in_order


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of a layer or an operation."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Any]


@dataclasses.dataclass(frozen=True)
class Library:
    """What the conversion needs to know of a Keras.

    Attributes:
        name: for messages.
        keras: the module: `keras` or `tf_keras`.
        model: the class of models that are built of inputs and outputs.
        is_graph: whether a layer is a model whose connections are known.
        nodes: the calls of a model's own graph, each after those it reads from; a nested model is one call.
        inputs, outputs: tensors of a model, nested as the model has them.
        input_name: that of the layer of an input tensor.
        is_tensor: whether something is a tensor of a model.
        is_irregular: whether a tensor is sparse or ragged.
        is_operation: whether a call is an operation such as `x * 2`, and of no layer.
    """

    name: str
    keras: Any
    is_graph: Callable[[Any], bool]
    nodes: Callable[[Any], list[Node]]
    inputs: Callable[[Any], Any]
    outputs: Callable[[Any], Any]
    input_name: Callable[[Any], str]
    is_tensor: Callable[[Any], bool]
    is_irregular: Callable[[Any], bool]
    is_operation: Callable[[Any], bool]

    def new_input(self, shape: tuple[int | None, ...], dtype: str, name: str) -> Any:
        """The tensor of a new input."""
        return self.keras.Input(batch_shape=shape, dtype=dtype, name=name)

    def tensors(self, structure: Any) -> list[Any]:
        """The tensors in nested lists, tuples and dictionaries, the latter by their keys in order."""
        return [each for each in tf.nest.flatten(structure) if self.is_tensor(each)]


def import_tf_keras() -> Any:
    """The module `tf_keras`, which is Keras 2."""
    import tf_keras

    return tf_keras


def keras_3() -> Library:
    """Keras 3, on TensorFlow."""
    return Library(
        name="Keras 3",
        keras=keras,
        is_graph=is_graph,
        nodes=lambda model: [
            Node(node.operation, node.arguments.args, node.arguments.kwargs, list(node.output_tensors))
            for node in nodes_in_order(model)
        ],
        inputs=lambda model: functional_graph(model).input,
        outputs=lambda model: functional_graph(model).output,
        input_name=lambda tensor: tensor._keras_history.operation.name,  # private: no other way to the layer
        is_tensor=keras.utils.is_keras_tensor,
        is_irregular=lambda tensor: tensor.sparse or tensor.ragged,
        is_operation=lambda operation: not isinstance(operation, keras.Layer),
    )


def keras_2() -> Library:
    """tf_keras, which is Keras 2."""
    tf_keras = import_tf_keras()
    # tf_keras exports none of the classes of `tf_keras.Model(inputs, outputs)`, its tensors and its operations.
    from tf_keras.src.engine.functional import Functional
    from tf_keras.src.engine.keras_tensor import KerasTensor, RaggedKerasTensor, SparseKerasTensor
    from tf_keras.src.layers.core.tf_op_layer import TFOpLambda

    def is_graph_2(layer: Any) -> bool:
        if isinstance(layer, tf_keras.Sequential):
            return bool(type(layer).call is tf_keras.Sequential.call and layer.built and layer._is_graph_network)
        return isinstance(layer, Functional) and type(layer).call is Functional.call

    def nodes(model: Any) -> list[Node]:
        by_depth = model._nodes_by_depth
        return [
            Node(node.layer, tuple(node.call_args), dict(node.call_kwargs), tf.nest.flatten(node.outputs))
            for depth in sorted(by_depth, reverse=True)
            for node in by_depth[depth]
            if not node.is_input
        ]

    return Library(
        name="tf_keras",
        keras=tf_keras,
        is_graph=is_graph_2,
        nodes=nodes,
        inputs=lambda model: model._nested_inputs,
        outputs=lambda model: model._nested_outputs,
        input_name=lambda tensor: tensor._keras_history.layer.name,
        is_tensor=lambda value: isinstance(value, KerasTensor),
        is_irregular=lambda tensor: isinstance(tensor, (RaggedKerasTensor, SparseKerasTensor)),
        is_operation=lambda layer: isinstance(layer, TFOpLambda),
    )
