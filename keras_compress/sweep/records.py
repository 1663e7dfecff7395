"""Records: a CSV file that grows by one row the moment a configuration is known, and survives being cut off."""

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keras_compress.errors import InputError, StorageError
from keras_compress.files import locked, replacing
from keras_compress.foreign import parse_json

Row = dict[str, Any]
Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """What a column holds; `None` is an empty cell."""

    kind: type  # str, int, float, or dict, which is written as JSON
    meaning: str
    is_setting: bool = False  # settings make the key: a row with the same ones need not be computed again


COLUMNS: dict[str, Column] = {
    "time": Column(str, "when the row was written, ISO 8601 with time zone"),
    "dataset": Column(str, "data set", True),
    "model": Column(str, "model", True),
    "method": Column(str, "name from quantization.presets", True),
    "alphabet": Column(str, "name from ALPHABETS", True),
    "bits": Column(int, "bits that were asked for; empty: levels were", True),
    "levels": Column(int, "number of levels", True),
    "scalar": Column(float, "C, the factor on the radius", True),
    "dense_scalar": Column(float, "C of Dense layers", True),
    "radius": Column(str, "rule for the radius; empty: the alphabet's own", True),
    "patches": Column(str, "joint or per_channel; empty: does not apply", True),
    "samples": Column(int, "calibration samples", True),
    "batch_size": Column(int, "samples that are read and kept at a time; empty: one block", True),
    "seed": Column(int, "of the choice of samples", True),
    "form": Column(str, "auto, gram or direct; empty: does not apply", True),
    "folded": Column(int, "BatchNorm layers folded before quantizing", True),
    "ignored_layers": Column(str, "patterns of layers left in floating point", True),
    "fingerprint": Column(str, "of weights, calibration samples and test samples", True),
    "float_top1": Column(float, "top-1 on the test samples before"),
    "float_top5": Column(float, "top-5 before; empty below six classes"),
    "top1": Column(float, "top-1 on the test samples after"),
    "top5": Column(float, "top-5 after"),
    "selection_top1": Column(float, "top-1 on training samples outside of the calibration, to choose settings by"),
    "test_samples": Column(int, "samples behind top-1 and top-5"),
    "layer_error": Column(float, "mean of layer_errors"),
    "layer_errors": Column(dict, "relative error of each quantized layer's outputs, as JSON"),
    "zeros": Column(float, "fraction of quantized weights that are zero"),
    "parameters": Column(int, "numbers in all weights"),
    "nonzeros": Column(int, "those that are not zero"),
    "macs": Column(int, "multiplications for one sample"),
    "raw_bytes": Column(int, "all weights as float32"),
    "gzipped_bytes": Column(int, "the same after gzip"),
    "ideal_bytes": Column(int, "codes at effective_bits, scales, and what is not quantized"),
    "seconds": Column(float, "of quantizing; the first row of a number of samples includes the analog network's pass"),
    "peak_memory_mb": Column(float, "largest resident memory of the process meanwhile, 10^6 bytes"),
    "file": Column(str, "NAME of NAME.keras, NAME.codes.npz, NAME.json; empty: not saved"),
    "regularizer": Column(str, "l0 or l1; empty: does not apply", True),
    "lambda": Column(float, "price of a level that is not zero, in units of weights; empty: does not apply", True),
    "tflite_top1": Column(dict, "top-1 of each .tflite file on the test samples, as JSON; null: it cannot be exported"),
    "tflite_bytes": Column(dict, "bytes of each .tflite file, as JSON"),
    "effective_bits": Column(float, "log2(levels)"),
}  # new columns go to the end: a file that lacks the last ones is one of an older program
FILE_NAMES = ("file",)  # names of files next to the records: never a path
LONGEST_SHOWN = 80  # characters of a cell in a message
SETTINGS = tuple(name for name, column in COLUMNS.items() if column.is_setting)


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells configurations apart: the text of the settings."""
    return tuple(_text(row.get(name)) for name in SETTINGS)


class Records:
    """The rows of a CSV file.

    A last line without its end, which a killed program leaves, is as if it were not there, and is removed by the next
    row. Several programs may write to one file.

    Args:
        path: of the file; it need not exist, and is made with the first row.

    Raises:
        InputError: the file has other columns than `COLUMNS`, or is no such file.
        StorageError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self._lacks_columns = False
        self.rows: list[Row] = [_parsed(cells) for cells in self._read()]

    def find(self, key: Key) -> Row | None:
        """The newest row with these settings."""
        return next((row for row in reversed(self.rows) if key_of(row) == key), None)

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes a row through to the disk.

        Raises:
            KeyError: a name that is no column.
        """
        unknown = sorted(row.keys() - COLUMNS.keys())
        if unknown:
            raise KeyError(f"no columns: {unknown}")
        complete = {name: row.get(name) for name in COLUMNS}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._lacks_columns:
            self._rewrite(lambda row: True)
        with locked(self.path.parent), self.path.open("ab+") as file:
            whole = self._end_of_last_line(file)
            file.truncate(whole)
            file.write(
                _lines([COLUMNS, map(_text, complete.values())] if whole == 0 else [map(_text, complete.values())])
            )
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(_parsed([_text(value) for value in complete.values()]))

    def drop(self, keys: Iterable[Key]) -> None:
        """Removes the rows with these settings; others stay as they are."""
        dropped = set(keys)
        if not any(key_of(row) in dropped for row in self.rows):
            return
        self._rewrite(lambda row: key_of(row) not in dropped)

    def _rewrite(self, keep: Callable[[Row], bool]) -> None:
        with locked(self.path.parent), replacing(self.path) as part:
            self.rows = [row for row in map(_parsed, self._read()) if keep(row)]
            part.write_bytes(_lines([COLUMNS, *(map(_text, row.values()) for row in self.rows)]))
        self._lacks_columns = False

    def _read(self) -> list[list[str]]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"The records {str(self.path)!r} cannot be read ({error.strerror}).") from error
        text = content[: content.rfind(b"\n") + 1].decode(errors="replace")
        try:
            lines = list(csv.reader(io.StringIO(text)))
        except csv.Error as error:
            raise InputError(
                f"The records {str(self.path)!r} cannot be read ({error}). Fix or remove the line with that cell."
            ) from error
        if not lines:
            return []
        width = len(lines[0])
        if lines[0] != list(COLUMNS)[:width] or any(len(cells) != width for cells in lines):
            raise InputError(
                f"{str(self.path)!r} has other columns than this program writes. Move it away, or name another folder."
            )
        self._lacks_columns = width < len(COLUMNS)
        return [[*cells, *[""] * (len(COLUMNS) - width)] for cells in lines[1:]]

    @staticmethod
    def _end_of_last_line(file: Any) -> int:
        file.seek(0)
        return file.read().rfind(b"\n") + 1


def _lines(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _text(value: Any) -> str:
    """A cell; the same text again for what `_parsed` makes of it."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return " ".join(str(value).split())


