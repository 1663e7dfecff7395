"""Beacon: codes by direction alone, and the scale in closed form (arXiv 2508.20293).

Each channel maximises the cosine of X w and X~ q over unscaled levels q; the best scale is then <Xw, X~q> / ||X~q||^2.
Everything follows from h = H w and G: with one level free, the cosine is

    (a + h_t p) / sqrt(d + 2 b p + G_tt p^2),   a = h^T q - h_t q_t,  b = (G q)_t - G_tt q_t,  d = q^T G q without q_t,

which rises up to p = (h_t d - a b) / (a G_tt - h_t b) and falls beyond: one of its neighbours or an end is best.

The paper builds its start level by level, and the first level has cosine 1 whatever it is: chance decides, and 3 and
4 bits suffer. Here descent starts from memoryless codes at several radii, and each channel keeps its best.
"""

import numpy as np

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.descent import fit_scale
from keras_compress.numerics.objective import GramObjective, best_copy
from keras_compress.numerics.radius import scale_of
from keras_compress.numerics.statistics import LayerStatistics

BLOCK_SIZE = 128
STARTS = (1.0, 0.8, 0.65, 0.5, 0.35)  # radii of the memoryless starts, as fractions of max|w|


def beacon(
    matrix: np.ndarray,
    statistics: LayerStatistics,
    levels: np.ndarray,
    *,
    sweeps: int = 6,
    starts: tuple[float, ...] = STARTS,
    keep: np.ndarray | None = None,
    block_size: int = BLOCK_SIZE,
) -> tuple[np.ndarray, Alphabet]:
    """Codes and the alphabet with their scales.

    Args:
        matrix: (..., N, n_out) weights; leading axes are those of a batch.
        statistics: G, H of the layer's inputs. A feature with G_tt = 0 keeps the level it starts with.
        levels: integer levels, evenly spaced.
        sweeps: passes over all features; it ends before, where a pass changes nothing.
        starts: fractions of max|w|, the radii of the memoryless codes to start from.
        keep: (..., N, n_out) boolean, false where the weight must be zero.

    Returns:
        (..., N, n_out) integer codes, and an `Alphabet` with (..., n_out) scales.
    """
    maxima = np.abs(matrix).max(axis=-2)
    alphabets = [Alphabet(levels, scale_of(start * maxima, levels)) for start in starts]
    codes = np.concatenate([alphabet.nearest(matrix) for alphabet in alphabets], axis=-1)
    allowed = None if keep is None else np.tile(keep, len(starts))
    if allowed is not None:
        codes = np.where(allowed, codes, alphabets[0].zero_code)
    target = np.tile(statistics.target(matrix), len(starts))  # H w
    candidates, cosines = _ascend(codes, target, statistics.gram, alphabets[0], sweeps, allowed, block_size)
    chosen = np.take_along_axis(candidates, best_copy(-cosines, len(starts))[..., None, :], axis=-1)
    objective = GramObjective(matrix, statistics).place(alphabets[0].decode(chosen).astype(np.float64))
    return chosen, fit_scale(objective, alphabets[0], chosen)


def cosine(target: np.ndarray, gram: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n_out,) h^T q / sqrt(q^T G q), the cosine but for ||Xw||; zero where X~ q is zero."""
    energy = np.einsum("...ij,...ij->...j", values, gram @ values)
    return np.einsum("...ij,...ij->...j", target, values) / np.sqrt(np.where(energy > 0, energy, np.inf))


def _ascend(
    codes: np.ndarray,
    target: np.ndarray,
    gram: np.ndarray,
    alphabet: Alphabet,
    sweeps: int,
    keep: np.ndarray | None,
    block_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cyclic ascent on each channel's cosine; returns codes and cosines."""
    step, (first, last) = alphabet.step, alphabet.levels[[0, -1]].astype(float)
    values = codes.astype(np.float64)
    products = gram @ values
    for _ in range(sweeps):
        agreement = np.einsum("...ij,...ij->...j", target, values)
        energy = np.einsum("...ij,...ij->...j", values, products)
        moved = False
        for block in alphabet.blocks(0, values.shape[-2], block_size):
            inside = gram[..., block, block]
            changes = np.zeros(values[..., block, :].shape)
            for offset, feature in enumerate(range(block.start, block.stop)):
                norm = gram[..., feature, feature, None]
                if not (norm > 0).any():
                    continue
                old, slope = values[..., feature, :].copy(), target[..., feature, :]
                product = products[..., feature, :].copy()
                product += (inside[..., offset : offset + 1, :offset] @ changes[..., :offset, :])[..., 0, :]
                a = agreement - slope * old
                b = product - norm * old
                d = np.maximum(energy - 2 * old * product + norm * old * old, 0.0)
                new = np.where(norm > 0, _best_level(a, slope, b, d, norm, old, step, first, last), old)
                if keep is not None:
                    new = np.where(keep[..., feature, :], new, old)
                agreement = a + slope * new
                energy = d + 2 * b * new + norm * new * new
                values[..., feature, :] = new
                changes[..., offset, :] = new - old
            if changes.any():
                moved = True
                products += gram[..., block] @ changes
        if not moved:
            break
    return np.rint(values).astype(codes.dtype), cosine(target, gram, values)


def _best_level(
    a: np.ndarray,
    slope: np.ndarray,
    b: np.ndarray,
    d: np.ndarray,
    norm: np.ndarray,
    old: np.ndarray,
    step: int,
    first: float,
    last: float,
) -> np.ndarray:
    """(n_out,) level with the largest (a + slope p) / sqrt(d + 2 b p + norm p^2); the old one unless one is better."""
    curvature = a * norm - slope * b
    vertex = (slope * d - a * b) / np.where(curvature != 0, curvature, 1.0)
    below = first + step * np.floor((np.clip(vertex, first, last) - first) / step)
    best, highest = old, _height(a, slope, b, d, norm, old)
    # rounding must not move a level to and fro; where all levels are zero so far, any other one is better
    highest = highest + 1e-12 * np.abs(np.where(np.isfinite(highest), highest, 0.0))
    for candidate in (below, np.minimum(below + step, last), np.full_like(old, first), np.full_like(old, last)):
        height = _height(a, slope, b, d, norm, candidate)
        best = np.where(height > highest, candidate, best)
        highest = np.maximum(height, highest)
    return best


def _height(
    a: np.ndarray, slope: np.ndarray, b: np.ndarray, d: np.ndarray, norm: np.ndarray, level: np.ndarray
) -> np.ndarray:
    energy = d + (2 * b + norm * level) * level
    return np.where(energy > 0, (a + slope * level) / np.sqrt(np.where(energy > 0, energy, 1.0)), -np.inf)
