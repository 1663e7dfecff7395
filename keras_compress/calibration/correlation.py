"""Gram matrices of convolutions without patches.

At stride 1, the block of X~^T X between two taps d and e of a kernel depends, but for the image's border, only on
their distance D = e - d: it is S[D] = sum_u x~[u]^T x[u + D]. All S[D] together are one filter gradient. The pixels
that tap d never reads lie in border rows and columns; their part is measured apart and taken away, so that the result
is exact. Everything is a sum over images, so only these sums are kept, and the matrix is put together once, at the end.

For other strides, each tap's strided window gives one filter gradient with all taps: exact without border terms.
"""

import concurrent.futures
import functools
import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.layers.convolution import ConvolutionGeometry
from keras_compress.samples.blocks import slices

STRIPS = 4  # tall images of a block, which can be worked on side by side


def filter_gradient(
    images: Any, windows: Any, size: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]
) -> Any:
    """sum_u windows[u]^T images[u * strides + p * dilation] for each p of `size`: (*size, C_windows, C_images).

    Args:
        images: (n, height, width, C_images), with all that the last window reads.
        windows: (n, window height, window width, C_windows).
    """
    kernel_shape = (*size, images.shape[3], windows.shape[3])

    def gradient(part: slice) -> Any:
        return tall_gradient(images[part], windows[part], kernel_shape, strides, dilation)

    parts = slices(len(images), -(-len(images) // STRIPS))
    return tf.transpose(tf.add_n(list(_threads().map(gradient, parts))), (0, 1, 3, 2))


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    """One for each strip: few channels are work for one thread. Kept, since starting them takes milliseconds."""
    return concurrent.futures.ThreadPoolExecutor(STRIPS)


def tall_gradient(
    images: Any, windows: Any, kernel_shape: tuple[int, ...], strides: tuple[int, int], dilation: tuple[int, int]
) -> Any:
    """The gradient of a convolution's kernel, of `kernel_shape`, with the same sums on any number of threads.

    TensorFlow deals the images of a batch to its threads, each of which sums its own: other threads, other sums. Here
    the images lie one below the other in a tall one, which threads do not share. Zeros below the windows keep an image
    from its neighbour.
    """
    reach = (kernel_shape[0] - 1) * dilation[0] + 1
    needed = max(images.shape[1], (windows.shape[1] - 1) * strides[0] + reach)
    height = -(-needed // strides[0]) * strides[0]
    lines = tf.reshape(_with_rows(images, height), (-1, *images.shape[2:]))
    rows = (tf.shape(lines)[0] - reach) // strides[0] + 1  # those behind are the zeros below the last image
    window_lines = tf.reshape(_with_rows(windows, height // strides[0]), (-1, *windows.shape[2:]))
    return tf.raw_ops.Conv2DBackpropFilter(
        input=lines[None],
        filter_sizes=kernel_shape,
        out_backprop=window_lines[:rows][None],  # along the first axis: not a copy
        strides=[1, *strides, 1],
        padding="VALID",
        dilations=[1, *dilation, 1],
    )


def _with_rows(images: Any, rows: int) -> Any:
    """Images with rows of zeros below."""
    more = rows - images.shape[1]
    return tf.pad(images, [(0, 0), (0, more), (0, 0), (0, 0)]) if more else images


def taps_gradient(geometry: ConvolutionGeometry, padded: Any, windows: Any) -> Any:
    """sum_u windows[u]^T (what tap p reads at u) for each tap of a convolution: (*kernel_size, C_windows, C).

    Args:
        geometry: of the convolution.
        padded: (n, height, width, C) images from `aligned`.
        windows: (n, output height, output width, C_windows).
    """
    return filter_gradient(padded, windows, geometry.kernel_size, geometry.strides, geometry.dilation)


def aligned(geometry: ConvolutionGeometry, images: Any) -> Any:
    """Images with the zeros that the padding adds, as `taps_gradient` takes them: without what no window reads."""
    sizes = geometry.output_size(0, images.shape[1]), geometry.output_size(1, images.shape[2])
    padded = geometry.read(geometry.pad(images), sizes)
    return _with_rows(padded, -(-padded.shape[1] // geometry.strides[0]) * geometry.strides[0])


def correlate(windows: Any, images: Any, reach: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """S[D] = sum_u windows[u]^T images[u + D], zero outside `images`, for D in ((first, last), (first, last))."""
    paddings, crops = [], []
    for axis, (first, last) in enumerate(reach):
        size, other = windows.shape[axis + 1], images.shape[axis + 1]
        paddings.append((max(-first, 0), max(last + size - other, 0)))
        crops.append(slice(max(first, 0), None))
    images = tf.pad(images[:, crops[0], crops[1]], [(0, 0), *paddings, (0, 0)])
    size = tuple(last - first + 1 for first, last in reach)
    images = images[:, : windows.shape[1] + size[0] - 1, : windows.shape[2] + size[1] - 1]
    return np.asarray(filter_gradient(images, windows, size, (1, 1), (1, 1)), np.float64)


def correlate_lines(windows: Any, lines: list[Any], reach: tuple[int, int]) -> np.ndarray:
    """The same for one line of pixels: sum_u windows[u]^T line[u + D] for each of `lines` and each D in `reach`.

    A filter gradient is slow at a single line, and a product of matrices is not.

    Args:
        windows: (n, length, C).
        lines: each (n, length, C).
        reach: first and last distance D along the line; zero outside.

    Returns:
        (number of lines, number of distances, C, C).
    """
    first, last = reach
    _, length, channels = windows.shape
    shifted = [
        padded[:, start : start + length]
        for padded in (tf.pad(line, [(0, 0), (max(-first, 0), max(last, 0)), (0, 0)]) for line in lines)
        for start in range(last - first + 1)
    ]
    columns = tf.reshape(tf.stack(shifted, axis=2), (-1, len(shifted) * channels))
    products = tf.matmul(tf.reshape(windows, (-1, channels)), columns, transpose_a=True)
    products = tf.reshape(products, (channels, len(lines), last - first + 1, channels))
    return np.asarray(tf.transpose(products, (1, 2, 0, 3)), np.float64)


class CorrelationSum:
    """Sums over images from which X~^T X of a stride-1 convolution follows; `symmetric` if both are the same images."""

    def __init__(self, geometry: ConvolutionGeometry, image_shape: tuple[int, int, int], *, symmetric: bool):
        self.geometry = geometry
        self.height, self.width, self.channels = image_shape
        self.symmetric = symmetric
        self._sums: dict[Any, np.ndarray] = {}
        kernel = geometry.kernel_size
        first_row = 0 if symmetric else 1 - kernel[0]  # the lower half of a symmetric matrix needs no work
        self._reach = ((first_row, kernel[0] - 1), (1 - kernel[1], kernel[1] - 1))
        # unread[axis][d]: rows (columns) of the image that tap row (column) d never reads
        self._unread = tuple(
            [
                [
                    index
                    for index in range(size)
                    if not 0 <= index + geometry.pad_before(axis, size) - d < geometry.output_size(axis, size)
                ]
                for d in range(kernel[axis])
            ]
            for axis, size in enumerate((self.height, self.width))
        )
        self._borders = tuple(sorted(set(itertools.chain(*lists))) for lists in self._unread)

    def add(self, compressed: Any, analog: Any) -> None:
        """Adds the sums of a batch of images, each (n, height, width, channels)."""
        self._add("all", correlate(compressed, analog, self._reach))
        for row in self._borders[0]:
            first, last = self._strip(0, row)
            lines = [analog[:, row + distance] for distance in range(first, last + 1)]
            self._add(("row", row), correlate_lines(compressed[:, row], lines, self._reach[1]))
        for column in self._borders[1]:
            first, last = self._strip(1, column)
            lines = [analog[:, :, column + distance] for distance in range(first, last + 1)]
            products = correlate_lines(compressed[:, :, column], lines, self._reach[0])
            self._add(("column", column), products.swapaxes(0, 1))
        for row, column in itertools.product(*self._borders):
            rows, columns = self._strip(0, row), self._strip(1, column)
            window = analog[:, row + rows[0] : row + rows[1] + 1, column + columns[0] : column + columns[1] + 1]
            product = tf.einsum("na,nyxb->yxab", compressed[:, row, column], window)
            self._add(("pixel", row, column), np.asarray(product, np.float64))

    def matrix(self) -> np.ndarray:
        """X~^T X, (number of taps * channels) squared, in float64."""
        taps, channels = self.geometry.taps, self.channels
        result = np.empty((len(taps), channels, len(taps), channels))
        for (i, d), (j, e) in itertools.product(enumerate(taps), enumerate(taps)):
            if self.symmetric and j < i:
                result[i, :, j] = result[j, :, i].T
                continue
            result[i, :, j] = self._block(d, e)
        return result.reshape(len(taps) * channels, -1)

    def _add(self, key: Any, value: np.ndarray) -> None:
        if key in self._sums:
            self._sums[key] += value
        else:
            self._sums[key] = value

    def _strip(self, axis: int, index: int) -> tuple[int, int]:
        """First and last distance along `axis` that a border row (column) needs: from taps that never read it."""
        taps = [d for d, unread in enumerate(self._unread[axis]) if index in unread]
        size, kernel = (self.height, self.width)[axis], self.geometry.kernel_size[axis]
        first, last = self._reach[axis]
        return max(first, -index, -max(taps)), min(last, size - 1 - index, kernel - 1 - min(taps))

    def _block(self, d: tuple[int, int], e: tuple[int, int]) -> np.ndarray:
        distance = e[0] - d[0], e[1] - d[1]
        rows, columns = self._unread[0][d[0]], self._unread[1][d[1]]
        block = self._at("all", distance, (self._reach[0][0], self._reach[1][0])).copy()
        for row in rows:
            block -= self._at(("row", row), distance, (self._strip(0, row)[0], self._reach[1][0]))
        for column in columns:
            block -= self._at(("column", column), distance, (self._reach[0][0], self._strip(1, column)[0]))
        for row, column in itertools.product(rows, columns):
            block += self._at(("pixel", row, column), distance, (self._strip(0, row)[0], self._strip(1, column)[0]))
        return block

    def _at(self, key: Any, distance: tuple[int, int], first: tuple[int, int]) -> np.ndarray:
        """The sum at `distance`; zero where it would reach outside of the image."""
        sums = self._sums[key]
        y, x = distance[0] - first[0], distance[1] - first[1]
        if 0 <= y < sums.shape[0] and 0 <= x < sums.shape[1]:
            return sums[y, x]
        return np.zeros(sums.shape[2:])


class TapSum:
    """Sums of X~^T X of a convolution of any stride and dilation: one filter gradient a tap."""

    def __init__(self, geometry: ConvolutionGeometry):
        self.geometry = geometry
        self._sum: np.ndarray | None = None

    def add(self, compressed: Any, analog: Any) -> None:
        """Adds the sums of a batch of images, each (n, height, width, channels)."""
        geometry = self.geometry
        padded = aligned(geometry, analog)
        blocks = []
        for window in geometry.windows(compressed):
            blocks.append(tf.transpose(taps_gradient(geometry, padded, window), (2, 0, 1, 3)))
        total = np.asarray(tf.stack(blocks), np.float64)
        self._sum = total if self._sum is None else self._sum + total

    def matrix(self) -> np.ndarray:
        """X~^T X, (number of taps * channels) squared, in float64."""
        assert self._sum is not None
        features = self._sum.shape[0] * self._sum.shape[1]
        return self._sum.reshape(features, features)
