"""Results on disk: NAME.json with everything, NAME.md for people, one CSV file a table; machine and commit in each."""

import csv
import datetime
import io
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from keras_compress.errors import InputError
from keras_compress.files import check_writable_folder, replacing

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = "benchmarks/results"  # seen from the folder in which commands are run
DATA_VARIABLE = "KERAS_COMPRESS_DATA"
PACKAGES = ("numpy", "scipy", "tensorflow", "keras")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")

Table = Sequence[Mapping[str, Any]]


def data_folder(flag: str | None) -> pathlib.Path:
    """The folder of data sets: the value of --data, or of the environment variable.

    Raises:
        InputError: neither names a folder.
    """
    name = flag or os.environ.get(DATA_VARIABLE)
    if not name:
        raise InputError(
            f"Name the folder with mnist.npz and cifar10.npz with --data, or in {DATA_VARIABLE}. Received: neither."
        )
    folder = pathlib.Path(name)
    if not folder.is_dir():
        raise InputError(f"There is no folder {name!r} of data sets. Name another one with --data.")
    return folder


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, versions, threads, how busy the machine is, and the commit."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "load_average": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def write(
    folder: str | os.PathLike[str],
    name: str,
    title: str,
    tables: Mapping[str, Table],
    *,
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
    sections: Mapping[str, str] | None = None,
) -> pathlib.Path:
    """Writes the tables and returns the path of the Markdown file.

    Args:
        folder: where the files go.
        name: of the files.
        title: first line of the Markdown file.
        tables: heading -> rows. A single table's CSV file is NAME.csv, several are NAME_HEADING.csv.
        machine: from `machine()`, taken before the measurements.
        settings: of the command.
        notes: sentences below the tables.
        sections: heading -> Markdown, what people read in place of the tables.
    """
    folder = check_writable_folder(folder)
    with replacing(folder / f"{name}.json") as part:
        content = {"machine": machine, "settings": settings, "notes": list(notes), "tables": tables}
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for heading, rows in tables.items():
        file = name if len(tables) == 1 else f"{name}_{heading.replace(' ', '_')}"
        with replacing(folder / f"{file}.csv") as part:
            part.write_text(_csv(rows), encoding="utf-8")
    path = folder / f"{name}.md"
    with replacing(path) as part:
        texts = [f"# {title}", sentence(machine)]
        for heading, text in (sections or {name: markdown(rows) for name, rows in tables.items()}).items():
            texts += [f"## {heading}", text]
        texts += [f"- {note}" for note in notes]
        part.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def sentence(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{package} {machine[package]}" for package in ("python", *PACKAGES))
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; {versions}; commit "
        f"{machine['commit']}; {machine['date']}; load average before the run {machine['load_average']}."
    )


def markdown(rows: Table) -> str:
    """Rows as a Markdown table; floats with four significant digits."""
    names = list(rows[0])
    lines = [names, ["---" if isinstance(rows[0][name], str) else "---:" for name in names]]
    lines += [[_cell(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _csv(rows: Table) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _commit() -> str:
    """The commit, with a plus sign if the package or the benchmarks differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "keras_compress", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
