"""What outputs are worth, by labels. Loads neither TensorFlow nor Keras."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_compress.errors import InputError
from keras_compress.samples.inputs import InputSpec, model_batches
from keras_compress.samples.samples import Samples, rebatched

TASKS = ("classification", "binary", "segmentation", "regression")
SMALLEST_PROBABILITY = 1e-7  # as Keras clips in its cross entropy
PROBABILITY_TOLERANCE = 1e-3  # on the sum of a sample's outputs; float16 sums are no better


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a model does on labelled samples.

    Attributes:
        task: "classification", "binary", "segmentation", "regression", or "compiled".
        metrics: name -> value. classification: "top-1" and "top-5" (with more than five classes), fractions of samples
            whose class is (among) the highest, where of equal scores that of the first class counts as higher, and
            scores with NaN are wrong; "loss", the mean cross entropy, where outputs are probabilities. binary:
            "accuracy" at 0.5 and "loss". segmentation: "pixel accuracy", "mean IoU" over the classes that labels or
            outputs have, and "loss". regression: "R2", 1 - the squared error over that of the mean of each output;
            "MSE", "MAE". compiled: what the model was compiled with.
        num_samples: number of samples.
    """

    task: str
    metrics: dict[str, float]
    num_samples: int

    @property
    def score(self) -> float:
        """The first of the metrics, of which more is better: what `quantize_with_accuracy_control` keeps."""
        return next(iter(self.metrics.values()))

    @property
    def top1(self) -> float:
        """The fraction of samples, or of pixels, that are right."""
        for name in ("top-1", "accuracy", "pixel accuracy"):
            if name in self.metrics:
                return self.metrics[name]
        raise AttributeError(f"{self.task} has no top-1, but {', '.join(self.metrics)}.")

    @property
    def top5(self) -> float | None:
        """With more than five classes."""
        return self.metrics.get("top-5")

    @property
    def loss(self) -> float | None:
        """Where outputs are probabilities."""
        return self.metrics.get("loss")

    def __str__(self) -> str:
        parts = [f"{name} {_text(name, value)}" for name, value in self.metrics.items()]
        return f"{', '.join(parts)} on {self.num_samples:,} samples"


def _text(name: str, value: float) -> str:
    fraction = name.startswith("top-") or name.endswith(("accuracy", "IoU"))
    return f"{value:.2%}" if fraction else f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.4g}"


class Counter(abc.ABC):
    """Counts, batch by batch, what outputs say of labels."""

    def add(self, outputs: np.ndarray, labels: Any) -> None:
        """The outputs for the next samples, and their labels.

        Raises:
            InputError: labels that do not fit.
        """
        labels = np.asarray(labels)
        if len(labels) != len(outputs):
            raise InputError(f"Expected one label for each sample, {len(outputs)}. Received: {len(labels)}.")
        self._add(outputs.astype(np.float64), labels)

    @abc.abstractmethod
    def _add(self, outputs: np.ndarray, labels: np.ndarray) -> None: ...

    @abc.abstractmethod
    def evaluation(self) -> Evaluation:
        """Of all samples."""


