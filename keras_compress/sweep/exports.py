"""All TFLite files that a network can become, side by side: bytes, accuracy, latency; as a table and as a picture."""

import csv
import dataclasses
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from matplotlib.figure import Figure

from keras_compress import progress as progress_bar
from keras_compress.errors import InputError
from keras_compress.export.policy import MODES, STORAGES
from keras_compress.export.tflite import FORMATS, export_tflite
from keras_compress.files import check_writable_folder, replacing
from keras_compress.measurement.inspection import float_operators
from keras_compress.measurement.tflite import benchmark_tflite, evaluate_tflite
from keras_compress.quantization.activations import quantize_activations
from keras_compress.result import Result
from keras_compress.samples.splits import DataSplits
from keras_compress.sweep import style
from keras_compress.text import aligned

WITHOUT = "no codes"  # the weights of a plain model
COLORS = {
    "float": "#0072B2", "dynamic": "#009E73", "int8": "#D55E00", "float16": "#56B4E9", "int16x8": "#CC79A7",
}  # fmt: skip
SMALL = STORAGES[-1]  # alone: the fast file is another one
MARKERS = "osD^vPX*"  # of the weights, one after the other


@dataclasses.dataclass
class ExportRow:
    """One file.

    Attributes:
        weights: the name of a result, or "no codes" for those of a plain model: TensorFlow's converter stores them, and
            `export_tflite` rounds them to 8 bits where activations are "int8".
        activations, storage: as for `export_tflite`; "fast, small" where both give the same file; no storage where
            there are no codes.
        floats: operators whose outputs are floats, such as "7 MUL, 7 ADD", "0" or "all".
        top1: on the test samples.
        bytes, gzipped_bytes: of the file.
        milliseconds: median of one call with one sample.
        low, high: the quartiles.
        ratio: of the time to that of the first file.
        file: its name.
        reason: why there is no file, or "".
    """

    weights: str
    activations: str
    storage: str = ""
    floats: str = ""
    top1: float | None = None
    bytes: int | None = None
    gzipped_bytes: int | None = None
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    file: str = ""
    reason: str = ""


def compare_exports(
    model: keras.Model | None,
    results: Mapping[str, Result],
    samples: DataSplits,
    folder: str | os.PathLike[str],
    *,
    num_samples: int = 500,
    seed: int = 0,
    threads: int = 1,
    rounds: int = 100,
    progress: bool = False,
) -> list[ExportRow]:
    """Writes every file, and measures it.

    Args:
        model: a Keras model without codes, of which files are made in all formats; None is none.
        results: name -> quantized network, of which files are made in every mode and storage; those of integers with
            ranges by `quantize_activations`.
        samples: training samples, which ranges of activations are measured on, and test samples.
        folder: where the files go.
        num_samples: training samples for ranges.
        seed: of their choice.
        threads: of the interpreter, for latency.
        rounds: calls of each file, which take turns.
        progress: whether to show a bar (on a terminal) or lines.

    Returns:
        A row for each file, and for each one that cannot be.

    Raises:
        InputError: samples that do not fit, or a setting out of range.
        StorageError: the folder cannot be written to.
    """
    planned: list[tuple[ExportRow, Any]] = []
    if model is not None:
        planned += [(ExportRow(WITHOUT, kind), model) for kind in ("float", *FORMATS, "dynamic", "int8")]
    for name, result in results.items():
        planned += [(ExportRow(name, mode, storage), result) for mode in MODES for storage in STORAGES]
    if not planned:
        raise InputError("Nothing to export: pass a model, or results. Received: neither.")
    for _, source in planned:
        samples.check(source.model if isinstance(source, Result) else source, num_samples)
    folder = check_writable_folder(folder)
    images = samples.calibration(num_samples, seed)
    rows: dict[tuple[str, str, bytes], ExportRow] = {}
    with progress_bar.tasks("export", len(planned), enabled=progress) as done:
        for row, source in planned:
            content = _write(row, source, folder, images)
            same = rows.setdefault((row.weights, row.activations, content), row)
            if same is not row:
                same.storage = f"{same.storage}, {row.storage}"
                if row.file:
                    (folder / row.file).unlink()
            elif not row.reason:
                row.top1 = evaluate_tflite(folder / row.file, samples.test()).top1
            done(f"{row.weights}, activations {row.activations} {row.storage}".rstrip())
    written = [row for row in rows.values() if not row.reason]
    paths = [folder / row.file for row in written]
    if not written:
        raise InputError(f"None of the files can be written. The first: {next(iter(rows.values())).reason}")
    timings = benchmark_tflite(paths[0], against=paths[1:], threads=threads, rounds=rounds)
    for row, timing in zip(written, timings, strict=True):
        row.milliseconds, (row.low, row.high), row.ratio = timing.milliseconds, timing.spread, timing.ratio
    return list(rows.values())


