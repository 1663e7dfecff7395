"""The values that a weight may take, and rounding to them (memoryless scalar quantization)."""

import dataclasses
import functools

import numpy as np

from keras_compress.errors import InputError


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """Values `scale * level`, for each integer `level` in `levels` and one `scale` a channel.

    Levels are evenly spaced, so rounding is arithmetic and not a search: `level = step * (k + shift)` with an integer
    index `k`. A value halfway between two letters goes to the even index, as `np.rint` does (docs/notation.md).

    Attributes:
        levels: (num_levels,) integers, strictly increasing, evenly spaced.
        scale: (n_out,) or (1,) float32, positive.
    """

    levels: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        levels = np.asarray(self.levels, np.int64)
        scale = np.asarray(self.scale, np.float32)
        if levels.ndim != 1 or len(levels) < 2 or len(set(np.diff(levels))) != 1 or levels[1] <= levels[0]:
            raise InputError(f"Levels must be at least two, increasing and evenly spaced. Received: {levels}.")
        if scale.ndim != 1 or not (np.isfinite(scale) & (scale > 0)).all():
            raise InputError(
                f"Scales must be positive and finite, one for each channel or one in all. Received: {scale}."
            )
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scale", scale)

    @functools.cached_property
    def step(self) -> int:
        """Distance of neighbouring levels."""
        return int(self.levels[1] - self.levels[0])

    @functools.cached_property
    def shift(self) -> float:
        """What a level, in steps, has beyond an integer: 0, or 1/2 for {..., -3, -1, 1, 3, ...}."""
        return float(self.levels[0] / self.step % 1)

    @functools.cached_property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest index `k`."""
        return self.levels[0] / self.step - self.shift, self.levels[-1] / self.step - self.shift

    @functools.cached_property
    def unit(self) -> np.ndarray:
        """(n_out,) or (1,) float64: weight of one index step, exactly as decoded weights have it."""
        return self.scale.astype(np.float64) * self.step

    @property
    def radius(self) -> np.ndarray:
        """(n_out,) or (1,): the largest absolute value of a letter."""
        return self.scale * np.abs(self.levels).max()

    @property
    def zero_code(self) -> int:
        """The level nearest to zero."""
        return int(self.to_codes(np.clip(np.rint(-self.shift), *self.bounds)))

    def channels(self, start: int, stop: int) -> "Alphabet":
        """The alphabet of some of the channels."""
        return self if len(self.scale) == 1 else Alphabet(self.levels, self.scale[start:stop])

    def to_codes(self, indices: np.ndarray) -> np.ndarray:
        """Levels, as integers, of float indices `k`."""
        dtype = np.int8 if np.abs(self.levels).max() < 128 else np.int32
        return np.rint(self.step * (np.asarray(indices) + self.shift)).astype(dtype)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """MSQ: the code of the letter nearest to each of `values` (..., n_out)."""
        return self.to_codes(np.clip(np.rint(values / self.unit - self.shift), *self.bounds))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Weights, in float32, of `codes` (..., n_out)."""
        return codes.astype(np.float32) * self.scale
