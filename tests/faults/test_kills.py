"""Processes that are interrupted or killed in the middle of their work."""

import csv
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import keras_compress as kc
from keras_compress import zoo

ROOT = pathlib.Path(__file__).resolve().parents[2]
PREFIX = "keras_compress-*"
CHANGING = ("time", "seconds", "peak_memory_mb")  # of a row: all else is the same after a kill

CHILD = """
import sys
import time
import numpy as np
from keras_compress.commands import cli

def main(argv):
    cli.import_tensorflow()
    import keras_compress as kc
    def batches():
        rng = np.random.default_rng(0)
        for index in range(40):
            print("batch", index, file=sys.stderr, flush=True)
            if index == 20 and argv[3] == "wait":
                sys.stdin.read()
            yield rng.random((50, 16, 16, 3), dtype=np.float32)
    model = kc.load_model(argv[1])
    kc.quantize(model, kc.GPFQ(), batches(), memory_budget="1MB", work_dir=argv[2], progress=True)

sys.exit(cli.call(main, ["child", *sys.argv[1:]]))
"""


@pytest.fixture
def folder(tmp_path, model) -> pathlib.Path:
    model.save(tmp_path / "model.keras")
    (tmp_path / "work").mkdir()
    return tmp_path


def child(folder: pathlib.Path, mode: str = "run") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, folder / "model.keras", folder / "work", mode],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def wait_for(process: subprocess.Popen[str], line_start: str) -> None:
    """Reads the process's lines up to one that starts with `line_start`."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(line_start):
            return
    pytest.fail(f"the process ended before {line_start!r}: {''.join(seen)}")


def end(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """Sends a signal, and returns the exit code and what else the process wrote."""
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


@pytest.mark.parametrize("moment", ["batch 5", "quantize 1/3", "quantize 2/3"])
def test_ctrl_c_leaves_nothing_behind(folder, moment):
    process = child(folder)
    wait_for(process, moment)
    assert list((folder / "work").glob(PREFIX))
    code, stderr = end(process, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in stderr and stderr.rstrip().endswith("interrupted")
    assert list((folder / "work").iterdir()) == []


@pytest.mark.parametrize("moment", ["batch 5", "quantize 1/3", "quantize 2/3"])
def test_what_a_killed_process_left_is_removed_by_the_next_one(folder, model, images, moment):
    process = child(folder)
    wait_for(process, moment)
    code, _ = end(process, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert list((folder / "work").glob(PREFIX))
    kc.quantize(model, kc.GPFQ(), images[:64], work_dir=folder / "work")
    assert list((folder / "work").iterdir()) == []


def test_what_a_living_process_needs_stays(folder, model, images):
    process = child(folder, "wait")
    wait_for(process, "batch 20")
    (before,) = (folder / "work").glob(PREFIX)
    kc.quantize(model, kc.GPFQ(), images[:64], work_dir=folder / "work")
    assert list((folder / "work").iterdir()) == [before]
    _, stderr = process.communicate("", timeout=120)
    assert process.returncode == 0, stderr
    assert list((folder / "work").iterdir()) == []


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> pathlib.Path:
    """A folder with an untrained LeNet for digits and its card, and in `whole` what the command makes of it."""
    folder = tmp_path_factory.mktemp("grid")
    zoo.build_architecture("lenet", (8, 8, 1), 10).save(folder / "digits_lenet.keras")
    card = zoo.ModelCard("digits", "lenet", zoo.Preprocessing(scale=1 / 16, shape=(8, 8, 1)), 0)
    card.write(folder / "digits_lenet.json")
    whole = subprocess.run(grid_command(folder, folder / "whole"), capture_output=True, text=True, cwd=folder)
    assert whole.returncode == 0, whole.stderr
    return folder


def grid_command(network: pathlib.Path, folder: pathlib.Path) -> list[Any]:
    command = ROOT / "quantize" / "quantize_pretrained.py"
    flags = ["--methods=gpfq,msq", "--bits=4", "--num_samples=100,200", f"--models_dir={network}"]
    flags += [f"--{name}={folder / name}" for name in ("output_dir", "metrics_dir", "logs_dir")]
    return [sys.executable, command, "digits_lenet", *flags]


def rows_of(folder: pathlib.Path) -> list[dict[str, str]]:
    with open(folder / "metrics_dir" / "digits_lenet.csv", newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in CHANGING} for row in csv.DictReader(file)]


def codes_of(folder: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.name: dict(np.load(path)) for path in sorted((folder / "output_dir").glob("*.codes.npz"))}


@pytest.mark.parametrize(
    "ends",
    [[("quantize 1/4", signal.SIGKILL)], [("quantize 1/4", signal.SIGINT), ("quantize 2/3", signal.SIGKILL)]],
    ids=["once", "twice"],
)
def test_a_grid_that_died_goes_on_and_ends_as_one_that_did_not(network, tmp_path, ends):
    for moment, number in ends:
        process = subprocess.Popen(grid_command(network, tmp_path), stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        wait_for(process, moment)
        end(process, number)
    again = subprocess.run(grid_command(network, tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert rows_of(tmp_path) == rows_of(network / "whole")
    assert len(rows_of(tmp_path)) == 4
    whole_codes, codes = codes_of(network / "whole"), codes_of(tmp_path)
    assert whole_codes.keys() == codes.keys() and len(codes) == 4
    for name, arrays in whole_codes.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, codes[name][key])
    for path in (tmp_path / "output_dir").glob("digits*.keras"):
        kc.load_result(path)


TRAINING = """
import sys
import time
import keras, numpy as np
import keras_compress as kc

