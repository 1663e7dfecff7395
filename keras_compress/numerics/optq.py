"""OPTQ and what stands on it: after each value, the weights that follow make up for its error by least squares.

With U^T U = (X~^T X~)^-1, U upper triangular (Frantar et al., 2023, arXiv 2210.17323, algorithm 1):

    q_t = Q(v_t),    v_s <- v_s - (v_t - q_t) U_ts / U_tt  for s > t

OPTQ starts from the weights, v = w, and aims at X~ w. Two more aim at the analog output X w: Qronos (Zhang et al.,
2025, arXiv 2505.11695, theorem 1), whose first step sees the error of the inputs, and OPTQ from the corrected weights
w* = argmin_v ||X w - X~ v||, which are all of X w that X~ can reach. With equal inputs the three are one.
"""

import numpy as np
import scipy.linalg

from keras_compress.numerics.alphabet import Alphabet, code_type
from keras_compress.numerics.feedback import Rounding, follow
from keras_compress.numerics.statistics import LayerStatistics, diagonal_of

BLOCK_SIZE = 128


def optq(
    matrix: np.ndarray,
    statistics: LayerStatistics,
    alphabet: Alphabet,
    *,
    target: str = "weights",
    damping: float = 0.01,
    keep: np.ndarray | None = None,
    block_size: int = BLOCK_SIZE,
) -> np.ndarray:
    """Codes of OPTQ.

    Args:
        matrix: (..., N, n_out) weights, columns are neurons; leading axes are those of a batch.
        statistics: G, H of the layer's inputs. A feature with G_tt = 0 gets the value nearest to zero.
        alphabet: one scale a channel or one in all.
        target: "weights" aims at X~ w; "corrected" at X w from w*; "qronos" at X w by the first step of Qronos.
        damping: added to the diagonal of G (and of H, where it is read), as a fraction of its mean; ten times as
            much, as often as it takes, where G is so far from positive definite that it has no factor.
        keep: (..., N, n_out) boolean, false where the weight must be zero; needs a zero in the alphabet.

    Returns:
        (..., N, n_out) integer codes.
    """
    weights = matrix.astype(np.float64)
    rounding = Rounding(alphabet, keep)
    alive = statistics.diagonal > 0
    means = statistics.diagonal.sum(axis=-1) / np.maximum(alive.sum(axis=-1), 1)
    ridge = np.where(means > 0, damping * means, 1.0)[..., None, None]
    inverse, ridge = damped_inverse_factor(statistics.gram, ridge)
    codes = np.empty(weights.shape, code_type(alphabet.levels))
    aims_elsewhere = not statistics.same_inputs or statistics.mismatch is not None
    if target == "corrected" and aims_elsewhere:
        weights = corrected_weights(weights, statistics, inverse)
    elif target == "qronos" and aims_elsewhere:
        weights = _after_first_step(weights, statistics, inverse, ridge, rounding)
    weights *= alive[..., None]
    diagonal = diagonal_of(inverse)[..., None]
    for block in alphabet.blocks(0, weights.shape[-2], block_size):
        part, after = rounding.block(block), slice(block.stop, None)
        arguments = weights[..., block, :] / part.alphabet.column
        feedback = -(inverse[..., block, block] / diagonal[..., block, :]).swapaxes(-1, -2)
        values = np.zeros(arguments.shape)
        deviations = follow(arguments, feedback, part, values, origin=arguments) * part.alphabet.column
        codes[..., block, :] = part.alphabet.codes_of(values)
        to_come = inverse[..., block, after].swapaxes(-1, -2)
        weights[..., after, :] += to_come @ (deviations / diagonal[..., block, :])
    return codes


