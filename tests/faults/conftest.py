"""Torture: full disks, kills and cut files, as the system makes them. Run by `make faults`, not by `make test`."""

import pathlib

import keras
import numpy as np
import pytest


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """Leaves this folder out unless the command line names it: these tests need root, time, and a machine to itself."""
    named = any("faults" in argument for argument in config.args)
    return None if named else True


@pytest.fixture(scope="session")
def model() -> keras.Model:
    """A small convolutional network for 16x16x3 images with activations of some size."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv2"),
            layers.BatchNormalization(name="norm"),
            layers.MaxPooling2D(4),
            layers.Flatten(),
            layers.Dense(12, activation="softmax", name="predictions"),
        ],
        name="small",
    )


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((1000, 16, 16, 3), dtype=np.float32)  # 16 MB behind conv1
