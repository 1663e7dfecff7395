"""Refinement of codes: cyclic coordinate descent on ||XW - X~Q||^2 over the alphabet, from the statistics alone.

With everything else fixed, the error is a parabola in one letter, whose vertex is q_t + (H_t w - G_t q) / G_tt: the
letter nearest to it is the best one. No step can raise the error. One sweep costs what the greedy solver costs.
"""

import numpy as np

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.feedback import Rounding, follow
from keras_compress.numerics.statistics import LayerStatistics

BLOCK_SIZE = 128


def descend(
    matrix: np.ndarray,
    statistics: LayerStatistics,
    alphabet: Alphabet,
    codes: np.ndarray,
    *,
    sweeps: int,
    keep: np.ndarray | None = None,
    block_size: int = BLOCK_SIZE,
) -> np.ndarray:
    """Codes whose error is at most that of `codes`, channel by channel.

    Args:
        matrix: (N, n_out) weights.
        statistics: G, H of the layer's inputs. A feature with G_tt = 0 keeps its letter.
        alphabet: letters.
        codes: (N, n_out) integers to start from.
        sweeps: passes over all features; it ends before, where a pass changes nothing.
        keep: (N, n_out) boolean, false where the weight must be zero.

    Returns:
        (N, n_out) integer codes.
    """
    gram = statistics.gram
    rounding = Rounding(alphabet, keep)
    letters = codes / alphabet.step
    diagonal = statistics.diagonal
    inverse = np.where(diagonal > 0, 1.0 / np.where(diagonal > 0, diagonal, 1.0), 0.0)[:, None]
    residual = statistics.cross @ (matrix / alphabet.unit) - gram @ letters  # H w - G q
    for _ in range(sweeps):
        moved = False
        for start in range(0, len(letters), block_size):
            block = slice(start, min(start + block_size, len(letters)))
            before = letters[block].copy()
            arguments = before + residual[block] * inverse[block]
            changes = follow(
                arguments, gram[block, block] * inverse[block], rounding.block(block), letters[block], origin=before
            )
            if changes.any():
                moved = True
                residual -= gram[:, block] @ changes
        if not moved:
            break
    return alphabet.to_codes(letters - alphabet.shift)


def best_scale(matrix: np.ndarray, statistics: LayerStatistics, alphabet: Alphabet, codes: np.ndarray) -> Alphabet:
    """The alphabet with the scale that is best for given codes: <Xw, X~q> / ||X~q||^2 (Beacon, arXiv 2508.20293).

    One scale a channel, or one in all, as before; where that quotient is not positive the old scale stays.
    """
    levels = codes.astype(np.float64)
    agreement = np.einsum("ij,ij->j", levels, statistics.cross @ matrix)
    energy = np.einsum("ij,ij->j", levels, statistics.gram @ levels)
    if len(alphabet.scale) == 1:
        agreement, energy = agreement.sum(keepdims=True), energy.sum(keepdims=True)
    positive = (agreement > 0) & (energy > 0)
    scale = np.where(positive, agreement / np.where(energy > 0, energy, 1.0), alphabet.scale)
    return Alphabet(alphabet.levels, np.maximum(scale, np.finfo(np.float32).tiny))


def excess(matrix: np.ndarray, statistics: LayerStatistics, decoded: np.ndarray) -> np.ndarray:
    """(n_out,) ||Xw - X~q||^2 - ||Xw||^2 = q^T G q - 2 q^T H w: what codes can change of the error."""
    values = decoded.astype(np.float64)
    return np.einsum("ij,ij->j", values, statistics.gram @ values - 2 * (statistics.cross @ matrix))
