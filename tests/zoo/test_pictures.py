import numpy as np
import pytest
from PIL import Image

from keras_compress.zoo.datasets import load_dataset
from keras_compress.zoo.pictures import class_counts, draw_dataset
from keras_compress.zoo.samples import check_dataset


def count_pixels(path, color: tuple[int, int, int]) -> int:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    return int(np.sum(np.abs(pixels - color).max(axis=-1) <= 2))


def height_in_pixels(path) -> int:
    with Image.open(path) as image:
        return image.height


@pytest.fixture
def colors():
    """Images of one color, another one for each of three classes."""
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    y = np.repeat([0, 1, 2], [6, 4, 2])
    x = np.broadcast_to(palette[y][:, None, None], (12, 8, 8, 3))
    return check_dataset("colors", {"x_train": x, "y_train": y, "x_test": x, "y_test": y}, "here")


@pytest.mark.slow
def test_each_class_shows_its_samples_and_no_more_than_it_has(colors, tmp_path):
    draw_dataset(colors, tmp_path / "a.png", num_samples=4)
    red, green, blue = (count_pixels(tmp_path / "a.png", color) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
    assert red > 1000
    assert red == pytest.approx(green, rel=0.05)
    assert blue == pytest.approx(red / 2, rel=0.05)  # this class has two samples


def test_at_most_twenty_classes_are_drawn(rng, tmp_path):
    y = np.tile(np.arange(30), 2)
    x = rng.random((60, 6, 12))
    dataset = check_dataset("many", {"x_train": x, "y_train": y, "x_test": x, "y_test": y}, "here")
    draw_dataset(dataset, tmp_path / "many.png", num_samples=2)
    assert height_in_pixels(tmp_path / "many.png") < 20 * 0.62 * 120 + 300


def test_a_table_shows_its_columns(tmp_path):
    path = tmp_path / "trees.csv"
    rows = "".join(f"{index},{'red' if index % 3 else ''},{index % 2}\n" for index in range(40))
    path.write_text("length,color,label\n" + rows)
    draw_dataset(load_dataset(str(path)), tmp_path / "trees.png")
    assert count_pixels(tmp_path / "trees.png", (0, 0, 0)) > 500  # text


@pytest.mark.slow
def test_a_table_of_many_columns_without_names_is_drawn(rng, tmp_path):
    y = np.tile([0, 1], 10)
    x = rng.normal(size=(20, 40))
    dataset = check_dataset("wide", {"x_train": x, "y_train": y, "x_test": x, "y_test": y}, "here")
    draw_dataset(dataset, tmp_path / "wide.png")
    assert height_in_pixels(tmp_path / "wide.png") < 1200


def test_classes_are_counted(colors):
    assert {split: counts.tolist() for split, counts in class_counts(colors).items()} == {
        "train": [6, 4, 2],
        "test": [6, 4, 2],
    }
