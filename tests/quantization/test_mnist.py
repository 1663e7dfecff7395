"""The published pattern on real data: greedy ternary weights hold the accuracy, memoryless ones do not.

E. Lybrand and R. Saab, JMLR 22(156), 2021, section 6: a 500-300 multilayer perceptron on MNIST.
"""

import os
import pathlib

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.zoo import load_dataset

pytestmark = pytest.mark.slow
L = keras.layers


def ternary(quantizer, scalar):
    settings = {"centered": False} if quantizer is kc.GPFQ else {}
    return quantizer(alphabet=kc.Equispaced(levels=3, scalar=scalar), **settings)


def trained(x, y, epochs):
    keras.utils.set_random_seed(0)
    hidden = [layer for width in (500, 300) for layer in (L.Dense(width, "relu"), L.BatchNormalization())]
    model = keras.Sequential([keras.Input(x.shape[1:]), *hidden, L.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return model


def accuracy(model, x, y):
    return float((model.predict(x, batch_size=1000, verbose=0).argmax(axis=1) == y).mean())


class Task:
    def __init__(self, x_train, y_train, x_test, y_test, epochs, scalars):
        self.test = x_test, y_test
        self.model = trained(x_train, y_train, epochs)
        self.analog = accuracy(self.model, *self.test)
        with kc.Calibration(self.model, x_train[:5000]) as calibration:
            self.accuracies = {
                (quantizer, scalar): accuracy(
                    kc.quantize(self.model, ternary(quantizer, scalar), calibration).model, *self.test
                )
                for quantizer in (kc.GPFQ, kc.MSQ)
                for scalar in scalars
            }


@pytest.fixture(scope="module")
def mnist():
    """Skips by itself: `data_file` is set up anew for each test, and the training is to be done once."""
    path = pathlib.Path(os.environ.get("KERAS_COMPRESS_DATA", ""), "mnist.npz")
    if not path.is_file():
        pytest.skip("KERAS_COMPRESS_DATA names no folder with mnist.npz")
    with np.load(path) as arrays:
        x_train, x_test = (arrays[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("x_train", "x_test"))
        return Task(x_train, arrays["y_train"], x_test, arrays["y_test"], epochs=4, scalars=(1, 3))


@pytest.fixture(scope="module")
def digits():
    dataset = load_dataset("digits")
    x_train, x_test = (
        images.reshape(len(images), -1).astype(np.float32) / 16 for images in (dataset.x_train, dataset.x_test)
    )
    return Task(x_train, dataset.y_train, x_test, dataset.y_test, epochs=15, scalars=(0.5, 3))


@pytest.mark.data
@pytest.mark.sampled(0)
def test_greedy_ternary_weights_hold_the_accuracy_on_mnist(mnist):
    assert mnist.accuracies[kc.GPFQ, 3] >= 0.96
    assert mnist.accuracies[kc.MSQ, 3] < mnist.accuracies[kc.GPFQ, 3]


@pytest.mark.data
def test_levels_that_do_not_reach_the_weights_are_poor_on_mnist(mnist):
    """With C = 1, half of the weights lie beyond the levels; following the path then makes it worse.

    The published network lost 25 points and more; this one is trained for minutes less, and loses at least 3.
    """
    assert mnist.accuracies[kc.GPFQ, 1] < mnist.accuracies[kc.MSQ, 1] < mnist.analog - 0.03


def test_greedy_ternary_weights_hold_the_accuracy_on_digits(digits):
    assert digits.analog >= 0.95
    assert digits.accuracies[kc.GPFQ, 3] >= digits.analog - 0.05
    assert digits.accuracies[kc.MSQ, 3] <= digits.accuracies[kc.GPFQ, 3] - 0.05


def test_levels_that_do_not_reach_the_weights_are_poor_on_digits(digits):
    for quantizer in (kc.GPFQ, kc.MSQ):
        assert digits.accuracies[quantizer, 0.5] <= 0.8
