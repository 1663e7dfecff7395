"""The flat graph computes what the model computes, call by call, and knows who reads what."""

import keras
import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.layers.graph import ACTIVATION, LINEAR, WHOLE, Graph, is_linear
from keras_compress.layers.rewrite import clone_model
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
    available = set(graph.inputs)
    for call in graph.calls:
        assert available.issuperset(call.inputs)
        assert available.isdisjoint(call.outputs)
        available.update(call.outputs)


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


def test_a_model_with_masks_is_one_call():
    layers = [L.Masking(name="hide"), L.LSTM(2, name="read"), L.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((3, 2)), *layers])
    graph = Graph(model)
    assert graph.opaque == "layer 'hide' passes on a mask"
    assert [call.part for call in graph.calls] == [WHOLE]
    assert list(graph.views) == ["read/kernel", "read/recurrent_kernel", "logits"]
    inputs = np.array([[[1, 2], [0, 0], [0, 0]], [[1, 2], [3, 4], [0, 0]]], np.float32)
    np.testing.assert_allclose(np.asarray(run(graph, inputs)[graph.outputs[0]]), np.asarray(model(inputs)), rtol=1e-5)


class Own(keras.Model):
    """Calls its layers in another order than it names them, one of them twice, and one never."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.last = L.Dense(2)
        self.first = L.Dense(4)
        self.never = L.Dense(3)
        self.tables = [L.Dense(4, "relu"), L.BatchNormalization()]

    def call(self, x, training=False):
        x = self.tables[0](self.first(x))
        return self.last(self.tables[0](self.tables[1](x, training=training)))


def test_a_subclassed_model_is_one_call_whose_kernels_come_in_the_order_of_their_calls():
    model = Own(name="own")
    inputs = np.ones((3, 4), np.float32)
    model.never.build((None, 2))
    model(inputs)
    graph = Graph(model)
    assert graph.opaque == "model 'own' is subclassed"
    assert list(graph.views) == ["first", "tables/0", "last"]
    assert graph.unseen == {"never": "own does not call this layer"}
    assert [graph.shapes[tensor] for tensor in (*graph.inputs, *graph.outputs)] == [(None, 4), (None, 2)]
    np.testing.assert_allclose(np.asarray(run(graph, inputs)[graph.outputs[0]]), np.asarray(model(inputs)), rtol=1e-5)


def test_a_model_that_has_never_been_called_is_an_error():
    with pytest.raises(InputError, match=r"its input shape is not known\. Call it once"):
        Graph(Own(name="own"))


def test_a_model_that_cannot_be_traced_is_an_error_with_the_reason():
    class Eager(keras.Model):
        def call(self, x):
            return x if float(x[0, 0]) > 0 else -x

    model = Eager(name="eager")
    model(np.ones((2, 3), np.float32))
    with pytest.raises(InputError, match="'eager' cannot be traced in inference mode"):
        Graph(model)


def test_layers_within_a_layer_are_seen_in_its_call():
    inputs = keras.Input((5, 4))
    attended = L.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    model = keras.Model(inputs, L.TimeDistributed(L.Dense(3), name="each")(attended))
    graph = Graph(model)
    names = ["query_dense", "key_dense", "value_dense", "output_dense"]
    assert list(graph.views) == [*(f"attention/{name}" for name in names), "each/layer"]
    assert not graph.opaque and not graph.unseen
    assert graph.holders("attention/key_dense") == [0] and graph.linear_calls("attention/key_dense") == []


def test_a_separable_convolution_is_two_products_and_an_activation():
    model = keras.Sequential([keras.Input((6, 6, 2)), L.SeparableConv2D(3, 3, activation="relu", name="block")])
    graph = Graph(model)
    assert [(call.path, call.part) for call in graph.calls] == [
        ("block/depthwise_kernel", LINEAR), ("block/pointwise_kernel", LINEAR), ("block", ACTIVATION),
    ]  # fmt: skip
    inputs = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(run(graph, inputs)[graph.outputs[0]]), np.asarray(model(inputs)), atol=1e-5)


def test_a_layer_that_trains_is_an_error_that_names_it():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, L.BatchNormalization(name="learner")(L.Dense(2)(inputs), training=True))
    with pytest.raises(InputError, match=r"'learner' is called with training=True"):
        Graph(model)


def test_linear_layers_have_no_activation_of_their_own():
    assert is_linear(L.Dense(1)) and is_linear(L.Flatten())
    assert not is_linear(L.Dense(1, "relu"))


def added(kind):
    inputs = keras.Input((6, 6, 3))
    if kind == "relu":
        return keras.Model(inputs, L.Conv2D(3, 3, padding="same", activation="relu", name="conv")(inputs) + inputs)
    if kind == "read_twice":
        hidden = L.Conv2D(3, 3, padding="same", name="conv")(inputs)
        return keras.Model(inputs, [hidden + inputs, L.ReLU()(hidden)])
    if kind == "broadcast":
        return keras.Model(inputs, L.Conv2D(1, 3, padding="same", name="conv")(inputs) + inputs)
    first = L.Conv2D(3, 1, name="shortcut")(inputs)
    second = L.Conv2D(3, 3, padding="same", name="conv")(L.ReLU()(inputs))
    total = L.Add()([second, first]) if kind == "layer" else second + first
    return keras.Model(inputs, L.ReLU()(total))


@pytest.mark.parametrize("kind", ["layer", "operation", "relu", "read_twice", "broadcast"])
def test_skip_inputs_are_those_that_are_there_before(kind):
    graph = Graph(added(kind))
    if kind in ("layer", "operation"):
        order = [path for path in graph.views if graph.skip_inputs(path)]
        assert order == list(graph.views)[-1:]  # the one that comes later
        (tensor,) = graph.skip_inputs(order[0])
        assert graph.calls[graph.producer[tensor]].path == next(iter(graph.views))
    else:
        assert graph.skip_inputs("conv") == ()
