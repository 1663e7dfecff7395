import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.samples.splits import split_by_class
from keras_compress.zoo.samples import check_dataset


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """A data set of three classes with `changes` to its arrays."""
    good = {
        "x_train": np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4),
        "y_train": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "x_test": np.zeros((3, 4, 4), np.uint8),
        "y_test": np.array([2, 1, 0], np.uint8),
    }
    return {**good, **changes}


def test_labels_become_integers_and_classes_are_counted():
    dataset = check_dataset("shapes", arrays(y_train=np.array([[0], [1], [2], [0], [1], [2]])), "here")
    assert dataset.y_train.shape == (6,)
    assert dataset.y_train.dtype == dataset.y_test.dtype == np.int64
    assert dataset.class_names == ["0", "1", "2"]
    assert dataset.kind == "image"
    assert dataset.max_value == 255.0


def test_columns_make_a_table():
    dataset = check_dataset("table", arrays(x_train=np.zeros((6, 5)), x_test=np.zeros((3, 5))), "here")
    assert dataset.kind == "table"


@pytest.mark.parametrize(
    ("x_train", "max_value"),
    [
        (np.full((6, 4, 4), 7, np.uint16), 7.0),
        (np.full((6, 4, 4), -2.5, np.float32), 2.5),
        (np.zeros((6, 4, 4), np.float32), 1.0),
    ],
)
def test_the_largest_value_is_found_where_the_type_does_not_tell(x_train, max_value):
    assert check_dataset("shapes", arrays(x_train=x_train), "here").max_value == max_value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.full((6, 4, 4), "a")}, "x_train of here must hold numbers"),
        ({"x_train": np.zeros(6)}, r"must have shape .* Received \(6,\)"),
        ({"x_test": np.zeros((0, 4, 4))}, r"x_test of here must have shape .* Received \(0, 4, 4\)"),
        ({"x_test": np.full((3, 4, 4), np.nan)}, "x_test of here holds 48 values that are NaN or infinite"),
        ({"x_train": np.full((6, 4, 4), np.inf)}, "x_train of here holds 96 values that are NaN or infinite"),
        ({"x_test": np.zeros((3, 5, 5))}, r"one shape. Received: \(4, 4\) and \(5, 5\)"),
        ({"y_train": np.arange(5)}, "6 samples in x_train but 5 labels in y_train"),
        ({"y_train": np.eye(6)}, "one integer label .* argmax"),
        ({"y_train": np.linspace(0, 1, 6)}, "one integer label .* Received dtype float64"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "out of range: expected 0 and up, received -1"),
        ({"y_test": np.array([0, 1, 3])}, "Class counts of here do not match: test labels go up to 3"),
        ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, r"Received labels up to 3, without 0\."),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(3, int)}, "at least two classes"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(changes, message):
    with pytest.raises(InputError, match=message):
        check_dataset("shapes", arrays(**changes), "here")


def test_a_split_takes_the_same_fraction_of_each_class():
    y = np.repeat([0, 1, 2], [100, 50, 10])
    first, second = split_by_class(y, 0.2, seed=0)
    assert np.bincount(y[second]).tolist() == [20, 10, 2]
    assert np.array_equal(np.sort(np.concatenate([first, second])), np.arange(160))


def test_a_split_depends_on_its_seed_alone():
    y = np.repeat([0, 1], 50)
    parts = [split_by_class(y, 0.3, seed=seed)[1].tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_both_parts_hold_every_class(fraction):
    y = np.repeat([0, 1], [2, 7])
    for part in split_by_class(y, fraction, seed=0):
        assert set(y[part]) == {0, 1}


def test_a_class_of_one_sample_cannot_be_split():
    with pytest.raises(InputError, match="Class 'oak' has one sample"):
        split_by_class(np.array([0, 0, 1]), 0.5, seed=0, names=["elm", "oak"])
