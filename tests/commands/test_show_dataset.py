import pathlib
import subprocess
import sys

import pytest
from PIL import Image

pytestmark = pytest.mark.slow  # it runs the command

COMMAND = pathlib.Path(__file__).resolve().parents[2] / "train" / "show_dataset.py"


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_picture_and_the_class_counts(tmp_path):
    process = run(tmp_path, "-ds", "digits", "--num_samples=3")
    assert (process.returncode, process.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "train_logs").iterdir()] == ["digits_samples.png"]
    with Image.open(tmp_path / "train_logs/digits_samples.png") as picture:
        assert picture.height > 10 * 0.62 * 120  # a row for each class
    lines = process.stdout.splitlines()
    assert lines[1].split() == ["0", "142", "36"]
    assert lines[11].split() == ["all", "1,437", "360"]
    assert lines[12] == "written: train_logs/digits_samples.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset=imagenet",), "error: Unknown data set 'imagenet'"),
        (("--num_samples=0",), "error: flag --num_samples=0"),
        (("--output=a_file/picture.png",), "error: The folder 'a_file' cannot be written to"),
        (("--output=picture.doc",), "error: A picture cannot be written as '.doc'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    (tmp_path / "a_file").touch()
    process = run(tmp_path, *arguments)
    assert process.returncode == 2
    assert process.stderr.startswith(message)
    assert process.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]
