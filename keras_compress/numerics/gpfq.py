"""GPFQ, greedy path following quantization, for all neurons of a layer at once.

    q_t = Q( <X~_t, u_{t-1} + w_t X_t> / ||X~_t||^2 ),    u_t = u_{t-1} + w_t X_t - q_t X~_t,    u_0 = 0

Lybrand & Saab (JMLR 22(156), 2021) and Zhang, Zhou & Saab (SIMODS 5(2), 2023). Two forms
give the same codes. The Gram form needs only G = X~^T X~ and H = X~^T X, since
<X~_t, u_{t-1} + w_t X_t> = sum_{s<=t} H_ts w_s - sum_{s<t} G_ts q_s. The direct form keeps the residual u, which is
smaller when a layer has fewer rows than features. Both work in blocks of features: what earlier blocks contribute is a
matrix product, and only the feedback inside a block is sequential.
"""

from collections.abc import Iterator

import numpy as np

from keras_compress.numerics.alphabet import Alphabet, code_type
from keras_compress.numerics.feedback import Rounding, follow
from keras_compress.numerics.statistics import (
    LayerSamples,
    LayerStatistics,
    constant_features,
    diagonal_of,
    stand_alone,
)

BLOCK_SIZE = 128  # features whose arguments one matrix product prepares


def gpfq(
    matrix: np.ndarray,
    statistics: LayerStatistics,
    alphabet: Alphabet,
    *,
    centered: bool = False,
    keep: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    threshold: float | None = None,
    block_size: int = BLOCK_SIZE,
) -> np.ndarray:
    """Codes of GPFQ, Gram form.

    `centered` takes each column's mean away first, as G - s~ s~^T / m and H - s~ s^T / m for the column sums s~, s of
    X~, X: a correction of rank one, which is made block by block so that the matrices need no copy.

    Args:
        matrix: (..., N, n_out) weights, columns are neurons; leading axes are those of a batch.
        statistics: G, H of the layer's inputs. A feature with G_tt = 0 gets the value nearest to zero.
        alphabet: of the codes.
        keep: (N, n_out) boolean, false where the weight must be zero; needs a zero in the alphabet.
        noise: (N, n_out) uniform in [0, 1), which makes the rounding stochastic; None rounds to the nearest value.
        threshold: in units of weights: soft thresholding before rounding.

    Returns:
        (..., N, n_out) integer codes.
    """
    rounding = Rounding(alphabet, keep, noise, threshold)
    gram, cross, same, count = statistics.gram, statistics.cross, statistics.same_inputs, statistics.count
    codes = np.empty(matrix.shape, code_type(alphabet.levels))
    decoded = np.zeros(matrix.shape)  # what the network will compute with
    mean_outputs = np.zeros((*matrix.shape[:-2], 1, matrix.shape[-1]))  # of X w - X~ q over the features so far
    copies = 1
    if statistics.mismatch is not None and statistics.sum_mismatch is not None:
        copies = matrix.shape[-1] // statistics.mismatch.shape[-1]
        mean_outputs += np.tile(statistics.sum_mismatch, copies) / count
    for block in alphabet.blocks(0, matrix.shape[-2], block_size):
        weights = matrix[..., block, :]
        before = slice(0, block.start)
        gram_block, cross_block = gram[..., block, block], cross[..., block, block]
        constant = None
        if centered:
            sums, analog_sums = statistics.sum_compressed[..., block, None], statistics.sum_analog[..., None, block]
            moments = diagonal_of(gram_block)
            gram_block = gram_block - sums * (sums.swapaxes(-1, -2) / count)
            constant = constant_features(diagonal_of(gram_block), moments)
            cross_block = cross_block - sums * (analog_sums / count)
        targets = np.tril(cross_block) @ weights
        if same:
            targets += gram[..., block, before] @ (matrix[..., before, :] - decoded[..., before, :])
        else:
            targets += cross[..., block, before] @ matrix[..., before, :]
            targets -= gram[..., block, before] @ decoded[..., before, :]
        if statistics.mismatch is not None:
            targets += np.tile(statistics.mismatch[block], copies)
        if centered:
            targets -= sums * mean_outputs
        block_codes, values = _follow_path(targets, gram_block, rounding.block(block), weights, constant)
        codes[..., block, :], decoded[..., block, :] = block_codes, values
        if centered:
            mean_outputs += analog_sums @ weights / count
            mean_outputs -= sums.swapaxes(-1, -2) @ values / count
    return codes


def gpfq_direct(
    matrix: np.ndarray,
    samples: LayerSamples,
    alphabet: Alphabet,
    *,
    keep: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    threshold: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of GPFQ and the residual, direct form.

    Args:
        matrix: (N, n_out) weights.
        samples: X and X~ by blocks of columns.
        alphabet, keep, noise, threshold: as for `gpfq`.

    Returns:
        (N, n_out) integer codes, and u_N = XW - X~Q, (m, n_out) float64.
    """
    rounding = Rounding(alphabet, keep, noise, threshold)
    codes = np.empty(matrix.shape, code_type(alphabet.levels))
    residual = np.zeros((samples.count, matrix.shape[1]))
    for block, analog, compressed in sample_blocks(samples, alphabet):
        weights = matrix[block]
        gram = compressed.T @ compressed
        cross = gram if analog is compressed else compressed.T @ analog
        targets = np.tril(cross) @ weights + compressed.T @ residual
        constant = None if samples.constant is None else samples.constant[block]
        codes[block], decoded = _follow_path(targets, gram, rounding.block(block), weights, constant)
        residual += analog @ weights - compressed @ decoded
    return codes, residual


def sample_blocks(
    samples: LayerSamples, alphabet: Alphabet | None = None, block_size: int = BLOCK_SIZE
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yields (features, columns of X, columns of X~) in float64; the same array twice where the inputs are the same.

    At most `block_size` features at a time, however many are read at once: solvers multiply a block with itself. With
    an alphabet, no block crosses the border of one of its groups.
    """
    for start, analog, compressed in samples.blocks():
        stop = start + compressed.shape[1]
        parts = (slice(first, min(first + block_size, stop)) for first in range(start, stop, block_size))
        for block in parts if alphabet is None else alphabet.blocks(start, stop, block_size):
            columns = slice(block.start - start, block.stop - start)
            part = compressed[:, columns].astype(np.float64)
            yield block, part if analog is compressed else analog[:, columns].astype(np.float64), part


def _follow_path(
    targets: np.ndarray, gram: np.ndarray, rounding: Rounding, weights: np.ndarray, constant: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and decoded weights of a block.

    Args:
        targets: (..., b, n_out) <X~_t, u + sum_{s<=t} w_s X_s> without the block's own values.
        gram: (..., b, b) products of the block's own columns.
        rounding: of the block.
        weights: (..., b, n_out) w.
        constant: (..., b) features that stand alone: their values are those nearest to their weights, since what they
            do to the outputs is constant and the bias takes it. None for none.
    """
    if constant is not None:
        stand_alone(constant, gram)
        targets = np.where(constant[..., None], weights, targets)
    norms = diagonal_of(gram)
    inverse = np.where(norms > 0, 1.0 / np.where(norms > 0, norms, 1.0), 0.0)[..., None]
    alphabet = rounding.alphabet
    values = np.empty(targets.shape)
    # a dead feature's argument becomes 0, whose value is the one nearest to zero
    follow(targets * inverse / alphabet.column, gram * inverse, rounding, values)
    return alphabet.codes_of(values), values * alphabet.column
