"""TFLite files as objects: reading, writing, and the packing of small integers. Loads neither TensorFlow nor Keras."""

import hashlib
import os
import pathlib
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_compress.errors import InputError, StorageError

ALIGNMENT = 16  # bytes, of the numbers of a tensor
IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every TFLite file
TYPES: dict[int, str] = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
OPERATORS: dict[int, str] = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
INTEGERS = {2: schema.TensorType.INT2, 4: schema.TensorType.INT4, 8: schema.TensorType.INT8}
BITS = {  # of one number, by the name of its type
    "FLOAT32": 32, "FLOAT16": 16, "INT32": 32, "UINT8": 8, "INT64": 64, "BOOL": 8, "INT16": 16, "INT8": 8,
    "FLOAT64": 64, "UINT32": 32, "UINT64": 64, "INT4": 4, "INT2": 2, "UINT4": 4, "BFLOAT16": 16, "UINT16": 16,
}  # fmt: skip


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A TFLite file's content.

    Raises:
        StorageError: there is no such file, or it cannot be read.
        InputError: it does not begin as a TFLite file does.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(
            f"The path of a .tflite file is expected. Received: {type(path).__module__}.{type(path).__name__}."
        )
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"The file {os.fspath(path)!r} cannot be read: {error.strerror}.") from error
    check_identifier(content, os.fspath(path))
    return content


def check_identifier(content: bytes, name: str) -> None:
    """Raises InputError for content that does not begin as a TFLite file does."""
    if content[4:8] != IDENTIFIER:
        raise InputError(f"{name!r} is no TFLite file: it does not begin with {IDENTIFIER.decode()} after four bytes.")


def parse(content: bytes | bytearray, name: str = "the model") -> Any:
    """The `ModelT` of a TFLite file.

    Raises:
        InputError: the content is damaged, or no TFLite file.
    """
    check_identifier(bytes(content[:8]), name)
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        if not model.subgraphs or model.buffers is None or model.operatorCodes is None:
            raise ValueError("it has no graph")
    except Exception as error:  # the generated reader raises whatever a wrong offset leads to
        raise InputError(
            f"{name!r} is damaged: it cannot be read as a TFLite file ({type(error).__name__})."
        ) from error
    return model


def serialize(model: Any) -> bytes:
    """The content of a TFLite file, with the numbers of each tensor at a multiple of 16 bytes."""
    builder = _Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """Writes equal vectors once, such as the zero points of all channels, and aligns the numbers of tensors.

    The schema requires 16 bytes (`force_align`), which Python's code for it leaves out; a microcontroller that cannot
    read across words needs it.
    """

    def __init__(self, size: int):
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}  # type and digest of a vector -> where it is

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # the name that the schema's code calls
        key = (x.dtype.str, hashlib.sha256(x.tobytes()).digest())
        if key not in self._written:
            if x.dtype == np.uint8:
                self.Prep(ALIGNMENT, x.nbytes)
            self._written[key] = int(super().CreateNumpyVector(x))
        return self._written[key]


def builtin_of(code: Any) -> int:
    """The number of an operator; old files have it in another field."""
    return int(flatbuffer_utils.get_builtin_code_from_operator_code(code))


def buffer_places(content: bytes) -> list[int]:
    """Where the numbers of each buffer begin in a file; buffers with equal numbers may share them."""
    file = schema.Model.GetRootAs(content)
    return [_vector(file.Buffers(index), 4)[0] for index in range(file.BuffersLength())]


def scale_bytes(content: bytes) -> int:
    """Bytes of all scales and zero points in a file, of those that tensors share once."""
    file = schema.Model.GetRootAs(content)
    graphs = [file.Subgraphs(index) for index in range(file.SubgraphsLength())]
    tensors = [graph.Tensors(index) for graph in graphs for index in range(graph.TensorsLength())]
    vector_bytes = {}
    for table in filter(None, (tensor.Quantization() for tensor in tensors)):
        for field, size in ((8, 4), (10, 8)):  # float32 scales, int64 zero points
            start, length = _vector(table, field)
            vector_bytes[start] = size * length
    return sum(vector_bytes.values())


def _vector(table: Any, field: int) -> tuple[int, int]:
    """Where a vector of a table begins, and its length; zeros where there is none."""
    offset = table._tab.Offset(field)
    return (table._tab.Vector(offset), table._tab.VectorLen(offset)) if offset else (0, 0)


def operator_name(model: Any, operator: Any) -> str:
    """Such as "CONV_2D"; the name of a custom operator."""
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = builtin_of(code)
    if OPERATORS.get(builtin) == "CUSTOM" and code.customCode:
        return str(code.customCode.decode())
    return OPERATORS.get(builtin, f"operator {builtin}")


def computed(model: Any) -> list[int]:
    """Numbers of the tensors of the first graph that are its inputs or made by its operators."""
    graph = model.subgraphs[0]
    return sorted({*map(int, graph.inputs), *(int(tensor) for each in graph.operators for tensor in each.outputs)})


def array_of(model: Any, tensor: Any) -> np.ndarray | None:
    """A constant tensor as an array, integers of fewer than 8 bits as int8; None if computed, sparse or unknown."""
    data = model.buffers[tensor.buffer].data
    name = TYPES.get(tensor.type, "")
    if data is None or not len(data) or name not in BITS or tensor.sparsity is not None:
        return None
    content = np.frombuffer(bytes(data), np.uint8)
    # Some files leave out the shape of a number.
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    if BITS[name] < 8:
        return unpack(content, BITS[name], int(np.prod(shape))).reshape(shape)
    return content.view(name.lower() if name != "BFLOAT16" else "uint16").reshape(shape)


def dequantized(values: np.ndarray, tensor: Any) -> np.ndarray:
    """A constant's numbers times the scales of its tensor, if it has some; weights have no zero points."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return values
    shape = [1] * values.ndim
    scale = np.asarray(quantization.scale, np.float64)
    if values.ndim:
        shape[quantization.quantizedDimension if len(scale) > 1 else 0] = len(scale)
    return values * scale.reshape(shape)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Integers in two's complement, 2, 4 or 8 bits each, row by row, the first ones in the low bits of a byte.

    Returns:
        uint8, as long as the codes times their bits need.

    Raises:
        InputError: a code that needs more bits.
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    if flat.size and not (-(2 ** (bits - 1)) <= flat.min() and flat.max() < 2 ** (bits - 1)):
        raise InputError(f"Codes from {flat.min()} to {flat.max()} do not fit into {bits} bits.")
    number = 8 // bits
    padded = np.concatenate([flat.astype(np.int8), np.zeros(-flat.size % number, np.int8)]).view(np.uint8)
    shifted = (padded & (2**bits - 1)).reshape(-1, number) << (bits * np.arange(number, dtype=np.uint8))
    return np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)


def unpack(content: np.ndarray, bits: int, count: int) -> np.ndarray:
    """What `pack` packed: (count,) int8."""
    number = 8 // bits
    parts = (content[:, np.newaxis] >> (bits * np.arange(number, dtype=np.uint8))) & (2**bits - 1)
    flat = parts.reshape(-1)[:count].astype(np.int16)
    return np.where(flat >= 2 ** (bits - 1), flat - 2**bits, flat).astype(np.int8)
