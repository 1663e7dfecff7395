import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_compress.errors import InputError
from keras_compress.zoo.datasets import load_dataset


def save(path: pathlib.Path, value: int | tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    """An image of one color, of `size` width x height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", size, value).save(path)


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """Ten dark cats and ten bright dogs."""
    for index in range(10):
        save(tmp_path / "pets" / "cat" / f"{index}.png", index)
        save(tmp_path / "pets" / "dog" / f"{index}.PNG", 100 + index)
    return tmp_path / "pets"


def test_grey_images_are_split_class_by_class(root):
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    dataset = load_dataset(str(root))
    assert dataset.name == "pets"
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.x_train.shape == (16, 4, 6)
    assert dataset.x_train.dtype == np.uint8
    assert dataset.y_test.tolist() == [0, 0, 1, 1]
    values = np.concatenate([dataset.x_train[:, 0, 0], dataset.x_test[:, 0, 0]])
    assert np.array_equal(np.sort(values), [*range(10), *range(100, 110)])
    assert np.array_equal(dataset.x_train[:, 0, 0] >= 100, dataset.y_train == 1)


def test_folders_named_train_and_test_are_the_split(root):
    for index in range(3):
        save(root.parent / "split" / "train" / "cat" / f"{index}.png", 1)
        save(root.parent / "split" / "train" / "dog" / f"{index}.jpg", 2)
        save(root.parent / "split" / "test" / "cat" / f"{index}.bmp", 3)
        save(root.parent / "split" / "test" / "dog" / f"{index}.png", 4)
    dataset = load_dataset(str(root.parent / "split"))
    assert dataset.x_train[:, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert dataset.x_test[:, 0, 0].tolist() == [3, 3, 3, 4, 4, 4]


def test_one_color_image_makes_all_of_them_color(root):
    save(root / "dog" / "color.png", (255, 0, 0))
    dataset = load_dataset(str(root))
    assert dataset.x_train.shape == (17, 4, 6, 3)
    grey = dataset.x_train[dataset.y_train == 0]
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_images_are_resized_on_demand(root):
    save(root / "dog" / "large.png", 200, size=(60, 40))
    with pytest.raises(InputError, match=r"one size: .* has 6x4 pixels, .*large.png.* has 60x40. Give --image_size"):
        load_dataset(str(root))
    assert load_dataset(str(root), image_size=8).x_train.shape == (17, 8, 8)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"one folder of images for each class, at least two. Received the folders: none"
    ):
        load_dataset(str(tmp_path))


def test_a_class_without_images_is_refused(root):
    (root / "bird").mkdir()
    with pytest.raises(InputError, match="bird' holds no images"):
        load_dataset(str(root))


def test_other_classes_for_testing_are_refused(tmp_path):
    for path in ("train/cat", "train/dog", "test/cat", "test/fox"):
        save(tmp_path / path / "0.png", 0)
    with pytest.raises(InputError, match=r"each class: cat, dog. Received the folders: cat, fox"):
        load_dataset(str(tmp_path))


def test_what_is_no_image_is_named(root):
    (root / "cat" / "11.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"The image '.*cat/11.png' cannot be read"):
        load_dataset(str(root))


def test_a_size_below_one_is_refused(root):
    with pytest.raises(InputError, match=r"image_size must be at least 1. Received: 0"):
        load_dataset(str(root), image_size=0)
