"""Images in folders, read when they are asked for."""

import contextlib
import os
import pathlib
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_compress import foreign
from keras_compress.errors import InputError, check_integer
from keras_compress.samples.samples import Batch, Function, IndexedSamples

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")  # of Pillow; others start programs of the system
FEW_PIXELS = 1 << 23  # that any file may have; beyond them
PIXELS_A_BYTE = 256  # of its bytes at most: a white page has more, a photograph less than ten
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff")


class ImageFolder(IndexedSamples):
    """The images of a folder as (n, height, width, channels) bytes, read from the disk a batch at a time.

    FOLDER/CLASS/*.png are images with labels, the numbers of the classes in the order of their names, as
    `keras.utils.image_dataset_from_directory` has them; FOLDER/*.png are images without labels.

        images = kc.ImageFolder("photos", image_size=224, preprocess=keras.applications.resnet.preprocess_input)
        kc.quantize(model, kc.GPFQ(bits=4), images.take(500, seed=0))

    Args:
        path: of the folder.
        image_size: height and width to which images are resized (bilinear); one number, or two.
        channels: 3 for colours, 1 for grey.
        preprocess: from a float32 batch to what the model takes; None leaves 0 to 255.

    Attributes:
        paths: of the images, in the order of the samples.
        class_names: in the order of the labels; none without labels.

    Raises:
        InputError: no images, or a setting out of range; when they are read, images that cannot be.
        StorageError: an image that is no regular file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int | tuple[int, int],
        channels: int = 3,
        preprocess: Function | None = None,
    ):
        root = pathlib.Path(path)
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        for side in size:
            check_integer("image_size", side, 1)
        if len(size) != 2 or channels not in (1, 3):
            raise InputError(
                f"image_size takes one or two numbers, and channels 1 or 3. Received: {size}, {channels!r}."
            )
        if not root.is_dir():
            raise InputError(f"There is no folder {str(root)!r} of images.")
        self.size, self.channels = size, channels
        self.class_names = [folder.name for folder in folders_in(root)]
        self.labels: np.ndarray | None = None
        if self.class_names:
            self.paths, self.labels = labelled_images(root, self.class_names)
        else:
            self.paths = images_in(root)
        self.num_samples = len(self.paths)
        self.sample_bytes = 4 * size[0] * size[1] * channels
        if preprocess is not None:
            self._functions = (preprocess,)

    def known_labels(self) -> np.ndarray | None:
        return self.labels if self.labels is None or self.index is None else self.labels[self.index]

    def digest(self) -> str:
        """Of names, sizes and dates of the files."""
        chosen = range(len(self.paths)) if self.index is None else self.index.tolist()
        facts = [(self.paths[at].name, *self.paths[at].stat()[6:9:2]) for at in chosen]
        return f"{self.num_samples} x {zlib.crc32(repr(facts).encode())}{self._functions_text()}"

    def _read(self, positions: np.ndarray | slice) -> Batch:
        chosen = np.arange(len(self.paths))[positions]
        images = [read_image(self.paths[at], self.size, self.channels) for at in chosen.tolist()]
        labels = None if self.labels is None else self.labels[chosen]
        return Batch(np.stack(images).astype(np.float32), labels)


def folders_in(root: pathlib.Path) -> list[pathlib.Path]:
    """In the order of their names, without hidden ones."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """In the order of their names.

    Raises:
        InputError: there are none.
    """
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError(f"The folder {str(folder)!r} holds no images ({', '.join(SUFFIXES)}).")
    return images


def labelled_images(root: pathlib.Path, class_names: Sequence[str]) -> tuple[list[pathlib.Path], np.ndarray]:
    """The images of the folders of these classes, and their labels."""
    by_class = [images_in(root / name) for name in class_names]
    labels = np.repeat(np.arange(len(by_class)), [len(images) for images in by_class])
    return [path for images in by_class for path in images], labels


def read_image(path: pathlib.Path, size: tuple[int, ...], channels: int) -> np.ndarray:
    """(height, width, channels) bytes.

    Raises:
        InputError: a file that is no image, or claims more pixels than it can hold.
    """
    with opened(path) as file:
        check_claim(path, file.width * file.height, path.stat().st_size)
        image = file.convert("L" if channels == 1 else "RGB").resize((size[1], size[0]), bilinear())
        return np.asarray(image).reshape(*size, channels)


def check_claim(path: pathlib.Path, pixels: int, size: int) -> None:
    """Raises InputError for more pixels than files of so many bytes hold, before they are unpacked."""
    if pixels > FEW_PIXELS + PIXELS_A_BYTE * size:
        raise InputError(
            f"The images up to {str(path)!r} claim {pixels:,} pixels, more than files of their size hold. Remove those "
            "that are no pictures, or give --image_size."
        )


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
    """An image of Pillow; whatever is wrong with its file is one line."""
    from PIL import Image

    with foreign.open_regular(path, "image") as content:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see check_claim
                with Image.open(content, formats=FORMATS) as file:
                    yield file
        except InputError:
            raise
        except Exception as error:  # Pillow's readers raise every kind of exception
            raise InputError(f"The image {str(path)!r} cannot be read: {error or type(error).__name__}.") from error


def bilinear() -> Any:
    """Pillow's filter."""
    from PIL import Image

    return Image.Resampling.BILINEAR
