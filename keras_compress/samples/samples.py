"""The protocol: samples come in batches of any size, as many times as one likes, and need not fit into memory.

Loads neither TensorFlow nor Keras.
"""

import abc
import copy
import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import numpy as np

from keras_compress.errors import InputError, check_integer
from keras_compress.samples.blocks import slices
from keras_compress.samples.nests import leaves, mapped

SLICE_BYTES = 1 << 24  # of samples that are read at a time, before preprocessing

Function = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        inputs: an array, or a tuple, list or dictionary of arrays; samples along the first axis of each.
        labels: alike, or None.
        weights: alike, or None.
    """

    inputs: Any
    labels: Any = None
    weights: Any = None

    def __len__(self) -> int:
        first = next(leaves(self.inputs))
        return len(first) if getattr(first, "shape", ()) else 0

    @property
    def parts(self) -> tuple[Any, ...]:
        """(inputs, labels, weights) without the last ones that are None, as `keras.Model.fit` takes them."""
        if self.labels is None:
            return (self.inputs,)
        return (self.inputs, self.labels) if self.weights is None else (self.inputs, self.labels, self.weights)

    def mapped(self, function: Function) -> "Batch":
        """With another array in place of each."""
        return batch_of(tuple(mapped(function, part) for part in self.parts))


def batch_of(element: Any) -> Batch:
    """What `keras.Model.fit` makes of an element: a tuple is (inputs, labels, weights), anything else the inputs.

    Raises:
        InputError: a longer tuple.
    """
    if not isinstance(element, tuple):
        return Batch(element)
    if not 1 <= len(element) <= 3:
        raise InputError(
            "A tuple must be (inputs,), (inputs, labels) or (inputs, labels, sample weights). Received: "
            f"{len(element)} entries. Pass the inputs of a model that has several as a list or a dictionary."
        )
    return Batch(*element)


def part(batch: Batch, positions: Any) -> Batch:
    """Some of the samples of a batch, by what NumPy takes as an index."""
    return batch.mapped(lambda array: array[positions])


def joined(batches: Iterable[Batch]) -> Batch:
    """One batch of all of them."""
    parts = [batch.parts for batch in batches]
    return batch_of(
        tuple(mapped(lambda *arrays: np.concatenate(arrays), *column) for column in zip(*parts, strict=True))
    )


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same samples in the same order, `size` at a time; the last batch may be shorter."""
    pending: list[Batch] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += len(batch)
        if count < size:
            continue
        together = joined(pending) if len(pending) > 1 else batch
        start = 0
        while count - start >= size:
            rows = slice(start, start + size)
            yield together if len(together) == size else part(together, rows)
            start += size
        pending = [part(together, slice(start, None))] if start < count else []
        count -= start
    if pending:
        yield joined(pending)


class Samples(abc.ABC):
    """Samples, with labels or without.

    Attributes:
        num_samples: None where it is not known.
    """

    num_samples: int | None = None
    _functions: tuple[Function, ...] = ()

    def batches(self) -> Iterator[Batch]:
        """All samples once, in the sizes in which they come, preprocessed."""
        return map(self._done, self._batches())

    def read(self) -> Batch:
        """All samples at once."""
        return joined(self.batches())

    def unprocessed(self) -> Batch:
        """All samples at once, before preprocessing."""
        return joined(self._batches())

    def preprocessed(self, function: Function) -> Self:
        """The same samples with a function of the inputs of a batch, which is called when the batch is read."""
        changed = copy.copy(self)
        changed._functions = (*self._functions, function)
        return changed

    def take(self, count: int, seed: int) -> "Samples":
        """A choice of samples at random; all of them where there are no more. One pass; it holds what it chose.

        A larger choice with the same seed holds every smaller one.
        """
        check_integer("count", count, 1)
        generator = np.random.default_rng(seed)
        kept: Batch | None = None
        keys, places, seen = np.empty(0), np.empty(0, np.int64), 0
        for batch in self._batches():
            both = batch if kept is None else joined([kept, batch])
            keys = np.concatenate([keys, generator.random(len(batch))])
            places = np.concatenate([places, np.arange(seen, seen + len(batch))])
            seen += len(batch)
            chosen = np.argsort(keys, kind="stable")[:count]
            chosen = chosen[np.argsort(places[chosen])]
            kept = part(both, chosen)
            keys, places = keys[chosen], places[chosen]
        if kept is None:
            raise InputError("There are no samples to choose from.")
        taken: Samples = ArraySamples(kept)
        for function in self._functions:
            taken = taken.preprocessed(function)
        return taken

    def known_labels(self) -> Any:
        """The labels of all samples; None where they come with the batches, or not at all."""
        return None

    @abc.abstractmethod
    def digest(self) -> str:
        """What tells these samples from others: of all numbers in arrays; of less where only batches are known."""

    @abc.abstractmethod
    def _batches(self) -> Iterator[Batch]:
        """All samples once, as they are before preprocessing."""

    def _done(self, batch: Batch) -> Batch:
        inputs = batch.inputs
        for function in self._functions:
            inputs = function(inputs)
        return dataclasses.replace(batch, inputs=inputs)

    def _functions_text(self) -> str:
        return "".join(f" | {function!r}" for function in self._functions)


