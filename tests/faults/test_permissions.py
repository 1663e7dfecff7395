"""Folders and files that a process may not write to or read. Root may do all, so it gives up that right first."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
RIGHTS = "-dac_override,-dac_read_search,-fowner"  # by which root reads and writes everything

QUANTIZE = """
import sys
import numpy as np
from keras_compress.commands import cli

def main(argv):
    cli.import_tensorflow()
    import keras_compress as kc
    images = np.zeros((64, 16, 16, 3), np.float32)
    result = kc.quantize(kc.load_model(argv[1]), kc.GPFQ(), images, work_dir=argv[2])
    result.save(argv[3])

sys.exit(cli.call(main, ["child", *sys.argv[1:]]))
"""


@pytest.fixture
def folder(tmp_path, model) -> Iterator[pathlib.Path]:
    """A model, a folder `open`, and a folder `closed` that cannot be written to."""
    model.save(tmp_path / "model.keras")
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir(mode=0o555)
    yield tmp_path
    (tmp_path / "closed").chmod(0o755)


def as_user(*command: object, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Runs Python without root's rights over files."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        prefix = ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}", "--"]
        refused = [*prefix, "touch", cwd / "closed" / "file"]
        if shutil.which("setpriv") is None or subprocess.run(refused, capture_output=True).returncode == 0:
            pytest.skip("this is root, and setpriv cannot take away its rights over files")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*prefix, sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment
    )


def assert_refused(done: subprocess.CompletedProcess[str], folder: pathlib.Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "closed" in done.stderr
    assert list((folder / "closed").iterdir()) == []


@pytest.mark.parametrize("which", ["work_dir", "result"])
def test_quantize_names_the_folder_that_cannot_be_written(folder, which):
    work = folder / ("closed" if which == "work_dir" else "open")
    saved = folder / ("closed" if which == "result" else "open") / "result"
    assert_refused(as_user("-c", QUANTIZE, folder / "model.keras", work, saved, cwd=folder), folder)


@pytest.mark.parametrize("flag", ["models_dir", "logs_dir"])
def test_training_refuses_before_it_trains(folder, flag):
    flags = [f"--{name}={folder / ('closed' if name == flag else 'open')}" for name in ("models_dir", "logs_dir")]
    command = ROOT / "train" / "train_baseline.py"
    done = as_user(command, "--dataset=digits", "--architecture=mlp", *flags, cwd=folder)
    assert_refused(done, folder)
    assert "Epoch" not in done.stdout


def test_a_model_that_cannot_be_read(folder):
    (folder / "model.keras").chmod(0)
    done = as_user("-c", QUANTIZE, folder / "model.keras", folder / "open", folder / "open" / "result", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "cannot be read" in done.stderr and done.stderr.count("\n") == 1
