"""What TensorBoard shows of a training besides losses and metrics."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

Summaries = Callable[[], Mapping[str, float]]


class TrainingSummaries(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` with the zeros of each kernel, and the range of each activation, after each epoch.

    Scalars are "zeros/LAYER", "range/LAYER/low" and "range/LAYER/high", as of tfmot's `PruningSummaries`, for trainings
    by Keras' own `fit`.

    Args:
        log_dir: of one run; two trainings in one folder would be one curve.
        settings: of `keras.callbacks.TensorBoard`.
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "logs", **settings: Any):
        super().__init__(os.fspath(log_dir), **settings)
        self.summaries: Summaries = dict
        self.written: Any = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        values = self.summaries()
        if values and self.written is None:
            self.written = tf.summary.create_file_writer(os.path.join(self.log_dir, "train"))
        if values:
            with self.written.as_default():
                for name, value in values.items():
                    tf.summary.scalar(name, value, epoch)

    def on_train_end(self, logs: Any = None) -> None:
        super().on_train_end(logs)
        if self.written is not None:
            self.written.close()
            self.written = None
