"""Training and validation samples in every form that Keras takes, as datasets in an order that a seed gives."""

import abc
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError

MOST_BATCHES = 1 << 17  # of a dataset that does not say how many they are; more are taken to have no end


class Samples(abc.ABC):
    """Samples with labels.

    Attributes:
        steps: batches in an epoch.
        labels: of a sample at least.
    """

    steps: int
    labels: Any

    @staticmethod
    def of(data: Any, argument: str, batch_size: int) -> "Samples":
        """The samples in one of Keras' forms.

        Args:
            data: (x, y) or (x, y, sample_weight) of arrays, where x may be a list or a dictionary of them; a
                `tf.data.Dataset` or a `keras.utils.PyDataset` of batches of the same.
            argument: name of the setting, for messages.
            batch_size: samples in one step, where `data` is not in batches.

        Raises:
            InputError: another form, arrays of different lengths, batches without an end.
        """
        if isinstance(data, tf.data.Dataset):
            return _Dataset(data, argument)
        if isinstance(data, keras.utils.PyDataset):
            return _PyDataset(data, argument)
        return _Arrays(data, argument, batch_size)

    @abc.abstractmethod
    def digest(self) -> str:
        """What tells these samples from others: of the numbers in arrays; of less where only batches are known."""

    @abc.abstractmethod
    def in_order(self) -> tf.data.Dataset:
        """Batches of all samples once, as they stand."""

    @abc.abstractmethod
    def shuffled(self, seed: int, first_epoch: int, epochs: int) -> tf.data.Dataset:
        """Batches of the epochs from `first_epoch` on, one after the other.

        Arrays are shuffled by (seed, epoch); batches are somebody else's business.
        """


class _Arrays(Samples):
    def __init__(self, data: Any, argument: str, batch_size: int):
        _check_tuple(data, f"{argument} must be a tuple (x, y) of arrays, a tf.data.Dataset or a keras.utils.PyDataset")
        self.arrays = _arrays(data)
        lengths = {len(array) for array in tf.nest.flatten(self.arrays)}
        if len(lengths) != 1 or lengths == {0}:
            raise InputError(f"All arrays of {argument} must have as many samples, at least one. Received: {lengths}.")
        (self.num_samples,) = lengths
        self.batch_size = batch_size
        self.steps = math.ceil(self.num_samples / batch_size)
        self.labels = self.arrays[1]

    def digest(self) -> str:
        return f"{self.num_samples} x {_checksums(self.arrays)}"

    def in_order(self) -> tf.data.Dataset:
        return _plain(tf.data.Dataset.from_tensor_slices(self.arrays).batch(self.batch_size))

    def shuffled(self, seed: int, first_epoch: int, epochs: int) -> tf.data.Dataset:
        def batches() -> Iterator[Any]:
            for epoch in range(first_epoch, epochs):
                order = np.random.default_rng((seed, epoch)).permutation(self.num_samples)
                for start in range(0, self.num_samples, self.batch_size):
                    rows = order[start : start + self.batch_size]
                    yield tf.nest.map_structure(lambda array, rows=rows: array[rows], self.arrays)

        return _generated(batches, self.arrays)


class _Dataset(Samples):
    def __init__(self, data: tf.data.Dataset, argument: str):
        self.dataset = data
        self.steps = int(data.cardinality())
        if self.steps == tf.data.UNKNOWN_CARDINALITY:
            self.steps = sum(1 for _ in data.take(MOST_BATCHES + 1))
        if self.steps > MOST_BATCHES and data.cardinality() < 0:
            raise InputError(
                f"{argument} has not ended after {MOST_BATCHES:,} batches. Bound the dataset, for instance with "
                "dataset.take(1000)."
            )
        if self.steps <= 0:
            raise InputError(f"{argument} must be a dataset with an end, and not empty. Received: {data}.")
        self.labels = next(iter(data.unbatch().take(1)))[1].numpy()[np.newaxis]

    def digest(self) -> str:
        return f"{self.steps} x {self.dataset.element_spec}"

    def in_order(self) -> tf.data.Dataset:
        return self.dataset

    def shuffled(self, seed: int, first_epoch: int, epochs: int) -> tf.data.Dataset:
        return self.dataset.repeat()


class _PyDataset(Samples):
    """Its hooks are called as in `keras.Model.fit`, also those of the epochs that are done."""

    def __init__(self, data: keras.utils.PyDataset, argument: str):
        self.batches = data
        self.steps = data.num_batches or 0
        if not self.steps:
            raise InputError(f"{argument} must be a PyDataset with an end, and not empty. Received: {data}.")
        self.first = _arrays(data[0])
        _check_tuple(self.first, f"Batches of {argument} must be tuples (x, y) of arrays")
        self.labels = self.first[1]

    def digest(self) -> str:
        return f"{self.steps} x {_checksums(self.first)}"

    def in_order(self) -> tf.data.Dataset:
        return _generated(lambda: (_arrays(self.batches[step]) for step in range(self.steps)), self.first)

    def shuffled(self, seed: int, first_epoch: int, epochs: int) -> tf.data.Dataset:
        def batches() -> Iterator[Any]:
            for epoch in range(epochs):
                self.batches.on_epoch_begin()
                if epoch >= first_epoch:
                    yield from (_arrays(self.batches[step]) for step in range(self.steps))
                self.batches.on_epoch_end()

        return _generated(batches, self.first)


def _check_tuple(data: Any, requirement: str) -> None:
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise InputError(f"{requirement}. Received: {type(data).__name__}.")


def _arrays(data: Any) -> Any:
    """Nested arrays; lists of arrays become tuples, since tf.data makes tensors of lists."""
    if isinstance(data, dict):
        return {key: _arrays(each) for key, each in data.items()}
    if isinstance(data, tuple) or (isinstance(data, list) and any(getattr(each, "shape", ()) for each in data)):
        return tuple(_arrays(each) for each in data)
    return np.asarray(data)


def _checksums(arrays: Any) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(array).data) for array in tf.nest.flatten(arrays)]


def _generated(batches: Callable[[], Iterator[Any]], like: Any) -> tf.data.Dataset:
    """The batches, of arrays that differ from `like` in their number of samples only."""
    signature = tf.nest.map_structure(lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), like)
    return _plain(tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(2))


def _plain(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """With batches that workers take turns at, since there are no files to be divided among them."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)
