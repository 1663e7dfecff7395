"""Masks that follow a schedule of tfmot's while Keras 3 trains."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.fitting.constraints import Kept

# From a kernel and a fraction of zeros to the entries that stay
MaskOf = Callable[[np.ndarray, float], np.ndarray]


class MaskUpdates(keras.callbacks.Callback):
    """Sets the masks before the steps that a schedule names, to the sparsity that it names.

    tfmot counts the first step as 1, and looks at the weights before it.

    Args:
        kept: path -> constraint with a mask.
        earlier: path -> zeros of an earlier step, which stay.
        schedule: of tfmot: step -> (whether masks change, fraction of zeros).
        mask_of: see above.
        steps: of an epoch.
        once: whether masks are set before the first step alone (m of n neighbours).
    """

    def __init__(
        self,
        kept: Mapping[str, Kept],
        earlier: Mapping[str, np.ndarray],
        schedule: Any,
        mask_of: MaskOf,
        steps: int,
        *,
        once: bool = False,
    ):
        super().__init__()
        self.kept = kept
        self.earlier = earlier
        self.mask_of = mask_of
        self.steps = steps
        self.once = once
        # In a graph: called as it is, a schedule takes longer than the step of a small network.
        signature = [tf.TensorSpec((), tf.int64)]
        self.schedule = tf.function(lambda step: schedule(step), input_signature=signature).get_concrete_function()
        self.first = 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.first = epoch * self.steps + 1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = self.first + batch
        if self.once:
            if step == 1:
                self.update(0.0)
            return
        changes, sparsity = self.schedule(tf.constant(step, tf.int64))
        if bool(changes):
            self.update(float(sparsity))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            counts = [(each.variable.shape, float(tf.reduce_mean(each.mask))) for each in self.kept.values()]
            sizes = [int(np.prod(shape)) for shape, _ in counts]
            logs["zeros"] = 1 - sum(size * kept for size, (_, kept) in zip(sizes, counts, strict=True)) / sum(sizes)

    def summaries(self) -> dict[str, float]:
        """Fraction of zeros in each kernel."""
        return {f"zeros/{path}": 1 - float(tf.reduce_mean(each.mask)) for path, each in self.kept.items()}

    def update(self, sparsity: float) -> None:
        """Masks by the magnitudes that are there now."""
        for path, each in self.kept.items():
            mask = self.mask_of(np.asarray(each.variable), sparsity)
            each.set_mask(mask & self.earlier.get(path, np.True_))
