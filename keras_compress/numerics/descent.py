"""Refinement of codes: cyclic coordinate descent on ||XW - X~Q||^2 over the alphabet, and the fit of its scales.

With everything else fixed, the error is a parabola in one value, whose vertex is q_t + (H_t w - G_t q) / G_tt: the
value nearest to it is the best one. No step can raise the error. One sweep costs what the greedy solver costs.
"""

import numpy as np

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.feedback import Rounding, follow
from keras_compress.numerics.objective import BLOCK_SIZE, Objective


def descend(
    objective: Objective,
    alphabet: Alphabet,
    codes: np.ndarray,
    *,
    sweeps: int,
    keep: np.ndarray | None = None,
    block_size: int = BLOCK_SIZE,
) -> np.ndarray:
    """Codes whose error is at most that of `codes`, channel by channel.

    Args:
        objective: placed at the weights that `codes` stand for; at those of the new codes afterwards. A feature whose
            inputs are all zero keeps its value.
        alphabet: without a gap.
        codes: (..., N, n_out) integers to start from.
        sweeps: passes over all features; it ends before, where a pass changes nothing.
        keep: (..., N, n_out) boolean, false where the weight must be zero.

    Returns:
        (..., N, n_out) integer codes.
    """
    rounding = Rounding(alphabet, keep)
    codes = codes.copy()
    diagonal = objective.diagonal
    inverse = np.where(diagonal > 0, 1.0 / np.where(diagonal > 0, diagonal, 1.0), 0.0)[..., None]
    for _ in range(sweeps):
        moved = False
        for piece in objective.pieces(alphabet, block_size):
            block, scaling = piece.block, inverse[..., piece.block, :]
            part = rounding.block(block)
            before = part.alphabet.values_of(codes[..., block, :])
            values = before.copy()
            arguments = before + piece.slope * scaling / part.alphabet.column
            changes = follow(arguments, piece.gram * scaling, part, values, origin=before)
            if changes.any():
                moved = True
                codes[..., block, :] = part.alphabet.codes_of(values)
                piece.move(changes * part.alphabet.column)
        if not moved:
            break
    return codes


def fit_scale(objective: Objective, alphabet: Alphabet, codes: np.ndarray) -> Alphabet:
    """The alphabet with the scales that are best for given codes: <Xw, X~q> / ||X~q||^2 (Beacon, arXiv 2508.20293).

    As many scales as before: one a channel, one in all, or one for each group of features, group after group. Where
    that quotient is not positive the old scale stays.

    Args:
        objective: placed at the weights that `codes` stand for; at those with the new scales afterwards.
        alphabet: of `codes`.
        codes: (..., N, n_out).
    """
    if alphabet.group_size is not None:
        return _fit_groups(objective, alphabet, codes)
    agreement, energy = objective.agreement(), objective.energy()
    if alphabet.scale.shape == (1,):
        agreement, energy = agreement.sum().reshape(1), energy.sum().reshape(1)
    fitted = alphabet.scaled(_positive_quotient(agreement, energy))
    objective.scale(fitted.unit / alphabet.unit)
    return fitted


def _fit_groups(objective: Objective, alphabet: Alphabet, codes: np.ndarray) -> Alphabet:
    """One scale after the other, each with the best factor for its part of X~q while the others stay."""
    factors = np.ones(alphabet.scale.shape)
    assert alphabet.group_size is not None
    for piece in objective.pieces(alphabet, alphabet.group_size):
        part = alphabet.features(piece.block)
        values = part.values_of(codes[piece.block]) * part.unit
        energy = np.einsum("ij,ij->j", values, piece.gram @ values)
        factor = _positive_quotient(energy + np.einsum("ij,ij->j", values, piece.slope), energy)
        fitted = part.scaled(factor).unit / part.unit  # as float32 scales have it
        factors[piece.block.start // alphabet.group_size] = fitted
        piece.move(values * (fitted - 1.0))
    return alphabet.scaled(factors)


def _positive_quotient(agreement: np.ndarray, energy: np.ndarray) -> np.ndarray:
    positive = (agreement > 0) & (energy > 0)
    return np.where(positive, agreement / np.where(energy > 0, energy, 1.0), 1.0)
