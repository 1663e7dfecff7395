"""A folder of images per class: ROOT/CLASS/*.png, or ROOT/train/CLASS/*.png and ROOT/test/CLASS/*.png."""

import pathlib

import numpy as np

from keras_compress.errors import InputError
from keras_compress.samples.images import bilinear, check_claim, folders_in, labelled_images, opened
from keras_compress.samples.splits import split_by_class
from keras_compress.zoo.samples import Dataset, check_dataset


def read_folder(root: pathlib.Path, *, seed: int, image_size: int | None, test_fraction: float) -> Dataset:
    """Reads images as bytes: (n, height, width) where all are grey, otherwise (n, height, width, 3).

    Args:
        root: the folder. Classes are its folders in the order of their names; with folders `train` and `test` (and no
            others) these hold the classes, and otherwise the images are split class by class.
        seed: of the split.
        image_size: height and width to which images are resized; None expects images of one size.
        test_fraction: fraction of the images that become test images, where there is no folder `test`.

    Raises:
        InputError: there are no classes or images, they cannot be read, their sizes differ and `image_size` is None,
            or they claim more pixels than their files can hold.
        StorageError: an image that is no regular file.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size must be at least 1. Received: {image_size}.")
    folders = folders_in(root)
    if [folder.name for folder in folders] == ["test", "train"]:
        class_names = [folder.name for folder in folders_in(root / "train")]
        parts = {split: _paths(root / split, class_names) for split in ("train", "test")}
    else:
        class_names = [folder.name for folder in folders]
        paths, labels = _paths(root, class_names)
        first, second = split_by_class(labels, test_fraction, seed, names=class_names)
        parts = {
            "train": ([paths[index] for index in first], labels[first]),
            "test": ([paths[index] for index in second], labels[second]),
        }
    every_path = parts["train"][0] + parts["test"][0]
    pixels = _read_images(every_path, image_size)
    num_train = len(parts["train"][0])
    arrays = {
        "x_train": pixels[:num_train],
        "y_train": parts["train"][1],
        "x_test": pixels[num_train:],
        "y_test": parts["test"][1],
    }
    return check_dataset(root.resolve().name, arrays, repr(str(root)), class_names=class_names)


def _paths(root: pathlib.Path, class_names: list[str]) -> tuple[list[pathlib.Path], np.ndarray]:
    names = [folder.name for folder in folders_in(root)]
    if names != class_names or len(names) < 2:
        expected = f": {', '.join(class_names)}" if len(class_names) > 1 else ", at least two"
        raise InputError(
            f"{str(root)!r} must hold one folder of images for each class{expected}. "
            f"Received the folders: {', '.join(names) or 'none'}."
        )
    return labelled_images(root, class_names)


def _read_images(paths: list[pathlib.Path], image_size: int | None) -> np.ndarray:
    _check_pixels(paths, image_size)
    images = []
    for path in paths:
        with opened(path) as file:
            image = file.convert("L" if file.mode in ("1", "L", "LA") else "RGB")
            if image_size is not None:
                image = image.resize((image_size, image_size), bilinear())
            images.append(np.asarray(image))
        if images[-1].shape[:2] != images[0].shape[:2]:
            raise InputError(
                f"Images must be of one size: {str(paths[0])!r} has {_size(images[0])} pixels, {str(path)!r} has "
                f"{_size(images[-1])}. Give --image_size to resize them."
            )
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1) for image in images]
    return np.stack(images)


def _check_pixels(paths: list[pathlib.Path], image_size: int | None) -> None:
    """Holds what all images claim against the size of their files, before one of them is unpacked."""
    pixels, size = 0, 0
    for path in paths:
        with opened(path) as file:
            claimed = file.width * file.height
        size += path.stat().st_size
        # Where images are resized, only one of them is there in its own size.
        pixels = claimed if image_size is not None else pixels + claimed
        check_claim(path, pixels, path.stat().st_size if image_size is not None else size)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
