"""quantize/inspect_tflite.py as a user calls it."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

import keras_compress as kc

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = ROOT / "quantize" / "inspect_tflite.py"


def call(*arguments, folder):
    return subprocess.run(
        [sys.executable, str(COMMAND), *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    layers = [keras.layers.Dense(8, name=f"layer{index}") for index in range(20)]
    model = keras.Sequential([keras.Input((16,)), *layers])
    kc.export_tflite(kc.quantize(model, kc.MSQ(bits=4)), folder / "net.tflite")
    return folder


@pytest.mark.slow
def test_table_and_picture(folder):
    done = call("net.tflite", "--picture=net.png", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "layer0" in done.stdout and "FULLY_CONNECTED" in done.stdout
    assert done.stdout.splitlines()[-1] == "picture: net.png"
    assert (folder / "net.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Expected FILE. Received: none."),
        (["none.tflite"], "'none.tflite' cannot be read: No such file or directory."),
        (["net.tflite", "--picture=net.gif"], "--picture takes the name of a .png, .pdf or .svg file."),
    ],
    ids=["no file", "missing", "suffix"],
)
def test_bad_arguments_are_one_line(folder, arguments, message):
    done = call(*arguments, folder=folder)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
