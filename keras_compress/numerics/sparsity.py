"""Masks of magnitude pruning: the numbers that tfmot computes, to the rounding of its float32 (Zhu & Gupta, 2017)."""

import numpy as np


def magnitude_mask(kernel: np.ndarray, sparsity: float) -> np.ndarray:
    """Which entries stay where a fraction of them becomes zero: those of the largest magnitude, at least one.

    Entries as large as the smallest that stays do so too.

    Args:
        kernel: of any shape.
        sparsity: fraction of zeros, 0 to 1.
    """
    magnitudes = np.abs(kernel, dtype=np.float32)
    left = np.rint(np.float32(kernel.size) * (np.float32(1) - np.float32(sparsity)))
    place = kernel.size - max(int(left), 1)
    threshold = np.partition(magnitudes, place, axis=None)[place]
    mask: np.ndarray = magnitudes >= threshold
    return mask


def block_mask(kernel: np.ndarray, sparsity: float, block_size: tuple[int, int], pooling: str = "AVG") -> np.ndarray:
    """`magnitude_mask` of blocks, by the mean or the largest magnitude in each.

    Blocks that reach over an edge lie half before the first row and half behind the last, as in TensorFlow's "SAME".

    Args:
        kernel: (inputs, outputs).
        sparsity: fraction of blocks that are zero.
        block_size: (inputs, outputs) of a block.
        pooling: "AVG" or "MAX".
    """
    pooled = np.abs(kernel, dtype=np.float32)
    for axis, size in enumerate(block_size):
        pooled = _pooled(np.moveaxis(pooled, axis, -1), size, pooling)
        pooled = np.moveaxis(pooled, -1, axis)
    mask = magnitude_mask(pooled, sparsity)
    for axis, size in enumerate(block_size):
        mask = np.repeat(mask, size, axis)
    return mask[: kernel.shape[0], : kernel.shape[1]]


def _pooled(values: np.ndarray, size: int, pooling: str) -> np.ndarray:
    """Along the last axis, in steps of `size`; the mean is over what is there."""
    length = values.shape[-1]
    missing = -length % size
    before = missing // 2
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(before, missing - before)])
    blocks = padded.reshape(*values.shape[:-1], -1, size)
    if pooling == "MAX":
        return np.asarray(blocks.max(axis=-1))
    there = np.pad(np.ones(length, np.float32), (before, missing - before)).reshape(-1, size).sum(axis=-1)
    return np.asarray(blocks.sum(axis=-1, dtype=np.float32) / there)


def m_by_n_mask(kernel: np.ndarray, zeros: int, neighbours: int) -> np.ndarray:
    """Which entries stay where of so many neighbours along the input axis the smallest ones become zero.

    Args:
        kernel: (inputs, outputs), or (height, width, inputs, outputs).
        zeros: of each group.
        neighbours: of a group; the last group is filled up with zeros, of which none counts.
    """
    inputs = np.moveaxis(np.abs(kernel, dtype=np.float32), -2, -1)
    length = inputs.shape[-1]
    padded = np.pad(inputs, [(0, 0)] * (inputs.ndim - 1) + [(0, -length % neighbours)])
    groups = padded.reshape(*inputs.shape[:-1], -1, neighbours)
    largest = np.argsort(-groups, axis=-1, kind="stable")[..., : neighbours - zeros]
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, largest, True, axis=-1)
    return np.moveaxis(mask.reshape(padded.shape)[..., :length], -1, -2)
