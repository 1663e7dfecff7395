"""`export_packed()` and `load_packed()`: one small file with the codes of a result at their true width.

An HDF5 file with one dataset of bytes, since each further one costs hundreds: a compressed JSON header (the model's
configuration, and of each weight its shape and how it is stored), and behind it the weights one after the other. The
header is compressed with a dictionary, the configurations of two networks of common layers: without it, the header
of a small network would be a twentieth of the file.
"""

import hashlib
import importlib.resources
import json
import math
import os
import pathlib
import zlib
from typing import Any

import h5py
import keras
import numpy as np

from keras_compress import foreign
from keras_compress.bridge.hdf5 import Stored, stored_in
from keras_compress.bridge.loading import configuration_of, model_of
from keras_compress.errors import InputError, StorageError
from keras_compress.files import replacing
from keras_compress.layers.kernels import views_by_path
from keras_compress.numerics.alphabet import code_type
from keras_compress.report import LayerRow, Step
from keras_compress.result import QuantizedKernel, Result, VariableState

FORMAT = "keras_compress packed"
VERSION = 1
CONTENT = "packed"  # the dataset's name
DICTIONARY = "packed_dictionary.txt"  # another one needs another version
MAX_LEVELS = 1 << 17
TERNARY = 3 ** np.arange(5)  # five ternary digits are a byte
LEAST_BITS = 1  # of a weight


def export_packed(result: Result, path: str | os.PathLike[str]) -> None:
    """Writes a result into one file: codes at their true width, scales, other weights, the model's configuration.

    A kernel of n levels takes log2(n) bits a weight, rounded up to whole bits; a ternary one takes 1.6, five weights a
    byte. All alphabets fit, also those that no TFLite type holds.

    Args:
        result: of `quantize` and later steps.
        path: of the file, by custom ending in .packed.

    Raises:
        InputError: a result without codes, or whose weights are not those of its codes.
        StorageError: the folder cannot be written to, or the disk is full.
    """
    result = Result.of(result)
    if not result.kernels:
        raise InputError(
            f"Model {result.model.name!r} has no codes to pack. Quantize it, or use model.save('NAME.keras')."
        )
    views = views_by_path(result.model)
    paths = {id(views[kernel].variable): kernel for kernel in result.kernels}
    contents: list[bytes] = []
    weights: list[dict[str, Any]] = []
    for variable in result.model.variables:
        entry: dict[str, Any] = {"shape": list(variable.shape)}
        kernel = result.kernels.get(paths.get(id(variable), ""))
        if kernel is None:
            entry["dtype"] = str(keras.backend.standardize_dtype(variable.dtype))
            contents.append(np.asarray(keras.ops.convert_to_numpy(variable)).tobytes())
        else:
            entry["kernel"] = _described(kernel, contents)
            indices = np.searchsorted(kernel.levels, kernel.codes.ravel())
            contents.append(pack(indices, len(kernel.levels)).tobytes())
        weights.append(entry)
    header = compressed({"configuration": configuration_of(result.model), "weights": weights})
    with replacing(path) as part:
        write(part, header + b"".join(contents))


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """The file of a header and weights. Values of fixed length and no list of free space: four kilobytes less."""
    with h5py.File(path, "w", libver="latest", fs_strategy="none") as file:
        attributes = file.create_dataset(CONTENT, data=np.frombuffer(content, np.uint8)).attrs
        attributes["format"], attributes["version"] = np.bytes_(FORMAT), VERSION
        attributes["sha256"] = np.void(hashlib.sha256(content).digest())


def compressed(header: dict[str, Any]) -> bytes:
    """A header as it stands in a file."""
    compressor = zlib.compressobj(9, zdict=_dictionary())
    return compressor.compress(json.dumps(header, separators=(",", ":")).encode()) + compressor.flush()


