"""How the work is cut decides nothing: other batches, memory and threads give the same codes and weights exactly."""

import inspect
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import keras_compress as kc
from keras_compress import sweep
from keras_compress.calibration import calibration
from keras_compress.calibration.reblocking import Reblocked
from keras_compress.calibration.store import ActivationStore
from keras_compress.samples import blocks
from tests.quantization import cuts
from tests.quantization.contracts import QUANTIZERS

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT = 37
CUTS = {
    "batches_of_7": {"batch_size": 7},
    "batches_of_16": {"batch_size": 16, "memory_budget": "2MB"},  # two blocks and, at the end, less than one
}
# One of each class, and each setting that reads the data in a way of its own; others solve from the same statistics.
FIRSTS = {type(quantizer): name for name, quantizer in reversed(QUANTIZERS.items())}.values()
CHOSEN = [*FIRSTS, "gpfq_searched", "optq_corrected", "optq_through_additions", "spfq_aligned", "msq_corrected"]
CHOSEN += [name for name in cuts.TECHNIQUES if name not in QUANTIZERS]
FAST = ["gpfq", "patch_fraction", "direct", "evaluated"]


@pytest.fixture(scope="module")
def model():
    return cuts.network()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Eight samples, so that few samples are many blocks."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)


def in_batches(x):
    return (x[start : start + 5] for start in range(0, len(x), 5))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in CHOSEN])
@pytest.mark.sampled(6)
def test_batches_and_memory_leave_no_trace(model, name, tmp_path, monkeypatch):
    x = cuts.samples(COUNT)
    whole = cuts.digest(cuts.TECHNIQUES[name](model, x, {}))
    monkeypatch.setattr(calibration, "ActivationStore", lambda budget, work_dir: ActivationStore(0, work_dir))
    for cut in CUTS.values() if name in FAST else [CUTS["batches_of_16"]]:
        assert cuts.digest(cuts.TECHNIQUES[name](model, x, cut | {"work_dir": tmp_path})) == whole


def test_every_function_that_says_how_the_work_is_cut_is_tried():
    public = {
        name: getattr(kc, name) for name in kc.__all__ if callable(getattr(kc, name)) and not name.endswith("Error")
    } | {"sweep.run": sweep.run}
    cut = {
        name
        for name, each in public.items()
        if {"batch_size", "memory_budget"} & set(inspect.signature(each).parameters)
    }
    assert cut == set(cuts.TRIED) | cuts.STEPS
    assert set(cuts.TRIED.values()) <= set(CHOSEN)


@pytest.mark.parametrize("quantizer", [kc.GPFQ(3), pytest.param(kc.MSQ(3), marks=pytest.mark.slow)], ids=repr)
def test_batches_of_the_user_leave_no_trace(model, quantizer):
    x = cuts.samples(COUNT)
    first, second = (kc.quantize(model, quantizer, data, patch_fraction=0.5) for data in (x, in_batches(x)))
    assert cuts.digest(first) == cuts.digest(second)


def test_the_draw_of_patches_is_another_one_for_another_seed(model):
    x = cuts.samples(COUNT)
    first, second = (kc.quantize(model, kc.GPFQ(3), x, patch_fraction=0.3, seed=seed) for seed in (0, 1))
    assert cuts.digest(first) != cuts.digest(second)


# What a search, an inverse or a training makes of the last digit of a sum
THREADED = ["gpfq", "gpfq_searched", "optq_corrected", "beacon", "distilled", "evaluated"]


@pytest.mark.slow
def test_threads_leave_no_trace():
    digests = []
    for threads in ("1", "2"):
        counts = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        done = subprocess.run(
            [sys.executable, "-m", "tests.quantization.cuts", *THREADED],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | counts,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        digests.append(json.loads(done.stdout))
    one, two = digests
    assert {name for name in THREADED if one[name] != two[name]} == set()


def test_blocks_are_the_same_however_tensors_come(rng):
    x, y = rng.normal(size=(23, 3)), rng.normal(size=(23, 2))
    for sizes in ((23,), (1,) * 23, (4, 4, 4, 4, 4, 3), (9, 14)):
        seen = []
        blocked = Reblocked(4, lambda *tensors, seen=seen: seen.append(tensors))
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            same = x[part]
            blocked.add([same, same, None, y[part]])
            start += size
        blocked.finish()
        assert [len(block[0]) for block in seen] == [4, 4, 4, 4, 4, 3]
        assert all(first is second and nothing is None for first, second, nothing, _ in seen)
        np.testing.assert_array_equal(np.concatenate([block[0] for block in seen]), x)
        np.testing.assert_array_equal(np.concatenate([block[3] for block in seen]), y)


@pytest.mark.parametrize("numbers", [1, 1000, 10**5, 10**9])
def test_the_length_of_a_block_is_a_power_of_two_within_bounds(monkeypatch, numbers):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 16 << 20)
    length = blocks.block_length(numbers)
    assert length & (length - 1) == 0 and blocks.LEAST <= length <= blocks.MOST
    assert 4 * numbers * length <= 16 << 20 or length == blocks.LEAST
