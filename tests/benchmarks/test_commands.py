"""Benchmarks from the command line: their help, and small runs of those that write tables."""

import csv
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from harness import tables

from keras_compress.sweep.records import Records

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = sorted((ROOT / "benchmarks").glob("*.py"))


def run(command: str, *arguments: str, folder: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / command), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [path.name for path in COMMANDS])
def test_every_benchmark_answers_help_and_refuses_an_unknown_flag(command):
    helped = run(command, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert f"python benchmarks/{command}" in helped.stdout  # the docstring holds the command
    assert "--results_dir" in helped.stdout
    refused = run(command, "--no_such_flag=1")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """A folder with few images under the name of mnist, and an untrained network under that of a foreign one."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("test", 30)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"y_{part}"] = np.arange(count, dtype=np.uint8) % 10
    np.savez(folder / "mnist.npz", **arrays)
    (folder / "models").mkdir()
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(2, 5, strides=4), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    keras.Sequential([keras.Input((28, 28, 1)), *layers]).save(folder / "models" / "deepxplore_mnist_lenet1.keras")
    return folder


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_accuracy_goes_on_where_it_stopped_and_writes_the_readme(data, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("old\n".join(tables.MARKS))
    small = [f"--data={data}", "--networks=deepxplore_lenet1", "--num_samples=8", "--bits=3", "--results_dir=."]
    first = run("accuracy.py", *small, "--levels=3", "--methods=msq,beacon", "--seeds=0", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    records = tmp_path / "accuracy" / "deepxplore_lenet1.csv"
    before = Records(records).rows
    assert [(row["method"], row["levels"], row["radius"]) for row in before] == [
        ("msq", 7, ""), ("beacon", 7, ""), ("msq", 3, ""), ("beacon", 3, ""),
    ]  # fmt: skip
    second = run(
        "accuracy.py", *small, "--levels=3", "--methods=msq,beacon", "--seeds=0,1", f"--readme={readme}",
        folder=tmp_path,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    after = Records(records).rows
    assert after[:4] == before and len(after) == 8
    assert second.stdout.strip() in readme.read_text()
    assert "| deepxplore_lenet1 |" in second.stdout
    with (tmp_path / "accuracy.csv").open() as file:
        means = list(csv.DictReader(file))
    assert [(row["method"], row["width"], row["seeds"]) for row in means] == [
        ("msq", "ternary", "2"), ("beacon", "ternary", "2"),
        ("msq", "3 bits", "2"), ("beacon", "3 bits", "2"),
    ]  # fmt: skip
    assert (tmp_path / "accuracy.md").is_file() and (tmp_path / "accuracy.png").is_file()


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_methods_are_timed_next_to_their_floor_or_say_what_they_need(tmp_path):
    done = run(
        "methods.py", "--methods=msq,gpfq,optq", "--channels=16", "--units=4", "--conv_images=4", "--fc_images=30",
        "--memory_budget=4MB", "--repetitions=1", "--results_dir=.",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows_of = {}
    for name in ("conv_N_144", "fc_N_784", "fc_N_784_refused"):
        with (tmp_path / f"methods_{name}.csv").open() as file:
            rows_of[name] = {row["method"]: row for row in csv.DictReader(file)}
    conv, fc, refused = rows_of.values()
    assert list(conv) == ["MSQ", "GPFQ, centred", "OPTQ"]
    assert [row["form"] for row in conv.values()] == ["none", "gram", "gram"]
    assert conv["MSQ"]["floor s"] == "" and float(conv["OPTQ"]["solver / floor"]) > 0
    assert all(row["within 4 GiB"] == "yes" and float(row["peak GiB"]) > 0.1 for row in conv.values())
    assert [row["form"] for row in fc.values()] == ["none", "direct"]
    assert "MB for matrices of 784 x 784" in refused["OPTQ"]["refused"]


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_files_of_integers_stand_next_to_the_simulation_of_their_ranges(data, tmp_path):
    done = run(
        "tflite.py", f"--data={data}", "--parts=files", "--networks=deepxplore_lenet1", "--unlabelled=",
        "--widths=4 bits", "--storages=small", "--num_samples=20", "--results_dir=.",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "tflite_files_files.csv").open() as file:
        rows = {row["activations"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["float", "dynamic", "int8, minmax", "int8, mse"]
    for activations, row in rows.items():
        integers = activations.startswith("int8")
        expected = row["simulation top-1" if integers else "Keras top-1"]
        assert float(row["difference, points"]) == pytest.approx(float(row["top-1"]) - float(expected))
        assert row["operators in floating point"] == ("0" if integers else "all")
        assert integers or row["simulation top-1"] == ""
        assert (row["codes equal"], row["samples"]) == ("True", "30")
    assert "files of integers and their simulations" in (tmp_path / "tflite_files.md").read_text()


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_dead_channels_trains_once_and_compares_files_with_their_simulations(data, tmp_path):
    small = [f"--data={data}", "--dataset=mnist", "--images=16", "--epochs=1", "--batch_size=8", "--bits=8"]
    small += ["--num_samples=4", "--test_images=12", "--models_dir=models", "--results_dir=."]
    done = run("dead_channels.py", *small, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("channels dead") == 1 and len(list((tmp_path / "models").glob("mnist_*.keras"))) == 1
    with (tmp_path / "dead_channels_channels.csv").open() as file:
        channels = list(csv.DictReader(file))
    assert [row["channels"] for row in channels] == ["7050", "7050"]
    with (tmp_path / "dead_channels_files.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows[:4]] == [
        "none: the float network", "TensorFlow's int8", "W8A8, ranges chosen", "W8A8, ranges measured by the export",
    ]  # fmt: skip
    assert len(rows) == 8
    assert all(row["float operators"] == "0" for row in rows if row["kB"])


@pytest.mark.slow
def test_the_table_in_readme_is_that_of_the_recorded_rows():
    shown = run("accuracy.py", "--show")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.join(tables.MARKS) in (ROOT / "README.md").read_text()
