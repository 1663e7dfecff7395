"""Biases of an integer operator: int32 numbers of steps, one step being input scale times weight scale.

A channel whose weights are tiny has a tiny step, so that its bias is more steps than 32 bits hold: in trained networks
these are channels that died, with kernels of 1e-15 and an ordinary bias. Their scale is raised until the bias fits.
What their weights lose is at most half a raised step times the inputs: with N inputs of 8 bits N * 128 * |bias| / 2^30,
a ten-thousandth of the bias at N = 1000.
"""

from typing import NamedTuple

import numpy as np

LARGEST = 2**30  # steps of a bias; the other half of int32 is for the products that are added to it
LEAST_SCALE = 1e-9  # of a channel without weights: runtimes want positive, normal numbers


class IntegerChannels(NamedTuple):
    """An operator's weights and biases as integers.

    Attributes:
        codes: (n_out, ...).
        scale: (n_out,) float32, positive.
        steps: (n_out,) int64: the biases.
    """

    codes: np.ndarray
    scale: np.ndarray
    steps: np.ndarray


def fit_biases(
    codes: np.ndarray, scale: np.ndarray, bias: np.ndarray, input_scale: float, largest: int = LARGEST
) -> IntegerChannels:
    """Weights and biases as integers, so that every bias fits into 32 bits.

    Args:
        codes: (n_out, ...) integers.
        scale: (n_out,), not negative; a channel with scale 0 has no weights.
        bias: (n_out,).
        input_scale: one step of the inputs.
        largest: steps that a bias may have.
    """
    old = np.asarray(scale, np.float32)
    usable = old >= np.finfo(np.float32).tiny
    needed = np.abs(np.asarray(bias, np.float64)) / (largest * np.float64(np.float32(input_scale)))
    needed = np.nextafter(needed.astype(np.float32), np.float32(np.inf))  # in float32 still not too small
    low = ~usable | (old < needed)
    new = np.where(low, np.maximum(needed, np.where(usable, old, np.float32(LEAST_SCALE))), old)
    ratio = np.where(usable, old.astype(np.float64), 0.0) / new
    shape = [-1] + [1] * (codes.ndim - 1)
    fitted = np.where(low.reshape(shape), np.rint(codes * ratio.reshape(shape)), codes).astype(codes.dtype)
    return IntegerChannels(fitted, new, np.rint(bias / bias_step(input_scale, new)).astype(np.int64))


def bias_step(input_scale: float, scale: np.ndarray) -> np.ndarray:
    """(n_out,) float64: one step of each bias, as runtimes compute it from the two float32 scales."""
    return np.float64(np.float32(input_scale)) * np.asarray(scale, np.float32).astype(np.float64)
