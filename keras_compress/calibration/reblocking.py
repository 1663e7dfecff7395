"""Tensors that come in parts of any size, in blocks of one size."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_compress.samples.blocks import slices


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