class ClassCounter(Counter):
    """Outputs (n, num_classes); integer labels (n,) or (n, 1), or one-hot ones."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # ranks and losses
        self._probable = True
        self._num_classes = 0

    def _add(self, outputs: np.ndarray, labels: np.ndarray) -> None:
        self._num_classes = outputs.shape[1]
        labels = integer_labels(labels, *outputs.shape)
        own = np.take_along_axis(outputs, labels[:, np.newaxis], axis=1)
        earlier = np.arange(self._num_classes) < labels[:, np.newaxis]
        ranks = ((outputs > own) | ((outputs == own) & earlier)).sum(axis=1)  # classes that have a higher score
        ranks[np.isnan(outputs).any(axis=1)] = self._num_classes
        self._parts.append((ranks, _cross_entropy(own[:, 0])))
        self._probable &= _are_probabilities(outputs)

    def evaluation(self) -> Evaluation:
        ranks, losses = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        metrics = {"top-1": float(np.mean(ranks < 1))}
        if self._num_classes > 5:
            metrics["top-5"] = float(np.mean(ranks < 5))
        if self._probable:
            metrics["loss"] = float(losses.mean())
        return Evaluation("classification", metrics, len(ranks))


class PixelCounter(Counter):
    """Outputs (n, ..., num_classes); integer labels (n, ...) or (n, ..., 1), or one-hot ones."""

    def __init__(self, num_classes: int):
        self._counts = np.zeros((3, num_classes), np.int64)  # pixels that are right, labelled, predicted, of each class
        self._losses: list[np.ndarray] = []
        self._probable = True

    def _add(self, outputs: np.ndarray, labels: np.ndarray) -> None:
        labels = _pixel_labels(labels, outputs.shape)
        predicted = np.where(np.isnan(outputs).any(axis=-1), -1, outputs.argmax(axis=-1))
        size = self._counts.shape[1]
        for index, values in enumerate((labels[labels == predicted], labels, predicted[predicted >= 0])):
            self._counts[index] += np.bincount(values.ravel(), minlength=size)
        own = np.take_along_axis(outputs, labels[..., np.newaxis], axis=-1)
        self._losses.append(_cross_entropy(own).reshape(len(own), -1).mean(axis=1))
        self._probable &= _are_probabilities(outputs.reshape(-1, outputs.shape[-1]))

    def evaluation(self) -> Evaluation:
        right, labelled, predicted = self._counts
        union = labelled + predicted - right
        metrics = {
            "pixel accuracy": float(right.sum() / labelled.sum()),
            "mean IoU": float(np.mean(right[union > 0] / union[union > 0])),
        }
        losses = np.concatenate(self._losses)
        if self._probable:
            metrics["loss"] = float(losses.mean())
        return Evaluation("segmentation", metrics, len(losses))


class NumberCounter(Counter):
    """Outputs and labels of one shape: probabilities of one class where all are, else numbers."""

    def __init__(self, *, binary: bool, decided: bool):
        self._parts: list[list[np.ndarray]] = []  # of each sample: squares, errors, right, cross entropies
        self._binary = binary
        self._decided = decided  # whatever the outputs and later labels are
        self._origin: np.ndarray | None = None  # near the labels, so that their squares are no larger than they need be
        self._sums: list[tuple[np.ndarray, np.ndarray]] = []  # of labels and their squares, from the origin

    def _add(self, outputs: np.ndarray, labels: np.ndarray) -> None:
        if outputs.size != labels.size:
            raise InputError(f"Expected labels of the shape of the outputs, {outputs.shape}. Received: {labels.shape}.")
        outputs = outputs.reshape(len(outputs), -1)
        labels = labels.reshape(len(labels), -1).astype(np.float64)
        if self._origin is None:
            self._origin = labels.mean(axis=0)
        self._sums.append(((labels - self._origin).sum(axis=0), np.square(labels - self._origin).sum(axis=0)))
        error = outputs - labels
        if not self._decided:
            self._binary &= bool(((outputs >= 0) & (outputs <= 1)).all() and np.isin(labels, (0, 1)).all())
        elif self._binary and not np.isin(labels, (0, 1)).all():
            raise InputError("Labels of a binary task must be 0 and 1. Received: others.")
        losses = _cross_entropy(np.where(labels > 0.5, outputs, 1 - outputs))
        right = (outputs > 0.5) == (labels > 0.5)
        columns = (np.square(error), np.abs(error), right & ~np.isnan(outputs), losses)
        self._parts.append([column.mean(axis=1) for column in columns])

    def evaluation(self) -> Evaluation:
        squares, errors, right, losses = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        count = len(right)
        if self._binary:
            return Evaluation("binary", {"accuracy": float(right.mean()), "loss": float(losses.mean())}, count)
        sums, of_squares = (sum(column) for column in zip(*self._sums, strict=True))
        spread = float(np.mean(of_squares / count - np.square(sums / count)))
        metrics = {"R2": float(1 - squares.mean() / spread)} if spread > 0 else {}
        metrics |= {"MSE": float(squares.mean()), "MAE": float(errors.mean())}
        return Evaluation("regression", metrics, count)


def _cross_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Of what is right, by its probability."""
    return -np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1.0))


