"""Calibration data, whatever its form, as checked batches of the model's inputs in chunks of one size."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.paths import ModelInputs

FORMS = (
    "an array, a list or dictionary of arrays, a tf.data.Dataset, a keras.utils.PyDataset, or a generator of batches"
)


MOST_BATCHES = 1 << 17  # of data that do not say how many they are; more are taken to have no end


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, its shape with the batch axis first, and its type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def input_specs(model: keras.Model) -> list[InputSpec]:
    inputs = ModelInputs.of(model)
    return [
        InputSpec(name, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        for name, tensor in zip(inputs.names, inputs.tensors, strict=True)
    ]


def checked_batches(data: Any, specs: list[InputSpec]) -> Iterator[list[np.ndarray]]:
    """Yields batches: one array for each input, in the order of the model's inputs. Labels and weights are dropped.

    A tuple is (inputs, labels[, sample weights]), as in `keras.Model.fit`; a list or a dictionary holds the inputs of a
    model that has several.

    Raises:
        InputError: a batch of the wrong structure, shape, rank or type, an empty one, NaN or Inf, or no batch at all.
    """
    empty = True
    for batch in _batches_of(data, specs):
        arrays = _inputs_of(batch, specs)
        for array, spec in zip(arrays, specs, strict=True):
            _check(array, spec)
        lengths = {len(array) for array in arrays}
        if len(lengths) > 1:
            raise InputError(
                f"All inputs of a calibration batch must have as many samples. Received: {sorted(lengths)}."
            )
        if lengths == {0}:
            continue
        empty = False
        yield [array.astype(spec.dtype, copy=False) for array, spec in zip(arrays, specs, strict=True)]
    if empty:
        raise InputError("The calibration data is empty: no batch, or none with a sample. Pass a few hundred samples.")


def in_chunks(batches: Iterable[list[np.ndarray]], size: int) -> Iterator[list[np.ndarray]]:
    """The same samples in the same order, `size` at a time (the last chunk may be shorter): batches leave no trace."""
    pending: list[list[np.ndarray]] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += len(batch[0])
        if count < size:
            continue
        joined = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*pending, strict=True)]
        start = 0
        while count - start >= size:
            yield [array[start : start + size] for array in joined]
            start += size
        pending = [[array[start:] for array in joined]] if start < count else []
        count -= start
    if pending:
        yield [np.concatenate(parts) for parts in zip(*pending, strict=True)]


def _batches_of(data: Any, specs: list[InputSpec]) -> Iterator[Any]:
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise InputError("The calibration data set never ends. Bound it, for instance with dataset.take(10).")
        known = data.cardinality() != tf.data.UNKNOWN_CARDINALITY
        yield from data.as_numpy_iterator() if known else _with_an_end(data.as_numpy_iterator())
    elif isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise InputError("The calibration PyDataset never ends (num_batches is None). Give it a length.")
        yield from (data[index] for index in range(data.num_batches))
    elif isinstance(data, (list, tuple, Mapping)) or _is_array(data):
        yield data
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        yield from data if hasattr(data, "__len__") else _with_an_end(data)
    else:
        raise InputError(f"Calibration data must be {FORMS}. Received: {type(data).__name__}.")


def _with_an_end(batches: Iterable[Any]) -> Iterator[Any]:
    for number, batch in enumerate(batches):
        if number == MOST_BATCHES:
            raise InputError(
                f"The calibration data have not ended after {MOST_BATCHES:,} batches. Bound them, for instance with "
                "dataset.take(10) or itertools.islice(batches, 10)."
            )
        yield batch


def _inputs_of(batch: Any, specs: list[InputSpec]) -> list[np.ndarray]:
    names = [spec.name for spec in specs]
    if isinstance(batch, tuple):
        if len(batch) > 3 or not batch:
            raise InputError(
                f"A tuple must be (inputs,), (inputs, labels) or (inputs, labels, sample weights). Received: "
                f"{len(batch)} entries. Pass the inputs of a model that has several as a list or a dictionary."
            )
        batch = batch[0]
    if isinstance(batch, Mapping):
        if set(batch) != set(names):
            raise InputError(f"A dictionary of inputs must have the keys {names}. Received: {sorted(map(str, batch))}.")
        parts = [batch[name] for name in names]
    elif isinstance(batch, (list, tuple)):
        parts = list(batch)
    else:
        parts = [batch]
    if len(parts) != len(specs):
        raise InputError(
            f"The model has {len(specs)} inputs ({', '.join(names)}). Received: a batch of {len(parts)} arrays."
        )
    return [_as_array(part, spec) for part, spec in zip(parts, specs, strict=True)]


def _as_array(part: Any, spec: InputSpec) -> np.ndarray:
    if not _is_array(part):
        raise InputError(
            f"Calibration batches for input {spec.name!r} must be arrays. Received: {type(part).__name__}. "
            f"Calibration data may be {FORMS}."
        )
    return np.asarray(part)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _check(array: np.ndarray, spec: InputSpec) -> None:
    expected = ", ".join("any" if size is None else str(size) for size in spec.shape)
    fits = array.ndim == len(spec.shape) and all(
        size in (None, got) for size, got in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise InputError(
            f"Calibration batches for input {spec.name!r} must have shape ({expected}). Received: {array.shape}. "
            "Apply the preprocessing that the model was trained with, and give samples in batches."
        )
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise InputError(
            f"Calibration batches for input {spec.name!r} must hold numbers ({spec.dtype}). Received: {array.dtype}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise InputError(
            f"Calibration batches for input {spec.name!r} must be finite. Received: {bad} entries that are NaN or Inf. "
            "Clean the data or repeat its preprocessing."
        )
