"""One layer's statistics, from its inputs in both networks, batch by batch."""

import functools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.calibration.correlation import CorrelationSum, TapSum, aligned, taps_gradient
from keras_compress.calibration.reblocking import Reblocked
from keras_compress.calibration.store import ActivationStore
from keras_compress.layers.convolution import ConvolutionGeometry
from keras_compress.layers.convolution_views import ConvolutionView
from keras_compress.layers.dense_views import DenseView
from keras_compress.layers.view import KernelView
from keras_compress.numerics.statistics import LayerStatistics, Moments
from keras_compress.samples.blocks import block_length, slices

ROW_BYTES = 64 << 20  # patches made at once
WIDE = 400  # features from which X^T X is made of panels, without most of what symmetry gives for nothing
PANELS = 4


def gram_method(geometry: ConvolutionGeometry, height: int, width: int) -> str:
    """The fastest exact way to X~^T X of a convolution: "correlation", "taps" or "patches" (benchmarks/network.py)."""
    if max(geometry.kernel_size) == 1 or max(geometry.dilation) > 1:
        return "patches"
    if max(geometry.strides) > 1:
        return "taps"
    larger = all(taps == 1 or size > taps for size, taps in zip((height, width), geometry.kernel_size, strict=True))
    return "correlation" if larger else "patches"


