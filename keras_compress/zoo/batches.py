"""Batches of training images: in a seeded order, preprocessed, and augmented by mirroring and shifting."""

import math

import keras
import numpy as np

from keras_compress.zoo.preprocessing import Preprocessing

AUGMENTATIONS = ("none", "shift", "flip_shift")


def augmentation_for(dataset: str, augment: str = "auto") -> str:
    """The augmentation; for "auto" what is usual for a data set: mirroring and shifting for cifar10, otherwise none."""
    if augment != "auto":
        return augment
    return "flip_shift" if dataset == "cifar10" else "none"


class Batches(keras.utils.PyDataset):
    """Preprocessed, augmented batches, shuffled anew for each epoch in an order that depends on the seed alone."""

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        augment: str = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.x, self.y = x, y
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self.order = np.arange(len(x))

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def on_epoch_begin(self) -> None:
        self.epoch += 1
        self.order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.x))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        generator = np.random.default_rng((self.seed, self.epoch, index))
        return augment_images(self.preprocessing(self.x[rows]), self.augment, generator), self.y[rows]


def augment_images(images: np.ndarray, kind: str, generator: np.random.Generator) -> np.ndarray:
    """Mirrors half of the images and shifts each by up to an eighth of its size; the border repeats its last pixels.

    Args:
        images: (n, height, width, channels).
        kind: one of `AUGMENTATIONS`; "none" returns `images`, and "shift" does not mirror.
        generator: decides on mirroring and shifts.
    """
    if kind == "none":
        return images
    n, height, width, _ = images.shape
    if kind == "flip_shift":
        mirrored = generator.integers(0, 2, n).astype(bool)
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    rows, columns = max(1, height // 8), max(1, width // 8)
    padded = np.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    top = generator.integers(0, 2 * rows + 1, n)
    left = generator.integers(0, 2 * columns + 1, n)
    return np.ascontiguousarray(np.moveaxis(windows[np.arange(n), top, left], 1, -1))
