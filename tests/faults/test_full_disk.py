"""A disk that is really full: a small tmpfs, which root can mount."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

import keras_compress as kc
from keras_compress.calibration import store

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
DISK = 24 * MIB


@pytest.fixture
def disk(tmp_path) -> Iterator[pathlib.Path]:
    """A file system of its own with 24 MiB."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: pathlib.Path, *, spare: int) -> None:
    """Leaves `spare` bytes."""
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, DISK - spare)


def entries(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "filler")


def test_activations_that_do_not_fit_are_refused_with_the_room_they_need(model, images, disk):
    with pytest.raises(kc.StorageError, match=r"is full: the activations need at least \d+ MiB more.*work_dir"):
        kc.quantize(model, kc.GPFQ(), images, memory_budget="1MB", work_dir=disk)
    assert entries(disk) == []


def test_a_disk_that_fills_up_under_hdf5_gives_the_same_error(model, images, disk, monkeypatch):
    monkeypatch.setattr(store, "SPARE", -(10**12))  # nothing is refused beforehand: the write itself fails
    fill(disk, spare=3 * MIB)
    with pytest.raises(kc.StorageError, match="is full"):
        kc.quantize(model, kc.GPFQ(), images, memory_budget="1MB", work_dir=disk)
    assert entries(disk) == []


def test_the_same_process_can_go_on_after_a_full_disk(model, images, disk, tmp_path):
    with pytest.raises(kc.StorageError):
        kc.quantize(model, kc.GPFQ(), images, memory_budget="1MB", work_dir=disk)
    fresh = kc.quantize(model, kc.GPFQ(), images, memory_budget="1MB", work_dir=tmp_path)
    again = kc.quantize(model, kc.GPFQ(), images)
    for path, kernel in fresh.kernels.items():
        assert (kernel.codes == again.kernels[path].codes).all()


@pytest.mark.parametrize("spare", [0, 4096, 20_000, 40_000])
def test_a_result_that_cannot_be_saved_leaves_what_was_there(model, disk, spare):
    first = kc.quantize(model, kc.MSQ(8))
    fill(disk, spare=spare)
    with pytest.raises(kc.StorageError, match=r"full|cannot be written"):
        first.save(disk / "model")
    whole = [name for name in entries(disk) if not name.startswith(".")]
    assert entries(disk) == whole
    assert len(whole) < 3


def test_a_command_says_it_in_one_line(tmp_path, disk):
    fill(disk, spare=0)
    command = [
        sys.executable,
        ROOT / "train" / "show_dataset.py",
        "--dataset=digits",
        f"--output={disk / 'samples.png'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert entries(disk) == []
