import keras
import numpy as np
import pytest

from keras_compress import sweep


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """An untrained classifier of 6x6 images with a convolution, a BatchNorm that can be folded, and Dense layers."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, "relu", name="hidden"),
            layers.Dense(7, "softmax", name="predictions"),
        ],
        name="tiny",
    )
    norm = model.get_layer("norm")
    norm.set_weights(
        [np.array(values, np.float32) for values in ([1, -2, 0.5, 1], [0, 1, 0, 2], [0, 0.1, 0, 0], [1] * 4)]
    )
    return model


@pytest.fixture(scope="module")
def samples() -> sweep.DataSplits:
    rng = np.random.default_rng(2)
    draw = lambda count: (rng.normal(size=(count, 6, 6, 1)), rng.integers(0, 7, count))  # noqa: E731
    return sweep.DataSplits(*draw(60), *draw(40))
