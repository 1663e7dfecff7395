"""Samples as datasets of tf.data, for trainings: in an order that a seed gives."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.samples.blocks import slices
from keras_compress.samples.forms import BatchSamples, DatasetSamples, PyDatasetSamples, as_samples, with_an_end
from keras_compress.samples.nests import leaves
from keras_compress.samples.samples import Batch, IndexedSamples, Samples, batch_of

MOST_HELD = 4 << 30  # bytes of the batches of a generator


class Feed:
    """Labelled samples in the batches of a training.

    Args:
        data: what `as_samples` takes, with labels. The batches of a generator, which can be read once, are held.
        argument: name of the setting, for messages.
        batch_size: samples in one step, where `data` is not in batches.

    Attributes:
        samples: the data.
        steps: batches in an epoch.
        labels: of a sample at least.

    Raises:
        InputError: another form, arrays of different lengths, batches without an end or without labels; a generator of
            more than 4 GB.
    """

    def __init__(self, data: Any, argument: str, batch_size: int):
        if isinstance(data, Iterator):
            data = _Held(data, argument)
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
            return self.samples.dataset.apply(tf.data.experimental.assert_cardinality(self.steps))
        if isinstance(self.samples, IndexedSamples):
            indexed, size = self.samples, self.batch_size
            return self._generated(lambda: map(indexed.rows, slices(indexed.num_samples, size)), self.steps)
        return self._generated(self.samples.batches, self.steps)

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

        return self._generated(batches, (epochs - first_epoch) * self.steps)

    def _generated(self, batches: Callable[[], Iterator[Batch]], count: int) -> tf.data.Dataset:
        """So many batches, of arrays that differ from the first ones in their number of samples only."""
        signature = tf.nest.map_structure(
            lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), self.first.parts
        )
        plain = tf.data.Dataset.from_generator(
            lambda: (_plain(batch).parts for batch in batches()), output_signature=signature
        )
        options = tf.data.Options()  # workers take turns at batches, since there are no files to be divided among them
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return plain.prefetch(2).with_options(options).apply(tf.data.experimental.assert_cardinality(count))


class _Held(BatchSamples):
    """The batches of a generator, which an epoch after the first needs too."""

    def __init__(self, generator: Iterator[Any], argument: str):
        batches, size = [], 0
        for element in with_an_end(generator, argument):
            batches.append(_plain(batch_of(element)))
            size += sum(array.nbytes for part in batches[-1].parts for array in leaves(part))
            if size > MOST_HELD:
                raise InputError(
                    "A generator is read once, and its batches are held for all epochs. Those of "
                    f"{argument} are more than {MOST_HELD / 2**30:.3g} GB. Pass a tf.data.Dataset or a "
                    "keras.utils.PyDataset, which are read again."
                )
        super().__init__([batch.parts for batch in batches], argument)
        self.num_batches = len(batches)

    def digest(self) -> str:
        arrays = (array for batch in self.batches() for part in batch.parts for array in leaves(part))
        return f"{self.num_batches} x {[zlib.crc32(np.ascontiguousarray(array).data) for array in arrays]}"


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
