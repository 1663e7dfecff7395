"""Networks to time: the zoo's, with first weights since time does not depend on training, or a file, and images."""

import pathlib
from typing import Any

import numpy as np

from keras_compress import zoo
from keras_compress.bridge.loading import load_model
from keras_compress.errors import InputError

DATASETS = {"mlp": "mnist", "cnn": "cifar10"}
NUM_IMAGES = {"mlp": 25_000, "cnn": 5_000}


def load(name: str) -> tuple[Any, str]:
    """A model, and the name of its data set; no data set for a file.

    Raises:
        InputError: neither a name from `DATASETS` nor a file with one input.
    """
    if name not in DATASETS:
        if "." not in name:
            raise InputError(f"Expected one of {', '.join(DATASETS)}, or a file. Received: {name!r}.")
        model = load_model(name)
        if len(model.inputs) != 1 or None in model.inputs[0].shape[1:]:
            raise InputError(f"Expected a model with one input of a fixed shape. Received: {name!r}.")
        return model, ""
    shape = (28, 28, 1) if name == "mlp" else (32, 32, 3)
    return zoo.build_architecture(name, shape, 10), DATASETS[name]


def training_images(model: Any, dataset: str, data: pathlib.Path | None, count: int) -> np.ndarray:
    """The first training images, divided by 255; standard normal numbers without a data set."""
    shape = tuple(model.inputs[0].shape[1:])
    if not dataset or data is None:
        return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)
    images = zoo.load_dataset(str(data / f"{dataset}.npz")).x_train
    if count > len(images):
        raise InputError(f"{dataset} has {len(images):,} training images. Received: {count:,} as number of images.")
    return (images[:count] / np.float32(255)).reshape(count, *shape)
