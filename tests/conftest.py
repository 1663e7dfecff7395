"""What every test starts from: one seed, quiet libraries, and the data sets that this machine has."""

import os
import pathlib
import random
import sys
from collections.abc import Callable

# Before any test module can import TensorFlow or matplotlib.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest

DATA_VARIABLE = "KERAS_COMPRESS_DATA"
ALL_CASES = "ALL_CASES"  # of tests that are marked `sampled`: set by `make evidence`


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, alone or among others."""
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:  # a test of the numerics need not wait for TensorFlow
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data() -> tuple[np.ndarray, np.ndarray]:
    """200 images of six pixels each way, (200, 6, 6, 1), and which of four quarters is bright: data to train on."""
    from tests.pictures import bright_quarters  # loads Keras

    x, y = bright_quarters(200, 6)
    return x[..., np.newaxis], y


@pytest.fixture
def data_file() -> Callable[[str], pathlib.Path]:
    """A function from a file name such as "mnist.npz" to its path; the test is skipped where the file is missing."""

    def find(name: str) -> pathlib.Path:
        folder = os.environ.get(DATA_VARIABLE)
        if not folder:
            pytest.skip(f"{DATA_VARIABLE} names no folder with {name}")
        path = pathlib.Path(folder, name)
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        return path

    return find


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "data_file" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
    if os.environ.get(ALL_CASES) or any("::" in argument for argument in config.args):
        return
    cases: dict[tuple[pathlib.Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            cases.setdefault((item.path, getattr(item, "originalname", item.name)), []).append(item)
    left: set[pytest.Item] = set()
    for group in cases.values():
        left |= set(group) - set(evenly(group, group[0].get_closest_marker("sampled").args[0]))  # type: ignore[union-attr]
    if left:
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


def evenly(cases: list[pytest.Item], count: int) -> list[pytest.Item]:
    """So many of the cases, evenly spread, the same in every run."""
    return (
        cases if count >= len(cases) else [cases[(2 * place + 1) * len(cases) // (2 * count)] for place in range(count)]
    )
