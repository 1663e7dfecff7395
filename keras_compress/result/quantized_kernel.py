"""A kernel as integers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_compress.errors import InputError
from keras_compress.numerics.alphabet import decode, spread_groups

WIDTHS = (2, 4, 8)  # bits of TFLite's weight types


def width_of(integers: np.ndarray) -> int | None:
    """2, 4 or 8: the bits of the narrowest TFLite weight type that holds the integers; None where none does."""
    low, high = int(integers.min()), int(integers.max())
    return next((bits for bits in WIDTHS if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)), None)


@dataclasses.dataclass(frozen=True, repr=False)
class QuantizedKernel:
    """A kernel as integers: `kernel = codes * scale`, in float32, with a scale for each output channel.

    With zero points and a gap, `kernel = (codes - zero_point) * scale + sign(codes) * gap`.

    Attributes:
        codes: integers, the shape of the kernel; each one of `levels`.
        levels: (num_levels,) integers, strictly increasing: the values that a code may take.
        scale: float32: one number for each output channel, of the shape that `codes` has along `axis`; or (1,), one for
            the layer; or (num_groups, n_out) with `group_size`.
        axis: axis of the kernel that runs over output channels; several, increasing, where they have several axes.
        zero_point: integers like `scale`, or None: the codes of zero, in asymmetric alphabets.
        gap: float32 like `scale`, or None: what values other than zero have beyond a multiple of the scale.
        group_size: neighbours along axis 0 of a kernel with two axes that share a row of `scale`, or None.
    """

    codes: np.ndarray
    levels: np.ndarray
    scale: np.ndarray
    axis: int | tuple[int, ...]
    zero_point: np.ndarray | None = None
    gap: np.ndarray | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        codes, levels = np.asarray(self.codes), np.asarray(self.levels)
        scale = np.asarray(self.scale, np.float32)
        if not np.issubdtype(codes.dtype, np.integer) or not np.issubdtype(levels.dtype, np.integer):
            raise InputError(f"Codes and levels must be integers. Received: {codes.dtype} and {levels.dtype}.")
        if levels.ndim != 1 or len(levels) < 2 or not (np.diff(levels) > 0).all():
            raise InputError(f"Levels must be a strictly increasing list of at least two. Received: {levels}.")
        if self.group_size is not None and self.group_size < 1:
            raise InputError(f"group_size must be at least 1. Received: {self.group_size}.")
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if any(not -codes.ndim <= axis < codes.ndim for axis in axes):
            raise InputError(f"axis must be among the axes of the codes' shape {codes.shape}. Received: {self.axis}.")
        axes = tuple(axis % codes.ndim for axis in axes)
        object.__setattr__(self, "axis", axes[0] if len(axes) == 1 else axes)
        object.__setattr__(self, "codes", codes)
        if scale.shape not in self._scale_shapes():
            raise InputError(
                f"The scale must have one entry, or one along axis {self.axis} of the codes' shape {codes.shape}, or a "
                f"row of them for each group of {self.group_size} along axis 0. Received: {scale.shape}."
            )
        if not np.isfinite(scale).all():
            raise InputError("The scale must be finite. Received: NaN or Inf.")
        if not np.isin(codes, levels).all():
            strangers = np.setdiff1d(codes, levels)
            raise InputError(f"Every code must be one of the levels {levels}. Received also: {strangers}.")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scale", scale)

    def __repr__(self) -> str:
        shape, size = tuple(self.codes.shape), self.scale.size
        levels = f"{len(self.levels)} levels from {self.levels[0]} to {self.levels[-1]}"
        return f"QuantizedKernel(<{shape}, {levels}, {size} scale{'' if size == 1 else 's'}>)"

    @property
    def axes(self) -> tuple[int, ...]:
        """`axis` as a tuple, also where it is one."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    @property
    def channel_scales(self) -> np.ndarray:
        """(groups, n_out) or (groups, 1): the scales with one axis for all output channels."""
        return self.scale if self.group_size is not None else self.scale.reshape(1, -1)

    @property
    def effective_bits(self) -> float:
        """Bits a weight: log2 of the number of levels."""
        return math.log2(len(self.levels))

    @property
    def storage_bits(self) -> int | None:
        """2, 4 or 8: the width of the narrowest TFLite weight type that holds these codes; None where none does."""
        if self.zero_point is not None or self.gap is not None or self.group_size is not None:
            return None
        return width_of(self.levels)

    @property
    def storage(self) -> str:
        """Such as "int4", by `storage_bits`; "packed" where no TFLite weight type holds these codes."""
        return "packed" if self.storage_bits is None else f"int{self.storage_bits}"

    def decode(self) -> np.ndarray:
        """The kernel in float32."""
        return decode(self.codes, self.along(self.scale), self.along(self.zero_point), self.along(self.gap))

    def along(self, values: Any) -> Any:
        """Numbers of the shape of `scale` (or None) in a shape that broadcasts to that of `codes`."""
        if values is None or self.group_size is not None:
            return spread_groups(values, self.group_size, len(self.codes))
        shape = [1] * self.codes.ndim
        if values.shape != (1,):
            for axis in self.axes:
                shape[axis] = self.codes.shape[axis]
        return values.reshape(shape)

    def multiplied(self, factor: np.ndarray, path: str) -> "QuantizedKernel":
        """The same codes with scales times |factor|; the codes of channels with a negative factor change sign.

        Args:
            factor: (n_out,).
            path: of the layer, for the message.

        Raises:
            InputError: see `turned`.
        """
        codes = self.turned(factor)
        if codes is None:
            raise InputError(f"The levels {self.levels} of layer {path!r} do not hold its codes with other signs.")
        factor = np.abs(factor).reshape([self.codes.shape[axis] for axis in self.axes])
        scale = (self.scale.astype(np.float64) * factor).astype(np.float32)
        gap = None if self.gap is None else (self.gap.astype(np.float64) * factor).astype(np.float32)
        return dataclasses.replace(self, codes=codes, scale=scale, gap=gap)

    def turned(self, factor: np.ndarray) -> np.ndarray | None:
        """The codes, with other signs in channels whose factor is negative; None where the levels do not hold them."""
        negative = factor < 0
        if not negative.any():
            return self.codes
        shape = [size if axis in self.axes else 1 for axis, size in enumerate(self.codes.shape)]
        codes = np.where(negative.reshape(shape), -self.codes, self.codes)
        return codes if self.zero_point is None and np.isin(codes, self.levels).all() else None

    def taken(self, positions: np.ndarray, axis: int) -> "QuantizedKernel":
        """Some positions of one axis, in their order, with the scales that belong to them.

        Raises:
            InputError: an axis along which neighbours share a scale.
        """
        axis %= self.codes.ndim
        if self.group_size is not None and axis == 0:
            raise InputError(f"Groups of {self.group_size} features share scales, so that no feature can be taken out.")
        numbers: dict[str, Any] = {"scale": self.scale, "zero_point": self.zero_point, "gap": self.gap}
        if axis in self.axes:
            along = self.axes.index(axis) - len(self.axes)
            for name, values in numbers.items():
                if values is not None and values.shape != (1,):
                    numbers[name] = np.take(values, positions, along)
        return dataclasses.replace(self, codes=np.take(self.codes, positions, axis), **numbers)

    def _scale_shapes(self) -> list[tuple[int, ...]]:
        along = tuple(self.codes.shape[axis] for axis in self.axes)
        if self.group_size is None:
            return [(1,), along]
        return [(-(-len(self.codes) // self.group_size), *along)]


def weight_scales(kernels: Mapping[str, QuantizedKernel]) -> dict[str, np.ndarray]:
    """Path of each kernel -> its `channel_scales`."""
    return {path: kernel.channel_scales for path, kernel in kernels.items()}
