"""Which tensors are rounded: one case for each thing that TFLite's converter was seen to do."""

import keras
import numpy as np
import pytest

from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import rebuild
from keras_compress.layers.rounding import quantized_tensors
from keras_compress.layers.splitting import split_layers
from tests import architectures
from tests.layers.roundings import EXPECTED, conv, operators

L = keras.layers


def described(model):
    """A line for each group: the tensors that have the same alphabet; what tells their range, if it is not all of them,
    or a function's values."""
    graph = Graph(split_layers(model).model)
    groups = {}
    for tensor in quantized_tensors(graph):
        groups.setdefault(tensor.group, []).append(tensor)
    lines = []
    for tensors in groups.values():
        line = " ".join(sorted(tensor.path for tensor in tensors))
        if ends := tensors[0].function:
            line += f" {ends[0]:g}..{ends[1]:g}"
        elif set(tensors[0].range_of) != {number for tensor in tensors for number in tensor.tensors}:
            line += f" by {' '.join(graph.calls[graph.producer[number]].path for number in tensors[0].range_of)}"
        lines.append(line)
    return lines


@pytest.mark.parametrize("outputs", EXPECTED, ids=lambda outputs: outputs.__name__)
def test_what_is_rounded(outputs):
    image = keras.Input((8, 8, 4), name="image")
    assert sorted(described(keras.Model(image, outputs(image)))) == sorted(EXPECTED[outputs])


def test_operators_are_rounded_like_layers():
    image = keras.Input((8, 8, 4), name="image")
    graph = Graph(split_layers(keras.Model(image, operators(image))).model)
    kinds = [tensor.kind for tensor in quantized_tensors(graph)]
    assert sorted(kinds) == ["Conv2D", "Conv2D", "InputLayer", "Multiply", "Relu"]


def test_each_call_of_a_shared_layer_makes_a_tensor_of_its_own():
    tensors = quantized_tensors(Graph(architectures.build("shared")))
    towers = [tensor for tensor in tensors if tensor.path == "tower"]
    assert len(towers) == 2 and len({tensor.symbol for tensor in towers}) == 2
    assert towers[0].group == towers[1].group  # they are joined


def test_a_nested_model_that_is_called_twice_has_one_rounding_for_both():
    graph = Graph(architectures.build("shared_nested"))
    (inside,) = [tensor for tensor in quantized_tensors(graph) if tensor.path == "block/inside"]
    assert len(inside.tensors) == 2
    assert {id(graph.symbols[number]) for number in inside.tensors} == {id(inside.symbol)}


def test_a_relu_behind_a_nested_model_belongs_to_the_kernel_within():
    inner_inputs = keras.Input((6,))
    inner = keras.Model(inner_inputs, L.Dense(4, name="dense")(inner_inputs), name="inner")
    table = keras.Input((6,), name="table")
    assert described(keras.Model(table, L.ReLU(name="relu")(inner(table)))) == ["table", "relu"]


def test_what_is_not_floating_point_is_not_rounded():
    words = keras.Input((5,), dtype="int32", name="words")
    model = keras.Model(words, L.Dense(2, name="dense")(L.Embedding(10, 4, name="vectors")(words[:, 1:])))
    assert described(model) == ["vectors", "dense"]


def test_several_outputs_of_one_layer_are_rounded_alike():
    steps = keras.Input((5, 3), name="steps")
    outputs, state, cell = L.LSTM(4, return_state=True, name="recurrent")(steps)
    tensors = quantized_tensors(Graph(keras.Model(steps, [outputs, state, cell])))
    assert [tensor.path for tensor in tensors] == ["steps", "recurrent", "recurrent", "recurrent"]


# Layers with an activation of their own


@pytest.fixture(params=[*architectures.MODELS])
def model(request):
    return architectures.build(request.param)


def test_a_split_model_computes_the_same(model):
    inputs = architectures.samples(model, 5)
    before = [weight.numpy().copy() for weight in model.weights]
    split = split_layers(model).model
    for output, expected in zip(
        keras.tree.flatten(split(inputs)), keras.tree.flatten(model(inputs, training=False)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(output), np.asarray(expected))
    assert type(split) is type(model) and split.name == model.name
    assert set(layers_by_path(model)) <= set(layers_by_path(split))
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_functions_of_products_become_layers_and_relus_stay():
    image = keras.Input((8, 8, 4), name="image")
    hidden = conv("one", activation="tanh")(conv("relu", activation="relu")(image))
    outputs = L.Dense(3, "softmax", name="predictions")(L.Flatten(name="flat")(hidden))
    model = keras.Model(image, outputs)
    model.get_layer("one").trainable = False
    split = split_layers(model).model
    names = ["image", "relu", "one", "one_tanh", "flat", "predictions", "predictions_softmax"]
    assert [layer.name for layer in split.layers] == names
    assert split.get_layer("relu").activation is keras.activations.relu
    assert split.get_layer("one").activation is keras.activations.linear
    assert not split.get_layer("one").trainable and split.get_layer("relu").trainable


def test_new_names_make_room_for_names_that_are_there():
    table = keras.Input((6,), name="table")
    dense = L.Dense(6, "tanh", name="dense")
    hidden = L.Activation("relu", name="dense_tanh")(dense(dense(table)))
    split = split_layers(keras.Model(table, hidden)).model
    assert [layer.name for layer in split.layers] == ["table", "dense", "dense_tanh_2", "dense_tanh_3", "dense_tanh"]


def test_a_sequential_model_stays_one():
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, "tanh", name="one"), L.Dense(3, "softmax", name="two")])
    split = split_layers(model).model
    assert type(split) is keras.Sequential
    assert [layer.name for layer in split.layers] == ["one", "one_tanh", "two", "two_softmax"]


# Layers put between


def test_inserted_layers_stand_behind_their_tensors(model):
    """Every quantized tensor doubled, in the rebuilt model and in a run of the flat graph."""
    inputs = architectures.samples(model, 4)
    graph = Graph(model)
    doubled = {tensor.path for tensor in quantized_tensors(graph)}
    chosen = {id(tensor.symbol) for tensor in quantized_tensors(graph)}
    rebuilt = rebuild(model, insert=lambda tensor: [L.Rescaling(2.0)] if id(tensor) in chosen else []).model
    values = dict(zip(graph.inputs, [2.0 * np.asarray(array) for array in keras.tree.flatten(inputs)], strict=True))
    for call in graph.calls:
        outputs = call.run(values)
        values |= {
            number: 2.0 * value if id(graph.symbols[number]) in chosen else value
            for number, value in zip(call.outputs, outputs, strict=True)
        }
    assert doubled and type(rebuilt) is type(model)
    for number, output in zip(graph.outputs, keras.tree.flatten(rebuilt(inputs)), strict=True):
        np.testing.assert_allclose(np.asarray(output), np.asarray(values[number]), rtol=1e-5, atol=1e-5)


def test_several_layers_stand_one_behind_the_other():
    model = architectures.build("mlp")
    rebuilt = rebuild(model, insert=lambda tensor: [L.Rescaling(2.0), L.Rescaling(1.0, offset=1.0)]).model
    x = architectures.samples(model, 3)
    hidden = 2 * x + 1
    for layer in model.layers:
        hidden = 2 * np.asarray(layer(hidden)) + 1
    np.testing.assert_allclose(np.asarray(rebuilt(x)), hidden, rtol=1e-5)


def test_inserting_adds_nothing_to_the_model_that_comes_in(model):
    before = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    rebuild(model, insert=lambda tensor: [L.Rescaling(1.0)])
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers] == before
