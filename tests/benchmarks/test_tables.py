"""Means of rows over seeds, and the tables and pictures made of them."""

import pytest
from harness import tables

from keras_compress.errors import InputError
from keras_compress.quantization.presets import PRESETS
from keras_compress.sweep.records import Records

ROW = {
    "dataset": "digits", "model": "net", "method": "gpfq", "alphabet": "integer", "bits": 3, "levels": 7,
    "scalar": 1.0, "dense_scalar": 1.0, "radius": "", "samples": 500, "seed": 0, "folded": 0,
    "fingerprint": "aaaaaaaaaaaa", "float_top1": 0.95, "top1": 0.90, "layer_error": 0.10, "zeros": 0.3,
    "raw_bytes": 1000, "ideal_bytes": 100,
}  # fmt: skip


def rows_of(*changes):
    return [ROW | change for change in changes]


def test_every_method_is_in_the_tables():
    assert set(tables.METHODS) == set(PRESETS) and set(tables.COMPARED) <= set(PRESETS)


def test_means_and_deviations_over_seeds():
    rows = rows_of(*({"seed": seed, "top1": top1, "layer_error": top1 / 10} for seed, top1 in enumerate((0.5, 0.6))))
    (mean,) = tables.summary(rows)
    assert (mean["top-1"], mean["top-1 std"], mean["seeds"]) == (55.0, pytest.approx(7.07, abs=0.005), 2)
    assert (mean["layer error"], mean["layer error std"]) == (5.5, pytest.approx(0.71, abs=0.005))
    assert (mean["width"], mean["label"], mean["float"]) == ("3 bits", "GPFQ, centred", 95.0)
    assert tables.summary(rows[:1])[0]["top-1 std"] is None


def test_widths_rise_and_methods_keep_their_order():
    rows = rows_of(*({"method": method, "levels": levels} for method in ("gpfq", "msq") for levels in (15, 3)))
    order = [(row["width"], row["method"]) for row in tables.summary(rows)]
    assert order == [("ternary", "msq"), ("ternary", "gpfq"), ("4 bits", "msq"), ("4 bits", "gpfq")]


def test_only_rows_of_the_last_weights_count(tmp_path):
    records = Records(tmp_path / "net.csv")
    for row in rows_of(
        {"fingerprint": "aaaaaaaaaaaa", "method": "msq"},  # of weights that were trained anew since
        {"fingerprint": "bbbbbbbbbbbb", "top1": 0.1},
        {"fingerprint": "bbbbbbbbbbbb", "top1": 0.2},
        {"fingerprint": "cccccccccccc", "seed": 1},  # another seed draws other samples
        {"fingerprint": "bbbbbbbbbbbb", "method": "gpfq", "radius": "max"},  # of no method in the tables
    ):
        records.append(row)
    current = tables.read(tmp_path, ["net", "absent"])
    assert [(row["method"], row["seed"], row["top1"]) for row in current] == [("gpfq", 0, 0.2), ("gpfq", 1, 0.9)]


def test_readme_shows_the_best_of_each_width_next_to_gpfq_and_msq():
    block = tables.readme_block(
        rows_of(
            {"method": "msq", "levels": 3, "top1": 0.2},
            {"method": "gpfq", "levels": 3, "top1": 0.6},
            {"method": "beacon", "levels": 3, "top1": 0.7, "layer_error": 0.2},
            {"method": "gpfq", "levels": 7, "top1": 0.9, "layer_error": 0.2},
            {"method": "optq", "levels": 7, "top1": 0.9, "layer_error": 0.1},  # as good, and nearer
        )
    )
    assert block.splitlines() == [
        "| network | float | width | best method | top-1 | layer error | GPFQ, centred | MSQ |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
        "| net | 95.00 | ternary | Beacon | **70.00** | 20.00 % | 60.00 | 20.00 |",
        "|  |  | 3 bits | OPTQ | **90.00** | 10.00 % | 90.00 |  |",
    ]


def test_the_full_table_has_a_line_for_each_method_and_two_columns_for_each_width():
    means = tables.summary(
        rows_of(
            {"method": "msq", "levels": 3, "top1": 0.2, "layer_error": 0.5},
            {"method": "msq", "levels": 3, "top1": 0.3, "layer_error": 0.5, "seed": 1},
            {"method": "gpfq", "levels": 3, "top1": 0.6, "layer_error": 0.4},
            {"method": "gpfq", "levels": 7, "top1": 0.9, "layer_error": 0.1},
        )
    )
    (heading, table), = tables.network_tables(means).items()  # fmt: skip
    assert heading == "net, float 95.00"
    assert table.splitlines() == [
        "| method | ternary | error | 3 bits | error |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| MSQ | 25.00 ± 7.07 | 50.00 |  |  |",
        "| GPFQ, centred | **60.00** | **40.00** | **90.00** | **10.00** |",
    ]


def test_a_document_gets_the_block_between_its_marks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n" + "old\n".join(tables.MARKS) + "after\n")
    tables.replace_block(path, "new")
    assert path.read_text() == "before\n" + "new\n".join(tables.MARKS) + "after\n"
    path.write_text("no marks\n")
    with pytest.raises(InputError, match="accuracy-table"):
        tables.replace_block(path, "new")
    assert path.read_text() == "no marks\n"


@pytest.mark.slow
def test_pictures_have_a_panel_for_each_network_and_width(tmp_path):
    rows = rows_of(
        *(
            {"model": model, "method": method, "levels": levels, "seed": seed, "top1": 0.9 + seed}
            for model in ("one", "two", "three")
            for method in PRESETS
            for levels in (3, 7)
            for seed in (0, 0.01)
        )
    )
    paths = tables.draw(tables.summary(rows), tmp_path, "accuracy")
    assert [path.name for path in paths] == ["accuracy.png", "accuracy_layer_errors.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
