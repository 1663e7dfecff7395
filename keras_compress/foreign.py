"""Files that others made: only regular ones are opened, and what they claim is held against their size.

A few bytes can claim gigabytes: a zip that unpacks to any size, an array's header without the array, a named pipe that
never ends. Every reader asks here before it reads.
"""

import contextlib
import json
import math
import os
import pathlib
import stat
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from keras_compress.errors import InputError, StorageError

LARGEST_JSON = 16 << 20  # bytes; the configurations of the largest networks have two or three million
MOST_VALUES = 1 << 19  # in a JSON text: an empty list of two bytes becomes 56 in memory
MOST_MEMBERS = 10_000  # of a zip archive
UNPACKS_TO = 32  # times its size, at most: pruned weights and images of few colours come near
ALWAYS_ALLOWED = 16 << 20  # bytes that any archive may unpack to
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BLOCK = 512  # bytes in which systems count what a file takes on a disk; some count none
_HEADER = 1 << 14  # bytes of an array's header


def open_regular(path: str | os.PathLike[str], what: str) -> IO[bytes]:
    """A file, opened to be read; symbolic links are followed.

    Raises:
        StorageError: no such file, one that may not be read, one of holes, or a named pipe, a socket, a device, a
            folder.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StorageError(f"There is no {what} {str(path)!r}. Check the name and the folder.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"The {what} {str(path)!r} cannot be read ({reason}).") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise StorageError(f"The {what} {str(path)!r} is no regular file but a folder, a pipe or a device. Copy it.")
    if status.st_blocks and status.st_blocks * _BLOCK * UNPACKS_TO + ALWAYS_ALLOWED < status.st_size:
        os.close(handle)
        raise StorageError(f"The {what} {str(path)!r} claims {status.st_size:,} bytes, nearly all of them holes.")
    return os.fdopen(handle, "rb")


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turns what a malicious or damaged file can exhaust, memory and the stack, into one line.

    Raises:
        InputError: the block ran out of memory or nested too deeply.
    """
    try:
        yield
    except RecursionError as error:
        raise InputError(f"The {what} {str(path)!r} is nested too deeply to be read. Write it again.") from error
    except (MemoryError, OverflowError) as error:
        raise InputError(f"The {what} {str(path)!r} claims more than memory can hold. Write it again.") from error


def parse_json(text: bytes | str, limit: int = LARGEST_JSON) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: no JSON, more bytes or values than any file of ours has, or one that is nested too deeply.
    """
    if len(text) > limit:
        raise ValueError(f"a text of {len(text):,} bytes, and at most {limit:,} are read")
    if isinstance(text, bytes):
        text = text.decode()
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(f"a text of more than {MOST_VALUES:,} values")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("a text that is nested too deeply") from error


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """What a JSON file says.

    Raises:
        StorageError: see `open_regular`.
        ValueError: see `parse_json`.
    """
    with open_regular(path, what) as file:
        return parse_json(file.read(LARGEST_JSON + 1))


def check_zip(archive: zipfile.ZipFile) -> None:
    """Holds what the members of an archive claim against the size of its file.

    Raises:
        ValueError: more than the file can hold, members that share their bytes, or a method that nobody writes.
    """
    members = archive.infolist()
    size = _size_of(archive)
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"{len(members):,} members, and at most {MOST_MEMBERS:,} are read")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members of one name")
    for member in members:
        if member.compress_type not in METHODS or member.flag_bits & 1:
            raise ValueError(f"{member.filename[:80]!r} is encrypted or packed by a method other than deflate")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("members that claim more bytes than the file has")
    claimed = sum(member.file_size for member in members)
    if claimed > UNPACKS_TO * size + ALWAYS_ALLOWED:
        raise ValueError(f"{size:,} bytes that claim to unpack to {claimed:,}")


def _size_of(archive: zipfile.ZipFile) -> int:
    assert archive.fp is not None
    place = archive.fp.tell()
    size = archive.fp.seek(0, os.SEEK_END)
    archive.fp.seek(place)
    return size


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member of an archive that `check_zip` let pass.

    Raises:
        ValueError: it has more bytes than `limit`.
    """
    if archive.getinfo(name).file_size > limit:
        raise ValueError(f"its {name} claims {archive.getinfo(name).file_size:,} bytes, and at most {limit:,} are read")
    return archive.read(name)


def read_npz(path: str | os.PathLike[str], what: str, *, most_numbers: int | None = None) -> dict[str, np.ndarray]:
    """The arrays in an `.npz` file, none of which is read before all headers were held against the file.

    Args:
        path: of the file.
        what: for messages.
        most_numbers: in all arrays together, where what they belong to says so: then they may be packed as densely as
            they like.

    Raises:
        StorageError: see `open_regular`.
        ValueError, zipfile.BadZipFile, zlib.error, EOFError: no such file, a damaged one, one that claims more than it
            can hold, or arrays of Python objects.
    """
    with open_regular(path, what) as file, reading(path, what), zipfile.ZipFile(file) as archive:
        if most_numbers is None:
            check_zip(archive)
        elif len(archive.infolist()) > MOST_MEMBERS:
            raise ValueError(f"more than {MOST_MEMBERS:,} arrays")
        numbers = 0
        for member in archive.infolist():
            numbers += _claimed(archive, member)
            if most_numbers is not None and numbers > most_numbers:
                raise ValueError(f"more than the {most_numbers:,} numbers of what it belongs to")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def _claimed(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """How many numbers an array claims to have, which must be as many as its member can hold."""
    if member.compress_type not in METHODS or not member.filename.endswith(".npy"):
        raise ValueError(f"{member.filename[:80]!r} is no array")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename[:80]!r} has a header of version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file, max_header_size=_HEADER)
        header = file.tell()
    numbers = math.prod(shape)
    if kind.hasobject:
        raise ValueError(f"Object arrays cannot be loaded: {member.filename[:80]!r}")
    if min(shape, default=0) < 0:
        raise ValueError(f"{member.filename[:80]!r} has no shape: {shape}")
    if numbers * kind.itemsize != member.file_size - header:
        raise ValueError(f"{member.filename[:80]!r} claims another shape than its bytes have: {shape}")
    return numbers


def entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name."""
    with os.scandir(folder) as iterator:
        return sorted(iterator, key=lambda entry: entry.name)
