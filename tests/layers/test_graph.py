"""The flat graph computes what the model computes, call by call, and knows who reads what."""

import keras
import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.layers.clone import clone_model
from keras_compress.layers.graph import ACTIVATION, LINEAR, Graph, is_linear
from tests import architectures

L = keras.layers


@pytest.fixture(params=architectures.MODELS)
def model(request):
    return architectures.build(request.param)


def run(graph, inputs):
    values = dict(zip(graph.inputs, [np.asarray(array) for array in keras.tree.flatten(inputs)], strict=True))
    for call in graph.calls:
        values.update(zip(call.outputs, call.run(values), strict=True))
    return values


def test_running_all_calls_is_running_the_model(model):
    inputs = architectures.samples(model, 4)
    graph = Graph(model)
    values = run(graph, inputs)
    expected = keras.tree.flatten(model(inputs, training=False))
    for tensor, output in zip(graph.outputs, expected, strict=True):
        np.testing.assert_allclose(np.asarray(values[tensor]), np.asarray(output), rtol=1e-5, atol=1e-5)


def test_shapes_are_those_of_the_tensors(model):
    graph = Graph(model)
    for tensor, value in run(graph, architectures.samples(model, 4)).items():
        assert graph.shapes[tensor][1:] == tuple(value.shape[1:])


def test_every_call_reads_what_was_made_before(model):
    graph = Graph(model)
    made = set(graph.inputs)
    for call in graph.calls:
        assert made.issuperset(call.inputs)
        assert made.isdisjoint(call.outputs)
        made.update(call.outputs)


def test_last_uses_agree_with_the_calls(model):
    graph = Graph(model)
    for tensor in range(len(graph.shapes)):
        readers = [index for index, call in enumerate(graph.calls) if tensor in call.inputs]
        assert graph.last_use.get(tensor) == (readers[-1] if readers else None)


def test_a_clone_has_an_equal_graph(model):
    assert [(call.path, call.part, call.inputs, call.outputs) for call in Graph(model).calls] == [
        (call.path, call.part, call.inputs, call.outputs) for call in Graph(clone_model(model)).calls
    ]


def test_making_a_graph_leaves_no_trace_in_the_model(model):
    before = [len(layer._inbound_nodes) for layer in model.layers]
    graph = Graph(model)
    run(graph, architectures.samples(model, 2))
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


def test_known_layers_have_a_linear_part_and_an_activation():
    graph = Graph(architectures.build("mlp"))
    assert [(call.path, call.part) for call in graph.calls] == [
        (path, part) for path in ("one", "two", "three") for part in (LINEAR, ACTIVATION)
    ]


def test_layers_of_nested_models_are_called_by_their_paths():
    graph = Graph(architectures.build("nested"))
    assert [*graph.views] == ["encoder/first", "encoder/second", "head/first", "head/last"]


@pytest.mark.parametrize(
    ("name", "path", "num_calls"),
    [("shared", "tower", 2), ("recurrent", "step", 2), ("shared_nested", "block/inside", 2)],
)
def test_a_shared_layer_is_one_view_and_several_calls(name, path, num_calls):
    graph = Graph(architectures.build(name))
    assert len(graph.linear_calls(path)) == num_calls


def test_what_is_needed_for_a_tensor_stops_at_what_there_is():
    graph = Graph(architectures.build("mlp"))
    (output,) = graph.outputs
    assert graph.needed([output], graph.inputs) == [*range(6)]
    between = graph.calls[3].outputs[0]
    assert graph.needed([output], [between]) == [4, 5]
    assert graph.needed([between], [between]) == []


def test_what_is_needed_leaves_other_branches_out():
    graph = Graph(architectures.build("two_inputs_and_outputs"))
    table, score = graph.inputs[1], graph.outputs[1]
    paths = {graph.calls[index].path for index in graph.needed([score], [table])}
    assert paths == {"read", "score"}
    with pytest.raises(KeyError):
        graph.needed([graph.outputs[0]], [table])


def test_dropout_and_normalization_run_in_inference():
    model = keras.Sequential([keras.Input((6,)), L.BatchNormalization(), L.Dropout(0.5), L.Dense(2)])
    inputs = np.full((4, 6), 3, np.float32)
    values = run(Graph(model), inputs)
    np.testing.assert_allclose(
        np.asarray(values[Graph(model).outputs[0]]), np.asarray(model(inputs, training=False)), rtol=1e-5
    )


def test_a_mask_is_an_error_that_names_the_layer():
    model = keras.Sequential([keras.Input((3, 2)), L.Masking(name="hide"), L.Dense(2)])
    with pytest.raises(InputError, match=r"'hide' passes on a mask"):
        Graph(model)


def test_a_layer_that_trains_is_an_error_that_names_it():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, L.BatchNormalization(name="learner")(L.Dense(2)(inputs), training=True))
    with pytest.raises(InputError, match=r"'learner' is called with training=True"):
        Graph(model)


def test_linear_layers_have_no_activation_of_their_own():
    assert is_linear(L.Dense(1)) and is_linear(L.Flatten())
    assert not is_linear(L.Dense(1, "relu"))
