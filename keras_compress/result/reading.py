"""Reads the three files of a result."""

import dataclasses
import math
import os
import zipfile
import zlib

import keras
import numpy as np

from keras_compress import foreign
from keras_compress.errors import InputError, StorageError
from keras_compress.layers.paths import ModelInputs
from keras_compress.numerics.inputs import KEPT, InputSamples
from keras_compress.report import Report
from keras_compress.result.quantized_kernel import QuantizedKernel
from keras_compress.result.result import Result
from keras_compress.result.saving import FORMAT_VERSION, stem_of
from keras_compress.result.states import VariableState, merged

ARRAYS_A_WEIGHT = 6  # codes, mask, clusters, scale, zero point, gap
LEVELS = 1 << 20  # of all alphabets together
OPEN_SIZE = 4096  # of an axis of the inputs that the model leaves open, in samples


def load_result(path: str | os.PathLike[str], *, allow_lambda: bool = False) -> Result:
    """The result that `Result.save(path)` wrote; its weights equal the decoded codes.

    Raises:
        StorageError: one of the three files is missing.
        InputError: a file is damaged, of another format, or does not belong to the others.
    """
    from keras_compress.bridge.loading import load_model

    stem = stem_of(path)
    for suffix in (".keras", ".codes.npz", ".json"):
        if not os.path.isfile(stem + suffix):
            raise StorageError(
                f"There is no file {stem + suffix!r}. A saved result is NAME.keras, NAME.codes.npz, NAME.json."
            )
    model = load_model(stem + ".keras", allow_lambda=allow_lambda)
    try:
        read = _read(stem, _most_numbers(model))
    except (InputError, StorageError):
        raise
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"The files of the result {stem!r} are damaged or not ours ({error}). Quantize again."
        ) from error
    result = Result(model, read.states, read.report, read.inputs)
    result.check()
    return result


def has_codes(path: str | os.PathLike[str]) -> bool:
    """Whether the model at `path` is one of the three files of a result."""
    return os.path.isfile(stem_of(path) + ".codes.npz")


@dataclasses.dataclass
class _Read:
    """What the files of a result hold, but for the model."""

    report: Report
    states: dict[str, VariableState] = dataclasses.field(default_factory=dict)
    inputs: InputSamples | None = None


def _most_numbers(model: keras.Model) -> int:
    """How many numbers the file of codes may hold.

    Codes, masks, clusters and scales are each no more than the weights, levels few, and samples at most `KEPT`; zeros
    may be packed densely, so that the size of the file says nothing.
    """
    weights = sum(math.prod(each.shape) for each in model.variables)
    inputs = sum(math.prod(size or OPEN_SIZE for size in each.shape[1:]) for each in ModelInputs.of(model).tensors)
    return ARRAYS_A_WEIGHT * weights + LEVELS + KEPT * inputs


def _read(stem: str, most_numbers: int) -> _Read:
    state = foreign.read_json(stem + ".json", "report")
    version = state["format_version"]
    if version != FORMAT_VERSION:
        what = "Update it." if version > FORMAT_VERSION else "Quantize again."
        raise InputError(f"Expected format {FORMAT_VERSION}. Received: {stem}.json of format {version}. {what}")
    read = _Read(Report.from_dict(state["report"]))
    fields: dict[str, dict[str, np.ndarray]] = {}
    masks: dict[str, VariableState] = {}
    clusters: dict[str, VariableState] = {}
    inputs: dict[str, np.ndarray] = {}
    for name, array in foreign.read_npz(stem + ".codes.npz", "file of codes", most_numbers=most_numbers).items():
        kind, _, rest = name.partition("/")
        if kind == "inputs":
            inputs[rest] = array
        elif kind == "masks":
            masks[rest] = VariableState(mask=array)
        elif kind == "clusters":
            clusters[rest] = VariableState(clusters=array)
        elif kind == "kernels":
            layer, _, field = rest.rpartition("/")
            fields.setdefault(layer, {})[field] = array
        else:
            raise KeyError(name)
    codes = {layer: VariableState(_kernel_of(parts)) for layer, parts in fields.items()}
    read.states = merged(merged(masks, clusters), codes)
    if inputs:
        samples = tuple(inputs[f"samples/{index}"] for index in range(len(inputs) - 2))
        read.inputs = InputSamples(inputs["low"], inputs["high"], samples)
    return read


def _kernel_of(parts: dict[str, np.ndarray]) -> QuantizedKernel:
    axis = tuple(map(int, np.atleast_1d(parts["axis"])))
    group_size = int(parts["group_size"]) if "group_size" in parts else None
    return QuantizedKernel(
        parts["codes"], parts["levels"], parts["scale"], axis, parts.get("zero_point"), parts.get("gap"), group_size
    )