def damped_inverse_factor(gram: np.ndarray, ridge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """U of `inverse_factor`, and the ridge (..., 1, 1) with which there is one: ten times as much, as often as needed.

    G is made of float32 products: where the means of features are large compared with their deviations, what
    centring leaves can have eigenvalues below -ridge.

    Raises:
        numpy.linalg.LinAlgError: no ridge up to the largest trace makes G positive definite.
    """
    trace = diagonal_of(gram).sum(axis=-1).max()
    while True:
        try:
            return inverse_factor(gram, ridge), ridge
        except np.linalg.LinAlgError:  # the one way to know: an estimate of the least eigenvalue costs as much
            if not 0 < ridge.max() <= trace:
                raise
            ridge = 10 * ridge


def inverse_factor(gram: np.ndarray, ridge: np.ndarray | float) -> np.ndarray:
    """(..., N, N) upper triangular U with U^T U = (G + ridge I)^-1; a dead feature (G_tt = 0) stands alone.

    From the Cholesky factor of G read backwards: G = R R^T with R upper triangular, and U = R^-1. No inverse is formed,
    whose own factorization loses the small directions.

    Raises:
        numpy.linalg.LinAlgError: G + ridge I is not positive definite.
    """
    backwards = gram[..., ::-1, ::-1].astype(np.float64)
    diagonal = np.einsum("...ii->...i", backwards)
    dead = diagonal == 0
    diagonal += np.asarray(ridge).reshape(*gram.shape[:-2], 1)
    diagonal[dead] = 1.0
    if gram.ndim > 2:
        inverse = np.linalg.inv(np.linalg.cholesky(backwards))  # many small ones at once
    else:
        # in Fortran's order, which LAPACK overwrites without a copy; a symmetric matrix is its own transpose
        factor = scipy.linalg.cholesky(backwards.T, lower=True, overwrite_a=True, check_finite=False)
        inverse, failed = scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
        assert not failed, "a Cholesky factor has a positive diagonal"
    return np.ascontiguousarray(np.tril(inverse)[..., ::-1, ::-1])


def corrected_weights(weights: np.ndarray, statistics: LayerStatistics, inverse: np.ndarray) -> np.ndarray:
    """w* = (G + ridge I)^-1 (H + ridge I) w = w + (G + ridge I)^-1 (H - G) w, all (..., N, n_out)."""
    change = statistics.target(weights) - statistics.gram @ weights
    return weights + inverse.swapaxes(-1, -2) @ (inverse @ change)


def _after_first_step(
    weights: np.ndarray, statistics: LayerStatistics, inverse: np.ndarray, ridge: np.ndarray, rounding: Rounding
) -> np.ndarray:
    """The value of the first feature that is not dead, rounded towards X w, and the best weights of the others."""
    gram = statistics.gram
    first = np.argmax(statistics.diagonal > 0, axis=-1)[..., None, None]
    chosen = (np.arange(gram.shape[-1]) == first[..., 0])[..., None]  # (..., N, 1), true at the first
    others = np.where(chosen, 0.0, weights)
    gram_row = np.take_along_axis(gram, first, axis=-2)
    norm = np.take_along_axis(gram_row, first, axis=-1)
    target = statistics.target(weights)
    argument = (np.take_along_axis(target, first, axis=-2) - gram_row @ others) / np.where(norm > 0, norm, 1.0)
    value = _rounded_at(argument[..., 0, :], first, rounding)
    right = np.where(chosen, 0.0, target + ridge * weights - gram_row.swapaxes(-1, -2) * value)
    rest = np.where(
        chosen, 0.0, inverse
    )  # features before the first are dead, so that this factors the others' inverse
    return np.where(chosen, value, rest.swapaxes(-1, -2) @ (rest @ right))


def _rounded_at(argument: np.ndarray, first: np.ndarray, rounding: Rounding) -> np.ndarray:
    """(..., 1, n_out) values, in units of weights, for the feature at `first` (..., 1, 1)."""
    keep = None if rounding.keep is None else np.take_along_axis(rounding.keep, first, axis=-2)
    start = int(first.flat[0]) if rounding.alphabet.group_size is not None else 0
    part = Rounding(rounding.alphabet.features(slice(start, start + 1)), keep)
    value = np.empty(argument.shape)
    part(argument / part.alphabet.unit, 0, value)
    return value[..., None, :] * part.alphabet.column
