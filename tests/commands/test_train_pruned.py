"""train/train_pruned.py and, on its result, train/train_qat.py as a user calls them."""

import csv
import pathlib

import numpy as np
import pytest

import keras_compress as kc
from keras_compress import zoo
from tests import workers, wrong_data

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "train" / "train_pruned.py"


@pytest.fixture(scope="module")
def command(load):
    return load("train_pruned")


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
def test_an_architecture_is_trained_first(call, tmp_path):
    done = call("--architecture=mlp", "--baseline_epochs=2", "--epochs=1", "--models_dir=made", "--augment=none")
    assert done.code == 0, done.err
    card = zoo.ModelCard.read(tmp_path / "made" / "digits_mlp.json")
    assert card.settings["epochs"] == 2
    result = kc.load_result(tmp_path / "quantized_models" / "digits_mlp_pruned")
    assert result.report.row("predictions").zeros == pytest.approx(0.8, abs=0.001)
    (row,) = csv.DictReader((tmp_path / "model_metrics" / "digits_mlp.csv").read_text().splitlines())
    assert float(row["float_top1"]) == pytest.approx(card.accuracy["test"], abs=1e-5)


@pytest.mark.slow
def test_images_are_augmented_where_that_is_asked_for(call, tmp_path):
    weights = []
    for augment in ("none", "shift", "shift"):
        assert call("tiny", "--epochs=1", f"--augment={augment}").code == 0
        weights.append(kc.load_result(tmp_path / "quantized_models" / "tiny_pruned").model.get_weights())
    np.testing.assert_array_equal(weights[1][0], weights[2][0])
    assert not np.array_equal(weights[0][0], weights[1][0])


@pytest.mark.slow
def test_two_workers_write_once(command, networks, tmp_path):
    flags = ["tiny", "--epochs=1", "--strategy=multiworker", f"--models_dir={networks}"]
    started = workers.start(lambda index: [SCRIPT, *flags], cwd=tmp_path)
    (first, second) = workers.finish(started)
    assert first[0] == second[0] == 0, (first, second)
    assert "top-1:" in first[1] and second[1] == ""
    assert first[2].splitlines()[0] == "worker 1 of 2: waiting for the others"
    assert (tmp_path / "quantized_models" / "tiny_pruned.keras").is_file()
    assert len(list(csv.DictReader((tmp_path / "model_metrics" / "tiny.csv").read_text().splitlines()))) == 1


@pytest.mark.slow
def test_bad_flags_are_one_line(call, tmp_path):
    for arguments, message in (
        (("tiny", "--m_by_n=2"), "m_by_n must be a tuple of two integers"),
        (("tiny", "--final_sparsity=1"), "final_sparsity must be a fraction"),
        (("tiny", "--learning_rate=0"), "--learning_rate must be above 0"),
        (("three",), "There is no model card"),
        (("tiny", "--augment=blur"), "--augment takes auto, none, shift, flip_shift"),
        (("--architecture=cnm", "--dataset=digits"), "architecture"),
        (("--architecture=cnn", "--strategy=multiworker"), "trained by one process"),
        (("tiny", "--strategy=multiworker"), "needs the variable TF_CONFIG"),
        (("--architecture=mlp", "--final_sparsity=1", "--models_dir=made"), "final_sparsity must be a fraction"),
        (("--architecture=mlp", "--m_by_n=2", "--models_dir=made"), "m_by_n must be a tuple of two integers"),
    ):
        done = call(*arguments)
        assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1, done.err
    assert not (tmp_path / "made").exists()  # nothing was trained for bad settings


def test_the_wrong_data_set_is_one_line(call, tmp_path):
    wrong_data.check(call, tmp_path)