def _are_probabilities(scores: np.ndarray) -> bool:
    sums_to_one = np.abs(scores.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE
    return bool(sums_to_one.all() and (scores >= 0).all())


def evaluated(
    samples: Samples,
    specs: Sequence[InputSpec],
    outputs_of: Callable[[Sequence[np.ndarray]], np.ndarray],
    size: int,
    task: str | None,
) -> Evaluation:
    """What the outputs for all samples are worth.

    Args:
        samples: with labels.
        specs: of the inputs.
        outputs_of: inputs of some samples -> (n, ...) outputs.
        size: samples that are read at a time.
        task: see `counter_for`.
    """
    counter: Counter | None = None
    for batch in rebatched(model_batches(samples, specs, "x", finite=False), size):
        if batch.labels is None:
            raise InputError("There are no labels to compare with. Pass y, or data of (inputs, labels).")
        outputs = outputs_of(batch.inputs)
        if counter is None:
            known = samples.known_labels()
            labels = np.asarray(batch.labels if known is None else known)
            counter = counter_for(labels, (len(labels), *outputs.shape[1:]), task)
        counter.add(outputs, batch.labels)
    assert counter is not None, "samples without a batch are refused"
    return counter.evaluation()


def counter_for(labels: np.ndarray, outputs: tuple[int, ...], task: str | None = None) -> Counter:
    """What counts outputs of a shape against labels.

    Args:
        labels: of all samples, where they are known, else of some.
        outputs: (n, ...) with the number of labels.
        task: of `TASKS`; None tells it from shapes and labels. Scores for each class with whole numbers or one-hot
            labels are a classification, or a segmentation where there are more axes; labels of the shape of the
            outputs are a binary classification where they are 0 and 1 and all outputs lie in [0, 1], else a regression.

    Raises:
        InputError: another task, or labels that do not fit the outputs.
    """
    if task not in (None, *TASKS):
        raise InputError(f"task must be one of {', '.join(TASKS)} or compiled. Received: {task!r}.")
    if labels.dtype.kind not in "biuf":
        raise InputError(f"Labels must be numbers. Received: an array of {labels.dtype}.")
    if not np.isfinite(labels).all():
        raise InputError("Labels must be finite. Received: NaN or Inf among them.")
    shape = tuple(labels.shape)
    numbers = shape == outputs or (outputs[-1] == 1 and shape == outputs[:-1])
    scores = len(outputs) > 1 and outputs[-1] > 1
    zeros_and_ones = bool(np.isin(labels, (0, 1)).all())
    classes = not numbers or (scores and zeros_and_ones)  # one-hot labels have the shape of the outputs, too
    if task is not None:
        classes = task in ("classification", "segmentation")
    if not classes:
        if not numbers:
            raise InputError(f"Expected labels of the shape of the outputs, {outputs}. Received: {shape}.")
        if task == "binary" and not zeros_and_ones:
            raise InputError("Labels of a binary task must be 0 and 1. Received: others.")
        return NumberCounter(binary=zeros_and_ones and task != "regression", decided=task is not None)
    if not scores:
        raise InputError(f"Expected outputs with a score for each class, (n, classes). Received: outputs {outputs}.")
    if len(outputs) == 2:
        integer_labels(labels, outputs[0], outputs[1])  # checks
        return ClassCounter()
    _pixel_labels(labels, outputs)
    return PixelCounter(outputs[-1])


def _pixel_labels(labels: np.ndarray, outputs: tuple[int, ...]) -> np.ndarray:
    """(n, ...) integer labels, each a class of the model."""
    shape = tuple(labels.shape)
    if shape not in (outputs, outputs[:-1], (*outputs[:-1], 1)):
        raise InputError(f"Expected a label for each pixel, {outputs[:-1]}, or one-hot {outputs}. Received: {shape}.")
    columns = labels.reshape(-1, shape[-1]) if shape == outputs else labels.reshape(-1)
    return integer_labels(columns, int(np.prod(outputs[:-1])), outputs[-1]).reshape(outputs[:-1])


def integer_labels(y: np.ndarray, num_samples: int, num_classes: int) -> np.ndarray:
    """(n,) integer labels, each a class of the model, of finite numbers."""
    if y.ndim not in (1, 2) or len(y) != num_samples:
        raise InputError(
            f"Expected one label for each sample: shape ({num_samples},), or one-hot ({num_samples}, {num_classes}). "
            f"Received: {y.shape}."
        )
    if y.dtype.kind == "f" and not np.array_equal(y, np.floor(y)):
        raise InputError(f"Labels must be whole numbers, the indices of classes. Received: an array of {y.dtype}.")
    if y.ndim == 2 and y.shape[1] != 1:
        if y.shape[1] != num_classes:
            raise InputError(
                f"The labels are one-hot for {y.shape[1]} classes, and the model has {num_classes}. "
                "Is it the model of another data set?"
            )
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise InputError("One-hot labels must have a single 1 in each row and zeros elsewhere.")
        return y.argmax(axis=1)
    labels = y.reshape(-1).astype(np.int64)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"Labels must lie in 0 to {num_classes - 1}, since the model has {num_classes} classes. "
            f"Received: {labels.min()} to {labels.max()}. Is it the model of another data set?"
        )
    return labels