def _write(row: ExportRow, source: Any, folder: pathlib.Path, images: Any) -> bytes:
    """Writes the file of a row and fills in its sizes; the content, or nothing where it cannot be."""
    parts = [row.weights.replace(" ", "_"), row.activations, *filter(None, [row.storage])]
    path = folder / f"{'_'.join(parts)}.tflite"
    try:
        if isinstance(source, Result) and row.activations == "int8":
            source = quantize_activations(source, images)
        export_tflite(source, path, activations=row.activations, storage=row.storage or STORAGES[0], calibration=images)
    except InputError as error:
        row.reason = str(error)
        return b""
    content = path.read_bytes()
    row.file, row.bytes, row.gzipped_bytes = path.name, len(content), len(zlib.compress(content, 9))
    row.floats = float_operators(content)
    return content


HEADINGS = (
    "weights", "activations", "storage", "in floats", "kB", "gzipped", "top-1", "lost", "ms", "quartiles", "ratio",
)  # fmt: skip
TEXTS = ("weights", "activations", "storage", "in floats")
KINDS = 2  # of operators that a cell names


def exports_table(rows: Sequence[ExportRow], float_top1: float) -> str:
    """Lines with one file each, what could not be written below them."""
    cells = [HEADINGS]
    for row in rows:
        if row.reason:
            continue
        assert row.bytes is not None and row.gzipped_bytes is not None and row.top1 is not None
        cells.append(
            (
                row.weights,
                row.activations,
                row.storage,
                _short(row.floats),
                f"{row.bytes / 1000:,.1f}",
                f"{row.gzipped_bytes / 1000:,.1f}",
                f"{row.top1:.2%}",
                f"{float_top1 - row.top1:.2%}",
                f"{row.milliseconds:.3f}",
                f"{row.low:.3f} .. {row.high:.3f}",
                f"{row.ratio:.2f}",
            )
        )
    lines = aligned(cells, [HEADINGS.index(heading) for heading in TEXTS])
    refused = [
        f"no file of {row.weights}, activations {row.activations}, {row.storage}: {row.reason}"
        for row in rows
        if row.reason
    ]
    return "\n".join([*lines, *refused])


def _short(operators: str) -> str:
    """The first kinds of operators, and how many others there are."""
    kinds = operators.split(", ")
    others = sum(int(kind.split()[0]) for kind in kinds[KINDS:])
    return ", ".join([*kinds[:KINDS], *([f"{others} more"] if others else [])])


def write_exports(rows: Sequence[ExportRow], path: str | os.PathLike[str]) -> None:
    """All rows as a CSV file.

    Raises:
        StorageError: the folder cannot be written to.
    """
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(ExportRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)


def draw_exports(rows: Sequence[ExportRow], float_top1: float, title: str, path: pathlib.Path) -> pathlib.Path:
    """Accuracy against bytes and against latency, one point for each file; writes the picture `path`.png."""
    shown = [row for row in rows if not row.reason]
    weights = list(dict.fromkeys(row.weights for row in shown))
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, label, x in zip(
        figure.subplots(1, 2, sharey=True),
        ("size (kB)", "latency of one sample (ms), quartiles"),
        ([(row.bytes or 0) / 1000 for row in shown], [row.milliseconds or 0.0 for row in shown]),
        strict=True,
    ):
        axes.axhline(100 * float_top1, color=style.FLOAT, linestyle="--", linewidth=1, zorder=0)
        for row, value in zip(shown, x, strict=True):
            color, marker = COLORS[row.activations], MARKERS[weights.index(row.weights) % len(MARKERS)]
            if label.startswith("latency"):
                axes.plot([row.low, row.high], [100 * (row.top1 or 0)] * 2, color=color, linewidth=1)
            axes.plot(
                value, 100 * (row.top1 or 0), marker, color=color, markersize=8, markeredgewidth=1.4,
                markerfacecolor="white" if row.storage == SMALL else color, alpha=0.8,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel(label)
        style.plain_log_ticks(axes)
        style.tidy(axes)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("top-1 (%)")
    entries: dict[str, dict[str, Any]] = {
        f"activations {mode}": {"marker": "s", "color": color, "markeredgecolor": "none"}
        for mode, color in COLORS.items()
        if any(row.activations == mode for row in shown)
    }
    for index, each in enumerate(weights):
        entries[f"weights {each}"] = {"marker": MARKERS[index % len(MARKERS)], "color": style.GREY}
    if any(row.storage == SMALL for row in shown):
        entries["storage small"] = {"marker": "o", "color": style.GREY, "markerfacecolor": "white"}
    for label, look in entries.items():
        axes.plot([], [], linestyle="none", label=label, **look)
    axes.plot([], [], color=style.FLOAT, linestyle="--", linewidth=1, label="the Keras model")
    style.legend_below(figure, axes)
    figure.suptitle(title, fontsize=11)
    return style.save(figure, path.parent, path.name)
