"""Reads hostile files in a process of its own: `python -m tests.hardening.readers FOLDER NAME...`.

A line of JSON for each: the error, what changed on the disk, and how long it took. A file that hangs or kills the
process is the one after the last line. Without names nothing but the imports is done: the baseline.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

STATUS = pathlib.Path("/proc/self/status")


def _model(path: pathlib.Path) -> Any:
    import keras_compress as kc

    return kc.load_model(path)


def _packed(path: pathlib.Path) -> Any:
    import keras_compress as kc

    return kc.load_packed(path)


def _result(path: pathlib.Path) -> Any:
    import keras_compress as kc

    return kc.load_result(path)


def _dataset(path: pathlib.Path) -> Any:
    from keras_compress import zoo

    return zoo.load_dataset(str(path))


def _card(path: pathlib.Path) -> Any:
    from keras_compress import zoo

    return zoo.ModelCard.read(path)


def _records(path: pathlib.Path) -> Any:
    from keras_compress import sweep

    return sweep.Records(path)


def _store(path: pathlib.Path) -> Any:
    from keras_compress.calibration.store import ActivationStore

    with ActivationStore(1000, path):
        return None


READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    "model": _model, "packed": _packed, "result": _result, "dataset": _dataset, "card": _card, "records": _records,
    "store": _store,
}  # fmt: skip


def on_disk(folder: pathlib.Path) -> dict[str, str]:
    """Name and time of every file below a folder; links are not followed."""
    return {
        str(path): str(path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts and not path.is_dir()
    } | {str(path): "folder" for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()}


def peak() -> float:
    """Largest resident memory so far, in 10^6 bytes; that of getrusage begins with the memory of the parent."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def read(folder: pathlib.Path, path: pathlib.Path, reader: str) -> dict[str, Any]:
    """What reading one file did."""
    before, imported = on_disk(folder), "tf_keras" in sys.modules
    os.chdir(folder)  # where a module or a program of the file would be found
    sys.path.insert(0, str(folder))
    path_of_programs, os.environ["PATH"] = os.environ["PATH"], f"{folder}:{os.environ['PATH']}"
    error = line = ""
    started = time.perf_counter()
    try:
        READERS[reader](path)
    except Exception as caught:
        error, line = type(caught).__name__, str(caught)
    seconds = time.perf_counter() - started
    sys.path.remove(str(folder))
    os.environ["PATH"] = path_of_programs
    after = on_disk(folder)
    return {
        "error": error,
        "line": line,
        "changed": sorted(set(before.items()) ^ set(after.items())),
        "imported": not imported and "tf_keras" in sys.modules,
        "seconds": seconds,
        "peak": peak(),
    }


def main(arguments: list[str]) -> None:
    import keras  # noqa: F401 - the baseline has both

    import keras_compress  # noqa: F401

    files = json.loads(arguments[0]) if arguments else []  # name, folder, path, reader of each
    for name, folder, path, reader in files:
        print(json.dumps({"name": name, **read(pathlib.Path(folder), pathlib.Path(path), reader)}), flush=True)
    print(json.dumps({"name": "", "peak": peak()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
