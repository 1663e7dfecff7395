"""Pictures of a grid; each is made only where the grid has the data for it."""

import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from keras_compress.files import check_writable_folder
from keras_compress.quantization.presets import PRESETS
from keras_compress.sweep import style
from keras_compress.sweep.records import Row
from keras_compress.sweep.tables import best_rows, is_selected_on_training, merit

PANEL = (3.2, 2.9)  # inches
MAX_COLUMNS = 4  # panels side by side
LINE = 0.3  # inches a layer
CHARACTER = 0.08  # inches a character of its name
MAX_TICKS = 7


def draw(rows: Sequence[Row], folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Draws what the rows of one model show.

    `accuracy_by_scalar_ALPHABET.png` needs two scalars, `accuracy_by_samples_ALPHABET.png` two numbers of samples;
    `layer_errors.png` and `methods.png` need a row.

    Returns:
        The files that were written.

    Raises:
        StorageError: `folder` cannot be written to.
    """
    folder = check_writable_folder(folder)
    paths = []
    for alphabet in dict.fromkeys(row["alphabet"] for row in rows):
        of_alphabet = [row for row in rows if row["alphabet"] == alphabet]
        paths += _by_scalar(of_alphabet, folder, alphabet)
        paths += _by_samples(of_alphabet, folder, alphabet)
    if rows:
        paths.append(_layer_errors(rows, folder))
        paths.append(_methods(rows, folder))
    return paths


def reference_rows(rows: Sequence[Row]) -> list[Row]:
    """The best GPFQ row (or the best of all, without GPFQ), then the rows of other methods with the same settings."""
    greedy = [row for row in rows if row["method"].startswith("gpfq")] or list(rows)
    best = max(best_rows(greedy).values(), key=merit)
    shared = ("alphabet", "bits", "levels", "scalar", "dense_scalar", "radius", "samples", "seed", "fingerprint")
    return [best] + [
        row for row in rows if row["method"] != best["method"] and all(row[name] == best[name] for name in shared)
    ]


def settings_text(row: Row) -> str:
    """What the rows of a comparison have in common."""
    scalars = f"C = {row['scalar']:g}"
    if row["dense_scalar"] != row["scalar"]:
        scalars += f", dense {row['dense_scalar']:g}"
    return f"{row['alphabet']}, {style.width_of(row)}, {scalars}, {row['samples']:,} samples"


def _by_scalar(rows: list[Row], folder: pathlib.Path, alphabet: str) -> list[pathlib.Path]:
    most = max(row["samples"] for row in rows)
    rows = [row for row in rows if row["samples"] == most]
    paired = all(row["scalar"] == row["dense_scalar"] for row in rows)
    swept = "scalar" if len({row["scalar"] for row in rows}) > 1 else "dense_scalar"
    if len({row[swept] for row in rows}) < 2:
        return []
    fixed = "dense_scalar" if swept == "scalar" else "scalar"

    def panel(row: Row) -> str:
        other = "" if paired or len({row[fixed] for row in rows}) < 2 else f", dense C = {row['dense_scalar']:g}"
        return style.width_of(row) + other

    what = "alphabet scalar C" if swept == "scalar" else "alphabet scalar C of Dense layers"
    figure = _panels(rows, panel, lambda row: row[swept], what, _few_ticks)
    figure.suptitle(f"{rows[0]['model']}: accuracy by scalar, {alphabet}, {most:,} calibration samples", fontsize=11)
    return [style.save(figure, folder, f"accuracy_by_scalar_{alphabet}")]


def _by_samples(rows: list[Row], folder: pathlib.Path, alphabet: str) -> list[pathlib.Path]:
    counts = sorted({row["samples"] for row in rows})
    if len(counts) < 2:
        return []
    chosen = []
    for width in dict.fromkeys(map(style.width_of, rows)):
        of_width = [row for row in rows if style.width_of(row) == width]
        # With several scalars: those that do best with the most samples.
        for method, best in best_rows(row for row in of_width if row["samples"] == counts[-1]).items():
            chosen += [
                row
                for row in of_width
                if row["method"] == method and all(row[name] == best[name] for name in ("scalar", "dense_scalar"))
            ]

    def logarithmic(axes: Axes, values: list[float]) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        apart = (values[-1] / values[0]) ** (1 / MAX_TICKS)  # closer labels would run into each other
        ticks = [values[0]]
        for value in values[1:-1]:
            if apart * ticks[-1] <= value and apart * value <= values[-1]:
                ticks.append(value)
        ticks.append(values[-1])
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30)

    figure = _panels(chosen, style.width_of, lambda row: row["samples"], "calibration samples", logarithmic)
    figure.suptitle(f"{rows[0]['model']}: accuracy by number of samples, {alphabet}", fontsize=11)
    return [style.save(figure, folder, f"accuracy_by_samples_{alphabet}")]


def _panels(
    rows: list[Row],
    panel: Callable[[Row], str],
    x: Callable[[Row], float],
    x_label: str,
    ticks: Callable[[Axes, list[float]], None],
) -> Figure:
    """Lines of top-1 over `x`, one for each method, in one panel for each value of `panel`."""
    names = list(dict.fromkeys(map(panel, sorted(rows, key=lambda row: (row["levels"], row["bits"] or 0)))))
    lines = -(-len(names) // MAX_COLUMNS)
    columns = -(-len(names) // lines)
    figure = Figure(figsize=(max(PANEL[0] * columns, 6.0), PANEL[1] * lines + 0.9), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        in_panel = [row for row in rows if panel(row) == name]
        for method in style.in_order([row["method"] for row in in_panel]):
            points = sorted((x(row), 100 * row["top1"]) for row in in_panel if row["method"] == method)
            axes.plot(
                *zip(*points, strict=True),
                color=PRESETS[method].color,
                marker=PRESETS[method].marker,
                markersize=5,
                label=PRESETS[method].label,
            )
        axes.axhline(100 * rows[0]["float_top1"], color=style.FLOAT, linestyle="--", linewidth=1, label="float")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(x_label)
        ticks(axes, sorted({x(row) for row in rows}))
        style.tidy(axes)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(f"top-1 (%), {rows[0]['test_samples']:,} test samples", fontsize=9)
    style.legend_below(figure, grid.flat[0])
    return figure


def _few_ticks(axes: Axes, values: list[float]) -> None:
    """Ticks at the values, unless their labels would run into each other."""
    gaps = [right - left for left, right in itertools.pairwise(values)]
    if min(gaps) * MAX_TICKS >= values[-1] - values[0]:
        axes.set_xticks(values, [f"{value:g}" for value in values])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, steps=[1, 2, 5, 10]))


def _layer_errors(rows: Sequence[Row], folder: pathlib.Path) -> pathlib.Path:
    compared = reference_rows(rows)
    layers = list(compared[0]["layer_errors"])
    figure, axes = layer_figure(layers)
    for method in style.in_order([row["method"] for row in compared]):
        row = next(row for row in compared if row["method"] == method)
        errors = [row["layer_errors"].get(layer) for layer in layers]
        known = [(100 * error, index) for index, error in enumerate(errors) if error]
        if known:
            axes.plot(
                *zip(*known, strict=True),
                color=PRESETS[method].color,
                marker=PRESETS[method].marker,
                linewidth=1,
                label=PRESETS[method].label,
            )
    axes.set_xscale("log")
    style.plain_log_ticks(axes)
    axes.set_xlabel("relative error of the layer's outputs (%)")
    figure.suptitle(f"{compared[0]['model']}: error by layer\n{settings_text(compared[0])}", fontsize=11)
    style.legend_below(figure, axes)
    return style.save(figure, folder, "layer_errors")


def layer_figure(layers: Sequence[str], first: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """A figure with layers from top to bottom, so that long names have room."""
    names = [*first, *map(style.short, layers)]
    width = 5.5 + CHARACTER * max(map(len, names))
    figure = Figure(figsize=(width, LINE * len(names) + 2.0), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    style.tidy(axes)
    return figure, axes


def _methods(rows: Sequence[Row], folder: pathlib.Path) -> pathlib.Path:
    widths = sorted({(row["levels"], row["bits"] or 0, style.width_of(row)) for row in rows})
    methods = style.in_order([row["method"] for row in rows])
    bar = 0.8 / len(methods)
    figure = Figure(figsize=(max(7.0, 0.45 * len(widths) * len(methods) + 2.0), 4.4), layout="constrained")
    axes = figure.subplots()
    for group, (_, _, width) in enumerate(widths):
        best = best_rows(row for row in rows if style.width_of(row) == width)
        for position, method in enumerate(methods):
            if method not in best:
                continue
            x, height = group + (position - (len(methods) - 1) / 2) * bar, 100 * best[method]["top1"]
            label = PRESETS[method].label if group == 0 else None
            axes.bar(x, height, 0.94 * bar, color=PRESETS[method].color, label=label)
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # the line of the float network ends there
            axes.text(x, height + 1.2, f"{height:.1f}", ha="center", va="bottom", fontsize=8, bbox=behind)
    axes.axhline(100 * rows[0]["float_top1"], color=style.FLOAT, linestyle="--", linewidth=1, label="float", zorder=0)
    axes.set_xticks(range(len(widths)), [width.replace(", ", "\n") for *_, width in widths])
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(f"top-1 (%), {rows[0]['test_samples']:,} test samples")
    style.tidy(axes)
    axes.grid(False, axis="x")
    chosen_on = "training samples outside of the calibration" if is_selected_on_training(rows) else "these test samples"
    several = len(rows) > sum(1 for _ in {(row["method"], style.width_of(row)) for row in rows})
    note = f"\neach bar: the settings that do best on {chosen_on}" if several else ""
    figure.suptitle(f"{rows[0]['model']}: accuracy by method{note}", fontsize=10)
    style.legend_below(figure, axes)
    return style.save(figure, folder, "methods")
