"""Geometry of a two-dimensional convolution: which inputs each tap of the kernel reads."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class ConvolutionGeometry:
    """How a kernel moves over channels-last images; taps are (row, column) positions of the kernel, row by row.

    The order of features is (kernel row, kernel column, channel), channel fastest: that of `kernel.reshape(-1, n_out)`.
    """

    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: str  # "valid" or "same"

    @property
    def taps(self) -> list[tuple[int, int]]:
        return list(itertools.product(range(self.kernel_size[0]), range(self.kernel_size[1])))

    def output_size(self, axis: int, size: int) -> int:
        """Number of output rows (axis 0) or columns (axis 1) for `size` input rows or columns."""
        stride = self.strides[axis]
        if self.padding == "same":
            return -(-size // stride)
        return (size - self._reach(axis)) // stride + 1

    def pad_before(self, axis: int, size: int) -> int:
        """Zeros before the first row or column (TensorFlow's rule: the odd one comes after)."""
        return self._padding(axis, size) // 2

    def _reach(self, axis: int) -> int:
        return (self.kernel_size[axis] - 1) * self.dilation[axis] + 1

    def _padding(self, axis: int, size: int) -> int:
        if self.padding == "valid":
            return 0
        needed = (self.output_size(axis, size) - 1) * self.strides[axis] + self._reach(axis) - size
        return max(needed, 0)

    def pad(self, images: Any) -> Any:
        """`images` (n, height, width, channels), with the zeros that the padding adds."""
        paddings = [(0, 0)]
        for axis, size in enumerate(images.shape[1:3]):
            total = self._padding(axis, size)
            paddings.append((total // 2, total - total // 2))
        return tf.pad(images, [*paddings, (0, 0)]) if any(map(any, paddings)) else images

    def read(self, padded: Any, output_sizes: tuple[int, int]) -> Any:
        """Padded images without the rows and columns behind the last window, which nothing reads."""
        height, width = ((size - 1) * self.strides[axis] + self._reach(axis) for axis, size in enumerate(output_sizes))
        return padded[:, :height, :width]

    def window(self, images: Any, tap: int) -> Any:
        """What one tap reads: (n, output height, output width, channels)."""
        return self._window(self.pad(images), images.shape[1:3], *self.taps[tap])

    def windows(self, images: Any) -> Iterator[Any]:
        """Yields for each tap what it reads."""
        padded = self.pad(images)
        for row, column in self.taps:
            yield self._window(padded, images.shape[1:3], row, column)

    def _window(self, padded: Any, sizes: tuple[int, int], row: int, column: int) -> Any:
        slices = [slice(None)]
        for axis, position in enumerate((row, column)):
            first = position * self.dilation[axis]
            last = first + (self.output_size(axis, sizes[axis]) - 1) * self.strides[axis]
            slices.append(slice(first, last + 1, self.strides[axis]))
        return padded[tuple(slices)]

    def patches(self, images: Any) -> Any:
        """(n, output height, output width, number of taps, channels): all windows side by side."""
        return tf.stack(list(self.windows(images)), axis=3)
