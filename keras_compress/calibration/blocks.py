"""Blocks of samples, counted from the first: networks and products always run over the same ones, however data is cut.

A product in float32 is another in the last digits where it has other rows, and a digit decides a code now and then. So
the length of a block depends on the shapes of the model alone, never on batches, chunks, memory or threads.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

BLOCK_BYTES = 16 << 20  # of the float32 numbers in a block
LEAST, MOST = 8, 4096  # samples of a block: fewer are slow, more gain nothing


def block_length(numbers: int, *, least: int | None = None) -> int:
    """Samples of a block, a power of two, where each sample has so many numbers."""
    fits = BLOCK_BYTES // (4 * max(numbers, 1))
    return 1 << (int(np.clip(fits, LEAST if least is None else least, MOST)).bit_length() - 1)


def slices(length: int, size: int) -> Iterator[slice]:
    """Slices of `size`, the last of which may be shorter."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def in_blocks(tensors: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Parts of `size` samples of tensors of one length; the tensors themselves where they are no longer."""
    if len(tensors[0]) <= size:
        yield list(tensors)
        return
    for rows in slices(len(tensors[0]), size):
        yield [tensor[rows] for tensor in tensors]


class Reblocked:
    """Tensors that come in parts, and go on in blocks of one size; the last one may be shorter.

    Args:
        size: samples of a block.
        visit: gets the tensors of each block; the same object twice where the same came twice.
    """

    def __init__(self, size: int, visit: Any):
        self.size = size
        self._visit = visit
        self._pending: list[list[Any]] = []
        self._count = 0

    def add(self, tensors: list[Any]) -> None:
        """Tensors of one length; None stands for none, in each part alike."""
        self._pending.append(tensors)
        self._count += len(tensors[0])
        if self._count >= self.size:
            self._pass_on()

    def finish(self) -> None:
        """Passes on what is left."""
        if self._count:
            self._pass_on(last=True)

    def _pass_on(self, *, last: bool = False) -> None:
        columns = list(zip(*self._pending, strict=True))
        joined = _once_each(columns, lambda parts: parts[0] if len(parts) == 1 else tf.concat(parts, axis=0))
        stop = self._count if last else self._count // self.size * self.size
        for rows in slices(stop, self.size):
            self._visit(*self._rows(joined, rows))
        self._pending = [self._rows(joined, slice(stop, self._count))] if stop < self._count else []
        self._count -= stop

    def _rows(self, tensors: list[Any], rows: slice) -> list[Any]:
        if rows == slice(0, self._count):
            return tensors
        return _once_each([(tensor,) for tensor in tensors], lambda parts: parts[0][rows])


def _once_each(columns: list[tuple[Any, ...]], change: Callable[[tuple[Any, ...]], Any]) -> list[Any]:
    """What `change` makes of each column; of equal columns the same object, of columns of None None."""
    results: dict[tuple[int, ...], Any] = {}
    for column in columns:
        key = tuple(map(id, column))
        if key not in results:
            results[key] = None if column[0] is None else change(column)
    return [results[tuple(map(id, column))] for column in columns]
