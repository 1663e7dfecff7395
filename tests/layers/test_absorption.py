"""What takes the mean error of a layer must move the layer's outputs by just that, and nothing else."""

import keras
import numpy as np
import pytest

from keras_compress.layers.absorption import mean_absorbers
from keras_compress.layers.graph import Graph

L = keras.layers
BN = L.BatchNormalization


def model_of(*layers):
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def absorbers_of(model):
    return mean_absorbers(model, Graph(model))


def test_a_bias_takes_it():
    absorber = absorbers_of(model_of(L.Conv2D(4, 3, name="conv"), BN(name="norm")))["conv"]
    assert (absorber.path, absorber.sign) == ("conv", 1)


def test_the_normalization_behind_a_layer_without_a_bias_takes_it():
    absorber = absorbers_of(model_of(L.Conv2D(4, 3, use_bias=False, name="conv"), BN(name="norm")))["conv"]
    assert (absorber.path, absorber.sign) == ("norm", -1)


@pytest.mark.parametrize(
    "behind",
    [
        [L.ReLU(), BN(name="norm")],
        [L.ReLU()],
        [L.MaxPooling2D(), BN(name="norm")],
        [BN(name="norm", axis=1)],
    ],
    ids=["activation", "no_normalization", "pooling", "another_axis"],
)
def test_nothing_takes_it_where_no_normalization_follows_at_once(behind):
    assert "conv" not in absorbers_of(model_of(L.Conv2D(4, 3, use_bias=False, name="conv"), *behind))


def test_an_activation_of_the_layer_itself_is_between():
    conv = L.Conv2D(4, 3, use_bias=False, activation="relu", name="conv")
    assert "conv" not in absorbers_of(model_of(conv, BN(name="norm")))


def test_a_second_reader_of_the_outputs_would_not_be_moved():
    inputs = keras.Input((6, 6, 2))
    outputs = L.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    model = keras.Model(inputs, L.Add()([BN(name="norm")(outputs), outputs]))
    assert "conv" not in absorbers_of(model)


def test_a_shared_normalization_would_move_other_layers_too():
    inputs = keras.Input((6, 6, 2))
    norm = BN(name="norm")
    first = norm(L.Conv2D(4, 3, padding="same", use_bias=False, name="first")(inputs))
    second = norm(L.Conv2D(4, 3, padding="same", use_bias=False, name="second")(first))
    assert not absorbers_of(keras.Model(inputs, second))


@pytest.mark.parametrize("use_bias", [True, False])
def test_absorbing_is_adding_to_the_outputs_of_the_layer(rng, use_bias):
    model = model_of(L.Conv2D(4, 3, use_bias=use_bias, name="conv"), BN(name="norm"))
    images, shift = rng.normal(size=(3, 6, 6, 2)).astype(np.float32), rng.normal(size=4)
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    expected = np.asarray(norm(conv(images) + shift.astype(np.float32)))
    absorbers_of(model)["conv"].absorb(shift)
    np.testing.assert_allclose(np.asarray(model(images)), expected, rtol=1e-5, atol=1e-5)
