"""OPTQ and what stands on it: after each letter, the weights that follow make up for its error by least squares.

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
from keras_compress.numerics.statistics import LayerStatistics

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
        matrix: (N, n_out) weights, columns are neurons.
        statistics: G, H of the layer's inputs. A feature with G_tt = 0 gets the letter nearest to zero.
        alphabet: letters, one scale a channel or one in all.
        target: "weights" aims at X~ w; "corrected" at X w from w*; "qronos" at X w by the first step of Qronos.
        damping: added to the diagonal of G (and of H, where it is read), as a share of its mean.
        keep: (N, n_out) boolean, false where the weight must be zero; needs a zero in the alphabet.

    Returns:
        (N, n_out) integer codes.
    """
    weights = matrix.astype(np.float64)
    rounding = Rounding(alphabet, keep)
    alive = statistics.diagonal > 0
    ridge = damping * float(statistics.diagonal[alive].mean()) if alive.any() else 1.0
    inverse = inverse_factor(statistics.gram, ridge)
    codes = np.empty(weights.shape, code_type(alphabet.levels))
    first = 0
    if target == "corrected" and not statistics.same_inputs:
        weights = corrected_weights(weights, statistics, inverse)
    elif target == "qronos" and alive.any() and not statistics.same_inputs:
        first = _first_step(weights, codes, statistics, inverse, ridge, rounding)
    weights[~alive] = 0.0
    diagonal = np.diagonal(inverse)[:, None]
    for block in alphabet.blocks(first, len(weights), block_size):
        part = rounding.block(block)
        arguments = weights[block] / part.alphabet.unit
        feedback = -(inverse[block, block] / diagonal[block]).T
        letters = np.zeros(arguments.shape)
        deviations = follow(arguments, feedback, part, letters, origin=arguments) * part.alphabet.unit
        codes[block] = part.alphabet.codes_of(letters)
        weights[block.stop :] += inverse[block, block.stop :].T @ (deviations / diagonal[block])
    return codes


def inverse_factor(gram: np.ndarray, ridge: float) -> np.ndarray:
    """(N, N) upper triangular U with U^T U = (G + ridge I)^-1; a dead feature (G_tt = 0) stands alone.

    From the Cholesky factor of G read backwards: G = R R^T with R upper triangular, and U = R^-1. No inverse is formed,
    whose own factorization loses the small directions.

    Raises:
        numpy.linalg.LinAlgError: G + ridge I is not positive definite.
    """
    backwards = gram[::-1, ::-1].astype(np.float64, order="F")
    diagonal = np.einsum("ii->i", backwards)
    dead = diagonal == 0
    diagonal += ridge
    diagonal[dead] = 1.0
    factor = scipy.linalg.cholesky(backwards, lower=True, overwrite_a=True, check_finite=False)
    inverse, failed = scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
    assert not failed, "a Cholesky factor has a positive diagonal"
    return np.ascontiguousarray(np.tril(inverse)[::-1, ::-1])


def corrected_weights(weights: np.ndarray, statistics: LayerStatistics, inverse: np.ndarray) -> np.ndarray:
    """w* = (G + ridge I)^-1 (H + ridge I) w = w + (G + ridge I)^-1 (H - G) w, all (N, n_out)."""
    change = (statistics.cross - statistics.gram) @ weights
    return weights + inverse.T @ (inverse @ change)


def _first_step(
    weights: np.ndarray,
    codes: np.ndarray,
    statistics: LayerStatistics,
    inverse: np.ndarray,
    ridge: float,
    rounding: Rounding,
) -> int:
    """Rounds the first living feature towards X w, and puts the best weights for the others in place of `weights`."""
    gram, cross = statistics.gram, statistics.cross
    first = int(np.argmax(statistics.diagonal > 0))
    rest = slice(first + 1, None)
    arguments = np.zeros((first + 1, weights.shape[1]))  # of dead features, which reach nothing, and of the first
    arguments[first] = (cross[first] @ weights - gram[first, rest] @ weights[rest]) / gram[first, first]
    for feature, argument in enumerate(arguments):
        part = rounding.block(slice(feature, feature + 1))
        letter = np.empty(len(argument))
        part(argument / part.alphabet.unit, 0, letter)
        codes[feature] = part.alphabet.codes_of(letter)
        arguments[feature] = letter * part.alphabet.unit
    right = cross[rest] @ weights + ridge * weights[rest] - np.outer(gram[rest, first], arguments[first])
    trailing = inverse[rest, rest]  # the factor of the trailing block's inverse
    weights[rest] = trailing.T @ (trailing @ right)
    return first + 1
