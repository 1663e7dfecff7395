"""The loop that the greedy quantizers share: round one feature after the other, with feedback from those before.

    a_t = b_t - sum_{s<t} F_ts (q_s - o_s),    q_t = Q(a_t)

What differs is the feedback F, the origin o that a value is compared with, and the rounding Q: GPFQ has o = 0,
coordinate descent the value that was there, OPTQ the argument a_s itself.
"""

import dataclasses
import functools

import numpy as np

from keras_compress.numerics.alphabet import Alphabet, beyond_gap

INNER_SIZE = 16  # features whose feedback is summed by matrix-vector products


@dataclasses.dataclass(frozen=True)
class Rounding:
    """Q: the nearest value; with `noise` one of the two neighbours at random; with `threshold` after shrinking.

    With a gap around zero, rounding is hard thresholding: zero up to the first value, and beyond it the nearest of
    the others (Zhang, Zhou & Saab, 2023, L0).

    Attributes:
        alphabet: arguments and values are in units of its step.
        keep: (..., N, n_out) boolean, false where the value must be zero; needs a zero in the alphabet.
        noise: (..., N, n_out) uniform in [0, 1): stochastic rounding, floor(a + noise), whose mean is a (SPFQ).
        threshold: lambda in units of weights: soft thresholding before rounding, sign(a) max(|a| - lambda, 0)
            (Zhang, Zhou & Saab, 2023, L1).
    """

    alphabet: Alphabet
    keep: np.ndarray | None = None
    noise: np.ndarray | None = None
    threshold: float | None = None

    def block(self, block: slice) -> "Rounding":
        """The rounding of some features, which lie in one group of the alphabet."""
        keep = None if self.keep is None else self.keep[..., block, :]
        noise = None if self.noise is None else self.noise[..., block, :]
        return Rounding(self.alphabet.features(block), keep, noise, self.threshold)

    @functools.cached_property
    def shrinkage(self) -> np.ndarray | None:
        """`threshold` in steps, or None."""
        return None if self.threshold is None else self.threshold / self.alphabet.unit

    def __call__(self, row: np.ndarray, feature: int, values: np.ndarray) -> None:
        """Writes the values of one feature's arguments `row` (..., n_out), which is changed, into `values`."""
        alphabet = self.alphabet
        if alphabet.gap is not None:
            self._beyond_the_gap(row, values)
        else:
            shift = alphabet.shift
            low, high = alphabet.bounds
            if self.threshold is not None:
                np.copysign(np.maximum(np.abs(row) - self.shrinkage, 0.0), row, out=row)
            if shift:
                row -= shift
            if self.noise is None:
                np.rint(row, out=row)
            else:
                row += self.noise[..., feature, :]
                np.floor(row, out=row)
            np.maximum(row, low, out=row)
            np.minimum(row, high, out=values)
            if shift:
                values += shift
        if self.keep is not None:
            values *= self.keep[..., feature, :]

    def _beyond_the_gap(self, row: np.ndarray, values: np.ndarray) -> None:
        widening = self.alphabet.widening
        assert widening is not None
        values[...] = beyond_gap(row, widening, self.alphabet.bounds[1])


def follow(
    arguments: np.ndarray,
    feedback: np.ndarray,
    rounding: Rounding,
    values: np.ndarray,
    *,
    origin: np.ndarray | None = None,
) -> np.ndarray:
    """Fills `values` (..., b, n_out) feature by feature and returns the deviations q - o.

    Leading axes are those of a batch of matrices, all of which go through the loop together.

    Args:
        arguments: (..., b, n_out) b_t, what is known before the loop; a_t afterwards.
        feedback: (..., b, b) F, of which the strictly lower triangle is read.
        rounding: Q of these features.
        values: (..., b, n_out) q, in units of the alphabet's step.
        origin: (..., b, n_out) o; `arguments` itself compares each value with its own argument; None is zero.
    """
    deviations = values if origin is None else np.zeros_like(values)
    if origin is None:
        values[:] = 0.0
    num_features = arguments.shape[-2]
    lower = np.tril(feedback, -1)
    row = np.empty((*arguments.shape[:-2], arguments.shape[-1]))
    arguments_of, values_of = _by_feature(arguments), _by_feature(values)
    origins_of = None if origin is None else _by_feature(origin)
    for start in range(0, num_features, INNER_SIZE):
        inner = slice(start, min(start + INNER_SIZE, num_features))
        if start:
            arguments[..., inner, :] -= lower[..., inner, :start] @ deviations[..., :start, :]
        triangle, known = np.ascontiguousarray(lower[..., inner, inner]), deviations[..., inner, :]
        known_of = _by_feature(known)
        for offset, weights in enumerate(_by_feature(triangle)):
            feature = start + offset
            # deviations of later features are still zero, and so are their weights
            if known.ndim == 2:
                np.dot(weights, known, out=row)
            else:
                np.matmul(weights[..., None, :], known, out=row[..., None, :])
            np.subtract(arguments_of[feature], row, out=row)
            if origins_of is None:
                rounding(row, feature, values_of[feature])
                continue
            arguments_of[feature] = row
            rounding(row, feature, values_of[feature])
            np.subtract(values_of[feature], origins_of[feature], out=known_of[offset])
    return deviations


def _by_feature(values: np.ndarray) -> np.ndarray:
    """A view with the features in front."""
    return values if values.ndim == 2 else np.moveaxis(values, -2, 0)
