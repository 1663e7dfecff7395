"""Data sets by name or by path.

`digits` lies inside the package (`digits.npz`) and needs no network: "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, doi 10.24432/C50P49, licence CC BY 4.0. It holds the
1,797 images of 8x8 pixels, values 0 to 16, of scikit-learn's `load_digits`, split class by class into 1,437 for
training and 360 for testing by `train_test_split(..., test_size=360, stratify=labels, random_state=0)`.

`mnist`, `fashion_mnist` and `cifar10` are read from the folder that the environment variable KERAS_COMPRESS_DATA names,
if it holds NAME.npz; otherwise `keras.datasets` downloads them once into its cache.

A path is the user's own data: an `.npz` with the Keras keys, a `.csv` table, or a folder with one folder of images per
class.
"""

import dataclasses
import os
import pathlib
import socket
import zipfile
import zlib

import numpy as np

from keras_compress import foreign
from keras_compress.errors import InputError, StorageError
from keras_compress.zoo.folders import read_folder
from keras_compress.zoo.samples import Dataset, check_dataset
from keras_compress.zoo.tables import read_csv

NAMES = ("digits", "mnist", "fashion_mnist", "cifar10")
KEYS = ("x_train", "y_train", "x_test", "y_test")
DATA_FOLDER = "KERAS_COMPRESS_DATA"
CONNECTION_TIMEOUT = 20.0  # seconds; behind a firewall that answers nothing, a download would wait for minutes

CLASS_NAMES = {
    "fashion_mnist": [
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ],
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}


def load_dataset(
    name_or_path: str,
    *,
    seed: int = 0,
    label_column: str | None = None,
    image_size: int | None = None,
    test_fraction: float = 0.2,
) -> Dataset:
    """Loads a data set.

    Args:
        name_or_path: one of `NAMES`, or the path of an `.npz`, a `.csv` or a folder.
        seed: of the split into training and test samples, where the source has none.
        label_column: for a `.csv`: the column of the labels. None takes the column named label, target or class, or
            the last.
        image_size: for a folder: height and width to which images are resized. None expects images of one size.
        test_fraction: fraction of the samples that become test samples, where the source has no split.

    Raises:
        InputError: the data set is unknown, cannot be had, or cannot be used.
    """
    path = pathlib.Path(name_or_path)
    kind = "name" if name_or_path in NAMES else "folder" if path.is_dir() else path.suffix.lower()
    if label_column is not None and kind != ".csv":
        raise InputError(f"label_column belongs to .csv data. Received it with data set {name_or_path!r}.")
    if image_size is not None and kind != "folder":
        raise InputError(f"image_size belongs to a folder of images. Received it with data set {name_or_path!r}.")
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction must lie between 0 and 1. Received: {test_fraction}.")
    if kind == "name":
        return _load_named(name_or_path)
    if kind == "folder":
        return read_folder(path, seed=seed, image_size=image_size, test_fraction=test_fraction)
    if kind in (".npz", ".csv"):
        if not path.is_file():
            raise InputError(f"There is no file {name_or_path!r}. Known data sets: {', '.join(NAMES)}.")
        if kind == ".npz":
            return read_npz(path)
        return read_csv(path, seed=seed, label_column=label_column, test_fraction=test_fraction)
    raise InputError(
        f"Unknown data set {name_or_path!r}. Known: {', '.join(NAMES)}; or the path of an .npz file with the keys "
        f"{', '.join(KEYS)}, of a .csv file with a label column, or of a folder with one folder of images per class."
    )


def needs_keras(name_or_path: str) -> bool:
    """Whether `load_dataset` imports Keras, which takes seconds and prints TensorFlow's banners."""
    return name_or_path in NAMES and name_or_path != "digits" and _local_file(name_or_path) is None


def read_npz(path: pathlib.Path, *, max_value: float | None = None) -> Dataset:
    """Reads an `.npz` file with the keys x_train, y_train, x_test and y_test; the data set is named after the file."""
    try:
        with foreign.open_regular(path, "data set") as file:
            whole = zipfile.is_zipfile(file)
        if not whole:
            raise InputError(f"{str(path)!r} is not an .npz file, or only a part of one.")
        stored = foreign.read_npz(path, "data set")
    except (InputError, StorageError):
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be read as an .npz file: {error or type(error).__name__}.") from error
    missing = [key for key in KEYS if key not in stored]
    if missing:
        raise InputError(
            f"{str(path)!r} lacks {', '.join(missing)}. Expected: {', '.join(KEYS)}. "
            f"Received: {', '.join(stored) or 'nothing'}."
        )
    arrays = {key: stored[key] for key in KEYS}
    dataset = check_dataset(path.stem, arrays, repr(str(path)), max_value=max_value)
    names = CLASS_NAMES.get(dataset.name, [])
    return dataclasses.replace(dataset, class_names=names) if len(names) == dataset.num_classes else dataset


def _load_named(name: str) -> Dataset:
    if name == "digits":
        return read_npz(pathlib.Path(__file__).with_name("digits.npz"), max_value=16.0)
    if (path := _local_file(name)) is not None:
        return read_npz(path)
    arrays = _download(name)
    return check_dataset(name, arrays, name, class_names=CLASS_NAMES.get(name))


def _local_file(name: str) -> pathlib.Path | None:
    folder = os.environ.get(DATA_FOLDER)
    if folder and not os.path.isdir(folder):
        raise InputError(
            f"{DATA_FOLDER} must name a folder, with {name}.npz in it. Received: {folder!r}, which is none. Unset it, "
            "and Keras downloads the data set."
        )
    path = pathlib.Path(folder or "", f"{name}.npz")
    return path if folder and path.is_file() else None


def _download(name: str) -> dict[str, np.ndarray]:
    import keras

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_TIMEOUT)
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # keras raises a bare Exception for a failed download
        raise InputError(
            f"The data set {name!r} is not in Keras' cache and cannot be downloaded ({error}). Use --dataset=digits, "
            f"which needs no network, or an .npz file with the keys {', '.join(KEYS)}: --dataset=FOLDER/{name}.npz, "
            f"or {DATA_FOLDER}=FOLDER in the environment."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return dict(zip(KEYS, (x_train, y_train, x_test, y_test), strict=True))
