"""The table of a network's files."""

import csv

from keras_compress.sweep.exports import ExportRow, exports_table, write_exports

FIGURES = {
    "top1": 0.5, "bytes": 2000, "gzipped_bytes": 1000, "milliseconds": 0.1, "low": 0.1, "high": 0.2, "ratio": 1.0,
}  # fmt: skip
ROWS = [
    ExportRow("no codes", "float", floats="all", **FIGURES),
    ExportRow("gpfq 4 bits", "int8", "fast, small", floats="0", **FIGURES),
    ExportRow("gpfq 4 bits", "int8", "fast", floats="7 MUL, 7 ADD, 2 ELU, 1 SELU", **FIGURES),
    ExportRow("gpfq 4 bits", "int8", "small", reason="no range"),
]


def test_the_table_names_two_kinds_of_operators_in_floating_point_and_counts_the_others():
    lines = exports_table(ROWS, 0.75).splitlines()
    start = lines[0].index("in floats")
    for line, cell in zip(lines[1:4], ("all", "0", "7 MUL, 7 ADD, 3 more"), strict=True):
        assert line[start:].startswith(f"{cell}  ") and len(line) <= 120
    assert lines[4] == "no file of gpfq 4 bits, activations int8, small: no range"


def test_the_file_names_all_of_them(tmp_path):
    write_exports(ROWS, tmp_path / "exports.csv")
    with (tmp_path / "exports.csv").open(newline="") as file:
        floats = [row["floats"] for row in csv.DictReader(file)]
    assert floats == ["all", "0", "7 MUL, 7 ADD, 2 ELU, 1 SELU", ""]
