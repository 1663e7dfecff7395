"""What every technique returns: an ordinary model, the integers behind its kernels, zeros to keep, and the report."""

import dataclasses
import json
import math
import os
import pathlib
import zipfile

import keras
import numpy as np

from keras_compress.errors import InputError, StorageError
from keras_compress.files import replacing
from keras_compress.layers.paths import layers_by_path
from keras_compress.report import Report

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel as integers: `kernel = codes * scale`, in float32, `scale` running along `axis`.

    Attributes:
        codes: integers, the shape of the kernel; each one of `levels`.
        levels: (num_levels,) integers, strictly increasing: the values that a code may take.
        scale: (kernel.shape[axis],) or (1,) float32: one step a channel, or one for the layer.
        axis: axis of the kernel that `scale` runs along.
    """

    codes: np.ndarray
    levels: np.ndarray
    scale: np.ndarray
    axis: int

    def __post_init__(self) -> None:
        codes, levels = np.asarray(self.codes), np.asarray(self.levels)
        scale = np.asarray(self.scale, np.float32)
        if not np.issubdtype(codes.dtype, np.integer) or not np.issubdtype(levels.dtype, np.integer):
            raise InputError(f"Codes and levels must be integers. Received: {codes.dtype} and {levels.dtype}.")
        if levels.ndim != 1 or len(levels) < 2 or not (np.diff(levels) > 0).all():
            raise InputError(f"Levels must be a strictly increasing list of at least two. Received: {levels}.")
        if not -codes.ndim <= self.axis < codes.ndim or scale.shape not in ((1,), (codes.shape[self.axis],)):
            raise InputError(
                f"The scale must have one entry, or one along axis {self.axis} of the codes' shape {codes.shape}. "
                f"Received: {scale.shape}."
            )
        if not np.isfinite(scale).all():
            raise InputError("The scale must be finite. Received: NaN or Inf.")
        if not np.isin(codes, levels).all():
            strangers = np.setdiff1d(codes, levels)
            raise InputError(f"Every code must be one of the levels {levels}. Received also: {strangers}.")
        for name, value in (("codes", codes), ("levels", levels), ("scale", scale), ("axis", self.axis % codes.ndim)):
            object.__setattr__(self, name, value)

    @property
    def bits(self) -> float:
        """Bits a weight: log2 of the number of levels."""
        return math.log2(len(self.levels))

    def decode(self) -> np.ndarray:
        """The kernel in float32."""
        shape = [1] * self.codes.ndim
        shape[self.axis] = -1
        return self.codes.astype(np.float32) * self.scale.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Result:
    """What flows between techniques.

    Attributes:
        model: an ordinary `keras.Model`.
        kernels: layer path -> `QuantizedKernel`; the layer's kernel in `model` equals its `decode()`, bit for bit.
        masks: layer path -> boolean array of the kernel's shape, false where a zero must stay.
        report: what was done.
    """

    model: keras.Model
    kernels: dict[str, QuantizedKernel] = dataclasses.field(default_factory=dict)
    masks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    report: Report = dataclasses.field(default_factory=Report)

    @classmethod
    def of(cls, model_or_result: "keras.Model | Result") -> "Result":
        """The result itself, or a model as a result to which nothing has been done.

        Raises:
            InputError: neither a Keras model nor a result, or weights that differ from the decoded codes.
        """
        if isinstance(model_or_result, Result):
            model_or_result.check()
            return model_or_result
        if isinstance(model_or_result, keras.Model):
            return cls(model_or_result)
        raise InputError(
            f"A keras.Model or a keras_compress Result is wanted. Received: {type(model_or_result).__name__}. "
            "A Keras 2 (tf_keras) model must be saved and loaded as a Keras 3 model first."
        )

    def check(self) -> None:
        """Compares the model's kernels with the decoded codes.

        Raises:
            InputError: a kernel differs, or a path names no layer.
        """
        layers = layers_by_path(self.model)
        for path, quantized in self.kernels.items():
            if path not in layers:
                raise InputError(f"The result has codes for layer {path!r}, which its model does not have.")
            if not np.array_equal(np.asarray(layers[path].kernel), quantized.decode()):
                raise InputError(
                    f"The kernel of layer {path!r} differs from its codes: somebody wrote to the model after it was "
                    "quantized. Quantize it again, or pass the model alone to drop the codes."
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `NAME.keras`, `NAME.codes.npz` and `NAME.json`; `path` is `NAME`, with or without `.keras`.

        Raises:
            StorageError: the folder cannot be written to, or the disk is full.
        """
        stem = _stem(path)
        arrays: dict[str, np.ndarray] = {}
        for layer, quantized in self.kernels.items():
            for field in ("codes", "levels", "scale"):
                arrays[f"kernels/{layer}/{field}"] = getattr(quantized, field)
            arrays[f"kernels/{layer}/axis"] = np.asarray(quantized.axis)
        arrays |= {f"masks/{layer}": mask for layer, mask in self.masks.items()}
        with replacing(stem + ".keras") as part:
            self.model.save(part)
        with replacing(stem + ".codes.npz") as part:
            np.savez_compressed(part, allow_pickle=False, **arrays)
        with replacing(stem + ".json") as part:
            state = {"format_version": FORMAT_VERSION, "report": self.report.to_dict()}
            part.write_text(json.dumps(state, indent=1) + "\n")


def load_result(path: str | os.PathLike[str], *, allow_lambda: bool = False) -> Result:
    """The result that `Result.save(path)` wrote; its weights equal the decoded codes.

    Raises:
        StorageError: one of the three files is missing.
        InputError: a file is damaged, newer than this program, or does not belong to the others.
    """
    from keras_compress.bridge.loading import load_model

    stem = _stem(path)
    for suffix in (".keras", ".codes.npz", ".json"):
        if not os.path.isfile(stem + suffix):
            raise StorageError(
                f"There is no file {stem + suffix!r}. A saved result is NAME.keras, NAME.codes.npz, NAME.json."
            )
    try:
        report, kernels, masks = _read(stem)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(
            f"The files of the result {stem!r} are damaged or not ours ({error}). Quantize again."
        ) from error
    result = Result(load_model(stem + ".keras", allow_lambda=allow_lambda), kernels, masks, report)
    result.check()
    return result


def _read(stem: str) -> tuple[Report, dict[str, QuantizedKernel], dict[str, np.ndarray]]:
    state = json.loads(pathlib.Path(stem + ".json").read_text())
    if state["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{stem}.json has format {state['format_version']}; this program reads up to {FORMAT_VERSION}. Update it."
        )
    fields: dict[str, dict[str, np.ndarray]] = {}
    masks: dict[str, np.ndarray] = {}
    # NumPy leaves a damaged file open, so it is opened here.
    with open(stem + ".codes.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
        for name in arrays.files:
            kind, _, rest = name.partition("/")
            if kind == "masks":
                masks[rest] = arrays[name]
            else:
                layer, _, field = rest.rpartition("/")
                fields.setdefault(layer, {})[field] = arrays[name]
    kernels = {
        layer: QuantizedKernel(parts["codes"], parts["levels"], parts["scale"], int(parts["axis"]))
        for layer, parts in fields.items()
    }
    return Report.from_dict(state["report"]), kernels, masks


def _stem(path: str | os.PathLike[str]) -> str:
    return os.fspath(path).removesuffix(".keras")
