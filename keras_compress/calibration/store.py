"""Activations between two passes: in memory up to a budget, in HDF5 files beyond it."""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from keras_compress.errors import StorageError
from keras_compress.files import check_writable_folder

Key = tuple[str, int]  # network and number of a tensor

ANALOG, COMPRESSED = "analog", "compressed"
PREFIX = "keras_compress-"
FOLDER = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")  # as `tempfile.mkdtemp` names it
LOCK = "lock"
MARK = b"keras_compress: activations of a running quantization\n"  # in the lock; a folder without it is another's
SPARE = 16 << 20  # bytes that a disk must keep free: files have headers, and others write too


class ActivationStore:
    """Tensors by key, each in the chunks in which it was written; a context manager.

    Chunks in memory are TensorFlow's own tensors: to copy them to NumPy and back took a fifth of a quantization.

    Files lie in one private folder under `work_dir`, one file a key, so that their room is given back as soon as the
    key is discarded. The folder goes when the block ends, also by an error or Ctrl-C; one that a killed process left
    behind is removed by the next store in the same `work_dir`.

    Args:
        memory_budget: bytes that may stay in memory.
        work_dir: folder for the private folder; default: the system's place for temporary files.
    """

    def __init__(self, memory_budget: int, work_dir: str | os.PathLike[str] | None = None):
        self.memory_budget = memory_budget
        self.work_dir = pathlib.Path(work_dir or tempfile.gettempdir())
        self.bytes_in_memory = 0
        self.num_chunks: int | None = None  # of a whole tensor, once known; tells how much room a tensor will need
        self._lasting: set[tuple[Key, int]] = set()
        self._lasting_bytes = 0
        self._memory: dict[tuple[Key, int], tf.Tensor] = {}
        self._files: dict[Key, h5py.File] = {}
        self._chunks: dict[Key, set[int]] = {}
        self._specs: dict[Key, tf.TensorSpec] = {}
        self._lengths: dict[tuple[Key, int], int] = {}
        self._folder: pathlib.Path | None = None
        self._lock: Any = None

    def __enter__(self) -> "ActivationStore":
        check_writable_folder(self.work_dir)
        _remove_leftovers(self.work_dir)
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.work_dir))
        new = self._folder / f"new {LOCK}"
        self._lock = open(new, "wb")  # held for as long as the store lives
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._lock.write(MARK)
        self._lock.flush()
        new.rename(self._folder / LOCK)  # another store, which looks for leftovers, finds it locked or not at all
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._chunks):
            self.discard(key)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.close()
            self._folder = None

    def __contains__(self, key: Key) -> bool:
        return key in self._chunks

    def is_complete(self, key: Key) -> bool:
        """Whether every chunk of a tensor has been written."""
        return len(self._chunks[key]) == self.num_chunks

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._chunks))

    def write(self, key: Key, chunk: int, values: tf.Tensor | np.ndarray, *, lasting: bool = False) -> None:
        """Keeps one chunk of a tensor; an array is copied.

        `lasting` tensors, which stay for several walks, may take half of the memory, so that those which come and go,
        and would be written to disk each time, find the other half.

        Raises:
            StorageError: the disk is full.
        """
        tensor = tf.convert_to_tensor(values)
        size = _bytes(tensor)
        self._chunks.setdefault(key, set()).add(chunk)
        self._lengths[key, chunk] = len(tensor)
        self._specs.setdefault(key, tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype))
        fits = not lasting or self._lasting_bytes + size <= self.memory_budget // 2
        if fits and self.bytes_in_memory + size <= self.memory_budget:
            self._memory[key, chunk] = tensor
            self.bytes_in_memory += size
            if lasting:
                self._lasting.add((key, chunk))
                self._lasting_bytes += size
        else:
            self._write_file(key, chunk, np.asarray(tensor))

    def spec(self, key: Key) -> tf.TensorSpec:
        """Shape and type of a tensor's chunks, with the number of samples open."""
        return self._specs[key]

    def read(self, key: Key, chunk: int) -> tf.Tensor:
        """One chunk of a tensor, as it was written."""
        if (key, chunk) in self._memory:
            return self._memory[key, chunk]
        return tf.convert_to_tensor(self._files[key][str(chunk)][()])

    def read_rows(self, key: Key, rows: slice) -> tf.Tensor:
        """Samples from `rows.start` to `rows.stop` of a tensor, in whichever chunks they are."""
        parts, first = [], 0
        for chunk in sorted(self._chunks[key]):
            start, stop = max(rows.start - first, 0), min(rows.stop - first, self._lengths[key, chunk])
            if start < stop:
                whole = self.read(key, chunk)
                parts.append(whole if stop - start == len(whole) else whole[start:stop])
            first += self._lengths[key, chunk]
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

    def read_columns(self, key: Key, chunk: int, columns: slice) -> np.ndarray:
        """Some columns (last axis) of a chunk."""
        if (key, chunk) in self._memory:
            return np.asarray(self._memory[key, chunk])[..., columns]
        return self._files[key][str(chunk)][..., columns]

    def discard(self, key: Key) -> None:
        """Forgets a tensor and gives back its room."""
        for chunk in self._chunks.pop(key, ()):
            self._forget(key, chunk)
            del self._lengths[key, chunk]
        self._specs.pop(key, None)
        if key in self._files:
            file = self._files.pop(key)
            name = file.filename
            file.close()
            os.unlink(name)

    def discard_chunk(self, key: Key, chunk: int) -> None:
        """Gives back the memory of one chunk that nobody reads again; a file keeps its room until `discard`."""
        self._forget(key, chunk)

    def _forget(self, key: Key, chunk: int) -> None:
        tensor = self._memory.pop((key, chunk), None)
        if tensor is not None:
            self.bytes_in_memory -= _bytes(tensor)
            if (key, chunk) in self._lasting:
                self._lasting.remove((key, chunk))
                self._lasting_bytes -= _bytes(tensor)

    def _write_file(self, key: Key, chunk: int, array: np.ndarray) -> None:
        assert self._folder is not None, "the store is used outside of its with block"
        free = shutil.disk_usage(self._folder).free
        missing = max((self.num_chunks or chunk + 1) - chunk, 1) * array.nbytes
        if free < array.nbytes + SPARE:
            raise StorageError(errno.ENOSPC, self._full(free, missing))
        try:
            if key not in self._files:
                handle, name = tempfile.mkstemp(suffix=".h5", dir=self._folder)
                os.close(handle)
                self._files[key] = h5py.File(name, "w")
            self._files[key].create_dataset(str(chunk), data=array)
        except OSError as error:
            raise StorageError(errno.ENOSPC, self._full(free, missing)) from error

    def _full(self, free: int, missing: int) -> str:
        return (
            f"The disk under {str(self.work_dir)!r} is full: the activations need at least "
            f"{(missing + SPARE) / 2**20:,.0f} MiB more there, and {free / 2**20:,.0f} MiB are free. "
            "Name another work_dir, raise memory_budget, or use fewer samples."
        )