class IndexedSamples(Samples):
    """Samples of which any can be read at any time.

    Attributes:
        index: (num_samples,) positions in the source; None: all of them.
        sample_bytes: of one sample, before preprocessing.
    """

    num_samples: int
    index: np.ndarray | None = None
    sample_bytes: int = 1

    def rows(self, positions: np.ndarray | slice) -> Batch:
        """Some samples, in this order, preprocessed."""
        return self._done(self._chosen(positions))

    def at(self, positions: np.ndarray) -> "IndexedSamples":
        """Those at these positions alone; nothing is read."""
        chosen = copy.copy(self)
        chosen.index = np.asarray(positions) if self.index is None else self.index[positions]
        chosen.num_samples = len(positions)
        return chosen

    def take(self, count: int, seed: int) -> "IndexedSamples":
        """A choice of samples at random, in random order; a larger one begins with every smaller one of its seed."""
        check_integer("count", count, 1)
        return self.at(np.random.default_rng(seed).permutation(self.num_samples)[:count])

    def epoch(self, seed: int, number: int, batch_size: int) -> Iterator[Batch]:
        """Batches of all samples in an order that depends on the seed and the number of the epoch."""
        order = np.random.default_rng((seed, number)).permutation(self.num_samples)
        return (self.rows(order[start : start + batch_size]) for start in range(0, self.num_samples, batch_size))

    def num_batches(self, batch_size: int) -> int:
        return math.ceil(self.num_samples / batch_size)

    def _batches(self) -> Iterator[Batch]:
        size = max(1, SLICE_BYTES // self.sample_bytes)
        return map(self._chosen, slices(self.num_samples, size))

    def _chosen(self, positions: np.ndarray | slice) -> Batch:
        return self._read(positions if self.index is None else self.index[positions])

    @abc.abstractmethod
    def _read(self, positions: np.ndarray | slice) -> Batch:
        """Samples of the source, as they are."""


class ArraySamples(IndexedSamples):
    """Samples in arrays of one length, which may be mapped from a file.

    Raises:
        InputError: arrays of different lengths, or without samples.
    """

    def __init__(self, arrays: Batch, what: str = "the data"):
        self.arrays = arrays
        lengths = {len(each) if each.shape else 0 for part in arrays.parts for each in leaves(part)}
        if lengths == {0}:
            raise InputError(f"{what} is empty: there is no sample in it.")
        if len(lengths) != 1:
            raise InputError(f"All arrays of {what} must have as many samples. Received: {sorted(lengths)}.")
        (self.num_samples,) = lengths
        size = sum(each.nbytes for part in arrays.parts for each in leaves(part))
        self.sample_bytes = max(1, size // self.num_samples)

    def known_labels(self) -> Any:
        labels = self.arrays.labels
        return labels if labels is None or self.index is None else mapped(lambda array: array[self.index], labels)

    def digest(self) -> str:
        sums = [zlib.crc32(np.ascontiguousarray(each).data) for part in self.arrays.parts for each in leaves(part)]
        chosen = "" if self.index is None else f" at {zlib.crc32(self.index.astype(np.int64).data)}"
        return f"{self.num_samples} x {sums}{chosen}{self._functions_text()}"

    def _read(self, positions: np.ndarray | slice) -> Batch:
        return part(self.arrays, positions)
