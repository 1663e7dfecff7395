"""A factor and an offset for each channel are the same as a depthwise convolution, whatever layer they were."""

import keras
import numpy as np
import pytest

from keras_compress.layers.affine import Affine, affine_layers
from keras_compress.layers.graph import Graph
from keras_compress.layers.rewrite import Change, clone_model, rebuild

L = keras.layers
SHAPES = [(4,), (5, 4), (6, 5, 4), (3, 4, 5, 4)]
LAYERS = {
    "BatchNormalization": lambda: L.BatchNormalization(name="it"),
    "without scale": lambda: L.BatchNormalization(scale=False, name="it"),
    "without center": lambda: L.BatchNormalization(center=False, name="it"),
    "Rescaling": lambda: L.Rescaling(1 / 3, offset=-2.0, name="it"),
    "offset": lambda: L.Rescaling(1.0, offset=3.0, name="it"),
    "Rescaling of channels": lambda: L.Rescaling([1.0, 2.0, -3.0, 4.0], offset=0.5, name="it"),
    "Normalization": lambda: L.Normalization(mean=[1, 2, 3, 4], variance=[1, 4, 9, 0], name="it"),
    "inverted": lambda: L.Normalization(mean=[1, 2, 3, 4], variance=[1, 4, 9, 0], invert=True, name="it"),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_are_those_of_the_layer(rng, kind, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, L.ReLU()(LAYERS[kind]()(inputs)))
    for variable in model.weights if "Normalization" != kind != "inverted" else []:
        variable.assign(rng.uniform(0.5, 2, variable.shape) * (-1 if variable.name == "gamma" else 1))
    new = affine_layers(Graph(model))
    assert list(new) == ["it"] and type(new["it"]) is Affine
    changed = rebuild(model, {path: Change([layer]) for path, layer in new.items()}).model
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    for other in (changed, clone_model(changed)):
        np.testing.assert_allclose(np.asarray(other(x)), np.asarray(model(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.Rescaling(1 / 255),
        lambda: L.BatchNormalization(axis=1),
        lambda: L.Normalization(axis=None, mean=1.0, variance=4.0, name="one"),
        lambda: L.LayerNormalization(),
        lambda: L.ReLU(),
    ],
    ids=["factor", "another axis", "one mean for all", "LayerNormalization", "ReLU"],
)
def test_what_is_one_operator_or_no_such_thing_stays(layer):
    inputs = keras.Input((5, 6, 4))
    replacements = affine_layers(Graph(keras.Model(inputs, layer()(inputs))))
    assert set(replacements) <= {"one"}  # one mean for all channels is a mean for each
