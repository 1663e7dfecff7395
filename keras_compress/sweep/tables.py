"""The rows of a grid as a table for people, at most 120 characters wide."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_compress.sweep.records import Row
from keras_compress.text import aligned

NOTE_SELECTION = "* best of its method by accuracy on training samples outside of the calibration"
NOTE_TEST = (
    "* best of its method by accuracy on these test samples, for want of other labelled ones: not an unbiased estimate"
)


def best_rows(rows: Iterable[Row]) -> dict[str, Row]:
    """The best row of each method: by `selection_top1` where it is known, else by top-1 on the test samples."""
    best: dict[str, Row] = {}
    for row in rows:
        if row["method"] not in best or merit(row) > merit(best[row["method"]]):
            best[row["method"]] = row
    return best


def is_selected_on_training(rows: Iterable[Row]) -> bool:
    """Whether `best_rows` needs no test samples."""
    return all(row["selection_top1"] is not None for row in rows)


def merit(row: Row) -> tuple[float, float]:
    """What makes a row better than another one: accuracy, then a small layer error."""
    selection = row["selection_top1"]
    return (row["top1"] if selection is None else selection, -(row["layer_error"] or 0.0))


def _percent(value: float) -> str:
    return f"{value:.2%}"


Column = tuple[str, Callable[[Row], Any], Callable[[Any], str]]  # heading, value of a row, its text

_COLUMNS: tuple[Column, ...] = (
    ("method", lambda row: row["method"], str),
    ("alphabet", lambda row: row["alphabet"], str),
    ("bits", lambda row: row["bits"], str),
    ("levels", lambda row: row["levels"], str),
    ("C", lambda row: row["scalar"], "{:g}".format),
    ("C dense", lambda row: row["dense_scalar"] if row["dense_scalar"] != row["scalar"] else None, "{:g}".format),
    ("samples", lambda row: row["samples"], "{:,}".format),
    ("top-1", lambda row: row["top1"], _percent),
    ("lost", lambda row: row["float_top1"] - row["top1"], _percent),
    ("top-5", lambda row: row["top5"], _percent),
    ("error", lambda row: row["layer_error"], _percent),
    ("zeros", lambda row: row["zeros"], "{:.1%}".format),
    ("kB ideal", lambda row: row["ideal_bytes"] / 1e3, "{:,.1f}".format),
    ("s", lambda row: row["seconds"], "{:.1f}".format),
)
_TEXT = ("method", "alphabet")
_FIRST_TO_GO = ("zeros", "top-5", "s")  # where a table is too wide; the CSV file has them
WIDTH = 120


def table(rows: Sequence[Row]) -> str:
    """Lines with one row for each configuration, the best of each method marked, and what the figures mean."""
    if not rows:
        return "no configurations"
    first = rows[0]
    chosen = {id(row) for row in best_rows(rows).values()}
    used = [column for column in (*_COLUMNS, *_exports(rows)) if any(column[1](row) is not None for row in rows)]
    lines = _aligned(rows, used, chosen)
    for heading in _FIRST_TO_GO:
        if max(map(len, lines)) > WIDTH:
            used = [column for column in used if column[0] != heading]
            lines = _aligned(rows, used, chosen)
    top5 = "" if first["float_top5"] is None else f", top-5 {first['float_top5']:.2%}"
    title = (
        f"{first['model']} on {first['test_samples']:,} test samples: float top-1 {first['float_top1']:.2%}{top5}, "
        f"{first['raw_bytes'] / 1e3:,.1f} kB"
    )
    return "\n".join([title, *lines, NOTE_SELECTION if is_selected_on_training(rows) else NOTE_TEST])


def _exports(rows: Sequence[Row]) -> list[Column]:
    """A column for each kind of TFLite file."""

    def top1_of(export: str) -> Callable[[Row], Any]:
        return lambda row: (row.get("tflite_top1") or {}).get(export)

    names = dict.fromkeys(export for row in rows for export in row.get("tflite_top1") or {})
    return [(export, top1_of(export), _percent) for export in names]


def _aligned(rows: Sequence[Row], columns: Sequence[Any], marked: set[int]) -> list[str]:
    cells = [[heading for heading, _, _ in columns]]
    cells += [["" if get(row) is None else show(get(row)) for _, get, show in columns] for row in rows]
    lines = aligned(cells, [place for place, (heading, _, _) in enumerate(columns) if heading in _TEXT])
    marks = ["", *(" *" if id(row) in marked else "" for row in rows)]
    width = max(map(len, lines))
    return [line.ljust(width) + mark if mark else line for line, mark in zip(lines, marks, strict=True)]
