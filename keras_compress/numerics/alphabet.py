"""The values that a weight may take, and rounding to them (memoryless scalar quantization)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_compress.errors import InputError


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """Values `scale * level`, for each integer `level` in `levels`, with a scale for each channel or one in all.

    Levels are evenly spaced, so rounding is arithmetic and not a search: in steps, a step being the distance of
    neighbours, a value is `k + shift` with an integer index `k`. A number halfway between two values goes to the even
    index, as `np.rint` does (docs/notation.md).

    Attributes:
        levels: (num_levels,) integers, strictly increasing, evenly spaced.
        scale: (..., n_out) or (1,) float32, positive; with `group_size` one row for each group: (num_groups, n_out).
            Leading axes are those of a batch of matrices.
        zero_point: integers like `scale`: values are `scale * (level - zero_point)`; levels must be 1 apart.
        gap: float32 like `scale`: values are `scale * level + sign(level) * gap`, so that a wider gap lies around zero
            (the alphabet of hard thresholding); levels must be 1 apart and symmetric.
        group_size: features that share a row of `scale`; the last group may be smaller. None: all of them.
    """

    levels: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None = None
    gap: np.ndarray | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        levels = np.asarray(self.levels, np.int64)
        scale = np.asarray(self.scale, np.float32)
        if levels.ndim != 1 or len(levels) < 2 or len(set(np.diff(levels))) != 1 or levels[1] <= levels[0]:
            raise InputError(f"Levels must be at least two, increasing and evenly spaced. Received: {levels}.")
        if (
            not scale.ndim
            or (self.group_size is not None and scale.ndim != 2)
            or not (np.isfinite(scale) & (scale > 0)).all()
        ):
            raise InputError(
                f"Scales must be positive and finite, one for each channel or one in all. Received: {scale}."
            )
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scale", scale)
        if self.gap is not None:
            object.__setattr__(self, "gap", np.asarray(self.gap, np.float32))

    @functools.cached_property
    def step(self) -> int:
        """Distance of neighbouring levels."""
        return int(self.levels[1] - self.levels[0])

    @functools.cached_property
    def shift(self) -> float:
        """What a level, in steps, has beyond an integer: 0, or 1/2 for {..., -3, -1, 1, 3, ...}."""
        return float(self.levels[0] / self.step % 1)

    @functools.cached_property
    def bounds(self) -> tuple[Any, Any]:
        """Smallest and largest index `k`: numbers, or like `scale` where there are zero points."""
        if self.zero_point is None:
            return self.levels[0] / self.step - self.shift, self.levels[-1] / self.step - self.shift
        return tuple((self.levels[end] - self.zero_point).astype(np.float64) for end in (0, -1))

    @functools.cached_property
    def unit(self) -> np.ndarray:
        """float64, like `scale`: weight of one step, exactly as decoded weights have it."""
        return self.scale.astype(np.float64) * self.step

    @functools.cached_property
    def widening(self) -> np.ndarray | None:
        """`gap` in steps, or None."""
        return None if self.gap is None else self.gap.astype(np.float64) / self.unit

    @property
    def radius(self) -> np.ndarray:
        """Like `scale`: the largest absolute value of the alphabet."""
        if self.zero_point is not None:
            return self.scale * np.maximum(self.levels[-1] - self.zero_point, self.zero_point - self.levels[0])
        radius = self.scale * np.abs(self.levels).max()
        return radius if self.gap is None else radius + self.gap

    @property
    def zero_code(self) -> Any:
        """The level nearest to zero: an integer, or (..., 1, n_out) where there are zero points."""
        if self.zero_point is not None:
            return self.zero_point[..., None, :]
        return int(self.step * (np.clip(np.rint(-self.shift), *self.bounds) + self.shift))

    @classmethod
    def joined(cls, alphabets: list["Alphabet"]) -> "Alphabet":
        """The channels of several alphabets in one, which have the same levels and groups; one where it is shared."""
        first = alphabets[0]
        if len(alphabets) == 1 or first.scale.shape == (1,):
            return first

        def join(name: str) -> Any:
            parts = [getattr(alphabet, name) for alphabet in alphabets]
            return None if parts[0] is None else np.concatenate(parts, axis=-1)

        return Alphabet(first.levels, join("scale"), join("zero_point"), join("gap"), first.group_size)

    def channels(self, index: slice | np.ndarray) -> "Alphabet":
        """The alphabet of some of the channels; of other ones in each matrix of a batch, for (..., number) indices."""
        if self.scale.shape == (1,):
            return self
        if isinstance(index, np.ndarray) and index.ndim > 1:
            return self._changed(lambda values: np.take_along_axis(values, index, axis=-1))
        return self._changed(lambda values: values[..., index])

    def scaled(self, factor: np.ndarray | float) -> "Alphabet":
        """Values times a positive factor, of the shape of `scale` or one that broadcasts to it."""
        scale = np.maximum(self.scale * np.asarray(factor), np.finfo(np.float32).tiny)
        gap = None if self.gap is None else (self.gap * np.asarray(factor)).astype(np.float32)
        return dataclasses.replace(self, scale=scale.astype(np.float32), gap=gap)

    def side_by_side(self, factors: tuple[float, ...]) -> "Alphabet":
        """Several copies of all channels, one with the values times each factor."""
        return Alphabet.joined([self.scaled(factor) for factor in factors])

    def shaped(self, shape: tuple[int, ...]) -> "Alphabet":
        """The alphabet with scales of another shape, such as those of a batch; one in all stays one."""
        shared = self.scale.shape == (1,) or self.group_size is not None
        return self if shared else self._changed(lambda values: values.reshape(shape))

    def features(self, block: slice) -> "Alphabet":
        """The alphabet of some features that lie in one group."""
        if self.group_size is None:
            return self
        group = block.start // self.group_size
        zero_point, gap = (None if part is None else part[group] for part in (self.zero_point, self.gap))
        return Alphabet(self.levels, self.scale[group], zero_point, gap)

    def blocks(self, start: int, stop: int, size: int) -> Iterator[slice]:
        """Slices of at most `size` features from `start` to `stop`, none of which crosses the border of a group."""
        while start < stop:
            end = min(start + size, stop)
            if self.group_size is not None:
                end = min(end, (start // self.group_size + 1) * self.group_size)
            yield slice(start, end)
            start = end

    @functools.cached_property
    def column(self) -> np.ndarray:
        """`unit` along the features: (..., 1, n_out); of one group, where there are groups."""
        return self.unit[..., None, :]

    def codes_of(self, values: np.ndarray) -> np.ndarray:
        """Levels, as integers, of (..., N, n_out) values in steps; of one group's, where there are groups."""
        if self.widening is not None:
            values = values - np.sign(values) * self.widening[..., None, :]
        levels = np.rint(self.step * values)
        if self.zero_point is not None:
            levels += self.zero_point[..., None, :]
        return levels.astype(code_type(self.levels))

    def values_of(self, codes: np.ndarray) -> np.ndarray:
        """Values in steps, float64, of codes (..., N, n_out); of one group's, where there are groups."""
        levels = codes.astype(np.float64)
        if self.zero_point is not None:
            levels -= self.zero_point[..., None, :]
        levels /= self.step
        return levels if self.widening is None else levels + np.sign(levels) * self.widening[..., None, :]

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """MSQ: for each of `values` (..., N, n_out), the code of the nearest value of the alphabet.

        With a gap, hard thresholding: zero up to the first value next to it, then the nearest one.
        """
        if self.group_size is not None:
            blocks = self.blocks(0, len(values), self.group_size)
            return np.concatenate([self.features(block).nearest(values[block]) for block in blocks])
        low, high = (np.asarray(bound)[..., None, :] if np.ndim(bound) else bound for bound in self.bounds)
        steps = values / self.column
        if self.widening is None:
            return self.codes_of(np.clip(np.rint(steps - self.shift), low, high) + self.shift)
        return self.codes_of(beyond_gap(steps, self.widening[..., None, :], high))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Weights, in float32, of `codes` (..., N, n_out)."""

        def along(part: np.ndarray | None) -> Any:
            if part is None or self.group_size is not None:
                return spread_groups(part, self.group_size, len(codes))
            return part[..., None, :]

        return decode(codes, along(self.scale), along(self.zero_point), along(self.gap))

    def _changed(self, change: Callable[[np.ndarray], np.ndarray]) -> "Alphabet":
        zero_point, gap = (None if part is None else change(part) for part in (self.zero_point, self.gap))
        return Alphabet(self.levels, change(self.scale), zero_point, gap, self.group_size)


def beyond_gap(steps: np.ndarray, widening: np.ndarray, largest: Any) -> np.ndarray:
    """Hard thresholding of numbers of steps: 0 up to the first value next to zero, then the nearest value.

    Args:
        steps: (..., n_out).
        widening: what values other than zero have beyond their level; broadcasts to `steps`.
        largest: level.
    """
    magnitude = np.abs(steps)
    level = np.clip(np.rint(magnitude - widening), 1.0, largest)
    return np.copysign(np.where(magnitude > 1.0 + widening, level + widening, 0.0), steps)


def decode(
    codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None, gap: np.ndarray | None = None
) -> np.ndarray:
    """float32 weights of codes; all arrays of one shape, or broadcast to that of `codes`."""
    levels = codes if zero_point is None else codes.astype(np.int32) - zero_point
    weights = levels.astype(np.float32) * scale
    return weights if gap is None else weights + np.sign(levels).astype(np.float32) * gap


def spread_groups(values: Any, group_size: int | None, num_features: int) -> Any:
    """A row of (num_groups, ...) for each feature; `values` itself, which may be None, where there are no groups."""
    if values is None or group_size is None:
        return values
    return np.repeat(values, min(group_size, num_features), axis=0)[:num_features]  # a file may say any size


def integer_levels(bits: int, narrow_range: bool | None = None) -> np.ndarray:
    """-(2^(b-1) - 1) to 2^(b-1) - 1; without the narrow range, which 2 bits do not have by default, from -2^(b-1)."""
    narrow = bits > 2 if narrow_range is None else narrow_range
    return np.arange(bool(narrow) - 2 ** (bits - 1), 2 ** (bits - 1))


def code_type(levels: np.ndarray) -> type[np.signedinteger]:
    """The integer type that holds codes."""
    return np.int8 if np.abs(levels).max() < 128 else np.int32
