import csv
import os
import threading

import pytest

from keras_compress.errors import InputError, StorageError
from keras_compress.sweep.records import COLUMNS, SETTINGS, Records, key_of

ROW = {
    "time": "2026-11-22T03:45:25+00:00",
    "dataset": 'di,g"its',
    "model": "tiny",
    "method": "gpfq",
    "alphabet": "integer",
    "bits": 3,
    "levels": 7,
    "scalar": 1.1,
    "dense_scalar": 2.0,
    "radius": "",
    "samples": 100,
    "batch_size": None,
    "ignored_layers": "a b",
    "top1": 1 / 3,
    "layer_errors": {"conv, 1": 0.5, "dense": None},
    "macs": 10**12,
}


def filled(row):
    return {name: row.get(name, "" if column.kind is str else None) for name, column in COLUMNS.items()}


def test_rows_come_back_as_they_were_written(tmp_path):
    records = Records(tmp_path / "model_metrics" / "a.csv")
    assert records.rows == []
    records.append(ROW)
    records.append(ROW | {"effective_bits": 1.584962500721156})
    assert (
        Records(records.path).rows == records.rows == [filled(ROW), filled(ROW) | {"effective_bits": 1.584962500721156}]
    )


def test_a_row_is_on_the_disk_when_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    records = Records(tmp_path / "a.csv")
    records.append(ROW)
    assert synced == [records.path.stat().st_size]
    with records.path.open(newline="") as file:
        (cells,) = csv.DictReader(file)
    assert list(cells) == list(COLUMNS)
    assert cells["dataset"] == ROW["dataset"]
    assert cells["layer_errors"] == '{"conv, 1": 0.5, "dense": null}'


def test_the_reserved_columns_are_there_and_empty(tmp_path):
    records = Records(tmp_path / "a.csv")
    records.append(ROW)
    assert records.rows[0]["regularizer"] == "" and records.rows[0]["lambda"] is None


def test_a_file_of_an_older_program_gets_the_columns_that_it_lacks(tmp_path):
    records = Records(tmp_path / "a.csv")
    records.append(ROW)
    lines = [line.rsplit(",", 2)[0] for line in records.path.read_text().splitlines()]
    records.path.write_text("\n".join(lines) + "\n")
    again = Records(records.path)
    assert again.rows == [filled(ROW)]
    again.append(ROW | {"seed": 1, "tflite_top1": {"int8/small": 0.5, "float/fast": None}})
    assert [row["seed"] for row in Records(records.path).rows] == [row["seed"] for row in again.rows] == [None, 1]
    assert Records(records.path).rows[1]["tflite_top1"] == {"int8/small": 0.5, "float/fast": None}
    assert records.path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_key_is_the_same_after_reading(tmp_path):
    records = Records(tmp_path / "a.csv")
    records.append(ROW)
    read = Records(records.path)
    assert read.find(key_of(ROW)) == filled(ROW)
    read.drop([key_of(ROW | {"seed": 1})])  # rewrites nothing
    read.append(ROW | {"seed": 1})
    read.drop([key_of(ROW | {"seed": 1})])  # rewrites the first row
    assert Records(records.path).find(key_of(ROW)) == filled(ROW)
    assert read.find(key_of(ROW | {"seed": 1})) is None


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_tells_rows_apart(setting):
    assert key_of(ROW | {setting: "another"}) != key_of(ROW)


def test_what_was_measured_does_not(tmp_path):
    assert key_of(ROW | {"top1": 0.0, "time": "", "seconds": 1.0}) == key_of(ROW)


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_last_line_that_was_cut_off_is_as_if_it_were_not_there(tmp_path, kept):
    records = Records(tmp_path / "a.csv")
    records.append(ROW)
    whole = records.path.read_bytes()
    records.append(ROW | {"seed": 1})
    records.path.write_bytes(records.path.read_bytes()[: len(whole) + kept])
    again = Records(records.path)
    assert again.rows == [filled(ROW)]
    again.append(ROW | {"seed": 2})
    assert [row["seed"] for row in Records(records.path).rows] == [None, 2]


@pytest.mark.parametrize("content", [b"", b"time,data", b"\0" * 80])
def test_a_header_that_was_cut_off_starts_the_file_anew(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    Records(path).append(ROW)
    assert Records(path).rows == [filled(ROW)]


def test_other_rows_stay_when_some_are_dropped(tmp_path):
    records = Records(tmp_path / "a.csv")
    for seed in range(3):
        records.append(ROW | {"seed": seed})
    records.drop([key_of(ROW | {"seed": 1})])
    assert [row["seed"] for row in Records(records.path).rows] == [row["seed"] for row in records.rows] == [0, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("content", ["a,b\n1,2\n", ",".join(COLUMNS) + "\n1,2\n", '"\n'])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError, match="other columns than this program writes"):
        Records(path)
    assert path.read_text() == content


def test_a_cell_that_is_no_number_is_named(tmp_path):
    records = Records(tmp_path / "a.csv")
    records.append(ROW)
    records.path.write_text(records.path.read_text().replace("1.1", "one"))
    with pytest.raises(InputError, match="'one' in the column scalar"):
        Records(records.path)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        Records(tmp_path / "a.csv")


def test_an_unknown_column_is_a_fault(tmp_path):
    with pytest.raises(KeyError, match="accuracy"):
        Records(tmp_path / "a.csv").append({"accuracy": 1.0})


def test_several_programs_may_write_to_one_file(tmp_path):
    """Each has read the file at another time; a row that one of them replaces takes no other row with it."""
    path = tmp_path / "a.csv"
    first = Records(path)
    first.append(ROW)

    def write(seed):
        records = Records(path)
        for samples in range(20):
            records.append(ROW | {"seed": seed, "samples": samples})

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    first.drop([key_of(ROW)])
    for thread in threads:
        thread.join()
    rows = Records(path).rows
    assert sorted((row["seed"], row["samples"]) for row in rows) == [(s, n) for s in range(1, 5) for n in range(20)]


@pytest.mark.parametrize("cell", ["../evil", "/tmp/evil", ".", "..", ".hidden", "a/b"])
def test_a_path_in_place_of_a_name_is_refused(tmp_path, cell):
    records = Records(tmp_path / "rows.csv")
    records.append({"method": "msq", "file": "network"})
    path = tmp_path / "rows.csv"
    path.write_text(path.read_text().replace(",network,", f",{cell},"))
    with pytest.raises(InputError, match=r"in the column file\. Fix or remove its line"):
        Records(path)


@pytest.mark.parametrize(
    ("column", "cell"),
    [("layer_errors", "[1]"), ("layer_errors", '{"a": "b"}'), ("tflite_top1", "5"), ("top1", "nan"), ("top1", "1e999")],
)
def test_a_cell_holds_what_its_column_says(tmp_path, column, cell):
    path = tmp_path / "rows.csv"
    Records(path).append({"method": "msq"})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerow({"method": "msq", column: cell})
    with pytest.raises(InputError, match=rf"in the column {column}\. Fix or remove its line"):
        Records(path)


def test_a_cell_longer_than_the_csv_module_reads_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    Records(path).append({"method": "x" * 200_000})
    with pytest.raises(InputError, match="Fix or remove the line"):
        Records(path)
