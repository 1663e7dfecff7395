"""Flags that say which networks a benchmark takes and where they lie, and those that are there."""

import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from harness import results
from keras_compress.errors import InputError

if TYPE_CHECKING:
    from harness.trained import Trained

FLAGS = flags.FLAGS

LABELLED = [
    "mnist_mlp",
    "cifar10_cnn",
    "mlperf_resnet8",
    "onepixel_lenet",
    "deepxplore_lenet1",
    "deepxplore_lenet4",
    "deepxplore_lenet5",
]


def define_flags(names: list[str], use: str = "Which ones; other names are looked for in --models_dir.") -> None:
    """--data, --models, --models_dir and --networks, whose default is `names`."""
    flags.DEFINE_string("data", None, f"Folder of mnist.npz and cifar10.npz. Default: {results.DATA_VARIABLE}.")
    flags.DEFINE_string("models", None, "Folder of others' networks. Default: DATA/models.")
    flags.DEFINE_string("models_dir", "serialized_models", "Folder of networks trained here, with their model cards.")
    flags.DEFINE_list("networks", names, use)


def find(name: str, data: pathlib.Path) -> "Trained | None":
    """A network, or None where its file is not there."""
    from harness import trained  # loads Keras, which --help need not wait for

    return trained.find(name, pathlib.Path(FLAGS.models_dir), pathlib.Path(FLAGS.models or data / "models"))


def chosen(data: pathlib.Path) -> "Iterator[Trained]":
    """Those of --networks that are there; others are named and left out.

    Raises:
        InputError: none is there.
    """
    missing = 0
    for name in FLAGS.networks:
        network = find(name, data)
        if network is None:
            print(f"{name}: its file is not there, left out", file=sys.stderr)
            missing += 1
        else:
            yield network
    if missing == len(FLAGS.networks):
        raise InputError(f"None of the networks is there: {', '.join(FLAGS.networks)}.")
