"""GPFQ, greedy path following quantization, for all neurons of a layer at once.

    q_t = Q( <X~_t, u_{t-1} + w_t X_t> / ||X~_t||^2 ),    u_t = u_{t-1} + w_t X_t - q_t X~_t,    u_0 = 0

Lybrand & Saab (JMLR 22(156), 2021) and Zhang, Zhou & Saab (SIMODS 5(2), 2023). Two forms
give the same codes. The Gram form needs only G = X~^T X~ and H = X~^T X, since
<X~_t, u_{t-1} + w_t X_t> = sum_{s<=t} H_ts w_s - sum_{s<t} G_ts q_s. The direct form keeps the residual u, which is
smaller when a layer has fewer rows than features. Both work in blocks of features: what earlier blocks contribute is a
matrix product, and only the feedback inside a block is sequential.
"""

import numpy as np

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.feedback import Rounding, follow
from keras_compress.numerics.statistics import CONSTANT, LayerSamples, LayerStatistics

BLOCK_SIZE = 128  # features whose arguments one matrix product prepares


def gpfq(
    matrix: np.ndarray,
    statistics: LayerStatistics,
    alphabet: Alphabet,
    *,
    centered: bool = False,
    keep: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    threshold: np.ndarray | None = None,
    block_size: int = BLOCK_SIZE,
) -> np.ndarray:
    """Codes of GPFQ, Gram form.

    `centered` takes each column's mean away first, as G - s~ s~^T / m and H - s~ s^T / m for the column sums s~, s of
    X~, X: a correction of rank one, which is made block by block so that the matrices need no copy.

    Args:
        matrix: (N, n_out) weights, columns are neurons.
        statistics: G, H of the layer's inputs. A feature with G_tt = 0 gets the letter nearest to zero.
        alphabet: letters, one scale a channel or one in all.
        keep: (N, n_out) boolean, false where the weight must be zero; needs a zero in the alphabet.
        noise: (N, n_out) uniform in [0, 1), which makes the rounding stochastic; None rounds to the nearest letter.
        threshold: (n_out,) or (1,), in units of weights: soft thresholding before rounding.

    Returns:
        (N, n_out) integer codes.
    """
    rounding = Rounding(alphabet, keep, noise, None if threshold is None else threshold / alphabet.unit)
    gram, cross, same = statistics.gram, statistics.cross, statistics.same_inputs
    num_features, num_units = matrix.shape
    weights = matrix / alphabet.unit  # in units of the alphabet's step
    letters = np.zeros((num_features, num_units))  # index + shift: what the network will compute with
    mean_outputs = np.zeros(num_units)  # of X w - X~ q over the features so far
    for start in range(0, num_features, block_size):
        block = slice(start, min(start + block_size, num_features))
        gram_block, cross_block = gram[block, block], cross[block, block]
        if centered:
            sums = statistics.sum_compressed[block]
            moments = np.diagonal(gram_block)
            gram_block = gram_block - np.outer(sums, sums / statistics.count)
            constant = (np.diagonal(gram_block) <= CONSTANT * moments) & (moments > 0)
            cross_block = cross_block - np.outer(sums, statistics.sum_analog[block] / statistics.count)
        targets = np.tril(cross_block) @ weights[block]
        if same:
            targets += gram[block, :start] @ (weights[:start] - letters[:start])
        else:
            targets += cross[block, :start] @ weights[:start]
            targets -= gram[block, :start] @ letters[:start]
        if centered:
            targets -= np.outer(sums, mean_outputs)
            _round_alone(constant, gram_block, targets, weights[block])
        _follow_path(targets, gram_block, rounding.block(block), letters[block])
        if centered:
            mean_outputs += statistics.sum_analog[block] @ weights[block] / statistics.count
            mean_outputs -= sums @ letters[block] / statistics.count
    return alphabet.to_codes(letters - alphabet.shift)


def gpfq_direct(
    matrix: np.ndarray,
    samples: LayerSamples,
    alphabet: Alphabet,
    *,
    centered: bool = False,
    keep: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    threshold: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of GPFQ and the residual, direct form; `centered` takes each column's mean away first.

    Args:
        matrix: (N, n_out) weights.
        samples: X and X~ by blocks of columns.
        keep, noise, threshold: as for `gpfq`.

    Returns:
        (N, n_out) integer codes, and u_N = XW - X~Q, (m, n_out) float64.
    """
    rounding = Rounding(alphabet, keep, noise, None if threshold is None else threshold / alphabet.unit)
    weights = matrix / alphabet.unit
    letters = np.zeros(matrix.shape)
    residual = np.zeros((samples.count, matrix.shape[1]))
    means = samples.sum_analog / samples.count, samples.sum_compressed / samples.count
    for start, analog, compressed in samples.blocks():
        block = slice(start, start + compressed.shape[1])
        same = analog is compressed
        compressed = compressed.astype(np.float64)
        analog = compressed if same else analog.astype(np.float64)
        if centered:
            moments = np.einsum("ij,ij->j", compressed, compressed)
            analog = analog - means[0][block]
            compressed = compressed - means[1][block]
            constant = (np.einsum("ij,ij->j", compressed, compressed) <= CONSTANT * moments) & (moments > 0)
            compressed[:, constant] = 0.0
        gram = compressed.T @ compressed
        cross = gram if same else compressed.T @ analog
        targets = np.tril(cross) @ weights[block] + compressed.T @ residual
        if centered:
            _round_alone(constant, gram, targets, weights[block])
        _follow_path(targets, gram, rounding.block(block), letters[block])
        residual += analog @ weights[block] - compressed @ letters[block]
    return alphabet.to_codes(letters - alphabet.shift), residual * alphabet.unit


def _round_alone(constant: np.ndarray, gram: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
    """Changes a block so that constant features get the letters nearest to their weights.

    A feature that did not vary among the samples says nothing of the path, and what its letter does to the outputs is
    constant: the bias takes it.
    """
    gram[constant] = 0.0
    gram[:, constant] = 0.0
    gram[constant, constant] = 1.0
    targets[constant] = weights[constant]


def _follow_path(targets: np.ndarray, gram: np.ndarray, rounding: Rounding, letters: np.ndarray) -> None:
    """Fills `letters` (b, n_out) of a block, given <X~_t, u + sum_{s<=t} w_s X_s> without the block's own letters."""
    norms = np.diagonal(gram)
    inverse = np.where(norms > 0, 1.0 / np.where(norms > 0, norms, 1.0), 0.0)[:, None]
    # a dead feature's argument becomes 0, whose letter is the one nearest to zero
    follow(targets * inverse, gram * inverse, rounding, letters)
