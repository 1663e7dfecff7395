"""`QuantizationAwareTraining`: train a small network, fine-tune it with fake quantization, compare with rounding."""

import pathlib
import tempfile
import zlib
from typing import Any

import keras

from keras_compress.export.tflite import export_tflite
from keras_compress.fitting.training import Training
from keras_compress.measurement.evaluation import evaluate
from keras_compress.result import Result
from keras_compress.training.quantization_aware import quantization_aware_training
from keras_compress.workflows.network import required, small_network, split

MEGABYTE = 1e6
PATIENCE = 3  # epochs without a lower loss on the validation samples


class QuantizationAwareTraining:
    """The tutorial of quantization-aware training on a small convolutional network, at 8 bits.

    Args:
        input_shape: (height, width) or (height, width, channels) of the images.
        num_classes: of the labels, which are integers.
        filters, kernel_size: of the convolution.
        pool_size: of the pooling behind it.

    Attributes:
        model: the network; trained once `train` was called.
        q_aware: the `Result` of `train_q_aware_model`, or None before.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (28, 28),
        num_classes: int = 10,
        filters: int = 12,
        kernel_size: int | tuple[int, int] = (3, 3),
        pool_size: int | tuple[int, int] = (2, 2),
    ):
        self.model: keras.Model = small_network(input_shape, num_classes, filters, kernel_size, pool_size)
        self.applied: bool | None = None
        self.q_aware: Result | None = None

    def train(self, train_data: Any, train_labels: Any, epochs: int = 10, validation_split: float = 0.1) -> None:
        """Trains the network until the validation samples are no longer served better."""
        samples, tested = split(train_data, train_labels, validation_split)
        self.model.fit(*samples, epochs=epochs, validation_data=tested, callbacks=[_early_stopping()], verbose=0)

    def apply_quantization_aware_training(self) -> None:
        """Chooses 8-bit weights and activations for the training that follows."""
        self.applied = True

    def train_q_aware_model(
        self,
        train_data: Any,
        train_labels: Any,
        batch_size: int = 500,
        epochs: int = 10,
        validation_split: float = 0.1,
    ) -> None:
        """Fine-tunes the network with fake quantization; the original stays as it is."""
        required(self.applied, "apply_quantization_aware_training")
        samples, tested = split(train_data, train_labels, validation_split)
        self.q_aware = quantization_aware_training(
            self.model,
            samples,
            validation=tested,
            training=Training(epochs, batch_size, verbose=0),
            callbacks=[_early_stopping()],
        )

    def evaluate(self, test_data: Any, test_labels: Any) -> tuple[float, float]:
        """Prints and returns the accuracies of the network before and after quantization-aware training."""
        q_aware = required(self.q_aware, "train_q_aware_model").model
        accuracies = tuple(evaluate(model, test_data, test_labels).top1 for model in (self.model, q_aware))
        print(f"Original test accuracy: {accuracies[0]:.4f}")
        print(f"Quantization-aware test accuracy: {accuracies[1]:.4f}")
        return accuracies[0], accuracies[1]

    def convert_to_tflite(self) -> bytes:
        """The TFLite file of the network after quantization-aware training; prints its size."""
        content = _exported(required(self.q_aware, "train_q_aware_model"), "int8")
        self._print_size("Quantization-aware", content)
        return content

    def post_quantization(self) -> bytes:
        """The TFLite file of the original network with weights rounded to 8 bits afterwards; prints its size."""
        content = _exported(self.model, "dynamic")
        self._print_size("Post-training", content)
        return content

    def _print_size(self, name: str, content: bytes) -> None:
        original = _exported(self.model, "float")
        gzipped = [len(zlib.compress(each, 9)) for each in (original, content)]
        print(f"Original model: {len(original) / MEGABYTE:.3f} MB, {gzipped[0] / MEGABYTE:.3f} MB after gzip")
        print(
            f"{name} model: {len(content) / MEGABYTE:.3f} MB, {gzipped[1] / MEGABYTE:.3f} MB after gzip: "
            f"{1 - len(content) / len(original):.1%} and {1 - gzipped[1] / gzipped[0]:.1%} less"
        )


def _exported(model: keras.Model | Result, activations: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.tflite"
        export_tflite(model, path, activations=activations)
        return path.read_bytes()


def _early_stopping() -> Any:
    return keras.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE, restore_best_weights=True)
