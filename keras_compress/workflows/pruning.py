"""`ModelPruning`: train a small network, prune it from 50 to 80 % zeros, compare."""

import os
from typing import Any

import keras

from keras_compress.files import replacing
from keras_compress.fitting.training import Training
from keras_compress.measurement.counts import measure
from keras_compress.measurement.evaluation import evaluate
from keras_compress.pruning.magnitude import prune_magnitude
from keras_compress.pruning.schedules import PolynomialDecay
from keras_compress.result import Result
from keras_compress.workflows.network import required, small_network, split


class ModelPruning:
    """The pruning tutorial on a small convolutional network.

    Args:
        input_shape: (height, width) or (height, width, channels) of the images.
        num_classes: of the labels, which are integers.
        epochs: of both trainings.
        batch_size: samples in a step.
        validation_split: fraction of the training samples, the last ones, that are evaluated after each epoch.

    Attributes:
        model: the network; trained once `train_baseline_model` was called.
        pruned: the `Result` of `train_pruned_model`, or None before.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (28, 28),
        num_classes: int = 10,
        epochs: int = 10,
        batch_size: int = 35,
        validation_split: float = 0.1,
    ):
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_split = validation_split
        self.model: keras.Model = small_network(input_shape, num_classes)
        self.schedule: PolynomialDecay | None = None
        self.pruned: Result | None = None

    def train_baseline_model(self, train_images: Any, train_labels: Any) -> None:
        """Trains the network."""
        samples, tested = split(train_images, train_labels, self.validation_split)
        self.model.fit(*samples, epochs=self.epochs, batch_size=self.batch_size, validation_data=tested, verbose=0)

    def evaluate_baseline(self, test_images: Any, test_labels: Any) -> float:
        """Prints and returns the accuracy of the network."""
        accuracy = evaluate(self.model, test_images, test_labels).top1
        print(f"Baseline test accuracy: {accuracy:.4f}")
        return accuracy

    def save_baseline_model(self, path: str | os.PathLike[str] = "baseline.keras") -> str:
        """Writes the network; returns the path."""
        with replacing(path) as part:
            self.model.save(part)
        return os.fspath(path)

    def apply_pruning(self) -> None:
        """Chooses the schedule: polynomial decay from 50 to 80 % zeros."""
        self.schedule = PolynomialDecay(initial_sparsity=0.5, final_sparsity=0.8)

    def train_pruned_model(self, train_images: Any, train_labels: Any) -> None:
        """Fine-tunes the network while its weights become zero; the baseline stays as it is."""
        samples, tested = split(train_images, train_labels, self.validation_split)
        self.pruned = prune_magnitude(
            self.model,
            samples,
            schedule=required(self.schedule, "apply_pruning"),
            validation=tested,
            training=Training(self.epochs, self.batch_size, verbose=0),
        )

    def evaluate_pruned_model(self, test_images: Any, test_labels: Any) -> float:
        """Prints the accuracy of the pruned network and both sizes after gzip; returns the accuracy."""
        pruned = required(self.pruned, "train_pruned_model").model
        accuracy = evaluate(pruned, test_images, test_labels).top1
        before, after = measure(self.model).gzipped_bytes, measure(pruned).gzipped_bytes
        print(f"Pruned test accuracy: {accuracy:.4f}")
        print(f"Size after gzip: {before:,} bytes, pruned {after:,} bytes ({after / before:.0%})")
        return accuracy