def decompressed(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header at the beginning of a file's content, and the bytes behind it.

    Raises:
        ValueError, zlib.error: there is none.
    """
    reader = zlib.decompressobj(zdict=_dictionary())
    header = foreign.parse_json(reader.decompress(content, foreign.LARGEST_JSON + 1))
    if not reader.eof:
        raise ValueError("it has no end")
    return dict(header), reader.unused_data


def _dictionary() -> bytes:
    return importlib.resources.files(__package__).joinpath(DICTIONARY).read_bytes()


def load_packed(path: str | os.PathLike[str], *, allow_lambda: bool = False) -> Result:
    """What `export_packed` wrote: the model, whose kernels are bit for bit those that were saved, and their codes.

    Nothing of this package is needed to serve it: `result.model.save("NAME.keras")` writes an ordinary file.

    Args:
        path: of the file.
        allow_lambda: see `load_model`.

    Raises:
        StorageError: there is no such file, or it cannot be read.
        InputError: not such a file, a damaged or cut one, one of a newer version, or a model that cannot be built.
    """
    path = pathlib.Path(path)
    with foreign.reading(path, "packed file"):
        return _load(path, allow_lambda)


def _load(path: pathlib.Path, allow_lambda: bool) -> Result:
    content = _read(path)
    try:
        header, weights = decompressed(content)
        configuration = header["configuration"]
        num_weights = sum(math.prod(map(int, entry["shape"])) for entry in header["weights"])
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise InputError(f"{str(path)!r} has a header that cannot be read ({error}). Pack it again.") from error
    if num_weights * LEAST_BITS > 8 * len(weights):
        raise InputError(
            f"{str(path)!r} claims {num_weights:,} weights and has {len(weights):,} bytes of them. Pack it again."
        )
    model = model_of(configuration, Stored(num_weights, len(header["weights"])), path, allow_lambda=allow_lambda)
    views = views_by_path(model)
    try:
        if len(header["weights"]) != len(model.variables):
            raise ValueError(f"expected {len(model.variables)} weights, received {len(header['weights'])}")
        reader, kernels = _Reader(weights), {}
        paths = {id(view.variable): kernel for kernel, view in views.items()}
        for entry, variable in zip(header["weights"], model.variables, strict=True):
            shape = tuple(map(int, entry["shape"]))
            if shape != tuple(variable.shape):
                raise ValueError(f"expected a weight of shape {tuple(variable.shape)}, received {shape}")
            if "kernel" in entry:
                kernel = _kernel(entry["kernel"], shape, reader)
                variable.assign(kernel.decode())
                kernels[paths[id(variable)]] = kernel
            else:
                variable.assign(reader.take(entry["dtype"], shape))
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise InputError(f"{str(path)!r} does not hold the model that it says ({error}). Pack it again.") from error
    step = Step("load_packed", {"file": path.name})
    for kernel_path, view in views.items():
        row = LayerRow(kernel_path, type(view.layer).__name__, "float", parameters=view.kernel.size)
        if kernel_path in kernels:
            kernel = kernels[kernel_path]
            row.action, row.num_levels, row.effective_bits = "loaded", len(kernel.levels), kernel.effective_bits
            row.storage, row.zeros = kernel.storage, float(np.mean(kernel.codes == 0))
            row.bytes = packed_bytes(row.num_levels, kernel.codes.size)
        step.add(row)
    return Result(model).after(model, step, changed={path: VariableState(each) for path, each in kernels.items()})


def pack(indices: np.ndarray, num_levels: int) -> np.ndarray:
    """Integers from 0 to num_levels - 1 as bytes: five a byte for three levels, else in whole bits, low ones first."""
    if num_levels == 3:
        padded = np.concatenate([indices, np.zeros(-len(indices) % 5, indices.dtype)]).reshape(-1, 5)
        return (padded @ TERNARY).astype(np.uint8)
    bits = (num_levels - 1).bit_length()
    planes = (indices.astype(np.uint16)[:, np.newaxis] >> np.arange(bits, dtype=np.uint16)) & 1
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little")


def unpack(content: np.ndarray, num_levels: int, count: int) -> np.ndarray:
    """What `pack` packed: (count,) integers."""
    if num_levels == 3:
        return (content[:, np.newaxis] // TERNARY % 3).reshape(-1)[:count]
    bits = (num_levels - 1).bit_length()
    planes = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
    return planes @ (1 << np.arange(bits))


def packed_bytes(num_levels: int, count: int) -> int:
    """How many bytes `pack` makes."""
    return -(-count // 5) if num_levels == 3 else -(-count * (num_levels - 1).bit_length() // 8)


class _Reader:
    """Bytes that are taken one piece after the other."""

    def __init__(self, content: bytes):
        self._content = np.frombuffer(content, np.uint8)
        self._position = 0

    def take_bytes(self, count: int) -> np.ndarray:
        if self._position + count > len(self._content):
            raise ValueError("it ends too early")
        self._position += count
        return self._content[self._position - count : self._position]

    def take(self, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = np.dtype(dtype) if dtype != "bfloat16" else np.dtype("uint16")
        if kind.kind not in "biuf":
            raise ValueError(f"numbers of type {dtype}")
        values = self.take_bytes(int(np.prod(shape)) * kind.itemsize).view(kind)
        if dtype == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(shape)


def _described(kernel: QuantizedKernel, contents: list[bytes]) -> dict[str, Any]:
    """What the header says of a kernel; its scale and what goes with it join the contents."""
    described: dict[str, Any] = {"axis": list(kernel.axes), "group_size": kernel.group_size}
    for field in ("levels", "scale", "zero_point", "gap"):
        values = getattr(kernel, field)
        if field == "levels" and len(set(np.diff(values))) == 1:
            described[field] = [int(values[0]), int(values[1] - values[0]), len(values)]  # first, step, how many
        elif values is not None:
            values = np.asarray(values, np.int32 if field in ("levels", "zero_point") else np.float32)
            described[field] = list(values.shape)
            contents.append(np.ascontiguousarray(values).tobytes())
    return described


def _kernel(described: dict[str, Any], shape: tuple[int, ...], reader: _Reader) -> QuantizedKernel:
    parts = {}
    if len(described["levels"]) == 3:
        first, step, length = map(int, described["levels"])
        if not 2 <= length <= MAX_LEVELS or step < 1:
            raise ValueError(f"{length} levels in steps of {step}")
        parts["levels"] = first + step * np.arange(length, dtype=np.int32)
        described = {field: value for field, value in described.items() if field != "levels"}
    for field, kind in (("levels", "int32"), ("scale", "float32"), ("zero_point", "int32"), ("gap", "float32")):
        if field in described:
            parts[field] = reader.take(kind, tuple(described[field]))
    count, num_levels = int(np.prod(shape)), len(parts["levels"])
    indices = unpack(reader.take_bytes(packed_bytes(num_levels, count)), num_levels, count)
    return QuantizedKernel(
        parts["levels"][indices].astype(code_type(parts["levels"])).reshape(shape),
        parts["levels"],
        parts["scale"],
        tuple(described["axis"]),
        parts.get("zero_point"),
        parts.get("gap"),
        described["group_size"],
    )


def _read(path: pathlib.Path) -> bytes:
    """The content of a file, after its checks."""
    try:
        with foreign.open_regular(path, "packed file") as stream, h5py.File(stream, "r") as file:
            stored_in(file, os.fstat(stream.fileno()).st_size)
            attributes = file[CONTENT].attrs if CONTENT in file else {}
            if attributes.get("format") != FORMAT.encode():
                raise InputError(f"{str(path)!r} is no file of export_packed. Use kc.load_model for a model file.")
            version = int(attributes["version"])
            if version > VERSION:
                raise InputError(
                    f"{str(path)!r} has version {version}; this program reads up to {VERSION}. Update keras_compress."
                )
            content = np.asarray(file[CONTENT][()], np.uint8).tobytes()
            checksum = bytes(attributes["sha256"])
    except (InputError, StorageError):
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{str(path)!r} is damaged or cut off, or no file of export_packed. Copy or pack it again."
        ) from error
    if checksum != hashlib.sha256(content).digest():
        raise InputError(f"{str(path)!r} is damaged: its checksum is wrong. Copy or pack it again.")
    return content
