"""The store gives back what it was given, from memory and from disk, and leaves nothing behind."""

import collections
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from keras_compress.calibration.store import LOCK, MARK, PREFIX, ActivationStore
from keras_compress.errors import StorageError

MEMORY, DISK = 10**9, 0
KEY, OTHER = ("analog", 0), ("compressed", 7)


@pytest.fixture(params=[MEMORY, DISK, 1000], ids=["memory", "disk", "both"])
def store(request, tmp_path):
    with ActivationStore(request.param, tmp_path) as store:
        yield store


def files(folder):
    return list(pathlib.Path(folder).rglob("*.h5"))


def test_chunks_come_back_as_they_were_written(store, rng):
    chunks = [rng.normal(size=(size, 3, 5)).astype(np.float32) for size in (4, 4, 2)]
    for index, chunk in enumerate(chunks):
        store.write(KEY, index, chunk)
        store.write(OTHER, index, -chunk)
    for index, chunk in enumerate(chunks):
        np.testing.assert_array_equal(store.read(KEY, index), chunk)
        np.testing.assert_array_equal(store.read(OTHER, index), -chunk)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "uint8", "bool"])
def test_types_are_kept(store, dtype):
    store.write(KEY, 0, np.ones((2, 2), dtype))
    assert store.read(KEY, 0).dtype == dtype


def test_columns_are_those_of_the_chunk(store, rng):
    chunk = rng.normal(size=(4, 3, 9))
    store.write(KEY, 0, chunk)
    np.testing.assert_array_equal(store.read_columns(KEY, 0, slice(2, 6)), chunk[..., 2:6])


def test_a_discarded_tensor_is_gone_and_may_be_written_again(store):
    store.write(KEY, 0, np.zeros((50, 50)))
    store.discard(KEY)
    assert KEY not in store and list(store) == []
    assert store.bytes_in_memory == 0
    store.write(KEY, 0, np.ones((50, 50)))
    assert np.all(store.read(KEY, 0))


def test_the_memory_budget_is_kept(tmp_path):
    with ActivationStore(1000, tmp_path) as store:
        for chunk in range(10):
            store.write(KEY, chunk, np.zeros(50))  # 400 bytes
            assert store.bytes_in_memory <= 1000
        assert store.bytes_in_memory == 800
        store.discard_chunk(KEY, 0)
        assert store.bytes_in_memory == 400


def test_what_lasts_leaves_half_of_the_memory_to_what_comes_and_goes(tmp_path):
    with ActivationStore(1000, tmp_path) as store:
        for chunk in range(4):
            store.write(KEY, chunk, np.full(50, chunk, float), lasting=True)  # 400 bytes
        assert store.bytes_in_memory == 400
        store.write(OTHER, 0, np.zeros(50))
        assert store.bytes_in_memory == 800
        for chunk in range(4):
            np.testing.assert_array_equal(store.read(KEY, chunk), np.full(50, chunk, float))
        store.discard(KEY)
        assert store.bytes_in_memory == 400
        store.write(KEY, 0, np.zeros(50), lasting=True)
        assert store.bytes_in_memory == 800


def test_disk_space_is_given_back_with_the_last_reader(tmp_path):
    with ActivationStore(DISK, tmp_path) as store:
        store.write(KEY, 0, np.zeros(50))
        store.write(OTHER, 0, np.zeros(50))
        assert len(files(tmp_path)) == 2
        store.discard(KEY)
        assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_success_error_and_ctrl_c(tmp_path, error):
    def use():
        with ActivationStore(DISK, tmp_path) as store:
            store.write(KEY, 0, np.zeros(50))
            assert os.listdir(tmp_path)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    code = f"""
        import os, signal
        import numpy as np
        from keras_compress.calibration.store import ActivationStore
        with ActivationStore(0, {str(tmp_path)!r}) as store:
            store.write(("analog", 0), 0, np.zeros(50))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60, cwd=pathlib.Path.cwd())
    assert killed.returncode == -9
    assert len(files(tmp_path)) == 1
    with ActivationStore(DISK, tmp_path):
        assert files(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_the_folder_of_a_living_store_stays(tmp_path):
    with ActivationStore(DISK, tmp_path) as first:
        first.write(KEY, 0, np.ones(50))
        with ActivationStore(DISK, tmp_path):
            pass
        assert np.all(first.read(KEY, 0))


def test_folders_of_others_stay(tmp_path):
    stranger = tmp_path / (PREFIX + "mine")
    stranger.mkdir()
    (stranger / "notes.txt").write_text("keep me")
    with ActivationStore(DISK, tmp_path):
        pass
    assert (stranger / "notes.txt").read_text() == "keep me"


@pytest.mark.parametrize("name", ["thesis", "abcdefgh"])
def test_a_folder_with_a_lock_of_another_kind_stays(tmp_path, name):
    stranger = tmp_path / (PREFIX + name)
    stranger.mkdir()
    (stranger / LOCK).touch()
    (stranger / "chapter.h5").write_text("keep me")
    with ActivationStore(DISK, tmp_path):
        pass
    assert sorted(os.listdir(stranger)) == ["chapter.h5", LOCK]


def test_only_the_files_of_a_store_are_removed(tmp_path):
    left = tmp_path / (PREFIX + "abcdefgh")
    left.mkdir()
    (left / LOCK).write_bytes(MARK)
    (left / "0.h5").touch()
    (left / "notes.txt").write_text("keep me")
    with ActivationStore(DISK, tmp_path):
        pass
    assert os.listdir(left) == ["notes.txt"]


def test_a_pipe_in_place_of_a_lock_is_not_waited_for(tmp_path):
    (tmp_path / (PREFIX + "abcdefgh")).mkdir()
    os.mkfifo(tmp_path / (PREFIX + "abcdefgh") / LOCK)
    with ActivationStore(DISK, tmp_path):
        pass
    assert (tmp_path / (PREFIX + "abcdefgh") / LOCK).exists()


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / LOCK).write_bytes(MARK)
    (target / "0.h5").touch()
    (tmp_path / (PREFIX + "abcdefgh")).symlink_to(target)
    with ActivationStore(DISK, tmp_path):
        pass
    assert sorted(os.listdir(target)) == ["0.h5", LOCK]


def usage(free):
    return lambda path: collections.namedtuple("usage", "total used free")(10**12, 10**12 - free, free)


def test_a_full_disk_says_how_much_was_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", usage(10 * 2**20))
    with ActivationStore(DISK, tmp_path) as store:
        store.num_chunks = 50
        chunk = np.zeros(2**20, np.uint8)
        with pytest.raises(StorageError) as raised:
            store.write(KEY, 0, chunk)
        message = str(raised.value)
        assert str(tmp_path) in message
        assert "66 MiB more" in message  # 50 chunks of one MiB, and the 16 MiB that stay free
        assert "10 MiB are free" in message
    assert os.listdir(tmp_path) == []


def test_memory_is_used_where_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", usage(0))
    with ActivationStore(MEMORY, tmp_path) as store:
        store.write(KEY, 0, np.zeros(50))


def test_a_disk_that_fills_up_while_writing(tmp_path, monkeypatch):
    import h5py

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with ActivationStore(DISK, tmp_path) as store, pytest.raises(StorageError, match="is full"):
        store.write(KEY, 0, np.zeros(50))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written to"), ActivationStore(DISK, tmp_path / "file" / "below"):
        pass
