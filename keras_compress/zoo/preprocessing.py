"""What is done to a sample before a network sees it, written down so that calibration and evaluation do the same."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_compress.errors import InputError

KINDS = ("unit", "raw", "standardize")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """`(x * scale - mean) / std`, then `reshape(n, *shape)`, as float32.

    `mean` and `std` are numbers, or lists with one number for each entry of the last axis of `x`.
    """

    scale: float = 1.0
    mean: float | list[float] = 0.0
    std: float | list[float] = 1.0
    shape: tuple[int, ...] | None = None  # None leaves the shape as it is

    def check(self, shape: tuple[int, ...]) -> None:
        """Compares the shape of a sample, without the axis of samples, with what this is for.

        Axes of one entry may come and go, and an image may be flat. Other shapes of the same size would be reshaped to
        something that is no image.

        Raises:
            InputError: a shape that does not fit.
        """
        expected = shape if self.shape is None else self.shape
        sizes, received = ([size for size in each if size != 1] for each in (expected, shape))
        flat = min(len(sizes), len(received)) == 1 and math.prod(sizes) == math.prod(received)
        if sizes != received and not flat:
            raise InputError(f"Samples of shape {tuple(expected)} are expected. Received: samples of shape {shape}.")
        for name in ("mean", "std"):
            count = np.size(getattr(self, name))
            if count not in (1, shape[-1]):
                raise InputError(
                    f"Samples with {count} entries in their last axis are expected, one for each {name}. Received: "
                    f"samples of shape {shape}."
                )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The samples as the network takes them.

        Args:
            x: (n, ...) samples as the data set has them.

        Raises:
            InputError: a shape that does not fit.
        """
        x = np.asarray(x, np.float32)
        self.check(x.shape[1:])
        if self.scale != 1.0:
            x = x * np.float32(self.scale)
        if np.any(self.mean) or np.any(np.asarray(self.std) != 1.0):
            x = (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return x if self.shape is None else x.reshape(len(x), *self.shape)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocessing":
        shape = fields.get("shape")
        return cls(**{**fields, "shape": None if shape is None else tuple(shape)})


def fit_preprocessing(kind: str, x_train: np.ndarray, *, max_value: float) -> Preprocessing:
    """Preprocessing of one of `KINDS`, from the training samples alone.

    Args:
        kind: "unit" divides by `max_value`; "standardize" takes away the mean and divides by the standard deviation, of
            each channel of an image (last axis) or of each column of a table; "raw" leaves the numbers as they are.
        x_train: (n, height, width), (n, height, width, channels) or (n, columns).
        max_value: largest value that a sample can hold: 255 for images of bytes.
    """
    shape = (*x_train.shape[1:], 1) if x_train.ndim == 3 else x_train.shape[1:]
    if kind == "raw":
        return Preprocessing(shape=shape)
    if kind == "unit":
        return Preprocessing(scale=1.0 / max_value, shape=shape)
    if kind == "standardize":
        mean, std = _moments(x_train)
        std[std == 0] = 1.0  # a constant column becomes zeros
        return Preprocessing(mean=_plain(mean), std=_plain(std), shape=shape)
    raise InputError(f"Preprocessing must be one of {', '.join(KINDS)}. Received: {kind!r}.")


def _moments(x: np.ndarray, *, chunk: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each entry of the last axis, or of all entries of (n, height, width)."""
    num_channels = 1 if x.ndim == 3 else x.shape[-1]

    def average(term: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        # in chunks: float64 copies of all images would take eight times their memory
        chunks = (x[start : start + chunk].reshape(-1, num_channels) for start in range(0, len(x), chunk))
        return sum(term(rows.astype(np.float64)).sum(axis=0) for rows in chunks) / (x.size / num_channels)

    mean = average(lambda rows: rows)
    return mean, np.sqrt(average(lambda rows: (rows - mean) ** 2))


def _plain(values: np.ndarray) -> float | list[float]:
    return float(values[0]) if values.size == 1 else values.tolist()
