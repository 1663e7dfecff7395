"""What tests of commands share: networks with and without model cards, and a call in this process."""

import dataclasses
import importlib
import logging
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from keras_compress import zoo
from keras_compress.commands import cli


@dataclasses.dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], types.ModuleType]]:
    """Gives a command's module; its flags are taken back, since other commands define them too."""
    before = set(flags.FLAGS)

    def loaded(command: str) -> types.ModuleType:
        name = f"keras_compress.commands.{command}"
        sys.modules.pop(name, None)  # defines its flags when it is imported
        return importlib.import_module(name)

    yield loaded
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> pathlib.Path:
    """A folder with an untrained network for `digits` and its card, and without a card."""
    folder = tmp_path_factory.mktemp("serialized_models")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, strides=2, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, "softmax", name="predictions"),
        ]
    )
    model.save(folder / "tiny.keras")
    model.save(folder / "bare.keras")
    preprocessing = zoo.Preprocessing(scale=1 / 16, shape=(8, 8, 1))
    zoo.ModelCard(dataset="digits", architecture="none", preprocessing=preprocessing, seed=0).write(
        folder / "tiny.json"
    )
    (folder / "cut.keras").write_bytes((folder / "tiny.keras").read_bytes()[:2000])
    (folder / "notes.keras").write_text("no model")
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]).save(
        folder / "three.keras"
    )
    keras.Sequential([keras.Input((9,)), keras.layers.Dense(10)]).save(folder / "nine.keras")
    two = keras.Input((8, 8, 1))
    keras.Model([two, keras.Input((1,))], keras.layers.Dense(10)(keras.layers.Flatten()(two))).save(
        folder / "two.keras"
    )
    other = np.random.default_rng(0)
    for name, shape, classes in (("larger", (9, 9), 10), ("colored", (8, 8, 3), 10), ("reshaped", (4, 16), 10),
                                 ("fewer", (8, 8), 4), ("more", (8, 8), 12)):  # fmt: skip
        x, y = other.integers(0, 17, (3 * classes, *shape), np.uint8), np.arange(3 * classes) % classes
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    model.layers[0].kernel.assign(np.full((3, 3, 1, 2), np.nan))
    model.save(folder / "nan.keras")
    return folder


@pytest.fixture
def call(command, networks, tmp_path, monkeypatch, capfd):
    """Runs the module's `command` in this process, in an empty folder next to serialized_models."""
    monkeypatch.chdir(tmp_path)
    os.symlink(networks, tmp_path / "serialized_models")

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        with flagsaver.flagsaver():
            code = cli.call(command.main, [command.__file__, *arguments])
        return Done(code, *capfd.readouterr())

    level = logging.getLogger("tensorflow").level
    yield run
    logging.getLogger("tensorflow").setLevel(level)
