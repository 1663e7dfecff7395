"""What a model costs: parameters, multiplications and bytes."""

import dataclasses
import math
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.layers.operations import kind_of
from keras_compress.layers.paths import (
    check_model,
    functional_graph,
    is_graph,
    layers_by_path,
    model_in,
    nodes_in_order,
)
from keras_compress.text import aligned

BYTES_A_NUMBER = 4  # float32


class Quantized(Protocol):
    """What is asked of a `QuantizedKernel`."""

    codes: np.ndarray
    levels: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class LayerMeasurement:
    """What one layer costs. Fields as in `Measurement`."""

    path: str
    kind: str
    parameters: int
    nonzeros: int
    macs: int | None
    ideal_bytes: int


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a model costs.

    Attributes:
        parameters: numbers in all weights, trainable or not.
        nonzeros: those that are not zero.
        macs: multiplications of a weight and an input, for one sample, in Dense and convolutional layers; a shared
            layer counts each call. `None` where an input's shape is open, such as (None, None, 3).
        raw_bytes: all weights as float32.
        gzipped_bytes: the same after gzip (level 6).
        ideal_bytes: codes at log2(levels) bits, each kernel rounded up to whole bytes, 4 bytes a scale, zero points at
            as many bits as codes, and 4 bytes for every number that is not quantized.
        layers: those with weights, in the order of the model.
    """

    parameters: int
    nonzeros: int
    macs: int | None
    raw_bytes: int
    gzipped_bytes: int
    ideal_bytes: int
    layers: tuple[LayerMeasurement, ...]

    def totals(self) -> dict[str, int | None]:
        """The numbers by name, without those of the layers."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "layers"}

    def __str__(self) -> str:
        total = LayerMeasurement("total", "", self.parameters, self.nonzeros, self.macs, self.ideal_bytes)
        rows: list[tuple[str, ...]] = [("layer", "type", "parameters", "non-zero", "MACs", "ideal bytes")]
        for layer in (*self.layers, total):
            numbers = (layer.parameters, layer.nonzeros, layer.macs, layer.ideal_bytes)
            rows.append((layer.path, layer.kind, *("?" if number is None else f"{number:,}" for number in numbers)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            texts = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
            texts += [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join(texts))
        lines.append(f"bytes: {self.raw_bytes:,} raw, {self.gzipped_bytes:,} gzipped, {self.ideal_bytes:,} ideal")
        return "\n".join(lines)


def measure(model_or_result: Any) -> Measurement:
    """Counts of a `keras.Model`, or of a `Result`, whose kernels count as integers.

    Raises:
        InputError: neither of the two, or a model that is not built.
    """
    kernels: dict[str, Quantized] = getattr(model_or_result, "kernels", {})
    model = model_in(model_or_result)
    check_model(model)
    layers = layers_by_path(model) if is_graph(model) else {model.name: model}
    if is_graph(model) and (
        unknown := [path for path in kernels if not any(_is_within(path, layer) for layer in layers)]
    ):
        raise InputError(f"The result has codes for {sorted(unknown)}, which are no layers of its model.")
    macs = _macs_by_path(model, layers) if is_graph(model) else {model.name: None}
    rows = tuple(
        LayerMeasurement(
            path,
            type(layer).__name__,
            _num_numbers(layer),
            sum(int(np.count_nonzero(weight)) for weight in layer.get_weights()),
            macs[path],
            _ideal_bytes(
                layer, [kernel for name, kernel in kernels.items() if layer is model or _is_within(name, path)]
            ),
        )
        for path, layer in layers.items()
        if layer.weights
    )
    counted = [row.macs for row in rows if row.macs is not None]
    return Measurement(
        parameters=sum(row.parameters for row in rows),
        nonzeros=sum(row.nonzeros for row in rows),
        macs=sum(counted) if len(counted) == len(rows) else None,
        raw_bytes=BYTES_A_NUMBER * sum(row.parameters for row in rows),
        gzipped_bytes=_gzipped_bytes(model),
        ideal_bytes=sum(row.ideal_bytes for row in rows),
        layers=rows,
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a model after each of several steps.

    Attributes:
        steps: name of each -> `Measurement`.
    """

    steps: dict[str, Measurement]

    def __str__(self) -> str:
        first = next(iter(self.steps.values()))
        rows = [["bytes", "zeros", "raw", "gzipped", "ideal", "gzipped / first"]]
        for name, size in self.steps.items():
            zeros = 1 - size.nonzeros / max(size.parameters, 1)
            numbers = [f"{number:,}" for number in (size.raw_bytes, size.gzipped_bytes, size.ideal_bytes)]
            rows.append([name, f"{zeros:.1%}", *numbers, f"{size.gzipped_bytes / max(first.gzipped_bytes, 1):.1%}"])
        return "\n".join(aligned(rows, [0]))


def compare_sizes(**models_or_results: Any) -> Sizes:
    """What a chain of techniques did to the size: `print(kc.compare_sizes(float=model, pruned=pruned))`.

    Args:
        models_or_results: for each step what `measure` takes, under the name that the table gives it.

    Raises:
        InputError: none at all, or what `measure` does not take.
    """
    if not models_or_results:
        raise InputError("Expected models or results by name, such as compare_sizes(float=model). Received: none.")
    return Sizes({name: measure(each) for name, each in models_or_results.items()})


def _num_numbers(layer: keras.Layer) -> int:
    return sum(math.prod(weight.shape) for weight in layer.weights)


def _is_within(path: str, layer_path: str) -> bool:
    """Whether a kernel belongs to a layer, or to one that this layer holds."""
    return path == layer_path or path.startswith(layer_path + "/")


def _ideal_bytes(layer: keras.Layer, quantized: list[Quantized]) -> int:
    size = BYTES_A_NUMBER * _num_numbers(layer)
    for kernel in quantized:
        bits = kernel.codes.size * math.log2(len(kernel.levels))
        size += math.ceil(bits / 8) - BYTES_A_NUMBER * (kernel.codes.size - kernel.scale.size)
        if kernel.zero_point is not None:
            size += math.ceil(kernel.zero_point.size * math.log2(len(kernel.levels)) / 8)
    return size


def _gzipped_bytes(model: keras.Model) -> int:
    """Length of the gzip of all weights, made weight by weight: a large model need not be in memory twice."""
    gzip = zlib.compressobj(level=6, wbits=16 + zlib.MAX_WBITS)  # 16 asks zlib for gzip's header, without a time stamp
    size = 0
    for weight in model.get_weights():
        size += len(gzip.compress(weight.astype(np.float32).tobytes()))
    return size + len(gzip.flush())


def _macs_by_path(model: keras.Model, layers: dict[str, keras.Layer]) -> dict[str, int | None]:
    """Multiplications for one sample: 0 for layers without such kernels, `None` where a shape is open."""
    paths = {id(layer): path for path, layer in layers.items()}
    macs: dict[str, int | None] = dict.fromkeys(layers, 0)
    graph = functional_graph(model)
    # A layer may join batch and time axes, so that batches are counted out and not left open.
    batch = graph.inputs[0].shape[0] or 1
    inputs = [
        keras.KerasTensor((tensor.shape[0] or 1, *tensor.shape[1:]), dtype=tensor.dtype, sparse=tensor.sparse)
        for tensor in graph.inputs
    ]
    for layer, called_on, result in _calls(graph, inputs):
        path = paths[id(layer)]
        known, call = macs[path], _macs_of_call(layer, called_on.shape, result.shape)
        macs[path] = None if known is None or call is None else known + call
    return {path: number if number is None else number // batch for path, number in macs.items()}


def _macs_of_call(layer: keras.Layer, inputs: tuple[int | None, ...], outputs: tuple[int | None, ...]) -> int | None:
    kind = kind_of(layer)
    shape = outputs if kind.positions == "outputs" else inputs
    channels = 1 if getattr(layer, "data_format", None) == "channels_first" else len(shape) - 1
    positions = [length for axis, length in enumerate(shape) if axis != channels and length is not None]
    if len(positions) < len(shape) - 1:
        return None
    return math.prod(positions) * sum(math.prod(getattr(layer, name).shape) for name in kind.kernels)


def _calls(graph: Any, inputs: list[Any]) -> Iterator[tuple[keras.Layer, Any, Any]]:
    """Every call of a multiplying layer, nested models opened: the layer, its input and its output.

    Shapes are inferred anew: a nested model can be called on other shapes than it was built with.
    """
    tensors = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
    for node in nodes_in_order(graph):
        args, kwargs = node.arguments.fill_in(tensors)
        # Unlike a call, this leaves no node on the user's layer.
        results = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
        tensors |= {id(old): new for old, new in zip(node.output_tensors, results, strict=True)}
        if is_graph(node.operation):
            read = keras.tree.flatten(args[0] if args else kwargs["inputs"])
            yield from _calls(functional_graph(node.operation), read)
        elif kind_of(node.operation).positions:
            yield node.operation, tensors[id(node.input_tensors[0])], results[0]
