"""Files that are either whole or not there: written next to their place, then renamed."""

import contextlib
import errno
import fcntl
import glob
import os
import pathlib
import tempfile
from collections.abc import Iterator

from keras_compress.errors import StorageError


def check_writable_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Makes `folder` if it is missing and returns its path.

    Raises:
        StorageError: `folder` cannot be made or written to.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"The folder {str(folder)!r} cannot be written to ({error.strerror}). "
            "Name another folder, or change its owner or permissions."
        ) from error
    return folder


def new_run(folder: pathlib.Path) -> pathlib.Path:
    """The next folder run_1, run_2, ... within it, which is not there yet: TensorBoard joins all logs of one."""
    number = 1
    while (folder / f"run_{number}").exists():
        number += 1
    return folder / f"run_{number}"


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Waits until no other process is in a block like this one for `folder`; a lock that dies with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_parts(path: str | os.PathLike[str]) -> None:
    """Removes what a process that was killed within `replacing(path)` has left; nobody may be writing it now."""
    path = pathlib.Path(path)
    for part in path.parent.glob(f".{glob.escape(path.stem)}-*{glob.escape(path.suffix)}"):
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a path next to `path` to write to, which takes the place of `path` when the block ends without an error.

    The temporary name keeps the suffix of `path`, since Keras chooses its format by the suffix. After an error nothing
    is left, and what was at `path` before is as it was.

    Raises:
        StorageError: the folder cannot be written to, or the disk is full.
    """
    path = pathlib.Path(path)
    folder = check_writable_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=folder)
    os.close(handle)
    part = pathlib.Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp makes private files; a result is an ordinary file
        part.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(
                errno.ENOSPC, f"The disk is full while writing {str(path)!r}. Free some space or name another folder."
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)
