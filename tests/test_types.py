"""What type checkers and editors see: the real types of every public name."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import keras_compress as kc

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = """
import keras
import numpy as np

import keras_compress as kc

model: keras.Model = kc.load_model("network.keras")
x = np.zeros((8, 4), np.float32)
result = kc.quantize(model, kc.GPFQ(bits=3), x)
kernels: dict[str, kc.QuantizedKernel] = result.kernels
report: kc.Report = kc.export_tflite(result, "network.tflite", activations="int8", calibration=x)
size: int = kc.measure(result).ideal_bytes
allocated = kc.quantize(model, kc.GPFQ(), x, overrides=kc.allocate(model, x, average_bits=3))
named = kc.quantize(model, kc.GPFQ(), x, layers="conv.*", overrides={"conv1": None, "conv2": kc.MSQ(8)})
figures: dict[str, float] = kc.evaluate(result, x, x).metrics
pruned: kc.Result = kc.prune_magnitude(result, (x, x), schedule=kc.PolynomialDecay(0.0, 0.5))
"""
WRONG = {  # a line of a user's, and what both checkers say of it
    "a name that is not there": ("kc.quantise(model)", "quantise"),
    "a value of another type": ('kc.GPFQ(bits="three")', '"bits"'),
    "a part that is not there": ("result.kernel", '"kernel"'),
}
CHECKERS = {
    "mypy": ["mypy", "--follow-imports=silent", "--ignore-missing-imports"],
    "basedpyright": ["basedpyright", "--level", "error", "--pythonpath", sys.executable],
}


def check(checker: str, folder: pathlib.Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], "program.py"],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_program_of_a_user_is_checked(checker, tmp_path):
    done = check(checker, tmp_path, PROGRAM)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_mistakes_of_a_user_are_found(checker, tmp_path):
    done = check(checker, tmp_path, PROGRAM + "\n".join(line for line, _ in WRONG.values()))
    found = [line for line in done.stdout.splitlines() if "error" in line]
    assert done.returncode == 1 and len(found) >= len(WRONG), done.stdout
    for _, words in WRONG.values():
        assert words in done.stdout


def test_type_checkers_see_what_is_there():
    tree = ast.parse((ROOT / "keras_compress" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: kc._MODULES.get(name, "keras_compress") for name in seen}
    assert seen.keys() == {*kc.__all__, "workflows"} - {"__version__"}