def row_product(compressed: Any, analog: Any) -> np.ndarray:
    """X~^T X of (..., m, N) tensors of float32 rows; about half the work where both are the same tensor.

    TensorFlow's product has the same sums on any number of threads, which BLAS does not promise.
    """
    features = compressed.shape[-1]
    if compressed is not analog or len(compressed.shape) > 2 or features < WIDE:
        return np.asarray(tf.matmul(compressed, analog, transpose_a=True))
    result = np.empty((features, features), np.float32)
    for part in slices(features, -(-features // PANELS)):
        panel = np.asarray(tf.matmul(compressed[:, part], compressed[:, part.start :], transpose_a=True))
        result[part, part.start :] = panel
        result[part.stop :, part] = panel[:, part.stop - part.start :].T
    return result


class Gatherer:
    """Statistics of one layer for each of its groups: add parts of its inputs, then ask for the result.

    Each of the layer's calls has sums of its own, over blocks of samples that are counted from the first: the result is
    the same however the parts are cut, and calls may have inputs of other shapes.

    Args:
        view: the layer.
        gram: whether to sum Gram matrices; else moments alone.
        same: whether both networks give the layer the same inputs.
        fraction: of the patches to use, drawn anew for each block without replacement.
        seed: of the draw, together with `name`.
        name: the layer's path.
        method: "correlation", "taps" or "patches"; None chooses the fastest for a convolution.
        sampled: rows of each part to keep, at most, to measure errors on.

    Attributes:
        sample: (rows of X, rows of X~), each (groups, some, N) float32, part by part.
    """

    def __init__(
        self,
        view: KernelView,
        *,
        gram: bool,
        same: bool,
        fraction: float = 1.0,
        seed: int = 0,
        name: str = "",
        method: str | None = None,
        sampled: int = 0,
    ):
        self.sampled = sampled
        self.sample: list[tuple[np.ndarray, np.ndarray]] = []
        self._result: list[Moments | LayerStatistics] | None = None
        self.view = view
        self.gram = gram
        self.same = same
        self._settings = (gram, same, fraction if isinstance(view, ConvolutionView) else 1.0, method)
        self._seed = (seed, zlib.crc32(name.encode()))
        self._calls: dict[int, tuple[CallSums, Reblocked]] = {}

    def add(self, compressed: Any, analog: Any, mismatch: Any = None, *, call: int = 0) -> None:
        """Adds one part of the layer's inputs, float tensors of equal shape; the same tensor twice if `same`.

        Args:
            compressed: inputs in the compressed network.
            analog: inputs in the analog network.
            mismatch: E, of the shape of the layer's outputs: what they are to have besides XW; None for nothing.
            call: number of the layer's call that has these inputs.
        """
        analog = tf.cast(analog, tf.float32)
        compressed = analog if self.same else tf.cast(compressed, tf.float32)
        if self.sampled:
            self.sample.append((self._some_rows(analog), self._some_rows(compressed)))
        if call not in self._calls:
            sums = CallSums(self.view, *self._settings, np.random.default_rng((*self._seed, call)))
            self._calls[call] = sums, Reblocked(block_length(math.prod(compressed.shape[1:])), sums.add)
        self._calls[call][1].add([compressed, analog, None if mismatch is None else tf.cast(mismatch, tf.float32)])

    def result(self) -> list[Moments | LayerStatistics]:
        """Statistics of each group, after the last part; of all groups in one where they are solved together."""
        if self._result is None:
            calls = [self._calls[call] for call in sorted(self._calls)]
            for _, blocks in calls:
                blocks.finish()
            count = sum(sums.count for sums, _ in calls)
            self._result = [
                self._statistics(count, functools.reduce(_added, groups))
                for groups in zip(*(sums.totals() for sums, _ in calls), strict=True)
            ]
            self._calls.clear()
        return self._result

    def _some_rows(self, inputs: Any) -> np.ndarray:
        return np.asarray(self.view.rows(inputs[: self.sampled])[:, : self.sampled])

    def _statistics(self, count: int, sums: dict[str, np.ndarray]) -> Moments | LayerStatistics:
        if not self.gram:
            return Moments(count, sums["analog"], sums["compressed"], sums["squares"])
        cross = sums["gram"] if self.same else sums["cross"]
        mismatches = sums.get("mismatch"), sums.get("sum_mismatch")
        return LayerStatistics(count, sums["analog"], sums["compressed"], sums["gram"], cross, *mismatches)


class CallSums:
    """Sums over the blocks of what one call of a layer reads; arguments as those of `Gatherer`.

    Attributes:
        count: m.
    """

    def __init__(
        self,
        view: KernelView,
        gram: bool,
        same: bool,
        fraction: float,
        method: str | None,
        generator: np.random.Generator,
    ):
        self.view = view
        self.gram = gram
        self.same = same
        self.fraction = fraction
        self.method = method
        self.count = 0
        self._generator = generator
        self._sums: list[dict[str, Any]] = [{} for _ in range(1 if view.solved_together else view.groups)]

    def add(self, compressed: Any, analog: Any, mismatch: Any) -> None:
        """Adds a block of float32 inputs, each block but the last of the same length."""
        view = self.view
        if mismatch is not None:
            self._add_mismatch(compressed, mismatch)
        if isinstance(view, ConvolutionView) and self.fraction == 1.0 and not view.solved_together:
            images = view.images(compressed)
            method = self.method or gram_method(view.geometry, *images.shape[1:3])
            if not self.gram or method != "patches":
                self._add_images(view, images, images if self.same else view.images(analog), method)
                return
        per_sample = math.prod(compressed.shape[1:]) * 4
        if isinstance(view, ConvolutionView):
            per_sample *= len(view.geometry.taps)
        for part in slices(len(compressed), max(1, ROW_BYTES // per_sample)):
            self._add_rows(compressed[part], analog[part])

    def totals(self) -> list[dict[str, np.ndarray]]:
        """Of each group, by name: analog, compressed; gram and cross, or squares; mismatch and sum_mismatch."""
        return [self._totals_of(sums) for sums in self._sums]

    def _add_mismatch(self, compressed: Any, mismatch: Any) -> None:
        """X~^T E and the column sums of E, of a layer with one group."""
        (sums,) = self._sums
        channels = mismatch.shape[-1]
        if isinstance(self.view, ConvolutionView):
            geometry = self.view.geometry
            images = self.view.images(compressed)
            sizes = (geometry.output_size(axis, size) for axis, size in enumerate(images.shape[1:3]))
            windows = tf.reshape(mismatch, (len(images), *sizes, channels))
            gradient = taps_gradient(geometry, aligned(geometry, images), windows)
            product = tf.reshape(tf.transpose(gradient, (0, 1, 3, 2)), (-1, channels))
        else:
            (rows,) = self.view.rows(compressed)
            product = tf.matmul(rows, tf.reshape(mismatch, (-1, channels)), transpose_a=True)
        _accumulate(sums, "mismatch", np.asarray(product))
        _accumulate(
            sums, "sum_mismatch", np.asarray(mismatch).sum(axis=tuple(range(len(mismatch.shape) - 1)), dtype=np.float64)
        )

    def _add_rows(self, compressed: Any, analog: Any) -> None:
        rows = self.view.rows(compressed)
        analog_rows = rows if self.same else self.view.rows(analog)
        if self.fraction < 1.0:
            count = rows.shape[1]
            chosen = np.sort(
                self._generator.choice(count, max(1, round(self.fraction * count)), replace=False, shuffle=False)
            )
            rows = tf.gather(rows, chosen, axis=1)
            analog_rows = rows if self.same else tf.gather(analog_rows, chosen, axis=1)
        self.count += rows.shape[1]
        parts, analog_parts = ([part] if self.view.solved_together else _groups(part) for part in (rows, analog_rows))
        for sums, part, analog_part in zip(self._sums, parts, analog_parts, strict=True):
            if self.same:
                analog_part = part
            _accumulate(sums, "compressed", np.asarray(part).sum(axis=-2, dtype=np.float64))
            _accumulate(sums, "analog", np.asarray(analog_part).sum(axis=-2, dtype=np.float64))
            if self.gram:
                _accumulate(sums, "gram", row_product(part, part))
                if not self.same:
                    _accumulate(sums, "cross", row_product(part, analog_part))
            else:
                _accumulate(sums, "squares", np.einsum("...ij,...ij->...j", *2 * [np.asarray(part)], dtype=np.float64))

    def _add_images(self, view: ConvolutionView, compressed: Any, analog: Any, method: str) -> None:
        geometry = view.geometry
        height, width = (geometry.output_size(axis, size) for axis, size in enumerate(compressed.shape[1:3]))
        self.count += len(compressed) * height * width
        for index, sums in enumerate(self._sums):
            part, analog_part = (_channels(images, index, view.groups) for images in (compressed, analog))
            _accumulate(sums, "image", np.asarray(tf.reduce_sum(part, axis=0)))
            _accumulate(sums, "analog_image", np.asarray(tf.reduce_sum(analog_part, axis=0)))
            if not self.gram:
                _accumulate(sums, "squares_image", np.asarray(tf.reduce_sum(part * part, axis=0)))
                continue
            if "gram" not in sums:
                shape = tuple(part.shape[1:])
                for name, symmetric in (("gram", True), ("cross", False)):
                    sums[name] = (
                        CorrelationSum(geometry, shape, symmetric=symmetric)
                        if method == "correlation"
                        else TapSum(geometry)
                    )
            sums["gram"].add(part, part)
            if not self.same:
                sums["cross"].add(part, analog_part)

    def _totals_of(self, sums: dict[str, Any]) -> dict[str, np.ndarray]:
        if "image" not in sums:
            return sums
        geometry = self.view.geometry  # type: ignore[attr-defined]
        totals: dict[str, np.ndarray] = {name: sums[name] for name in ("mismatch", "sum_mismatch") if name in sums}
        for name, image in (("compressed", "image"), ("analog", "analog_image"), ("squares", "squares_image")):
            if image in sums:
                windows = geometry.windows(tf.constant(sums[image][None]))
                totals[name] = np.concatenate([np.asarray(tf.reduce_sum(w, axis=(0, 1, 2))) for w in windows])
        if "gram" in sums:
            totals["gram"] = sums["gram"].matrix()
        if "gram" in sums and not self.same:
            totals["cross"] = sums["cross"].matrix()
        return totals


class StoredSamples:
    """Columns of one group of a layer's inputs, read from the store: what the direct form needs (`LayerSamples`).

    Args:
        view: the layer.
        group: index of the group.
        moments: of this group.
        keys: for each call of the layer, the store's keys of its input in the analog and in the compressed network.
        store: holds the inputs, chunk by chunk.
        columns_at_once: columns of a Dense layer that are read together.
        index: features to give, in order; None for all.
    """

    def __init__(
        self,
        view: KernelView,
        group: int,
        moments: Moments,
        keys: list[tuple[Any, Any]],
        store: ActivationStore,
        columns_at_once: int,
        index: np.ndarray | None = None,
    ):
        self.view, self.group, self.keys, self.store = view, group, keys, store
        self.columns_at_once = columns_at_once
        self.moments = moments
        self.index = index
        chosen = slice(None) if index is None else index
        self.count = moments.count
        self.constant: np.ndarray | None = None
        self.sum_analog = moments.sum_analog[chosen]
        self.sum_compressed = moments.sum_compressed[chosen]
        self.diagonal = moments.diagonal[chosen]
        self.num_features = len(self.diagonal)

    def features(self, index: np.ndarray) -> "StoredSamples":
        """The samples of some of the features."""
        return StoredSamples(
            self.view, self.group, self.moments, self.keys, self.store, self.columns_at_once, np.asarray(index)
        )

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        start = first = 0
        for width, read in self._parts():
            chosen: Any = slice(None)
            if self.index is not None:
                inside = self.index[(self.index >= first) & (self.index < first + width)]
                chosen = inside - first
            first += width
            if self.index is not None and not len(inside):
                continue
            same = all(analog == compressed for analog, compressed in self.keys)
            compressed_columns = read(1)[:, chosen]
            analog_columns = compressed_columns if same else read(0)[:, chosen]
            yield start, analog_columns, compressed_columns
            start += compressed_columns.shape[1]

    def _parts(self) -> Iterator[tuple[int, Any]]:
        """Yields (number of columns, function of the network 0 or 1 that reads them)."""
        assert self.store.num_chunks is not None
        chunks = [(keys, chunk) for keys in self.keys for chunk in range(self.store.num_chunks)]
        view = self.view
        if isinstance(view, ConvolutionView):
            geometry = view.geometry
            for tap in range(len(geometry.taps)):

                def read_tap(network: int, tap: int = tap) -> np.ndarray:
                    parts = []
                    for keys, chunk in chunks:
                        images = view.images(self.store.read(keys[network], chunk))
                        images = _channels(images, self.group, view.groups)
                        window = geometry.window(images, tap)
                        parts.append(np.asarray(window).reshape(-1, window.shape[-1]))
                    return np.concatenate(parts)

                yield len(self.moments.diagonal) // len(geometry.taps), read_tap
            return
        total = len(self.moments.diagonal)
        for start in range(0, total, self.columns_at_once):
            columns = slice(start, min(start + self.columns_at_once, total))
            width = columns.stop - columns.start

            def read_columns(network: int, columns: slice = columns) -> np.ndarray:
                return np.concatenate([self._columns(keys[network], chunk, columns) for keys, chunk in chunks])

            yield width, read_columns

    def _columns(self, key: Any, chunk: int, columns: slice) -> np.ndarray:
        if isinstance(self.view, DenseView):  # whose columns lie along the last axis
            return self.store.read_columns(key, chunk, columns).reshape(-1, columns.stop - columns.start)
        return np.asarray(self.view.rows(self.store.read(key, chunk)))[0, :, columns]


def _channels(images: Any, group: int, groups: int) -> Any:
    """The channels of one group."""
    if groups == 1:
        return images
    size = images.shape[-1] // groups
    return images[..., group * size : (group + 1) * size]


def _groups(rows: Any) -> list[Any]:
    """The matrices of rows (groups, m, N)."""
    return [tf.reshape(rows, rows.shape[1:])] if len(rows) == 1 else tf.unstack(rows)  # a slice would copy


def _added(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value + second[name] for name, value in first.items()}


def _accumulate(sums: dict[str, Any], name: str, value: np.ndarray) -> None:
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value.astype(np.float64)
