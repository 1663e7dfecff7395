"""Data alignment: weights that do on the compressed network's inputs what the analog ones do on the analog network's.

SPFQ (Zhang, Zhou & Saab, 2023, arXiv 2309.10975) aligns first and quantizes the aligned weights v afterwards, with
stochastic rounding. Its order r is the number of passes over the features; each is cyclic coordinate descent on
||Xw - X~v||, and from the statistics one triangular system of G v = H w.
"""

import numpy as np
import scipy.linalg

from keras_compress.numerics.gpfq import sample_blocks
from keras_compress.numerics.statistics import LayerSamples, LayerStatistics, diagonal_of


def aligned_weights(matrix: np.ndarray, statistics: LayerStatistics | LayerSamples, order: int) -> np.ndarray:
    """(..., N, n_out) v after `order` passes; zero for a feature with G_tt = 0.

    The first pass follows the path, v_t = (sum_{s<=t} H_ts w_s - sum_{s<t} G_ts v_s) / G_tt; quantized without it, the
    weights give the same codes, since GPFQ does the same in one go. With equal inputs v = w.
    """
    if isinstance(statistics, LayerStatistics):
        return _from_statistics(matrix, statistics, order)
    return _from_samples(matrix, statistics, order)


def _from_statistics(matrix: np.ndarray, statistics: LayerStatistics, order: int) -> np.ndarray:
    if statistics.same_inputs and statistics.mismatch is None:
        return matrix * (statistics.diagonal > 0)[..., None]
    gram, cross = statistics.gram, statistics.cross
    lower = _lower(gram)
    path = np.tril(cross) @ matrix
    aligned = _solve(lower, path if statistics.mismatch is None else path + statistics.mismatch)
    target = statistics.target(matrix) if order > 1 else None
    for _ in range(order - 1):
        aligned = _solve(lower, target - np.triu(gram, 1) @ aligned)
    return aligned


def _from_samples(matrix: np.ndarray, samples: LayerSamples, order: int) -> np.ndarray:
    """The same with the residual Xw - X~v, in blocks of columns."""
    aligned = np.zeros(matrix.shape)
    residual = np.zeros((samples.count, matrix.shape[1]))
    for done in range(order):
        for block, analog, compressed in sample_blocks(samples):
            gram = compressed.T @ compressed
            targets = compressed.T @ residual
            if not done:
                cross = gram if analog is compressed else compressed.T @ analog
                targets += np.tril(cross) @ matrix[block]
                residual += analog @ matrix[block]
            change = _solve(_lower(gram), targets)
            aligned[block] += change
            residual -= compressed @ change
    if samples.constant is not None:
        aligned[samples.constant] = matrix[samples.constant]
    return aligned


def _lower(gram: np.ndarray) -> np.ndarray:
    """The lower triangle, in which a dead feature stands alone."""
    lower = np.tril(gram)
    np.einsum("...ii->...i", lower)[diagonal_of(gram) == 0] = 1.0
    return lower


def _solve(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    if lower.ndim > 2:
        return np.linalg.solve(lower, right)  # many small ones at once
    return scipy.linalg.solve_triangular(lower, right, lower=True, check_finite=False)