def _parsed(cells: list[str]) -> Row:
    row: Row = {}
    for (name, column), cell in zip(COLUMNS.items(), cells, strict=True):
        try:
            row[name] = _value(name, column, cell)
        except (ValueError, RecursionError) as error:
            shown = cell if len(cell) <= LONGEST_SHOWN else cell[:LONGEST_SHOWN] + "..."
            raise InputError(f"A record has {shown!r} in the column {name}. Fix or remove its line.") from error
    return row


def _value(name: str, column: Column, cell: str) -> Any:
    """What a cell holds; anyone may have written it.

    Raises:
        ValueError: something else than `COLUMNS` says.
    """
    if not cell:
        return "" if column.kind is str else None
    if column.kind is dict:
        return _numbers(cell)
    if column.kind is float and not math.isfinite(float(cell)):
        raise ValueError("not finite")
    if name in FILE_NAMES and (pathlib.PurePath(cell).name != cell or cell.startswith(".") or "\0" in cell):
        raise ValueError("a path, and no name")
    return column.kind(cell)


def _numbers(cell: str) -> dict[str, float | None]:
    values = parse_json(cell)
    if not isinstance(values, dict) or not all(
        value is None or (isinstance(value, (int, float)) and math.isfinite(value)) for value in values.values()
    ):
        raise ValueError("no numbers by name")
    return values
