"""Inputs and labels as users have them, and how often a classifier is right. Loads neither TensorFlow nor Keras."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_compress.errors import InputError

SMALLEST_PROBABILITY = 1e-7  # as Keras clips in its cross entropy
PROBABILITY_TOLERANCE = 1e-3  # on the sum of a sample's outputs; float16 sums are no better


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a classifier does on labelled samples.

    Attributes:
        top1: share of samples whose class has the highest score; of equal scores, that of the first class counts as
            higher. Scores with NaN are wrong.
        top5: share of samples whose class is among the five highest; `None` with fewer than six classes.
        loss: mean cross entropy, where the model's outputs are probabilities; else `None`.
        num_samples: number of samples.
    """

    top1: float
    top5: float | None
    loss: float | None
    num_samples: int

    def __str__(self) -> str:
        parts = [f"top-1 {self.top1:.2%}"]
        parts += [f"top-5 {self.top5:.2%}"] if self.top5 is not None else []
        parts += [f"loss {self.loss:.4f}"] if self.loss is not None else []
        return f"{', '.join(parts)} on {self.num_samples:,} samples"


class ScoreCounter:
    """Counts, batch by batch, what scores say of labels."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # ranks and losses
        self._probable = True
        self._num_classes = 0

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """(n, num_classes) scores of n samples, and their (n,) labels."""
        scores = scores.astype(np.float64)
        self._num_classes = scores.shape[1]
        own = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)
        earlier = np.arange(self._num_classes) < labels[:, np.newaxis]
        ranks = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)  # classes that have a higher score
        ranks[np.isnan(scores).any(axis=1)] = self._num_classes
        self._parts.append((ranks, -np.log(np.clip(own[:, 0], SMALLEST_PROBABILITY, 1.0))))
        sums_to_one = np.abs(scores.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE
        self._probable &= bool(sums_to_one.all() and (scores >= 0).all())

    def evaluation(self) -> Evaluation:
        """Of all samples."""
        ranks, losses = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        return Evaluation(
            top1=float(np.mean(ranks < 1)),
            top5=float(np.mean(ranks < 5)) if self._num_classes > 5 else None,
            loss=float(losses.mean()) if self._probable else None,
            num_samples=len(ranks),
        )


def input_arrays(x: Any, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays in `x`: one, a list of them, or a dictionary by the names of the inputs, whose order they then have.

    Raises:
        InputError: a dictionary with other names.
    """
    if not isinstance(x, Mapping):
        return [np.asarray(array) for array in (x if isinstance(x, (list, tuple)) else [x])]
    if set(x) != set(names):
        raise InputError(f"Inputs must be named {sorted(names)}. Received: {sorted(map(str, x))}.")
    return [np.asarray(x[name]) for name in names]


def integer_labels(y: np.ndarray, num_samples: int, num_classes: int) -> np.ndarray:
    """(n,) integer labels, each a class of the model."""
    if y.ndim not in (1, 2) or len(y) != num_samples:
        raise InputError(
            f"Wanted is one label for each sample: shape ({num_samples},), or one-hot ({num_samples}, {num_classes}). "
            f"Received: {y.shape}."
        )
    if y.dtype.kind not in "biuf" or (y.dtype.kind == "f" and not np.array_equal(y, np.floor(y))):
        raise InputError(f"Labels must be whole numbers, the indices of classes. Received: an array of {y.dtype}.")
    if y.ndim == 2 and y.shape[1] != 1:
        if y.shape[1] != num_classes:
            raise InputError(
                f"The labels are one-hot for {y.shape[1]} classes, and the model has {num_classes}. "
                "Is it the model of another data set?"
            )
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise InputError("One-hot labels must have a single 1 in each row and zeros beside it.")
        return y.argmax(axis=1)
    labels = y.reshape(-1).astype(np.int64)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"Labels must lie in 0 to {num_classes - 1}, since the model has {num_classes} classes. "
            f"Received: {labels.min()} to {labels.max()}. Is it the model of another data set?"
        )
    return labels
