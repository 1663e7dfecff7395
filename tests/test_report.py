"""One report for a person, a program and a plot."""

import json
import math
import sys
from xml.etree import ElementTree

import pytest

import keras_compress as kc
from keras_compress.report import LayerRow, Report, Step

DENSE = LayerRow(
    "encoder/dense", "Dense", "quantized", parameters=1234, alphabet="Integer(levels=3)", num_levels=3,
    effective_bits=math.log2(3), radius=0.25, relative_error=0.125, zeros=0.5, features=100, rows=2000, form="gram",
    bias="centered", seconds=1.5,
)  # fmt: skip
NORM = LayerRow("norm", "BatchNormalization", "float", "is not known", parameters=8)
OTHER = LayerRow("norm2", "BatchNormalization", "float", "is not known", parameters=8)


@pytest.fixture
def report():
    fold = Step("fold_batch_normalization", {}, [LayerRow("norm", "BatchNormalization", "kept", "why")], {"folded": 0})
    return Report((fold, Step("quantize", {"seed": 3}, [DENSE, NORM, OTHER], {"seconds": 2.0, "samples": 500})))


def test_the_newest_row_of_a_layer_counts(report):
    assert report.row("norm") is NORM
    assert report.row("encoder/dense") is DENSE
    with pytest.raises(KeyError, match=r"'nowhere' is no layer of this report. Its layers: norm, encoder/dense, norm2"):
        report.row("nowhere")


def test_a_report_is_continued_and_never_changed(report):
    longer = report.extended(Step("prune", {}))
    assert [step.technique for step in longer.steps] == ["fold_batch_normalization", "quantize", "prune"]
    assert len(report.steps) == 2


def test_it_comes_back_from_json(report):
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert Report.from_dict(Report().to_dict()) == Report()


def test_rows_come_back_entry_for_entry(report):
    back = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert [step.rows for step in back.steps] == [step.rows for step in report.steps]


def test_zeros_and_exact_errors_are_not_taken_for_missing():
    """0 is a figure; only None and the empty text mean that there is none."""
    row = LayerRow("dense", "Dense", "quantized", relative_error=0.0, zeros=0.0, seconds=0.0)
    assert {"relative_error", "zeros", "seconds", "parameters"} <= set(row.to_dict())
    assert LayerRow(**row.to_dict()) == row


def test_reports_are_equal_if_all_their_entries_are(report):
    assert report != Report()
    assert report != "a text"
    assert report != Report((report.steps[0],))


def test_the_text_has_a_line_for_each_layer_with_its_figures(report):
    lines = str(report).splitlines()
    (line,) = [line for line in lines if line.startswith("encoder/dense")]
    for cell in ("Dense", "quantized", "1,234", "3", "1.58", "0.25", "12.50%", "50.0%", "gram", "centered", "1.50 s"):
        assert cell in line


def test_the_text_says_each_reason_once_with_all_its_layers(report):
    assert str(report).count("is not known") == 1
    assert "norm, norm2: is not known" in str(report)


def test_the_text_names_steps_settings_and_figures(report):
    text = str(report)
    assert text.index("fold_batch_normalization()") < text.index("quantize(seed=3)")
    assert "samples: 500" in text and "seconds: 2" in text


def test_columns_are_aligned(report):
    header, *rows = str(report).split("\n\n")[1].splitlines()[1:5]
    assert all(row[header.index("type") - 1] == " " and row[header.index("type")] != " " for row in rows)


def test_columns_without_a_figure_are_left_out():
    text = str(Report((Step("prune", {}, [NORM]),)))
    assert "error" not in text and "levels" not in text


def test_an_empty_report_says_so():
    assert str(Report()) == "nothing was done"


def test_rows_of_activations_and_of_statistics_have_their_own_columns():
    activation = LayerRow(
        "relu_quantized", "ReLU", "quantized", num_levels=256, effective_bits=8.0, relative_error=0.01, low=0.0,
        high=5.1, scale=0.02, zero_point=-128, clipped=0.0012,
    )  # fmt: skip
    norm = LayerRow("norm", "BatchNormalization", "recalibrated", mean_moved=0.25, variance_ratio=1.5, rows=400)
    report = Report((Step("quantize_activations", {}, [activation]), Step("recalibrate", {}, [norm])))
    first, second = str(report).split("\n\n")
    header, line = first.splitlines()[1:]
    assert " ".join(header.split()) == "layer type done levels effective bits range scale zero clipped error"
    assert line.split()[3:] == ["256", "8.00", "0", "..", "5.1", "0.02", "-128", "0.12%", "1.00%"]
    header, line = second.splitlines()[1:]
    assert "params" not in header and line.split()[3:] == ["0.250", "x", "1.500"]
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_at_a_prompt_it_is_its_table(report):
    assert repr(report) == str(report)


def test_in_a_notebook_it_is_a_table(report):
    step = Step(
        "quantize",
        {"quantizer": "<GPFQ>"},
        [LayerRow("a<b", "Dense", "quantized", effective_bits=2.0)],
        {"seconds": 1.0},
    )
    document = ElementTree.fromstring(
        f"<body>{kc.Report((*report.steps, step))._repr_html_()}</body>".replace("<br>", "")
    )
    tables = document.findall("table")
    assert len(tables) == sum(bool(each.rows) for each in (*report.steps, step))
    assert [cell.text for cell in tables[-1].iter("td")] == ["a<b", "Dense", "quantized", "2.00"]
    assert "quantize(quantizer=<GPFQ>)" in "".join(document.itertext())
    assert "nothing was done" in kc.Report()._repr_html_()


def test_it_becomes_a_data_frame(report, monkeypatch):
    frame = report.to_dataframe()
    rows = [row for step in report.steps for row in step.rows]
    assert list(frame["path"]) == [row.path for row in rows]
    assert list(frame.columns[:2]) == ["step", "technique"] and not frame.isna().all().any()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(kc.InputError, match=r"needs pandas. Install it"):
        report.to_dataframe()
