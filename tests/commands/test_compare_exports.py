"""quantize/compare_exports.py as a user calls it."""

import csv

import keras
import pytest

import keras_compress as kc
from keras_compress import zoo
from tests import wrong_data


@pytest.fixture(scope="module")
def command(load):
    return load("compare_exports")


def table_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_all_files_of_a_network(call, tmp_path):
    done = call("tiny", "--methods=gpfq", "--bits=4", "--levels=3", "--num_samples=40", "--rounds=3")
    assert done.code == 0, done.err
    folder, metrics = tmp_path / "quantized_models" / "tiny", tmp_path / "model_metrics" / "tiny"
    rows = table_of(metrics / "exports.csv")
    assert {(row["weights"], row["activations"]) for row in rows} == {
        *(("no codes", kind) for kind in ("float", "float16", "int16x8", "dynamic", "int8")),
        *((f"gpfq {width}", mode) for width in ("4 bits", "3 levels") for mode in ("float", "dynamic", "int8")),
    }
    digits = zoo.load_dataset("digits")
    for row in rows:
        file = folder / row["file"]
        assert int(row["bytes"]) == file.stat().st_size
        accuracy = kc.evaluate_tflite(file, digits.x_test[..., None] / 16, digits.y_test)
        assert float(row["top1"]) == accuracy.top1
        assert row["floats"] == ("0" if row["activations"].startswith("int") else "all")
        assert 0 < float(row["low"]) <= float(row["milliseconds"]) <= float(row["high"])
    assert {path.name for path in folder.iterdir()} == {row["file"] for row in rows}
    assert (metrics / "exports.png").read_bytes().startswith(b"\x89PNG")
    lines = done.out.splitlines()
    assert lines[0].startswith("tiny in Keras: top-1 ") and max(map(len, lines)) <= 120
    heading = lines[1].index("in floats")
    assert all(
        line[heading:].split()[0] == ("0" if " int" in line else "all")
        for line in lines
        if line.startswith(("no codes", "gpfq"))
    )
    assert sum(line.startswith("gpfq 4 bits") for line in lines) == sum(row["weights"] == "gpfq 4 bits" for row in rows)


@pytest.mark.slow
def test_a_result_is_exported_with_its_codes(call, networks, tmp_path):
    model = keras.saving.load_model(networks / "tiny.keras")
    kc.quantize(model, kc.MSQ(bits=4)).save(tmp_path / "w4")
    zoo.ModelCard.read(networks / "tiny.json").write(tmp_path / "w4.card.json")
    done = call("./w4.keras", "--num_samples=40", "--rounds=2")
    assert done.code == 0, done.err
    rows = table_of(tmp_path / "model_metrics" / "w4" / "exports.csv")
    assert {row["weights"] for row in rows} == {"codes"}
    assert {row["activations"] for row in rows} == {"float", "dynamic", "int8"}


@pytest.mark.slow
def test_what_cannot_be_exported_is_said(call, networks, tmp_path):
    model = keras.saving.load_model(networks / "tiny.keras")
    kc.quantize(model, kc.MSQ(alphabet=kc.Midtread(8))).save(tmp_path / "wide")
    zoo.ModelCard.read(networks / "tiny.json").write(tmp_path / "wide.card.json")
    done = call("./wide.keras", "--num_samples=40", "--rounds=2")
    assert done.code == 2 and "257 levels" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bare",), "There is no model card 'serialized_models/bare.json'."),
        (("tiny", "--methods=gptq"), "Unknown method: 'gptq'."),
        (("tiny", "--bits=two"), "--bits takes whole numbers with commas between. Received: two."),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(call, tmp_path, arguments, message):
    done = call(*arguments)
    assert done.code == 2 and done.err.count("\n") == 1 and message in done.err, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"serialized_models"}


def test_the_wrong_data_set_is_one_line(call, tmp_path):
    wrong_data.check(call, tmp_path)
