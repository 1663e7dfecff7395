"""Which samples train, calibrate, choose between settings, and test. Data sets are split without Keras."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress.errors import InputError
from keras_compress.samples.samples import ArraySamples, Batch, IndexedSamples

if TYPE_CHECKING:
    import keras

SELECTION = 1000  # training samples at most that settings are chosen by
VALIDATION = 0.1  # of the training samples, where a network is trained


def _as_float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """Labelled samples of a classifier with one input.

    Attributes:
        x_train: (n, ...), from which calibration samples are drawn; never from the test samples.
        y_train: (n,) integer labels, or None: nothing then chooses between settings but the test samples.
        x_test: (m, ...).
        y_test: (m,) integer labels.
        preprocess: turns samples into what the network expects.
        num_classes: of the data set; None leaves it to the labels.
    """

    x_train: np.ndarray
    y_train: np.ndarray | None
    x_test: np.ndarray
    y_test: np.ndarray
    preprocess: Callable[[np.ndarray], np.ndarray] = _as_float32
    num_classes: int | None = None

    @classmethod
    def of(cls, dataset: Any, preprocess: Callable[[np.ndarray], np.ndarray] = _as_float32) -> "DataSplits":
        """Those of a `zoo.Dataset`."""
        return cls(dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, preprocess, dataset.num_classes)

    def calibration(self, num_samples: int, seed: int) -> IndexedSamples:
        """A random choice of training samples; a larger one begins with every smaller one of the same seed."""
        return self._train(with_labels=False).take(num_samples, seed)

    def selection(self, num_samples: int, seed: int) -> IndexedSamples | None:
        """Training samples with labels that are not among the `num_samples` of the calibration."""
        order = np.random.default_rng(seed).permutation(len(self.x_train))
        chosen = order[max(num_samples, len(self.x_train) - SELECTION) :]
        return None if self.y_train is None or not len(chosen) else self._train().at(chosen)

    def training(self, seed: int) -> tuple[IndexedSamples, IndexedSamples]:
        """Training samples to train on, and a tenth of them to look at after each epoch."""
        order = np.random.default_rng(seed).permutation(len(self.x_train))
        at = int(len(order) * (1 - VALIDATION))
        return self._train().at(order[:at]), self._train().at(order[at:])

    def test(self) -> IndexedSamples:
        """The test samples with their labels."""
        return self._preprocessed(self.x_test, self.y_test)

    def check(self, model: "keras.Model", num_samples: int) -> None:
        """Compares the samples with the model and with the number of calibration samples that is asked for.

        Raises:
            InputError: they do not fit.
        """
        from keras_compress.layers.paths import functional_graph  # loads Keras, which data sets need not wait for

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

    def fingerprint(self, model: "keras.Model", num_samples: int, seed: int) -> str:
        """Twelve characters that change with the weights, the calibration samples and the test samples."""
        from keras_compress.layers.paths import layers_by_path  # loads Keras

        digest = hashlib.sha256()
        for path, layer in layers_by_path(model).items():
            digest.update(f"{path} {type(layer).__name__}".encode())
            for weight in layer.get_weights():
                _feed(digest, weight)
        _feed_inputs(digest, self.calibration(num_samples, seed))
        _feed_inputs(digest, self.test())
        _feed(digest, self.y_test)
        return digest.hexdigest()[:12]

    def _train(self, *, with_labels: bool = True) -> IndexedSamples:
        return self._preprocessed(self.x_train, self.y_train if with_labels else None)

    def _preprocessed(self, x: np.ndarray, y: np.ndarray | None) -> IndexedSamples:
        return ArraySamples(Batch(x, y)).preprocessed(self.preprocess)


def _feed_inputs(digest: Any, samples: IndexedSamples) -> None:
    """As `_feed` takes the inputs of all samples, a batch at a time."""
    for number, batch in enumerate(samples.batches()):
        if number == 0:
            digest.update(f"{(samples.num_samples, *batch.inputs.shape[1:])} {batch.inputs.dtype}".encode())
        digest.update(np.ascontiguousarray(batch.inputs).data)


def _feed(digest: Any, array: np.ndarray) -> None:
    array = np.asarray(array)
    digest.update(f"{array.shape} {array.dtype}".encode())
    digest.update(np.ascontiguousarray(array).data if array.size else b"")


def _shapes(tensors: list[Any]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)


def split_by_class(
    y: np.ndarray, fraction: float, seed: int, *, names: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two parts of the samples; of each class the second part gets `fraction`, and both get at least one.

    Args:
        y: (n,) integer labels.
        fraction: between 0 and 1.
        seed: of the choice.
        names: names of the classes, for the message.

    Raises:
        InputError: a class has one sample.
    """
    generator = np.random.default_rng(seed)
    first, second = [], []
    for label in np.unique(y):
        members = generator.permutation(np.flatnonzero(y == label))
        if len(members) < 2:
            raise InputError(
                f"Class {names[label] if names else label!r} has one sample; splitting it needs at least 2. "
                "Add samples of this class or remove it."
            )
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        second.append(members[:count])
        first.append(members[count:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))
