"""Pictures of four classes that tests train on, and a training that dies."""

import keras
import numpy as np


def bright_quarters(num_samples: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, size, size) noise in which one quarter is bright, and which one: a class that is easily learnt."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.3, size=(num_samples, size, size)).astype("float32"), rng.integers(0, 4, num_samples)
    half = size // 2
    for image, label in zip(x, y, strict=True):
        image[half * (label // 2) :, half * (label % 2) :][:half, :half] += 1
    return x, y


class Mirrored(keras.utils.PyDataset):
    """Images that are mirrored or not, by epoch."""

    def __init__(self, data):
        super().__init__()
        self.data, self.epoch = data, 0

    @property
    def num_batches(self):
        return 8

    def on_epoch_begin(self):
        self.epoch += 1

    def __getitem__(self, index):
        rows = slice(25 * index, 25 * (index + 1))
        return self.data[0][rows, :: -1 if self.epoch % 2 else 1], self.data[1][rows]


class Killed(Exception):
    """What `Kill` raises."""


class Kill(keras.callbacks.Callback):
    """Ends a training within an epoch."""

    def __init__(self, epoch: int, batch: int):
        super().__init__()
        self.moment = (epoch, batch)
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.moment:
            raise Killed
