"""train/train_qat.py as a user calls it."""

import csv

import pytest

import keras_compress as kc
from keras_compress import zoo
from tests import wrong_data


@pytest.fixture(scope="module")
def command(load):
    return load("train_qat")


@pytest.mark.slow
def test_a_network_is_trained_quantization_aware_and_recorded(call, tmp_path):
    done = call("tiny", "--epochs=2", "--bits=4")
    assert done.code == 0, done.err
    result = kc.load_result(tmp_path / "quantized_models" / "tiny_qat4")
    assert set(result.kernels) == {"conv", "predictions"}
    (row,) = csv.DictReader((tmp_path / "model_metrics" / "tiny.csv").read_text().splitlines())
    digits = zoo.load_dataset("digits")
    x = digits.x_test[..., None] / 16
    assert float(row["top1"]) == kc.evaluate(result.model, x, digits.y_test).top1
    assert row["method"] == "quantization_aware_training" and row["bits"] == "4" and row["levels"] == "15"
    file = tmp_path / "quantized_models" / "tiny_qat4.tflite"
    assert f"TFLite:   {kc.evaluate_tflite(file, x, digits.y_test).top1:.2%}" in done.out


@pytest.mark.slow
def test_a_file_that_is_refused_does_not_cost_the_training(call, tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise kc.InputError("there is no such operator")

    monkeypatch.setattr("keras_compress.export.tflite.export_tflite", refuse)
    done = call("tiny", "--epochs=1")
    assert done.code == 0 and "TFLite:   no file: there is no such operator" in done.out
    assert kc.load_result(tmp_path / "quantized_models" / "tiny_qat").kernels
    assert (tmp_path / "model_metrics" / "tiny.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--activation_bits=none"], ["--engine=tfmot"]], ids=" ".join)
@pytest.mark.sampled(1)
def test_other_ways_have_files_too(call, tmp_path, flags):
    done = call("tiny", "--epochs=1", "--bits=4", *flags)
    assert done.code == 0 and "TFLite:  " in done.out and "no file" not in done.out
    assert (tmp_path / "quantized_models" / "tiny_qat4.tflite").is_file()


@pytest.mark.slow
def test_each_run_has_logs_of_its_own(call, tmp_path):
    for _ in range(2):
        assert call("tiny", "--epochs=1").code == 0
    runs = sorted(path.name for path in (tmp_path / "train_logs" / "tiny_qat").iterdir())
    assert runs == ["run_1", "run_2"]


@pytest.mark.slow
def test_bad_flags_are_one_line(call):
    done = call("tiny", "--bits=1")
    assert done.code == 2 and "bits must be an integer from 2 to 8" in done.err
    done = call("tiny", "--activation_bits=many")
    assert done.code == 2 and "--activation_bits takes none or an integer" in done.err


def test_the_wrong_data_set_is_one_line(call, tmp_path):
    wrong_data.check(call, tmp_path)
