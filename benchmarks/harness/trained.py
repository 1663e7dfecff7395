"""Trained classifiers with labelled data: those of this project by their model cards, and some that others trained."""

import dataclasses
import pathlib

from keras_compress.errors import InputError
from keras_compress.zoo import ModelCard, Preprocessing

# Others' networks: file, data set, preprocessing, origin.
FOREIGN: dict[str, tuple[str, str, Preprocessing, str]] = {
    "mlperf_resnet8": (
        "mlperf_ic_resnet8.h5",
        "cifar10",
        Preprocessing(),
        "ResNet8 of MLPerf Tiny (mlcommons/tiny, Apache-2.0)",
    ),
    "onepixel_lenet": (
        "onepixel_cifar10_lenet.keras",
        "cifar10",
        Preprocessing(mean=[125.307, 122.95, 113.865], std=[62.9932, 62.0887, 66.7048]),
        "LeNet (Hyperparticle/one-pixel-attack-keras, MIT)",
    ),
    "onepixel_lenet_keras2": (
        "onepixel_cifar10_lenet_keras2.h5",
        "cifar10",
        Preprocessing(mean=[125.307, 122.95, 113.865], std=[62.9932, 62.0887, 66.7048]),
        "the same as Keras 2.1 wrote it",
    ),
    "deepxplore_lenet1": (
        "deepxplore_mnist_lenet1.keras",
        "mnist",
        Preprocessing(scale=1 / 255, shape=(28, 28, 1)),
        "LeNet-1 (peikexin9/deepxplore, MIT)",
    ),
    "deepxplore_lenet4": (
        "deepxplore_mnist_lenet4.keras",
        "mnist",
        Preprocessing(scale=1 / 255, shape=(28, 28, 1)),
        "LeNet-4 (peikexin9/deepxplore, MIT)",
    ),
    "deepxplore_lenet5": (
        "deepxplore_mnist_lenet5.keras",
        "mnist",
        Preprocessing(scale=1 / 255, shape=(28, 28, 1)),
        "LeNet-5 (peikexin9/deepxplore, MIT)",
    ),
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """Where a network lies and what it expects."""

    name: str
    path: pathlib.Path
    dataset: str
    preprocessing: Preprocessing
    origin: str


def find(name: str, trained_dir: pathlib.Path, foreign_dir: pathlib.Path) -> Trained | None:
    """The network `name`, or None where its file is missing.

    Args:
        name: a key of `FOREIGN`, or the name of a network with a model card in `trained_dir`.
        trained_dir: where train/train_baseline.py put networks and their cards.
        foreign_dir: where others' networks lie.

    Raises:
        InputError: a network without a card.
    """
    if name in FOREIGN:
        file, dataset, preprocessing, origin = FOREIGN[name]
        path = foreign_dir / file
        return Trained(name, path, dataset, preprocessing, origin) if path.is_file() else None
    path = trained_dir / f"{name}.keras"
    if not path.is_file():
        return None
    if not path.with_suffix(".json").is_file():
        raise InputError(f"The network {str(path)!r} has no model card {name}.json next to it.")
    card = ModelCard.read(path.with_suffix(".json"))
    return Trained(
        name, path, pathlib.PurePath(card.dataset).stem, card.preprocessing, f"`{card.architecture}`, trained here"
    )
