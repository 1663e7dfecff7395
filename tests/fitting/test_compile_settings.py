"""Trainings optimize what a model was compiled with, unless they are told otherwise: all three alike."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from tests.trainings import fitted

pytestmark = pytest.mark.slow  # every test trains
L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
Y = np.arange(64) % 3
TECHNIQUES = {
    "prune": (kc.prune_magnitude, {"epochs": 2}),
    "cluster": (kc.cluster_weights, {"number_of_clusters": 2}),
    "round": (kc.quantization_aware_training, {}),
}


def network(normalized=False):
    """With a normalization that is folded before quantization-aware training, if asked for."""
    front = [L.Reshape((4, 2, 1)), L.Conv2DTranspose(2, 2, name="conv"), L.BatchNormalization(), L.Flatten()]
    layers = [*(front if normalized else []), L.Dense(8, "relu"), L.Dense(3, "softmax", name="head")]
    return keras.Sequential([keras.Input((8,)), *layers])


def two_outputs():
    inputs = keras.Input((8,))
    x = L.Dense(8, "relu")(inputs)
    return keras.Model(inputs, [L.Dense(3, "softmax", name="kind")(x), L.Dense(1, name="size")(x)])


def trained(technique, model, data, **settings):
    function, own = TECHNIQUES[technique]
    return fitted(function, model, data, **own, **settings)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.sampled(3)
def test_the_compiled_optimizer_trains(technique, normalized):
    """One that takes no step leaves biases as they are; Adam would not."""
    model = network(normalized)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    result = trained(technique, model, (X, Y))
    np.testing.assert_array_equal(result.model.get_layer("head").bias, model.get_layer("head").bias)
    result = trained(technique, model, (X, Y), optimizer="adam")
    assert np.abs(result.model.get_layer("head").bias - model.get_layer("head").bias).max() > 1e-4


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_compiled_loss_and_metrics_are_those_of_the_report(technique):
    model = network()
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.5)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=["mae"])
    data = X, np.eye(3, dtype="float32")[Y]
    figures = trained(technique, model, data, validation=data).report.steps[-1].figures
    expected = model.evaluate(*data, verbose=0)
    assert figures["validation loss before"] == pytest.approx(expected[0], rel=1e-4)
    assert figures["validation mae before"] == pytest.approx(expected[1], rel=1e-4)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_losses_of_several_outputs_need_no_guess(technique):
    model = two_outputs()
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile(keras.optimizers.SGD(0.0), losses, loss_weights={"kind": 1.0, "size": 100.0})
    data = X, [Y, X[:, :1]]
    figures = trained(technique, model, data, validation=data).report.steps[-1].figures
    expected = model.evaluate(*data, verbose=0)
    assert figures["validation loss before"] == pytest.approx(np.atleast_1d(expected)[0], rel=1e-4)
