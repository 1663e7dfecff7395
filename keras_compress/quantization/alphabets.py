"""Alphabets as settings: which integer levels there are, and how far they reach."""

import abc
import inspect
import math
from typing import Any, Self

import keras
import numpy as np

from keras_compress.errors import InputError, check_integer
from keras_compress.numerics import radius as rules
from keras_compress.numerics.alphabet import Alphabet, integer_levels

Radius = str | float
RULES = ("median", "max", "mse", "quantile")
FITTED = ("alternating", "search")  # scales that are fitted to the codes; their first radius is that of "mse"
QUANTILE = 0.99  # of the rule "quantile"; a number in place of the rule's name is another quantile


def check_radius(radius: Radius | None) -> None:
    """Raises InputError for what is no radius rule."""
    number = isinstance(radius, (int, float)) and not isinstance(radius, bool) and 0 < radius <= 1
    if radius is not None and radius not in RULES + FITTED and not number:
        raise InputError(
            f"radius must be one of {', '.join(RULES + FITTED)}, or a quantile of |w| in (0, 1]. Received: {radius!r}."
        )


class Configured:
    """Equal if built alike, printed as the call that builds it; `get_config` gives the constructor's arguments."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        config = {name: getattr(self, name) for name in defaults}
        changed = [f"{name}={value!r}" for name, value in config.items() if value != defaults[name].default]
        return f"{type(self).__name__}({', '.join(changed)})"


class AlphabetSetting(Configured, abc.ABC):
    """Settings from which each layer gets its alphabet.

    Attributes:
        scalar: C, a factor on the radius that the rule gives.
        per_channel: whether each output channel has a scale of its own, or the layer has one.
        symmetric: whether zero is where the level zero is; else each scale has a zero point.
        group_size: input features of a Dense layer that share a scale of each channel; None: all of them.
    """

    default_radius: Radius
    scalar: float
    per_channel: bool
    symmetric = True
    group_size: int | None = None

    @property
    @abc.abstractmethod
    def levels_array(self) -> np.ndarray:
        """(num_levels,) integers."""

    @property
    def num_levels(self) -> int:
        return len(self.levels_array)

    @property
    def has_zero(self) -> bool:
        """Whether zero is a value of the alphabet."""
        return not self.symmetric or 0 in self.levels_array

    @property
    def effective_bits(self) -> float:
        """log2 of the number of levels."""
        return math.log2(self.num_levels)

    def with_bits(self, bits: int) -> "AlphabetSetting":
        """The same kind of alphabet with another number of bits, and as many levels as it then has."""
        return type(self)(**self.get_config() | {"bits": bits} | ({"levels": None} if hasattr(self, "levels") else {}))

    def for_layer(self, matrices: np.ndarray, radius: Radius | None, weights: np.ndarray | None) -> Alphabet:
        """The alphabet of one layer.

        Args:
            matrices: (groups, N, units), the layer's weights.
            radius: a rule of `RULES`, a quantile in (0, 1], or None for the alphabet's own.
            weights: (groups, N) diagonals of the Gram matrices, which the rule "mse" uses; None without statistics.

        Returns:
            An alphabet with (groups * units,) or (1,) scales; with `group_size`, (num_groups, units).
        """
        rule = self.default_radius if radius is None else radius
        matrix = np.concatenate(list(matrices), axis=1)
        spread = None
        if weights is not None:
            spread = weights.T if len(weights) == 1 else np.repeat(weights.T, matrices.shape[2], axis=1)
        if self.group_size is None:
            return self._alphabet(matrix, rule, spread)
        starts = range(0, len(matrix), self.group_size)
        parts = [slice(start, start + self.group_size) for start in starts]
        groups = [self._alphabet(matrix[part], rule, None if spread is None else spread[part]) for part in parts]
        zero_points = [group.zero_point for group in groups if group.zero_point is not None]
        return Alphabet(
            self.levels_array,
            np.stack([group.scale for group in groups]),
            np.stack(zero_points) if zero_points else None,
            group_size=self.group_size,
        )

    def _alphabet(self, matrix: np.ndarray, rule: Radius, weights: np.ndarray | None) -> Alphabet:
        """The alphabet for (N, n_out) weights, with (N, 1) or (N, n_out) diagonals."""
        levels = self.levels_array
        if rule == "mse":
            radii = rules.mse_radius(matrix, levels, weights, per_channel=self.per_channel, symmetric=self.symmetric)
        elif rule == "median":
            radii = rules.median_radius(matrix, per_channel=self.per_channel)
        elif rule == "max":
            radii = rules.max_radius(matrix, per_channel=self.per_channel)
        else:
            quantile = QUANTILE if rule == "quantile" else float(rule)
            radii = rules.quantile_radius(matrix, quantile, per_channel=self.per_channel)
        if self.symmetric:
            return Alphabet(levels, rules.scale_of(self.scalar * radii, levels))
        scale, zero_point = rules.asymmetric(matrix, self.scalar * radii, levels, per_channel=self.per_channel)
        return Alphabet(levels, scale, zero_point)

    def _check(self, bits: int | None, levels: int | None, low: int, high: int) -> None:
        if levels is not None and (not _is_integer(levels) or not 2 <= levels <= 2**16):
            raise InputError(f"levels must be an integer from 2 to 65536. Received: {levels!r}.")
        if levels is None and (not _is_integer(bits) or not low <= bits <= high):  # type: ignore[operator]
            raise InputError(
                f"bits of {type(self).__name__} must be an integer from {low} to {high}. Received: {bits!r}."
            )
        if isinstance(self.scalar, bool) or not isinstance(self.scalar, (int, float)) or not 0 < self.scalar < math.inf:
            raise InputError(f"scalar must be a positive number. Received: {self.scalar!r}.")


def _check_groups(group_size: Any, per_channel: bool) -> None:
    if group_size is not None:
        check_integer("group_size", group_size, 1)
        if not per_channel:
            raise InputError("group_size goes with per_channel=True: each group has a scale for each channel.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@keras.saving.register_keras_serializable(package="keras_compress")
class Integer(AlphabetSetting):
    """Integers around zero: {-(2^(b-1) - 1) ... 2^(b-1) - 1}; what TFLite files can hold, as long as it is symmetric.

    2 bits are all four integers, {-2, -1, 0, 1}; three of them are `Ternary`.

    Args:
        bits: b, 2 to 16.
        levels: number of levels in place of `bits`; an even number reaches one further below zero.
        narrow_range: False adds -2^(b-1), which makes 2^b levels; True leaves it out; None is False for 2 bits alone.
        scalar: C, a factor on the radius.
        per_channel: a scale for each output channel, or one for the layer.
        symmetric: False takes {0 ... 2^b - 1} with a zero point for each scale, so that values reach from the least to
            the largest weight, and zero is one of them. The packed format holds such codes, TFLite files do not.
        group_size: a scale for each channel and so many neighbouring inputs of a Dense layer, the last group being
            smaller where they do not divide; for the packed format too.

    Raises:
        InputError: a setting out of range.
    """

    default_radius = "mse"

    def __init__(
        self,
        bits: int = 4,
        *,
        levels: int | None = None,
        narrow_range: bool | None = None,
        scalar: float = 1.0,
        per_channel: bool = True,
        symmetric: bool = True,
        group_size: int | None = None,
    ):
        self.bits = bits
        self.levels = levels
        self.narrow_range = narrow_range
        self.scalar = scalar
        self.per_channel = per_channel
        self.symmetric = symmetric
        self.group_size = group_size
        self._check(bits, levels, 2, 16)
        _check_groups(group_size, per_channel)

    @property
    def levels_array(self) -> np.ndarray:
        if not self.symmetric:
            return np.arange(2**self.bits if self.levels is None else self.levels)
        if self.levels is None:
            return integer_levels(self.bits, self.narrow_range)
        return np.arange(self.levels) - self.levels // 2


@keras.saving.register_keras_serializable(package="keras_compress")
class Ternary(AlphabetSetting):
    """{-1, 0, 1} times a scale; the packed format holds five such weights in a byte, TFLite files take 2 bits for each.

    Args:
        scalar: C, a factor on the radius.
        per_channel: a scale for each output channel, or one for the layer.
        group_size: see `Integer`.

    Raises:
        InputError: a setting out of range.
    """

    default_radius = "mse"

    def __init__(self, *, scalar: float = 1.0, per_channel: bool = True, group_size: int | None = None):
        self.scalar = scalar
        self.per_channel = per_channel
        self.group_size = group_size
        self._check(None, 3, 2, 2)
        _check_groups(group_size, per_channel)

    @property
    def levels_array(self) -> np.ndarray:
        return np.arange(-1, 2)

    def with_bits(self, bits: int) -> Integer:
        """`Integer` with these bits, and scales like these."""
        return Integer(bits, **self.get_config())


@keras.saving.register_keras_serializable(package="keras_compress")
class Equispaced(AlphabetSetting):
    """`C * median|W| * linspace(-1, 1, M)`, one radius a layer: the alphabet of Lybrand & Saab (2021, section 6).

    An even M, such as the 4 levels of 2 bits, has no zero.

    Args:
        bits: log2 of M, 1 to 16.
        levels: M in place of `bits`.
        scalar: C, a factor on the radius.
        per_channel: a radius for each output channel, or one for the layer.

    Raises:
        InputError: a setting out of range.
    """

    default_radius = "median"

    def __init__(self, bits: int = 4, *, levels: int | None = None, scalar: float = 1.0, per_channel: bool = False):
        self.bits = bits
        self.levels = levels
        self.scalar = scalar
        self.per_channel = per_channel
        self._check(bits, levels, 1, 16)

    @property
    def levels_array(self) -> np.ndarray:
        num_levels = self.levels if self.levels is not None else 2**self.bits
        step = 2 if num_levels % 2 == 0 else 1
        return np.arange(num_levels) * step - (num_levels - 1) * step // 2


@keras.saving.register_keras_serializable(package="keras_compress")
class Midtread(AlphabetSetting):
    """{0, +-d ... +-K d} with K = 2^(b-1), so 2^b + 1 levels: the alphabet of Zhang, Zhou & Saab (2023, section 5).

    Its radius K d is C times the mean over neurons of max|w|.

    Args:
        bits: b, 1 to 16; 1 has 3 levels.
        scalar: C, a factor on the radius.
        per_channel: a radius for each output channel, or one for the layer.

    Raises:
        InputError: a setting out of range.
    """

    default_radius = 1.0

    def __init__(self, bits: int = 4, *, scalar: float = 1.0, per_channel: bool = False):
        self.bits = bits
        self.scalar = scalar
        self.per_channel = per_channel
        self._check(bits, None, 1, 16)

    @property
    def levels_array(self) -> np.ndarray:
        largest = 2 ** (self.bits - 1)
        return np.arange(-largest, largest + 1)
