"""A CSV table with a label column: numbers as they are, categories as one column of zeros and ones each."""

import csv
import pathlib

import numpy as np

from keras_compress.errors import InputError
from keras_compress.foreign import open_regular
from keras_compress.samples.splits import split_by_class
from keras_compress.zoo.encoding import MISSING, Column, TableEncoding, category_of, named_lines, number_in
from keras_compress.zoo.samples import Dataset, check_dataset

LABEL_NAMES = ("label", "target", "class")
MAX_CATEGORIES = 100  # a column of names or identifiers would become thousands of columns and teach nothing


def read_csv(path: pathlib.Path, *, seed: int, label_column: str | None, test_fraction: float) -> Dataset:
    """Reads a table and splits it class by class. Categories are those of the training rows.

    Args:
        path: UTF-8 text; the first line names the columns; commas, semicolons or tabs between them.
        seed: of the split.
        label_column: None takes the column named label, target or class, or the last one.
        test_fraction: fraction of the rows that become test rows.

    Raises:
        InputError: the table cannot be read or holds nothing to learn from.
    """
    header, rows, lines = read_rows(path)
    label_column = _find_label_column(header, label_column, path)
    texts = [row[label_column].strip() for row in rows]
    missing = [line for text, line in zip(texts, lines, strict=True) if text.lower() in MISSING]
    if missing:
        raise InputError(f"The label column {label_column!r} of {str(path)!r} is empty in {named_lines(missing)}.")
    class_names = _sorted_classes(set(texts))
    if len(class_names) > MAX_CATEGORIES:
        raise InputError(
            f"The label column {label_column!r} of {str(path)!r} has {len(class_names):,} different values. Expected: "
            f"classes, at most {MAX_CATEGORIES}. Name another column with --label_column: {', '.join(header)}."
        )
    positions = {name: index for index, name in enumerate(class_names)}
    labels = np.asarray([positions[text] for text in texts])
    first, second = split_by_class(labels, test_fraction, seed, names=class_names)
    names = [name for name in header if name != label_column]
    table = TableEncoding(tuple(_describe(name, rows, first, path) for name in names), label_column)
    x = table.encode(rows, lines=lines)
    arrays = {"x_train": x[first], "y_train": labels[first], "x_test": x[second], "y_test": labels[second]}
    return check_dataset(path.stem, arrays, repr(str(path)), class_names=class_names, table=table)


def read_rows(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]], list[int]]:
    """Reads the column names, the rows, and the line in which each row ends."""
    try:
        with open_regular(path, "table") as file:
            text = file.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
        numbered = [(cells, reader.line_num) for cells in reader if cells]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{str(path)!r} cannot be read as a CSV table: {error}.") from error
    if len(numbered) < 2:
        raise InputError(
            f"{str(path)!r} must hold a line of column names and lines of values. Received {len(numbered)} lines."
        )
    header = [name.strip() for name in numbered[0][0]]
    if all(number_in(name) is not None for name in header):
        raise InputError(
            f"The first line of {str(path)!r} must name the columns. Received numbers: {', '.join(header[:5])}."
        )
    if len(set(header)) != len(header) or len(header) < 2:
        raise InputError(
            f"{str(path)!r} must name two or more columns, each differently. Received: {', '.join(header)}."
        )
    for cells, line in numbered[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"Line {line} of {str(path)!r} has {len(cells)} values; the first line names {len(header)} columns."
            )
    rows = [dict(zip(header, cells, strict=True)) for cells, _ in numbered[1:]]
    return header, rows, [line for _, line in numbered[1:]]


def _find_label_column(header: list[str], label_column: str | None, path: pathlib.Path) -> str:
    if label_column is not None:
        if label_column not in header:
            raise InputError(f"{str(path)!r} has no column {label_column!r}. It has: {', '.join(header)}.")
        return label_column
    named = [name for label in LABEL_NAMES for name in header if name.lower() == label]
    return named[0] if named else header[-1]


def _describe(name: str, rows: list[dict[str, str]], training: np.ndarray, path: pathlib.Path) -> Column:
    cells = [category_of(row[name]) for row in rows]
    present = [cell for cell in cells if cell]
    if present and all(number_in(cell) is not None for cell in present):
        return Column(name)
    categories = sorted({cells[index] for index in training})
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"Column {name!r} of {str(path)!r} has {len(categories):,} different texts. Expected: numbers, or at most "
            f"{MAX_CATEGORIES} categories. Remove the column, or group its values."
        )
    return Column(name, tuple(categories))


def _sorted_classes(names: set[str]) -> list[str]:
    numbers = {name: number_in(name) for name in names}
    if any(number is None for number in numbers.values()):
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name], name))
