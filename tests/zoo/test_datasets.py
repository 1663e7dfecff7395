import pathlib
import socket

import keras
import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.zoo import datasets
from keras_compress.zoo.datasets import load_dataset


@pytest.fixture
def images(rng) -> dict[str, np.ndarray]:
    return {
        "x_train": rng.integers(0, 256, (20, 6, 6, 3), np.uint8),
        "y_train": np.tile(np.arange(10), 2),
        "x_test": rng.integers(0, 256, (10, 6, 6, 3), np.uint8),
        "y_test": np.arange(10),
    }


def test_digits_are_inside_the_package():
    dataset = load_dataset("digits")
    assert dataset.x_train.shape == (1437, 8, 8)
    assert dataset.x_test.shape == (360, 8, 8)
    assert dataset.num_classes == 10
    assert (dataset.x_train.min(), dataset.x_train.max(), dataset.max_value) == (0, 16, 16.0)
    # The sum of all pixels and the size of each class in scikit-learn's load_digits.
    assert int(dataset.x_train.sum()) + int(dataset.x_test.sum()) == 561718
    assert (np.bincount(dataset.y_train) + np.bincount(dataset.y_test)).tolist() == [
        *(178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    ]


def test_no_digit_is_in_both_splits():
    dataset = load_dataset("digits")
    every = np.concatenate([dataset.x_train, dataset.x_test]).reshape(1797, 64)
    assert len(np.unique(every, axis=0)) == 1797


def test_an_npz_with_the_keras_keys_is_a_data_set(images, tmp_path):
    np.savez(tmp_path / "cifar10.npz", **images)
    dataset = load_dataset(str(tmp_path / "cifar10.npz"))
    assert dataset.name == "cifar10"
    assert dataset.class_names[3] == "cat"
    assert np.array_equal(dataset.x_train, images["x_train"])


def test_names_of_classes_are_not_given_to_another_number_of_classes(images, tmp_path):
    images["y_train"], images["y_test"] = images["y_train"] % 2, images["y_test"] % 2
    np.savez(tmp_path / "cifar10.npz", **images)
    assert load_dataset(str(tmp_path / "cifar10.npz")).class_names == ["0", "1"]


def test_the_folder_in_the_environment_comes_before_a_download(images, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_COMPRESS_DATA", str(tmp_path))
    np.savez(tmp_path / "cifar10.npz", **images)
    assert len(load_dataset("cifar10").x_train) == 20
    assert not datasets.needs_keras("cifar10")
    assert datasets.needs_keras("mnist")
    assert not datasets.needs_keras("digits")


def test_a_folder_in_the_environment_that_is_missing_is_named(tmp_path, monkeypatch):
    for wrong in (tmp_path / "nowhere", pathlib.Path(__file__)):
        monkeypatch.setenv("KERAS_COMPRESS_DATA", str(wrong))
        with pytest.raises(InputError, match=f"KERAS_COMPRESS_DATA must name a folder, .* Received: '{wrong}'"):
            load_dataset("mnist")
    assert len(load_dataset("digits").x_train)  # it lies in the package


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_without_a_network_the_message_says_what_works(name, monkeypatch):
    def refuse():
        assert socket.getdefaulttimeout() == datasets.CONNECTION_TIMEOUT
        raise Exception(
            "URL fetch failure on https://...: None -- [Errno -2] Name or service not known"
        )  # as Keras does

    monkeypatch.delenv("KERAS_COMPRESS_DATA", raising=False)
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", refuse)
    with pytest.raises(InputError, match=f"{name}.*--dataset=digits.*--dataset=FOLDER/{name}.npz.*KERAS_COMPRESS_DATA"):
        load_dataset(name)
    assert socket.getdefaulttimeout() is None


def test_a_download_becomes_a_data_set(monkeypatch, images):
    parts = (images["x_train"], images["y_train"]), (images["x_test"], images["y_test"])
    monkeypatch.delenv("KERAS_COMPRESS_DATA", raising=False)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: parts)
    dataset = load_dataset("fashion_mnist")
    assert dataset.class_names[9] == "ankle boot"
    assert np.array_equal(dataset.x_test, images["x_test"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("imagenet", "Unknown data set 'imagenet'. Known: digits, mnist, fashion_mnist, cifar10; or the path"),
        ("nowhere/data.npz", "There is no file 'nowhere/data.npz'"),
        ("nowhere/data.csv", "There is no file 'nowhere/data.csv'"),
    ],
)
def test_an_unknown_source_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        load_dataset(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": "species"}, "label_column belongs to .csv data"),
        ({"image_size": 32}, "image_size belongs to a folder of images"),
        ({"test_fraction": 1.0}, "test_fraction must lie between 0 and 1"),
    ],
)
def test_an_option_of_another_kind_of_data_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        load_dataset("digits", **options)


def write_without_a_key(path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    del images["y_test"]
    np.savez(path, **images)


def write_objects(path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    np.savez(path, **{**images, "y_train": np.array([{"label": 0}] * 20, object)})


def write_truncated(path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    np.savez(path, **images)
    path.write_bytes(path.read_bytes()[:500])


def write_damaged(path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **images)
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)
    path.write_bytes(bytes(content))


def write_text(path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    path.write_text("x_train, y_train")


def write_nothing(path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    path.write_bytes(b"")


def write_npy(path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.save(file, images["x_train"])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            write_without_a_key,
            "lacks y_test. Expected: x_train, y_train, x_test, y_test. Received: x_train, y_train, x_test",
        ),
        (write_objects, "cannot be read as an .npz file: Object arrays cannot be loaded"),
        (write_truncated, "is not an .npz file, or only a part of one"),
        (write_damaged, "cannot be read as an .npz file"),
        (write_text, "is not an .npz file"),
        (write_nothing, "is not an .npz file"),
        (write_npy, "is not an .npz file"),
    ],
)
def test_a_bad_npz_is_refused(write, message, images, tmp_path):
    path = tmp_path / "bad.npz"
    write(path, images)
    with pytest.raises(InputError, match=message):
        load_dataset(str(path))
