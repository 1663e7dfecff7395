"""Where the converter has put each kernel: found with kernels of random numbers, which nothing else resembles.

Tensors have no lasting names, kernels of equal layers may share a buffer, and a BatchNormalization behind a layer
multiplies its output channels. A copy of the model in which every kernel is a marker of its own is converted, and each
operator's weights are compared with all markers of its shape, up to a factor for each output channel.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_compress.export.policy import RUNS
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.rewrite import clone_model, rebuild
from keras_compress.layers.view import KernelView
from keras_compress.measurement import flatbuffer

TOLERANCE = 1e-5  # of a marker in float32, relative, after the factors
LOOSE = 0.02  # of a kernel that the converter has rounded to 8 bits
WEIGHTS = 1  # index of an operator's weights among its inputs
BIAS = {"TRANSPOSE_CONV": 3}  # of its bias, where it is not 2
INPUTS = {"TRANSPOSE_CONV": 2}  # of its activations, where it is not 0


@dataclasses.dataclass(frozen=True)
class Located:
    """Where a kernel is.

    Attributes:
        path: of the kernel.
        operator: index among the `weighted_operators`.
        kind: of the operator, such as "CONV_2D".
        factor: (n_out,) float64: what each output channel of the kernel was multiplied by; 1 where nothing was folded.
    """

    path: str
    operator: int
    kind: str
    factor: np.ndarray


def with_markers(
    model: keras.Model, paths: list[str], views_of: Callable[[keras.Model], dict[str, KernelView]] = views_by_path
) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """A copy whose kernels are random numbers, the same in every process, and these numbers."""
    copy = clone_model(model)
    views = views_of(copy)
    markers = {}
    for index, path in enumerate(paths):
        markers[path] = np.random.default_rng(index).normal(size=views[path].kernel.shape).astype(np.float32)
        views[path].variable.assign(markers[path])
    return copy, markers


class Barrier(keras.layers.Layer):
    """The larger one of a tensor and itself: what the converter does not see through, and `Editor.finish` removes."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.maximum(inputs, inputs)


def with_barriers(model: keras.Model, paths: Collection[str]) -> keras.Model:
    """A copy with a barrier before each call of some kernels.

    Without it the converter multiplies what stands before a Dense layer, such as a BatchNorm, into the rows of its
    kernel, which then is no longer a scale times codes for each output channel.
    """
    graph = Graph(model)
    symbols = {id(graph.symbols[graph.calls[index].inputs[0]]) for path in paths for index in graph.linear_calls(path)}
    return rebuild(model, insert=lambda tensor: [Barrier()] if id(tensor) in symbols else []).model


class Weighted(NamedTuple):
    """An operator of the kinds in `RUNS` that reads constant weights: its number, its kind, the tensor of weights."""

    operator: int
    kind: str
    tensor: int


def weighted_operators(model: Any) -> list[Weighted]:
    """The weighted operators of a `ModelT`, in its order; weights may stand behind an operator DEQUANTIZE."""
    graph = model.subgraphs[0]
    kinds = [flatbuffer.operator_name(model, operator) for operator in graph.operators]
    dequantized = {
        operator.outputs[0]: operator.inputs[0]
        for kind, operator in zip(kinds, graph.operators, strict=True)
        if kind == "DEQUANTIZE"
    }
    weighted = []
    for index, (kind, operator) in enumerate(zip(kinds, graph.operators, strict=True)):
        if kind in RUNS:
            tensor = dequantized.get(operator.inputs[WEIGHTS], operator.inputs[WEIGHTS])
            if flatbuffer.array_of(model, graph.tensors[tensor]) is not None:
                weighted.append(Weighted(index, kind, tensor))
    return weighted


