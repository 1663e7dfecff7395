"""What every technique returns: an ordinary model, the integers behind its kernels, zeros to keep, and the report."""

import dataclasses
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_compress import foreign
from keras_compress.errors import InputError, StorageError
from keras_compress.files import replacing
from keras_compress.layers.folding import Fold, fold
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import ModelInputs, no_model
from keras_compress.numerics.alphabet import decode, spread_groups
from keras_compress.numerics.inputs import KEPT, InputSamples
from keras_compress.report import Report

FORMAT_VERSION = 2
ARRAYS_A_WEIGHT = 6  # codes, mask, clusters, scale, zero point, gap
LEVELS = 1 << 20  # of all alphabets together
OPEN_SIZE = 4096  # of an axis of the inputs that the model leaves open, in samples
WIDTHS = (2, 4, 8)  # bits of TFLite's weight types


def width_of(integers: np.ndarray) -> int | None:
    """2, 4 or 8: the bits of the narrowest TFLite weight type that holds the integers; None where none does."""
    low, high = int(integers.min()), int(integers.max())
    return next((bits for bits in WIDTHS if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)), None)


@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel as integers: `kernel = codes * scale`, in float32, with a scale for each output channel.

    With zero points and a gap, `kernel = (codes - zero_point) * scale + sign(codes) * gap`.

    Attributes:
        codes: integers, the shape of the kernel; each one of `levels`.
        levels: (num_levels,) integers, strictly increasing: the values that a code may take.
        scale: float32: one number for each output channel, of the shape that `codes` has along `axis`; or (1,), one for
            the layer; or (num_groups, n_out) with `group_size`.
        axis: axis of the kernel that runs over output channels; several, increasing, where they have several axes.
        zero_point: integers like `scale`, or None: the codes of zero, in asymmetric alphabets.
        gap: float32 like `scale`, or None: what values other than zero have beyond a multiple of the scale.
        group_size: neighbours along axis 0 of a kernel with two axes that share a row of `scale`, or None.
    """

    codes: np.ndarray
    levels: np.ndarray
    scale: np.ndarray
    axis: int | tuple[int, ...]
    zero_point: np.ndarray | None = None
    gap: np.ndarray | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        codes, levels = np.asarray(self.codes), np.asarray(self.levels)
        scale = np.asarray(self.scale, np.float32)
        if not np.issubdtype(codes.dtype, np.integer) or not np.issubdtype(levels.dtype, np.integer):
            raise InputError(f"Codes and levels must be integers. Received: {codes.dtype} and {levels.dtype}.")
        if levels.ndim != 1 or len(levels) < 2 or not (np.diff(levels) > 0).all():
            raise InputError(f"Levels must be a strictly increasing list of at least two. Received: {levels}.")
        if self.group_size is not None and self.group_size < 1:
            raise InputError(f"group_size must be at least 1. Received: {self.group_size}.")
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if any(not -codes.ndim <= axis < codes.ndim for axis in axes):
            raise InputError(f"axis must be among the axes of the codes' shape {codes.shape}. Received: {self.axis}.")
        axes = tuple(axis % codes.ndim for axis in axes)
        object.__setattr__(self, "axis", axes[0] if len(axes) == 1 else axes)
        object.__setattr__(self, "codes", codes)
        if scale.shape not in self._scale_shapes():
            raise InputError(
                f"The scale must have one entry, or one along axis {self.axis} of the codes' shape {codes.shape}, or a "
                f"row of them for each group of {self.group_size} along axis 0. Received: {scale.shape}."
            )
        if not np.isfinite(scale).all():
            raise InputError("The scale must be finite. Received: NaN or Inf.")
        if not np.isin(codes, levels).all():
            strangers = np.setdiff1d(codes, levels)
            raise InputError(f"Every code must be one of the levels {levels}. Received also: {strangers}.")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scale", scale)

    @property
    def axes(self) -> tuple[int, ...]:
        """`axis` as a tuple, also where it is one."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    @property
    def channel_scales(self) -> np.ndarray:
        """(groups, n_out) or (groups, 1): the scales with one axis for all output channels."""
        return self.scale if self.group_size is not None else self.scale.reshape(1, -1)

    @property
    def bits(self) -> float:
        """Bits a weight: log2 of the number of levels."""
        return math.log2(len(self.levels))

    @property
    def storage_bits(self) -> int | None:
        """2, 4 or 8: the width of the narrowest TFLite weight type that holds these codes; None where none does."""
        if self.zero_point is not None or self.gap is not None or self.group_size is not None:
            return None
        return width_of(self.levels)

    @property
    def storage(self) -> str:
        """Such as "int4", by `storage_bits`; "packed" where no TFLite weight type holds these codes."""
        return "packed" if self.storage_bits is None else f"int{self.storage_bits}"

    def decode(self) -> np.ndarray:
        """The kernel in float32."""
        return decode(self.codes, self.along(self.scale), self.along(self.zero_point), self.along(self.gap))

    def along(self, values: Any) -> Any:
        """Numbers of the shape of `scale` (or None) in a shape that broadcasts to that of `codes`."""
        if values is None or self.group_size is not None:
            return spread_groups(values, self.group_size, len(self.codes))
        shape = [1] * self.codes.ndim
        if values.shape != (1,):
            for axis in self.axes:
                shape[axis] = self.codes.shape[axis]
        return values.reshape(shape)

    def multiplied(self, factor: np.ndarray, path: str) -> "QuantizedKernel":
        """The same codes with scales times |factor|; the codes of channels with a negative factor change sign.

        Args:
            factor: (n_out,).
            path: of the layer, for the message.

        Raises:
            InputError: negative factors, and levels that are not symmetric.
        """
        negative = factor < 0
        if negative.any() and (self.zero_point is not None or not np.array_equal(self.levels, -self.levels[::-1])):
            raise InputError(
                f"The BatchNorm after layer {path!r} has negative gammas, and the layer's levels {self.levels} are not "
                "symmetric, so that its codes cannot be kept. Fold before quantizing."
            )
        along = [self.codes.shape[axis] for axis in self.axes]
        shape = [size if axis in self.axes else 1 for axis, size in enumerate(self.codes.shape)]
        codes = np.where(negative.reshape(shape), -self.codes, self.codes)
        factor = np.abs(factor).reshape(along)
        scale = (self.scale.astype(np.float64) * factor).astype(np.float32)
        gap = None if self.gap is None else (self.gap.astype(np.float64) * factor).astype(np.float32)
        return dataclasses.replace(self, codes=codes, scale=scale, gap=gap)

    def _scale_shapes(self) -> list[tuple[int, ...]]:
        along = tuple(self.codes.shape[axis] for axis in self.axes)
        if self.group_size is None:
            return [(1,), along]
        return [(-(-len(self.codes) // self.group_size), *along)]


def weight_scales(kernels: Mapping[str, QuantizedKernel]) -> dict[str, np.ndarray]:
    """Path of each kernel -> its `channel_scales`."""
    return {path: kernel.channel_scales for path, kernel in kernels.items()}


@dataclasses.dataclass(frozen=True)
class Result:
    """What flows between techniques.

    Attributes:
        model: an ordinary `keras.Model`.
        kernels: path -> `QuantizedKernel`; the kernel in `model` equals its `decode()`, bit for bit. The path is that
            of the layer, followed by the kernel's name where the layer has several: `separable/pointwise_kernel`.
        masks: the same path -> boolean array of the kernel's shape, false where a zero must stay.
        report: what was done.
        clusters: the same path -> integers of the kernel's shape: weights with the same number are equal, and stay so
            in `quantization_aware_training`. Other steps drop them.
        inputs: ranges of the inputs, and a few samples, of the last step that saw calibration data: what exported files
            are checked on.
    """

    model: keras.Model
    kernels: dict[str, QuantizedKernel] = dataclasses.field(default_factory=dict)
    masks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    report: Report = dataclasses.field(default_factory=Report)
    clusters: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    inputs: InputSamples | None = None

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
        raise InputError(f"A keras.Model or a kc.Result is expected. Received: {no_model(model_or_result)}")

    def check(self) -> None:
        """Compares the model's kernels with the decoded codes.

        Raises:
            InputError: a kernel differs, or a path names no layer.
        """
        views = views_by_path(self.model) if self.kernels else {}
        for path, quantized in self.kernels.items():
            if path not in views:
                raise InputError(f"The result has codes for layer {path!r}, which its model does not have.")
            if not np.array_equal(views[path].kernel, quantized.decode()):
                raise InputError(
                    f"The kernel of layer {path!r} differs from its codes: somebody wrote to the model after it was "
                    "quantized. Quantize it again, or pass the model alone to drop the codes."
                )

    def folded(self) -> "tuple[Result, dict[str, Fold], dict[str, str]]":
        """The same with BatchNorm folded (`layers.folding.fold`); what was folded, and why other BatchNorms stay.

        Raises:
            InputError: codes that a negative factor cannot flip.
        """
        model, folds, reasons = fold(self.model)
        kernels, views = dict(self.kernels), views_by_path(model)
        for path, each in folds.items():
            if each.kernel in kernels:
                kernels[each.kernel] = kernels[each.kernel].multiplied(each.factor, path)
                views[each.kernel].variable.assign(kernels[each.kernel].decode())
        return dataclasses.replace(self, model=model, kernels=kernels, clusters={}), folds, reasons

    def save(self, path: str | os.PathLike[str], *, samples: bool = True) -> None:
        """Writes `NAME.keras`, `NAME.codes.npz` and `NAME.json`; `path` is `NAME`, with or without `.keras`.

        Args:
            path: of the files.
            samples: whether the samples in `inputs` (at most 32) are written too; False writes their ranges alone.

        Raises:
            StorageError: the folder cannot be written to, or the disk is full.
        """
        stem = _stem(path)
        arrays: dict[str, np.ndarray] = {}
        for layer, quantized in self.kernels.items():
            for field in dataclasses.fields(QuantizedKernel):
                value = getattr(quantized, field.name)
                if value is not None:
                    arrays[f"kernels/{layer}/{field.name}"] = np.asarray(value)
        arrays |= {f"masks/{layer}": mask for layer, mask in self.masks.items()}
        arrays |= {f"clusters/{layer}": numbers for layer, numbers in self.clusters.items()}
        if self.inputs is not None:
            arrays |= {"inputs/low": self.inputs.low, "inputs/high": self.inputs.high}
            held = self.inputs.samples if samples else ()
            arrays |= {f"inputs/samples/{index}": array for index, array in enumerate(held)}
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
    model = load_model(stem + ".keras", allow_lambda=allow_lambda)
    try:
        read = _read(stem, _most_numbers(model))
    except (InputError, StorageError):
        raise
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"The files of the result {stem!r} are damaged or not ours ({error}). Quantize again."
        ) from error
    result = Result(model, read.kernels, read.masks, read.report, read.clusters, read.inputs)
    result.check()
    return result


def has_codes(path: str | os.PathLike[str]) -> bool:
    """Whether the model at `path` is one of the three files of a result."""
    return os.path.isfile(_stem(path) + ".codes.npz")


@dataclasses.dataclass
class _Read:
    """What the files of a result hold, but for the model."""

    report: Report
    kernels: dict[str, QuantizedKernel] = dataclasses.field(default_factory=dict)
    masks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    clusters: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
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
    if state["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{stem}.json has format {state['format_version']}; this program reads up to {FORMAT_VERSION}. Update it."
        )
    read = _Read(Report.from_dict(state["report"]))
    fields: dict[str, dict[str, np.ndarray]] = {}
    inputs: dict[str, np.ndarray] = {}
    for name, array in foreign.read_npz(stem + ".codes.npz", "file of codes", most_numbers=most_numbers).items():
        kind, _, rest = name.partition("/")
        if kind == "masks":
            read.masks[rest] = array
        elif kind == "clusters":
            read.clusters[rest] = array
        elif kind == "inputs":
            inputs[rest] = array
        else:
            layer, _, field = rest.rpartition("/")
            fields.setdefault(layer, {})[field] = array
    read.kernels = {layer: _kernel_of(parts) for layer, parts in fields.items()}
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


def _stem(path: str | os.PathLike[str]) -> str:
    return os.fspath(path).removesuffix(".keras")
