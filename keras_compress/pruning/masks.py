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
        # All steps of an epoch in one graph: called as it is, a schedule takes longer than the step of a small network.
        signature = [tf.TensorSpec([None], tf.int64)]
        kinds = tf.TensorSpec((), tf.bool), tf.TensorSpec((), tf.float32)

        def of_steps(numbers: Any) -> Any:
            return tf.map_fn(schedule, numbers, fn_output_signature=kinds)

        self.schedule = tf.function(of_steps, input_signature=signature).get_concrete_function()
        self.planned: dict[int, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        first = epoch * self.steps + 1
        if self.once:
            self.planned = {0: 0.0} if epoch == 0 else {}
            return
        changes, sparsities = self.schedule(tf.range(first, first + self.steps, dtype=tf.int64))
        self.planned = {int(batch): float(sparsities[batch]) for batch in np.flatnonzero(changes)}

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch in self.planned:
            self.update(self.planned[batch])

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
