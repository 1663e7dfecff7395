"""How far an alphabet reaches: rules that choose the radius, the largest absolute value of an alphabet."""

import numpy as np

from keras_compress.numerics.alphabet import Alphabet

# Radii tried by the rule "mse", as fractions of max|w|: a coarse grid, then a finer one around each channel's best.
COARSE = np.arange(1, 33) / 32
FINE = np.arange(-3, 4) / 128


def quantile_radius(matrix: np.ndarray, quantile: float, *, per_channel: bool) -> np.ndarray:
    """Quantile of |w| (1 = the maximum), for each channel; for a layer, the mean of its channels' quantiles.

    The mean over neurons is the radius of Zhang, Zhou & Saab (2023, section 5).

    Args:
        matrix: (N, n_out).

    Returns:
        (n_out,) or (1,).
    """
    radii = np.quantile(np.abs(matrix), quantile, axis=0)
    return radii if per_channel else radii.mean(keepdims=True)


def max_radius(matrix: np.ndarray, *, per_channel: bool) -> np.ndarray:
    """max|w| of each channel, or of the layer: (n_out,) or (1,)."""
    return np.abs(matrix).max(axis=0) if per_channel else np.abs(matrix).max(keepdims=True).reshape(1)


def median_radius(matrix: np.ndarray, *, per_channel: bool) -> np.ndarray:
    """median|w| of each channel, or of the layer (Lybrand & Saab, 2021, section 6): (n_out,) or (1,).

    Where over half of the weights are zero, as in a pruned layer, the median is over the others.
    """
    magnitudes = np.abs(matrix) if per_channel else np.abs(matrix).reshape(-1, 1)
    medians = np.median(magnitudes, axis=0)
    for channel in np.flatnonzero(medians == 0):
        rest = magnitudes[magnitudes[:, channel] > 0, channel]
        medians[channel] = np.median(rest) if rest.size else 0.0
    return medians


def mse_radius(
    matrix: np.ndarray,
    levels: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    per_channel: bool,
    symmetric: bool = True,
) -> np.ndarray:
    """Radius in (0, max|w|] with the least sum_t g_t (w_t - q_t)^2, q the nearest value, by grid search.

    Args:
        matrix: (N, n_out).
        levels: (num_levels,) integers.
        weights: (N, 1) or (N, n_out) g, the diagonal of the Gram matrix; ones where there are no statistics.
        symmetric: False takes the values of `asymmetric`.

    Returns:
        (n_out,) or (1,).
    """
    largest = np.abs(levels).max()
    maxima = np.maximum(max_radius(matrix, per_channel=per_channel), np.finfo(np.float32).tiny)
    matrix = matrix.astype(np.float32)  # an error sum needs no more, and the search is bound by memory
    g = np.ones((len(matrix), 1)) if weights is None or not weights.any() else weights
    g = (g / g.mean()).astype(np.float32)

    def errors(fractions: np.ndarray) -> np.ndarray:
        unit_alphabet = Alphabet(levels, np.ones(1))
        if symmetric:
            unit = (fractions * maxima / largest * unit_alphabet.step).astype(np.float32)
        else:
            unit, zero_point = asymmetric(matrix, fractions * maxima, levels, per_channel=per_channel)
            unit_alphabet = Alphabet(levels, np.ones(1), zero_point)
        indices = matrix / unit
        targets = indices - np.float32(unit_alphabet.shift)
        nearest = np.rint(targets)
        np.clip(nearest, *unit_alphabet.bounds, out=nearest)
        np.subtract(nearest, targets, out=nearest)
        np.square(nearest, out=nearest)
        # einsum and not BLAS, whose float32 sums depend on the number of threads
        sums = np.einsum("i,ij->j", g[:, 0], nearest) if g.shape[1] == 1 else np.einsum("ij,ij->j", g, nearest)
        channel_errors = sums * unit.astype(np.float64) ** 2
        return channel_errors if per_channel else channel_errors.sum(keepdims=True)

    best = np.ones_like(maxima, np.float64)
    least = errors(best)
    for offsets, around in ((COARSE[:-1], False), (FINE, True)):
        center = best.copy() if around else np.zeros_like(best)
        for offset in offsets:
            fractions = np.clip(center + offset, COARSE[0] / 4, 1.0)
            error = errors(fractions)
            better = error < least
            best = np.where(better, fractions, best)
            least = np.where(better, error, least)
    return best * maxima


def asymmetric(
    matrix: np.ndarray, radius: np.ndarray, levels: np.ndarray, *, per_channel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of values from the least to the largest weight, both cut at `radius`; zero is a value.

    Args:
        matrix: (N, n_out).
        radius: (n_out,) or (1,).
        levels: (num_levels,) integers, 1 apart.

    Returns:
        float32 scales and int32 zero points, which are levels, like `radius`.
    """
    axis = 0 if per_channel else None
    low = np.maximum(np.minimum(matrix.min(axis=axis), 0.0), -radius)
    high = np.minimum(np.maximum(matrix.max(axis=axis), 0.0), radius)
    scale = np.maximum((high - low) / (len(levels) - 1), np.finfo(np.float32).tiny).astype(np.float32)
    return scale, (levels[0] + np.rint(-low / scale)).astype(np.int32)


def scale_of(radius: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(n_out,) or (1,) float32 scale that puts the largest level on `radius`; tiny, never zero, for a zero channel."""
    return np.maximum(radius / np.abs(levels).max(), np.finfo(np.float32).tiny).astype(np.float32)