def locate(model: Any, markers: dict[str, np.ndarray], axes: dict[str, tuple[int, ...]]) -> list[Located]:
    """The operators whose weights are markers.

    Args:
        model: `ModelT` of a float file of the copy.
        markers: path of a kernel -> its marker.
        axes: path of a kernel -> its axes over output channels.
    """
    graph = model.subgraphs[0]
    located = []
    for number, (_, kind, tensor) in enumerate(weighted_operators(model)):
        weights = flatbuffer.array_of(model, graph.tensors[tensor])
        assert weights is not None
        matches = []
        for path, marker in markers.items():
            arranged = arrange(marker, axes[path], kind)
            if arranged is None or arranged.shape != weights.shape:
                continue
            factor = factors(weights, arranged, kind, TOLERANCE)
            if factor is not None:
                matches.append(Located(path, number, kind, factor))
        if matches:
            located.append(min(matches, key=_strangeness))
    return located


def _strangeness(located: Located) -> tuple[float, float]:
    """How little the factors look like what a converter multiplies by: one number for all channels, best 1.

    Kernels with one weight a channel are proportional to each other, channel by channel.
    """
    middle = float(np.median(located.factor))
    return float(np.abs(located.factor - middle).max()) / max(abs(middle), 1e-30), abs(middle - 1)


def factors(weights: np.ndarray, arranged: np.ndarray, kind: str, tolerance: float) -> np.ndarray | None:
    """The factor of each output channel between two arrays; None where they are not proportional."""
    kernel_rows, weight_rows = (channels_first(each, kind).astype(np.float64) for each in (arranged, weights))
    if np.array_equal(kernel_rows, weight_rows):
        return np.ones(len(kernel_rows))
    norms = np.einsum("ij,ij->i", kernel_rows, kernel_rows)
    factor = np.einsum("ij,ij->i", kernel_rows, weight_rows) / np.where(norms > 0, norms, 1.0)
    residual = np.square(weight_rows - factor[:, np.newaxis] * kernel_rows).sum()
    return factor if residual <= tolerance**2 * np.square(weight_rows).sum() else None


def channels_first(array: np.ndarray, kind: str) -> np.ndarray:
    """(n_out, rest) of an operator's weights."""
    array = np.moveaxis(array, channel_axis(kind), 0)
    return array.reshape(len(array), -1)


def channel_axis(kind: str) -> int:
    """Axis over output channels of an operator's weights."""
    return 3 if kind == "DEPTHWISE_CONV_2D" else 0


def along_channels(values: np.ndarray, kind: str, ndim: int) -> np.ndarray:
    """(n_out,) or one number, in a shape that broadcasts to an operator's weights."""
    shape = [1] * ndim
    shape[channel_axis(kind)] = -1
    return np.reshape(values, shape)


def arrange(kernel: np.ndarray, axes: tuple[int, ...], kind: str) -> np.ndarray | None:
    """A Keras kernel in an operator's layout; None where it cannot be that operator's.

    (in, out) -> (out, in); (h, w, in, out) -> (out, h, w, in), also where `in` are those of a group; depthwise
    (h, w, in, multiplier) -> (1, h, w, in * multiplier); transposed (h, w, out, in) -> (out, h, w, in). Kernels of
    one-dimensional convolutions have h = 1.
    """
    last = kernel.ndim - 1
    if kind == "DEPTHWISE_CONV_2D":
        if axes != (last - 1, last) or kernel.ndim not in (3, 4):
            return None
        flat = kernel.reshape(*kernel.shape[:-2], -1)
        return flat[np.newaxis] if kernel.ndim == 4 else flat[np.newaxis, np.newaxis]
    if kind == "TRANSPOSE_CONV":
        moved = np.moveaxis(kernel, -2, 0) if axes == (last - 1,) and kernel.ndim in (3, 4) else None
    else:
        moved = np.moveaxis(kernel, -1, 0) if axes == (last,) else None
    if moved is None:
        return None
    if kind == "FULLY_CONNECTED":
        return moved.reshape(len(moved), -1)
    if kernel.ndim not in (3, 4):
        return None
    return moved if kernel.ndim == 4 else moved[:, np.newaxis]


def disarrange(weights: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...], kind: str) -> np.ndarray:
    """An operator's weights in the layout of a Keras kernel of this shape: the inverse of `arrange`."""
    places = arrange(np.arange(weights.size).reshape(shape), axes, kind)
    assert places is not None
    kernel = np.empty(weights.size, weights.dtype)
    kernel[places.ravel()] = weights.ravel()
    return kernel.reshape(shape)
