import csv

import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.zoo.datasets import load_dataset
from keras_compress.zoo.encoding import Column, TableEncoding

HEADER = ["length", "color", "species"]
ROWS = [["1.5", "red", "oak"], ["2.5", "blue", "elm"], ["-3", "", "oak"], ["4e1", " red ", "elm"]] * 3


@pytest.fixture
def write(tmp_path):
    """Writes a table and returns its path."""

    def write(rows: list[list[str]], header: list[str] = HEADER, delimiter: str = ",") -> str:
        path = tmp_path / "trees.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows([header, *rows])
        return str(path)

    return write


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_become_numbers(write, delimiter):
    dataset = load_dataset(write(ROWS, delimiter=delimiter))
    assert dataset.name == "trees"
    assert dataset.kind == "table"
    assert dataset.class_names == ["elm", "oak"]
    assert dataset.table == TableEncoding((Column("length"), Column("color", ("", "blue", "red"))), "species")
    assert dataset.table.feature_names == ["length", "color=", "color=blue", "color=red"]
    every = {tuple(row) for row in np.concatenate([dataset.x_train, dataset.x_test]).tolist()}
    assert every == {(1.5, 0, 0, 1), (2.5, 0, 1, 0), (-3, 1, 0, 0), (40, 0, 0, 1)}
    assert dataset.x_train.dtype == np.float32


def test_labels_follow_their_rows(write):
    rows = [[str(number), "red", "even" if number % 2 == 0 else "odd"] for number in range(40)]
    dataset = load_dataset(write(rows))
    for x, y in ((dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test)):
        assert np.array_equal(x[:, 0] % 2, y)  # classes are sorted: even, odd
    assert len(dataset.x_test) == 8


@pytest.mark.parametrize(
    ("header", "asked", "expected"),
    [
        (["a", "b", "c"], None, "c"),
        (["Target", "b", "c"], None, "Target"),
        (["class", "label", "c"], None, "label"),
        (["a", "label", "c"], "a", "a"),
    ],
)
def test_the_label_column_is_found(write, header, asked, expected):
    rows = [[str(index % 2)] * 3 for index in range(8)]
    assert load_dataset(write(rows, header), label_column=asked).table.label_column == expected


def test_numbers_as_classes_are_in_their_order(write):
    rows = [["1", "red", str(label)] for label in (10, 9, 2)] * 2
    assert load_dataset(write(rows)).class_names == ["2", "9", "10"]


def test_an_encoding_comes_back_from_its_dictionary_and_encodes_new_rows(write):
    table = load_dataset(write(ROWS)).table
    copy = TableEncoding.from_dict(table.to_dict())
    assert copy == table
    assert copy.encode([{"length": "7", "color": "green"}]).tolist() == [[7, 0, 0, 0]]
    assert copy.encode([{"length": "7", "color": "NA"}]).tolist() == [[7, 1, 0, 0]]


def test_categories_are_those_of_the_training_rows(write):
    rows = [[str(index), f"color{index}", "oak"] for index in range(10)] + [["1", "red", "elm"]] * 10
    dataset = load_dataset(write(rows))
    categories = dataset.table.columns[1].categories
    assert len(categories) == 8 + 1  # a fifth of the ten oaks are test rows
    assert dataset.x_test[:, 1:].sum(axis=1).tolist().count(0.0) == 2


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (
            [*ROWS, ["", "red", "oak"]],
            HEADER,
            "Column 'length' holds numbers, but in line 14 .* Received: ''. Fill it in",
        ),
        ([["inf", "red", "oak"], *ROWS], HEADER, "Column 'length' .* line 2 .*Received: 'inf'"),
        ([["?", "a", "oak"], ["nan", "a", "elm"], *ROWS], HEADER, r"in 2 lines \(2, 3\) the number is missing"),
        ([*ROWS, ["1", "red", ""]], HEADER, "The label column 'species' of .* is empty in line 14"),
        ([*ROWS, ["1", "red"]], HEADER, "Line 14 of .* has 2 values; the first line names 3 columns"),
        ([*ROWS, ["1", "red", "fir"]], HEADER, "Class 'fir' has one sample"),
        (
            [[str(i), "red", str(i)] for i in range(200)],
            HEADER,
            "has 200 different values. Expected: classes, at most 100",
        ),
        ([["1", f"c{i}", "ab"[i % 2]] for i in range(200)], HEADER, "Column 'color' of .* has 160 different texts"),
        ([["1", "red", "oak"]] * 4, HEADER, "at least two classes"),
        (ROWS, ["1", "2", "3"], "first line of .* must name the columns. Received numbers: 1, 2, 3"),
        (ROWS, ["a", "a", "b"], "each differently. Received: a, a, b"),
        ([["1"], ["2"]], ["a"], "must name two or more columns"),
        ([], HEADER, "Received 1 lines"),
    ],
)
def test_a_bad_table_is_refused(write, rows, header, message):
    with pytest.raises(InputError, match=message):
        load_dataset(write(rows, header))


def test_an_unknown_label_column_is_refused(write):
    with pytest.raises(InputError, match=r"has no column 'kind'. It has: length, color, species"):
        load_dataset(write(ROWS), label_column="kind")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'a,b\n"1,2\n', b""])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.csv"):
        load_dataset(str(path))
