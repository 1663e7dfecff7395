"""Blocks of samples, counted from the first: networks and products always run over the same ones, however data is cut.

A product in float32 is another in the last digits where it has other rows, and a digit decides a code now and then. So
the length of a block depends on the shapes of the model alone, never on batches, chunks, memory or threads. Loads
neither TensorFlow nor Keras.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

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
