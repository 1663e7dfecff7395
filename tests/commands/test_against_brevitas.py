import importlib.util
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # it runs the command

COMMAND = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "peers" / "against_brevitas.py"


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_help_needs_no_peer_and_says_how_to_get_it(tmp_path):
    process = run(tmp_path, "--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert "pip install --editable . brevitas==0.13.4 torch tqdm" in process.stdout
    assert "--parts" in process.stdout


@pytest.mark.skipif(importlib.util.find_spec("brevitas") is not None, reason="Brevitas is installed here")
def test_without_brevitas_one_line_says_what_to_install(tmp_path):
    process = run(tmp_path, "--parts=updates")
    assert process.returncode == 2
    assert process.stderr.startswith("error: brevitas, torch, tqdm are needed. Received: an environment without ")
    assert process.stderr.endswith("pip install brevitas==0.13.4 torch tqdm\n")
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--parts=speed", "error: --parts takes some of codes, updates, accuracy. Received: speed."),
        ("--levels=5", "error: --levels takes some of 15, 7, 4, 3. Received: 5."),
        ("--units=0", "error: --units takes whole numbers from 1 upwards. Received: 0."),
    ],
)
def test_bad_flags_are_refused_before_anything_else(tmp_path, argument, message):
    process = run(tmp_path, argument)
    assert (process.returncode, process.stderr) == (2, message + "\n")
