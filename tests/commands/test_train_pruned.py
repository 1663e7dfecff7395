"""train/train_pruned.py and, on its result, train/train_qat.py as a user calls them."""

import csv

import numpy as np
import pytest

import keras_compress as kc
from keras_compress import zoo


@pytest.fixture(scope="module")
def command(load):
    return load("train/train_pruned.py")


@pytest.mark.slow
def test_a_network_is_pruned_and_recorded(call, tmp_path):
    done = call("tiny", "--epochs=2", "--final_sparsity=0.75", "--layers=predictions")
    assert done.code == 0, done.err
    result = kc.load_result(tmp_path / "quantized_models" / "tiny_pruned")
    assert set(result.masks) == {"predictions"}
    kernel = result.model.get_layer("predictions").kernel.numpy()
    assert np.mean(kernel == 0) == pytest.approx(0.75, abs=0.01)
    (row,) = csv.DictReader((tmp_path / "model_metrics" / "tiny.csv").read_text().splitlines())
    digits = zoo.load_dataset("digits")
    accuracy = kc.evaluate(result.model, digits.x_test[..., None] / 16, digits.y_test).top1
    assert float(row["top1"]) == accuracy and row["method"] == "prune_magnitude" and row["file"] == "tiny_pruned"
    assert f"{accuracy:.2%} after" in done.out and "target" in done.out
    assert list((tmp_path / "train_logs" / "tiny_pruned").rglob("events*"))
    assert (tmp_path / "quantized_models" / "tiny_pruned.card.json").is_file()


@pytest.mark.slow
def test_bad_flags_are_one_line(call):
    for arguments, message in (
        (("tiny", "--m_by_n=2"), "m_by_n must be a tuple of two integers"),
        (("tiny", "--final_sparsity=1"), "final_sparsity must be a share"),
        (("tiny", "--learning_rate=0"), "--learning_rate must be above 0"),
        (("three",), "There is no model card"),
    ):
        done = call(*arguments)
        assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1, done.err
