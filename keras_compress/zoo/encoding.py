"""How rows of text become rows of numbers."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_compress.errors import InputError

MISSING = ("", "?", "na", "n/a", "nan", "null", "none")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table. No categories: it holds numbers. A missing category is the category ""."""

    name: str
    categories: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TableEncoding:
    """How rows of text become rows of numbers; part of the model card, so that new rows can be encoded alike."""

    columns: tuple[Column, ...]
    label_column: str

    @property
    def feature_names(self) -> list[str]:
        """One name for each column of the result: `age`, `color=red`, `color=blue`."""
        return [
            name
            for column in self.columns
            for name in ([f"{column.name}={category}" for category in column.categories] or [column.name])
        ]

    def encode(self, rows: list[dict[str, str]], *, lines: list[int] | None = None) -> np.ndarray:
        """Encodes rows.

        Args:
            rows: for each row the text of every column. A category that the encoding does not know gives zeros.
            lines: for each row its line in the file, for messages.

        Returns:
            (rows, features) float32.

        Raises:
            InputError: a number is missing or cannot be read.
        """
        parts = []
        for column in self.columns:
            if column.categories:
                cells = [category_of(row[column.name]) for row in rows]
                parts.append(np.asarray([[cell == category for category in column.categories] for cell in cells]))
            else:
                numbers = [number_in(row[column.name]) for row in rows]
                bad = [index for index, number in enumerate(numbers) if number is None or not math.isfinite(number)]
                if bad:
                    raise InputError(_bad_numbers(column.name, rows, bad, lines))
                parts.append(np.asarray(numbers)[:, None])
        return np.concatenate(parts, axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TableEncoding":
        columns = tuple(Column(column["name"], tuple(column["categories"])) for column in fields["columns"])
        return cls(columns, fields["label_column"])


def number_in(text: str) -> float | None:
    """The number that a text is; None for any other text."""
    try:
        return float(text)
    except ValueError:
        return None


def category_of(text: str) -> str:
    """A text without the spaces around it; "" where it stands for nothing."""
    text = text.strip()
    return "" if text.lower() in MISSING else text


def _bad_numbers(name: str, rows: list[dict[str, str]], bad: list[int], lines: list[int] | None) -> str:
    place = named_lines([lines[index] for index in bad]) if lines else f"row {bad[0]}"
    return (
        f"Column {name!r} holds numbers, but in {place} the number is missing or not finite. "
        f"Received: {rows[bad[0]][name]!r}. Fill it in, or remove the row or the column."
    )


def named_lines(lines: list[int]) -> str:
    """Numbers of lines, for a message."""
    shown = ", ".join(map(str, lines[:5]))
    return f"line {shown}" if len(lines) == 1 else f"{len(lines):,} lines ({shown}{', ...' if len(lines) > 5 else ''})"