def _bytes(tensor: tf.Tensor) -> int:
    return tensor.shape.num_elements() * tensor.dtype.size


def _remove_leftovers(work_dir: pathlib.Path) -> None:
    """Removes folders of stores whose process is gone: it no longer holds the lock.

    `work_dir` may be a place that all users share. So only what is surely a store's goes: a folder of this user, named
    by `mkdtemp`, whose lock is a regular file with a store's mark; and of it only the files that a store makes.
    """
    for folder in work_dir.glob(PREFIX + "*"):
        if not FOLDER.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):  # another process lives, or the folder is somebody else's
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid() and _is_left(handle):
                    _empty(handle)
                    folder.rmdir()
            finally:
                os.close(handle)


def _is_left(folder: int) -> bool:
    """Whether an open folder has a store's lock that nobody holds; it is not waited for, nor followed elsewhere."""
    lock = os.open(LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode) or os.read(lock, len(MARK) + 1) != MARK:
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    finally:
        os.close(lock)


def _empty(folder: int) -> None:
    """Removes the files of a store from an open folder, the lock last; other files stay, and so does the folder."""
    names = os.listdir(folder)
    for name in [name for name in names if name.endswith(".h5")] + [name for name in names if name == LOCK]:
        os.unlink(name, dir_fd=folder)
