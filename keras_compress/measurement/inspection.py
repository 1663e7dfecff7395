"""`inspect_tflite()`: what is in a TFLite file, and where its bytes are. Loads neither TensorFlow nor Keras."""

import collections
import dataclasses
import os
import zlib
from typing import Any

import numpy as np

from keras_compress.measurement import flatbuffer
from keras_compress.text import aligned

HEADINGS = ("tensor", "type", "bits", "shape", "scales", "bytes", "zeros", "read by")
LEFT = (0, 1, 3, 7)  # columns that are set flush left
LONGEST = 40  # characters of a name


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """A constant tensor.

    Attributes:
        name: in the file.
        type: such as "INT4".
        bits: of one number.
        shape: of the tensor.
        num_scales: scales, each with a zero point.
        bytes: of its numbers; 0 for one that shares those of an earlier tensor.
        zeros: fraction of numbers that are zero, or None for texts.
        readers: names of the operators that read it.
    """

    name: str
    type: str
    bits: int
    shape: tuple[int, ...]
    num_scales: int
    bytes: int
    zeros: float | None
    readers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is in a TFLite file.

    Attributes:
        name: of the file.
        tensors: its constants, the largest first.
        operators: how often each operator is there.
        inputs, outputs: type and shape of each, -1 for an open axis.
        scale_bytes: of all scales and zero points.
        bytes: of the file.
        gzipped_bytes: of the file, compressed by zlib.
    """

    name: str
    tensors: tuple[TensorRow, ...]
    operators: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scale_bytes: int
    bytes: int
    gzipped_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of constants by type, of scales, and of all else (names, operators, alignment)."""
        parts: collections.Counter[str] = collections.Counter()
        for tensor in self.tensors:
            parts[tensor.type] += tensor.bytes
        parts["scales"] = self.scale_bytes
        sizes = {name: size for name, size in parts.most_common() if size}
        return sizes | {"graph": self.bytes - sum(sizes.values())}

    def __str__(self) -> str:
        cells = [HEADINGS]
        for tensor in self.tensors:
            cells.append(
                (
                    tensor.name if len(tensor.name) <= LONGEST else f"…{tensor.name[1 - LONGEST :]}",
                    tensor.type,
                    str(tensor.bits),
                    "x".join(map(str, tensor.shape)) or "scalar",
                    str(tensor.num_scales or ""),
                    f"{tensor.bytes:,}" if tensor.bytes else "shared",
                    "" if tensor.zeros is None else f"{tensor.zeros:.1%}",
                    ", ".join(dict.fromkeys(tensor.readers)),
                )
            )
        lines = aligned(cells, LEFT)
        operators = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        fractions = ", ".join(f"{name} {size:,} ({size / self.bytes:.1%})" for name, size in self.parts.items())
        return "\n".join(
            [
                *lines,
                "",
                f"operators: {operators}",
                f"inputs: {', '.join(self.inputs)}; outputs: {', '.join(self.outputs)}",
                f"bytes: {self.bytes:,}; gzipped {self.gzipped_bytes:,}",
                f"where they are: {fractions}",
            ]
        )


def inspect_tflite(path: str | os.PathLike[str]) -> Inspection:
    """Tensors, types, bits, operators and sizes of a TFLite file; its `str` is a table.

    Raises:
        StorageError: there is no such file.
        InputError: it is no TFLite file, or a damaged one.
    """
    content = flatbuffer.read_bytes(path)
    model = flatbuffer.parse(content, os.fspath(path))
    rows: list[TensorRow] = []
    operators: collections.Counter[str] = collections.Counter()
    places = flatbuffer.buffer_places(content)
    seen: set[int] = set()
    for graph in model.subgraphs:
        readers: dict[int, list[str]] = {}
        for operator in graph.operators:
            kind = flatbuffer.operator_name(model, operator)
            operators[kind] += 1
            for tensor in operator.inputs:
                readers.setdefault(tensor, []).append(kind)
        for number, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is None or not len(data):
                continue
            place = places[tensor.buffer]
            quantization = tensor.quantization
            has_scales = quantization is not None and quantization.scale is not None
            values = flatbuffer.array_of(model, tensor)
            kind = flatbuffer.TYPES.get(tensor.type, "unknown")
            rows.append(
                TensorRow(
                    (tensor.name or b"").decode(errors="replace"),
                    kind,
                    flatbuffer.BITS.get(kind, 8),
                    _shape(tensor.shape),
                    len(quantization.scale) if has_scales else 0,
                    0 if place in seen else len(data),
                    None if values is None or not values.size else float(np.mean(values == 0)),
                    tuple(readers.get(number, ())),
                )
            )
            seen.add(place)
    rows.sort(key=lambda row: -row.bytes)
    first = model.subgraphs[0]
    inputs, outputs = (
        tuple(_described(first.tensors[number]) for number in numbers) for numbers in (first.inputs, first.outputs)
    )
    return Inspection(
        os.path.basename(os.fspath(path)),
        tuple(rows),
        dict(operators.most_common()),
        inputs,
        outputs,
        flatbuffer.scale_bytes(content),
        len(content),
        len(zlib.compress(content, 9)),
    )


def float_operators(content: bytes) -> str:
    """Operators of a TFLite file whose outputs are floats, such as "7 MUL, 7 ADD"; "0" for none, "all" for all.

    DEQUANTIZE, which only turns integers into floats, is not counted.
    """
    model = flatbuffer.parse(content)
    tensors = model.subgraphs[0].tensors
    floats: collections.Counter[str] = collections.Counter()
    others = 0
    for operator in model.subgraphs[0].operators:
        kind = flatbuffer.operator_name(model, operator)
        if kind == "DEQUANTIZE":
            continue
        if any(flatbuffer.TYPES.get(tensors[number].type) == "FLOAT32" for number in operator.outputs):
            floats[kind] += 1
        else:
            others += 1
    if floats and not others:
        return "all"
    return ", ".join(f"{count} {kind}" for kind, count in floats.most_common()) or "0"


def _shape(sizes: list[int] | None) -> tuple[int, ...]:
    return () if sizes is None else tuple(int(size) for size in sizes)


def _described(tensor: Any) -> str:
    open_axes = tensor.shapeSignature is not None and len(tensor.shapeSignature)
    sizes = _shape(tensor.shapeSignature if open_axes else tensor.shape)
    kind = flatbuffer.TYPES.get(tensor.type, "unknown")
    name = (tensor.name or b"").decode(errors="replace")
    return f"{name} {kind} ({', '.join(map(str, sizes))})"
