"""Samples as datasets of tf.data, for trainings: in an order that a seed gives."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.samples.blocks import slices
from keras_compress.samples.forms import DatasetSamples, PyDatasetSamples, as_samples
from keras_compress.samples.samples import Batch, IndexedSamples, Samples, batch_of


class Feed:
    """Labelled samples in the batches of a training.

    Args:
        data: what `as_samples` takes, with labels, but no generator, which can be read once.
        argument: name of the setting, for messages.
        batch_size: samples in one step, where `data` is not in batches.

    Attributes:
        samples: the data.
        steps: batches in an epoch.
        labels: of a sample at least.

    Raises:
        InputError: another form, arrays of different lengths, batches without an end or without labels.
    """

    def __init__(self, data: Any, argument: str, batch_size: int):
        if isinstance(data, Iterator):
            raise InputError(
                f"{argument} is read once for each epoch. Received: a {type(data).__name__}, which can be read once. "
                "Pass arrays, a tf.data.Dataset, a keras.utils.PyDataset or a kc.ImageFolder."
            )
        self.samples = as_samples(data, argument)
        self.batch_size = batch_size
        self.steps = _steps(self.samples, argument, batch_size)
        first = next(self.samples.batches(), None)
        if first is None or not len(first):
            raise InputError(f"{argument} is empty: no batch, or none with a sample.")
        if first.labels is None:
            raise InputError(
                f"{argument} must have labels: a tuple (x, y) of arrays, or batches of such tuples. Received: "
                f"{type(data).__name__} without."
            )
        self.first = _plain(first)
        self.labels = self.first.labels

    def digest(self) -> str:
        """What tells these samples from others; see `Samples.digest`."""
        return self.samples.digest()

    def in_order(self) -> tf.data.Dataset:
        """Batches of all samples once, as they stand."""
        if isinstance(self.samples, DatasetSamples) and not self.samples._functions:
            return self.samples.dataset
        if isinstance(self.samples, IndexedSamples):
            indexed, size = self.samples, self.batch_size
            return self._generated(lambda: map(indexed.rows, slices(indexed.num_samples, size)))
        return self._generated(self.samples.batches)

    def shuffled(self, seed: int, first_epoch: int, epochs: int) -> tf.data.Dataset:
        """Batches of the epochs from `first_epoch` on, one after the other.

        Arrays and folders are shuffled by (seed, epoch); batches are somebody else's business. The hooks of a PyDataset
        are called as in `keras.Model.fit`, also those of the epochs that are done.
        """
        samples = self.samples
        if isinstance(samples, DatasetSamples) and not samples._functions:
            return samples.dataset.repeat()

        def batches() -> Iterator[Batch]:
            for epoch in range(epochs):
                if isinstance(samples, PyDatasetSamples):
                    samples.dataset.on_epoch_begin()
                if epoch >= first_epoch and isinstance(samples, IndexedSamples):
                    yield from samples.epoch(seed, epoch, self.batch_size)
                elif epoch >= first_epoch:
                    yield from samples.batches()
                if isinstance(samples, PyDatasetSamples):
                    samples.dataset.on_epoch_end()

        return self._generated(batches)

    def _generated(self, batches: Callable[[], Iterator[Batch]]) -> tf.data.Dataset:
        """The batches, of arrays that differ from the first ones in their number of samples only."""
        signature = tf.nest.map_structure(
            lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), self.first.parts
        )
        plain = tf.data.Dataset.from_generator(
            lambda: (_plain(batch).parts for batch in batches()), output_signature=signature
        )
        options = tf.data.Options()  # workers take turns at batches, since there are no files to be divided among them
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return plain.prefetch(2).with_options(options)


def _steps(samples: Samples, argument: str, batch_size: int) -> int:
    if isinstance(samples, IndexedSamples):
        return samples.num_batches(batch_size)
    known = getattr(samples, "num_batches", None)
    if known is not None:
        return int(known)
    return sum(1 for _ in samples.batches())


def _plain(batch: Batch) -> Batch:
    """With NumPy arrays; lists of them become tuples, since tf.data makes tensors of lists."""

    def tuples(nest: Any) -> Any:
        if isinstance(nest, dict):
            return {key: tuples(each) for key, each in nest.items()}
        if isinstance(nest, (tuple, list)):
            return tuple(tuples(each) for each in nest)
        return np.asarray(nest)

    return batch_of(tuple(tuples(part) for part in batch.parts))
