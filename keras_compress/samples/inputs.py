"""Batches held against the inputs of a model. Loads neither TensorFlow nor Keras."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_compress.errors import InputError
from keras_compress.samples.forms import FORMS, as_samples, is_array
from keras_compress.samples.samples import Batch, Samples


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, its shape with the batch axis first, and its type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def labelled(x: Any, y: Any = None) -> Samples:
    """Inputs and labels as samples: from one setting each, or both in `x`.

    Raises:
        InputError: labels in a setting of their own, and data that have theirs.
    """
    if y is None:
        return as_samples(x, "x")
    if not (isinstance(x, (list, tuple, Mapping)) or is_array(x)):
        raise InputError(f"y goes with arrays: a {type(x).__name__} has its labels with it. Received: y too.")
    return as_samples((list(x) if isinstance(x, tuple) else x, y), "x and y")


def model_batches(data: Any, specs: Sequence[InputSpec], argument: str, *, finite: bool = True) -> Iterator[Batch]:
    """Batches whose inputs are a list with one array for each input of a model, in its order, of its types.

    Args:
        data: in any form that `as_samples` takes.
        specs: of the model's inputs.
        argument: name of the setting, for messages.
        finite: whether NaN and Inf are refused.

    Raises:
        InputError: a batch of the wrong structure, shape, rank or type, NaN or Inf, or no sample at all.
    """
    empty = True
    for batch in as_samples(data, argument).batches():
        arrays = _in_order(batch.inputs, specs, argument)
        for array, spec in zip(arrays, specs, strict=True):
            _check(array, spec, argument, finite)
        lengths = {len(array) for array in arrays}
        if len(lengths) > 1:
            raise InputError(f"All inputs of a batch must have as many samples. Received: {sorted(lengths)}.")
        if lengths == {0}:
            continue
        empty = False
        inputs = [
            array if spec.dtype == "string" else array.astype(spec.dtype, copy=False)
            for array, spec in zip(arrays, specs, strict=True)
        ]
        yield dataclasses.replace(batch, inputs=inputs)
    if empty:
        raise InputError(f"{argument} is empty: no batch, or none with a sample.")


def _in_order(inputs: Any, specs: Sequence[InputSpec], argument: str) -> list[np.ndarray]:
    names = [spec.name for spec in specs]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise InputError(
                f"A dictionary of inputs must have the keys {names}. Received: {sorted(map(str, inputs))}."
            )
        parts = [inputs[name] for name in names]
    elif isinstance(inputs, (list, tuple)):
        parts = list(inputs)
    else:
        parts = [inputs]
    if len(parts) != len(specs):
        raise InputError(
            f"The model has {len(specs)} inputs ({', '.join(names)}). Received: a batch of {len(parts)} arrays."
        )
    for part, name in zip(parts, names, strict=True):
        if not is_array(part):
            raise InputError(
                f"Batches of {argument} for input {name!r} must be arrays. Received: {type(part).__name__}. {argument} "
                f"may be {FORMS}."
            )
    return [np.asarray(part) for part in parts]


def _check(array: np.ndarray, spec: InputSpec, argument: str, finite: bool) -> None:
    what = f"Batches of {argument} for input {spec.name!r}"
    expected = ", ".join("any" if size is None else str(size) for size in spec.shape)
    fits = array.ndim == len(spec.shape) and all(
        size in (None, got) for size, got in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise InputError(
            f"{what} must have shape ({expected}). Received: {array.shape}. Apply the preprocessing that the model was "
            "trained with, and give samples in batches."
        )
    if spec.dtype == "string":
        return
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise InputError(f"{what} must hold numbers ({spec.dtype}). Received: {array.dtype}.")
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise InputError(
            f"{what} must be finite. Received: {bad} entries that are NaN or Inf. Clean the data or repeat its "
            "preprocessing."
        )
