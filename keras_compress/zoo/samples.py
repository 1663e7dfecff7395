"""What every data set is, wherever it comes from: arrays that were checked at the door."""

import dataclasses

import numpy as np

from keras_compress.errors import InputError
from keras_compress.zoo.encoding import TableEncoding

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """Samples before any preprocessing, and integer labels 0 ... num_classes - 1."""

    name: str
    x_train: np.ndarray  # (n, height, width), (n, height, width, channels), or (n, columns)
    y_train: np.ndarray  # (n,) int64
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: list[str]
    max_value: float  # largest magnitude that a sample can hold, as far as is known
    table: TableEncoding | None = None  # how the columns of a CSV file became numbers

    def __repr__(self) -> str:
        counts = f"{len(self.x_train):,} training and {len(self.x_test):,} test samples"
        return f"Dataset({self.name!r}: {counts} of shape {self.x_train.shape[1:]}, {self.num_classes} classes)"

    @property
    def kind(self) -> str:
        """ "image" or "table"."""
        return "table" if self.x_train.ndim == 2 else "image"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def check_dataset(
    name: str,
    arrays: dict[str, np.ndarray],
    source: str,
    *,
    class_names: list[str] | None = None,
    max_value: float | None = None,
    table: TableEncoding | None = None,
) -> Dataset:
    """Makes a `Dataset` of arrays under the Keras keys.

    Args:
        name: name of the data set, as it appears in file names.
        arrays: x_train, y_train, x_test, y_test.
        source: where the arrays come from, for messages.
        class_names: one name for each class; None numbers them.
        max_value: largest value that a sample can hold; None takes 255 for bytes, and otherwise the largest magnitude
            among the training samples.
        table: how the columns of a CSV file became numbers.

    Raises:
        InputError: the arrays do not make a data set to train and test a classifier on.
    """
    for split in SPLITS:
        _check_samples(arrays[f"x_{split}"], f"x_{split}", source)
    x_train, x_test = arrays["x_train"], arrays["x_test"]
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(
            f"Training and test samples of {source} must have one shape. "
            f"Received: {x_train.shape[1:]} and {x_test.shape[1:]}."
        )
    labels = {split: _check_labels(arrays[f"y_{split}"], len(arrays[f"x_{split}"]), split, source) for split in SPLITS}
    num_classes = int(labels["train"].max()) + 1
    absent = np.setdiff1d(np.arange(num_classes), labels["train"])
    if absent.size or num_classes < 2:
        raise InputError(
            f"The training labels of {source} must be 0 ... classes - 1, at least two classes, each with samples. "
            f"Received labels up to {num_classes - 1}" + (f", without {_some(absent)}." if absent.size else ".")
        )
    if labels["test"].max() >= num_classes:
        raise InputError(
            f"Class counts of {source} do not match: test labels go up to {labels['test'].max()}, "
            f"but the training labels know {num_classes} classes (0 ... {num_classes - 1})."
        )
    if class_names is None:
        class_names = [str(label) for label in range(num_classes)]
    if max_value is None:
        max_value = 255.0 if x_train.dtype == np.uint8 else max(float(x_train.max()), -float(x_train.min())) or 1.0
    return Dataset(name, x_train, labels["train"], x_test, labels["test"], class_names, max_value, table)


def _check_samples(x: np.ndarray, key: str, source: str) -> None:
    if x.dtype.kind not in "uif":
        raise InputError(f"{key} of {source} must hold numbers (integers or floats). Received dtype {x.dtype}.")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise InputError(
            f"{key} of {source} must have shape (samples, height, width), (samples, height, width, channels) or "
            f"(samples, columns), with at least one of each. Received {x.shape}."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        count = int(x.size - np.isfinite(x).sum())
        raise InputError(f"{key} of {source} holds {count:,} values that are NaN or infinite. Remove or replace them.")


def _check_labels(y: np.ndarray, num_samples: int, split: str, source: str) -> np.ndarray:
    key = f"y_{split}"
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "ui":
        hint = " One-hot labels become integers with argmax(axis=-1)." if y.ndim == 2 else ""
        raise InputError(
            f"{key} of {source} must hold one integer label for each sample. "
            f"Received dtype {y.dtype}, shape {y.shape}.{hint}"
        )
    if len(y) != num_samples:
        raise InputError(f"{source} has {num_samples:,} samples in x_{split} but {len(y):,} labels in {key}.")
    y = y.astype(np.int64)
    if y.min() < 0:
        raise InputError(f"Labels in {key} of {source} are out of range: expected 0 and up, received {y.min()}.")
    return y


def _some(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
