import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_compress import zoo

pytestmark = pytest.mark.slow  # it runs the command

COMMAND = pathlib.Path(__file__).resolve().parents[2] / "train" / "train_baseline.py"


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def files_of(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_network_with_its_card_and_logs(tmp_path):
    process = run(tmp_path, "-ds", "digits", "-model=mlp", "-bs", "32", "--width_multiplier=0.2", "--epochs=3")
    assert (process.returncode, process.stderr) == (0, "")
    assert "digits_mlp: mlp with" in process.stdout

    logs = {path for path in files_of(tmp_path) if path.startswith("train_logs/digits_mlp/")}
    assert any("events" in path for path in logs)
    assert files_of(tmp_path) - logs == {
        "serialized_models/digits_mlp.keras",
        "serialized_models/digits_mlp.json",
        "train_logs/digits_mlp.csv",
    }
    assert len((tmp_path / "train_logs/digits_mlp.csv").read_text().splitlines()) == 4

    model = keras.saving.load_model(tmp_path / "serialized_models/digits_mlp.keras")
    card = zoo.ModelCard.read(tmp_path / "serialized_models/digits_mlp.json")
    dataset = card.load_dataset()
    figures = model.evaluate(card.preprocessing(dataset.x_test), dataset.y_test, verbose=0, return_dict=True)
    assert card.accuracy["test"] == pytest.approx(figures["accuracy"], abs=1e-5)
    assert card.accuracy["test"] > 0.85
    assert (card.architecture, card.settings["batch_size"], len(card.history["loss"])) == ("mlp", 32, 3)
    assert card.command.endswith("-ds digits -model=mlp -bs 32 --width_multiplier=0.2 --epochs=3")
    assert card.preprocessing.shape == model.input_shape[1:]


@pytest.mark.slow
def test_the_card_of_a_table_encodes_new_rows(tmp_path, rng):
    numbers = rng.normal(size=80)
    lines = [f"{number:.3f},{color},{kind}" for number in numbers for color, kind in (("red", "oak"), ("blue", "elm"))]
    (tmp_path / "trees.csv").write_text("\n".join(["length,color,kind", *lines]) + "\n")
    process = run(
        tmp_path, "--dataset=trees.csv", "--label_column=kind", "--architecture=mlp", "--epochs=8", "--name=trees"
    )
    assert (process.returncode, process.stderr) == (0, "")
    model = keras.saving.load_model(tmp_path / "serialized_models/trees.keras")
    card = zoo.ModelCard.read(tmp_path / "serialized_models/trees.json")
    x = card.preprocessing(card.table.encode([{"length": "0.1", "color": "red"}, {"length": "0.1", "color": "blue"}]))
    assert [card.class_names[label] for label in np.argmax(model.predict(x, verbose=0), axis=1)] == ["oak", "elm"]


@pytest.mark.slow
def test_an_interrupted_training_leaves_no_network(tmp_path):
    command = [sys.executable, COMMAND, "--architecture=mlp", "--epochs=10000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "Epoch 2/" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted\n"
    assert list((tmp_path / "serialized_models").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset=imagenet",), "error: Unknown data set 'imagenet'. Known: digits, mnist"),
        (("--epochs=none",), "error: flag --epochs=none"),
        (("digits",), "error: Expected no arguments, only flags. Received: digits."),
        (("--architecture=alexnet",), "error: Unknown architecture 'alexnet'"),
        (("--name=../a",), "error: A name of files must not"),
        (
            ("--logs_dir=a_file/logs",),
            "error: The folder 'a_file/logs/digits_cnn' cannot be written to (Not a directory)",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    (tmp_path / "a_file").touch()
    process = run(tmp_path, *arguments)
    assert process.returncode == 2
    assert process.stderr.startswith(message)
    assert process.stderr.count("\n") == 1
    assert files_of(tmp_path) == {"a_file"}
