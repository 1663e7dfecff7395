import pathlib

import keras
import pytest

from keras_compress.errors import InputError
from keras_compress.layers.paths import functional_graph, layers_by_path, nodes_in_order

L = keras.layers


def encoder(name: str, *layers: keras.Layer) -> keras.Model:
    inputs = keras.Input((4,), name="features")
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name=name)


def test_paths_follow_nested_models_in_order():
    tail = keras.Sequential([L.Dense(4, name="last")], name="tail")
    inner = encoder("encoder", L.Dense(4, name="dense"), tail)
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, name="dense"), inner, L.ReLU(name="relu")])
    layers = layers_by_path(model)
    assert list(layers) == ["dense", "encoder/features", "encoder/dense", "encoder/tail/last", "relu"]
    assert layers["encoder/dense"] is inner.get_layer("dense")
    assert layers["encoder/tail/last"] is tail.layers[0]


def test_a_layer_in_two_nested_models_has_its_first_path():
    shared = L.Dense(4, name="shared")
    inputs = keras.Input((4,), name="x")
    hidden = encoder("first", shared)(inputs)
    model = keras.Model(inputs, encoder("second", shared, L.ReLU(name="relu"))(hidden))
    paths = list(layers_by_path(model))
    assert paths == ["x", "first/features", "first/shared", "second/features", "second/relu"]


def test_a_model_that_is_called_twice_is_listed_once():
    twice = encoder("twice", L.Dense(4, name="dense"))
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, twice(twice(inputs)))
    assert list(layers_by_path(model)) == ["x", "twice/features", "twice/dense"]


def test_wrappers_and_subclassed_models_are_listed_and_not_opened():
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.dense = L.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = keras.Sequential([keras.Input((3, 4)), L.TimeDistributed(L.Dense(4), name="wrapper"), Own()])
    assert list(layers_by_path(model)) == ["wrapper", "own"]


def test_nodes_come_after_those_they_read_and_belong_to_the_model():
    inputs = keras.Input((4,))
    dense = L.Dense(4)
    hidden = dense(inputs)
    outputs = dense(hidden) + hidden
    dense(outputs)  # a call that is no part of the model
    model = keras.Model(inputs, outputs)
    nodes = nodes_in_order(model)
    assert [type(node.operation).__name__ for node in nodes] == ["Dense", "Dense", "Add"]
    assert nodes[0].output_tensors[0] is hidden


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([L.Dense(2)], name="deferred"), "'deferred' is not built.*keras.Input"),
        (L.Dense(2), "A keras.Model is expected. Received: .*Dense"),
        ("model.keras", r"Received: builtins.str, 'model.keras'. Load the file first: kc.load_model\(path\)"),
        (pathlib.Path("model.h5"), r"Received: .*Path, 'model.h5'. Load the file first: kc.load_model\(path\)"),
    ],
)
def test_what_has_no_graph_is_refused(model, message):
    with pytest.raises(InputError, match=message):
        functional_graph(model)


@pytest.mark.parametrize("base", [keras.Model, keras.Sequential])
def test_a_call_of_its_own_is_refused(base):
    class Own(base):
        def call(self, inputs):
            return inputs

    with pytest.raises(InputError, match=r"subclassed \(class Own.*Functional API"):
        functional_graph(Own(name="own"))
