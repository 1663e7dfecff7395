"""No hostile file does anything, or takes more time and memory than it has a right to."""

import json
import os
import pathlib
import resource
import subprocess
import sys
from typing import Any

import pytest

from tests.hardening import hostile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS, MEGABYTES = 5.0, 200.0  # above a process that only imports keras_compress and keras
PATIENCE = 120  # seconds after which a process hangs


def read(names: list[str], folder: pathlib.Path) -> tuple[list[dict[str, Any]], float]:
    """Writes files and reads them in one process; what happened to each, and the process's seconds.

    Seconds are those of the processor: others may work on this machine. What waits for ever runs into PATIENCE.
    """
    files = []
    for name in names:
        place = folder / hostile.folder_name(name)
        files.append((name, str(place), str(hostile.write(name, place)), hostile.CASES[name].reader))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tests.hardening.readers", json.dumps(files)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{names} hung after {(error.stdout or b'').decode()[-300:]!r}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and lines[-1]["name"] == "", f"{names}: {done.stdout[-300:]}{done.stderr[-1500:]}"
    return lines, seconds


def check(outcome: dict[str, Any]) -> None:
    case = hostile.CASES[outcome["name"]]
    assert not outcome["changed"], outcome
    if case.refused:
        assert outcome["error"] in ("InputError", "StorageError", "TooLargeError", "NoCounterpartError"), outcome
        assert "\n" not in outcome["line"] and len(outcome["line"]) < 900, outcome
    if case.gated:
        assert not outcome["imported"], outcome


def test_there_are_sixty():
    assert len(hostile.CASES) >= 60


@pytest.mark.slow
def test_some_of_every_kind_do_nothing(tmp_path):
    names = sorted(hostile.names(fast=True), key=lambda name: not hostile.CASES[name].gated)
    lines, _ = read(names, tmp_path)
    for outcome in lines[:-1]:
        check(outcome)
    assert [outcome["name"] for outcome in lines[:-1]] == names


@pytest.fixture(scope="module")
def baseline(tmp_path_factory) -> dict[str, float]:
    """Seconds and peak memory of a process that only imports; the least of three."""
    runs = [read([], tmp_path_factory.mktemp("baseline")) for _ in range(3)]
    return {"seconds": min(seconds for _, seconds in runs), "peak": min(lines[-1]["peak"] for lines, _ in runs)}


@pytest.mark.hostile
@pytest.mark.parametrize("name", list(hostile.names()))
def test_a_hostile_file(name, tmp_path, baseline, record_property):
    lines, seconds = read([name], tmp_path)
    check(lines[0])
    above = {"seconds": seconds - baseline["seconds"], "MB": lines[-1]["peak"] - baseline["peak"]}
    print(f"{name}: {above['seconds']:.1f} s, {above['MB']:.0f} MB above the imports; {lines[0]['line'][:300]}")
    assert above["seconds"] < SECONDS and above["MB"] < MEGABYTES, (above, lines[0])