class Tell(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        print("step", self.epoch, batch, file=sys.stderr, flush=True)
        if sys.argv[5] == f"{self.epoch} {batch}":
            sys.stdin.read()

rng = np.random.default_rng(0)
x, y = rng.normal(size=(120, 16, 16, 3)).astype("float32"), rng.integers(0, 12, 120)
technique = getattr(kc, sys.argv[1])
model = kc.load_model(sys.argv[2])
rate = keras.optimizers.schedules.CosineDecay(0.001, 24)
model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
training = kc.Training(4, 20, checkpoint=sys.argv[3], verbose=0)
result = technique(model, (x, y), callbacks=[Tell()], training=training)
ranges = [layer.scale for layer in result.model.layers if isinstance(layer, kc.QuantizeActivation)]
codes = {f"codes of {path}": kernel.codes for path, kernel in result.kernels.items()}
np.savez(sys.argv[4], *result.model.get_weights(), ranges=ranges, **codes)
"""
TECHNIQUES = ["prune_magnitude", "cluster_weights", "quantization_aware_training"]


def training(technique: str, folder: pathlib.Path, name: str, wait: str = "") -> subprocess.Popen[str]:
    arguments = [technique, folder / "model.keras", folder / f"{name}_state", folder / f"{name}.npz", wait]
    command = [sys.executable, "-W", "ignore", "-c", TRAINING, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def whole():
    """What a training that nobody killed gives, once for each technique: every folder has the same model."""
    done: dict[str, dict[str, np.ndarray]] = {}

    def of(technique: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
        if technique not in done:
            process = training(technique, folder, f"whole_{technique}")
            _, stderr = process.communicate("", timeout=240)
            assert process.returncode == 0, stderr
            done[technique] = dict(np.load(folder / f"whole_{technique}.npz"))
        return done[technique]

    return of


def go_on(technique: str, folder: pathlib.Path, name: str, expected: dict[str, np.ndarray]) -> str:
    """Calls again what was killed, and compares all that it gives; what it said."""
    again = training(technique, folder, name)
    _, stderr = again.communicate("", timeout=240)
    assert again.returncode == 0, stderr
    resumed = np.load(folder / f"{name}.npz")
    assert set(resumed) == set(expected)
    for each in expected:
        np.testing.assert_array_equal(resumed[each], expected[each], err_msg=each)
    assert not (folder / f"{name}_state").exists()
    return stderr


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("moment", ["0 2", "2 3"])
def test_a_training_that_was_killed_goes_on_to_the_same_weights(folder, whole, technique, moment):
    killed = training(technique, folder, "killed", moment)
    wait_for(killed, f"step {moment}")
    assert end(killed, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (folder / "killed.npz").exists() and (folder / "killed_state").exists()
    stderr = go_on(technique, folder, "killed", whole(technique, folder))
    assert f"step {int(moment[0])} 0" in stderr and (moment[0] == "0" or "step 0 0" not in stderr)
    (folder / "killed.npz").unlink()


@pytest.mark.parametrize("number", range(20))
def test_a_training_is_killed_at_a_random_moment(folder, whole, number):
    """Within a step, between two, or while its state is written."""
    generator = random.Random(number)
    technique = TECHNIQUES[number % len(TECHNIQUES)]
    killed = training(technique, folder, f"random_{number}")
    wait_for(killed, f"step {generator.randrange(4)} {generator.randrange(5)}")
    time.sleep(generator.uniform(0, 0.1))
    end(killed, signal.SIGKILL)
    go_on(technique, folder, f"random_{number}", whole(technique, folder))
