"""Which samples calibrate, which choose between settings, and which test."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.layers.paths import functional_graph, layers_by_path

SELECTION = 1000  # training samples at most that settings are chosen by


def _as_float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Labelled samples of a classifier with one input.

    Attributes:
        x_train: (n, ...), from which calibration samples are drawn; never from the test samples.
        y_train: (n,) integer labels, or None: nothing then chooses between settings but the test samples.
        x_test: (m, ...).
        y_test: (m,) integer labels.
        preprocess: turns samples into what the network wants.
        num_classes: of the data set; None leaves it to the labels.
    """

    x_train: np.ndarray
    y_train: np.ndarray | None
    x_test: np.ndarray
    y_test: np.ndarray
    preprocess: Callable[[np.ndarray], np.ndarray] = _as_float32
    num_classes: int | None = None

    @classmethod
    def of(cls, dataset: Any, preprocess: Callable[[np.ndarray], np.ndarray] = _as_float32) -> "Samples":
        """Those of a `zoo.Dataset`."""
        return cls(dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, preprocess, dataset.num_classes)

    def calibration(self, num_samples: int, seed: int) -> np.ndarray:
        """A random choice of training samples; a larger one holds every smaller one of the same seed."""
        return self.preprocess(self.x_train[self._order(seed)[:num_samples]])

    def selection(self, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Training samples, and their labels, that are not among the `num_samples` of the calibration."""
        chosen = self._order(seed)[max(num_samples, len(self.x_train) - SELECTION) :]
        if self.y_train is None or not len(chosen):
            return None
        return self.preprocess(self.x_train[chosen]), self.y_train[chosen]

    def test(self) -> tuple[np.ndarray, np.ndarray]:
        return self.preprocess(self.x_test), self.y_test

    def check(self, model: keras.Model, num_samples: int) -> None:
        """Compares the samples with the model and with the number of calibration samples that is asked for.

        Raises:
            InputError: they do not fit.
        """
        graph = functional_graph(model)
        if len(graph.inputs) != 1 or len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 2:
            raise InputError(
                "A classifier with one input and one output (n, classes) is expected. Received: model "
                f"{model.name!r} with inputs {_shapes(graph.inputs)} and outputs {_shapes(graph.outputs)}."
            )
        expected, num_classes = tuple(graph.inputs[0].shape), graph.outputs[0].shape[1]
        for part, x in (("training", self.x_train), ("test", self.x_test)):
            received = self.preprocess(x[:1]).shape
            if len(received) != len(expected) or any(
                length not in (None, size) for length, size in zip(expected[1:], received[1:], strict=True)
            ):
                raise InputError(
                    f"The model expects samples of shape {expected[1:]}. Received: {part} samples of shape "
                    f"{received[1:]} after preprocessing. Is it the model of another data set?"
                )
        if self.num_classes not in (None, num_classes):
            raise InputError(
                f"The model has {num_classes} classes. Received: a data set with {self.num_classes}. "
                "Name the data set that the model was trained on."
            )
        for part, y in (("training", self.y_train), ("test", self.y_test)):
            if y is not None and (np.min(y) < 0 or np.max(y) >= num_classes):
                raise InputError(
                    f"The model has {num_classes} classes, labels 0 to {num_classes - 1}. Received: {part} labels "
                    f"{np.min(y)} to {np.max(y)}. Is it the model of another data set?"
                )
        if num_samples > len(self.x_train):
            raise InputError(
                f"num_samples must be at most {len(self.x_train):,}, the number of training samples. "
                f"Received: {num_samples:,}."
            )

    def fingerprint(self, model: keras.Model, num_samples: int, seed: int) -> str:
        """Twelve characters that change with the weights, the calibration samples and the test samples."""
        digest = hashlib.sha256()
        for path, layer in layers_by_path(model).items():
            digest.update(f"{path} {type(layer).__name__}".encode())
            for weight in layer.get_weights():
                _feed(digest, weight)
        _feed(digest, self.calibration(num_samples, seed))
        for array in self.test():
            _feed(digest, array)
        return digest.hexdigest()[:12]

    def _order(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation(len(self.x_train))


def _feed(digest: Any, array: np.ndarray) -> None:
    array = np.asarray(array)
    digest.update(f"{array.shape} {array.dtype}".encode())
    digest.update(np.ascontiguousarray(array).data if array.size else b"")


def _shapes(tensors: list[Any]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
