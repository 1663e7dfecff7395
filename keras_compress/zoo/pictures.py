"""A data set as a picture: samples of each class next to the class counts, or a summary of the columns of a table."""

import os
import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from keras_compress.errors import InputError
from keras_compress.files import replacing
from keras_compress.zoo.samples import Dataset

MAX_CLASSES = 20  # rows of the picture; more would not be read
MAX_COLUMNS = 25
# Sizes in inches.
CELL = 0.62  # height of a class
LINE = 0.24  # height of a column of a table
LABELS = 1.2  # room for names of classes
TABLE_WIDTH = 7.0
COUNTS_WIDTH = 3.2
COLORS = {"train": "#31688e", "test": "#fdae61"}


def draw_dataset(dataset: Dataset, path: str | os.PathLike[str], *, num_samples: int = 10, seed: int = 0) -> None:
    """Writes a picture of a data set.

    Args:
        dataset: images or a table.
        path: file to write; its suffix names the format, such as `.png`.
        num_samples: images of each class.
        seed: of the choice of images.

    Raises:
        InputError: matplotlib writes no files of that suffix.
        StorageError: the file cannot be written.
    """
    _check_suffix(pathlib.Path(path).suffix)
    num_rows = min(dataset.num_classes, MAX_CLASSES)
    if dataset.kind == "image":
        height, width = dataset.x_train.shape[1:3]
        size = (num_samples * CELL * width / height, num_rows * CELL)
        figure, left, right = _two_axes(*size, margin=LABELS, gap=0.15)
        _draw_samples(left, dataset, num_rows, num_samples, seed)
        right.set_yticks([])  # the rows are those of the images
    else:
        lines = _column_lines(dataset)
        size = (TABLE_WIDTH, max(LINE * (min(len(lines), MAX_COLUMNS) + 2), CELL * num_rows))
        figure, left, right = _two_axes(*size, margin=0.2, gap=LABELS)
        _draw_columns(left, lines, LINE / size[1])
        right.set_yticks(range(num_rows), _class_labels(dataset, num_rows))
    _draw_counts(right, dataset, num_rows)
    figure.suptitle(_title(dataset, num_rows), fontsize=11, y=1.0 - 0.15 / figure.get_figheight(), va="top")
    with replacing(path) as part:
        figure.savefig(part, dpi=120)


def class_counts(dataset: Dataset) -> dict[str, np.ndarray]:
    """Number of samples of each class, for "train" and "test"."""
    return {
        "train": np.bincount(dataset.y_train, minlength=dataset.num_classes),
        "test": np.bincount(dataset.y_test, minlength=dataset.num_classes),
    }


def _check_suffix(suffix: str) -> None:
    known = FigureCanvasBase.get_supported_filetypes()
    if suffix.lower().lstrip(".") not in known:
        raise InputError(f"A picture cannot be written as {suffix!r}. Use one of: {', '.join(sorted(known))}.")


def _two_axes(left_width: float, height: float, *, margin: float, gap: float) -> tuple[Figure, Axes, Axes]:
    """A figure with axes of `left_width` x `height` inches, and axes of the same height for the counts."""
    top, bottom = 0.75, 0.4
    figure = Figure(figsize=(margin + left_width + gap + COUNTS_WIDTH + 0.2, bottom + height + top))
    width, total = figure.get_size_inches()
    y, fraction = bottom / total, height / total
    left = figure.add_axes((margin / width, y, left_width / width, fraction))
    right = figure.add_axes(((margin + left_width + gap) / width, y, COUNTS_WIDTH / width, fraction))
    return figure, left, right


def _draw_samples(axes: Axes, dataset: Dataset, num_rows: int, num_samples: int, seed: int) -> None:
    x = dataset.x_train
    height, width = x.shape[1:3]
    edge = max(1, height // 24)  # white pixels around each image
    pitch_y, pitch_x = height + 2 * edge, width + 2 * edge
    channels = 3 if x.ndim == 4 and x.shape[3] == 3 else 1
    mosaic = np.ones((num_rows * pitch_y, num_samples * pitch_x, channels))
    generator = np.random.default_rng(seed)
    low = min(0.0, float(x.min()))  # images stored around zero are shown too
    for label in range(num_rows):
        members = np.flatnonzero(dataset.y_train == label)
        chosen = generator.choice(members, min(num_samples, len(members)), replace=False)
        for column, index in enumerate(np.sort(chosen)):
            image = x[index].reshape(height, width, -1)[..., :channels]
            top, left = label * pitch_y + edge, column * pitch_x + edge
            mosaic[top : top + height, left : left + width] = (image - low) / (dataset.max_value - low)
    # One unit of the y axis is one class, as in the counts next to it.
    axes.imshow(
        np.clip(mosaic if channels == 3 else mosaic[..., 0], 0.0, 1.0),
        cmap="gray",
        vmin=0.0,
        vmax=1.0,
        interpolation="nearest",
        extent=(0, num_samples, num_rows - 0.5, -0.5),
        aspect="auto",
    )
    axes.set_yticks(range(num_rows), _class_labels(dataset, num_rows))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("training samples", fontsize=10)


def _draw_counts(axes: Axes, dataset: Dataset, num_rows: int) -> None:
    for offset, (split, numbers) in zip((-0.2, 0.2), class_counts(dataset).items(), strict=True):
        bars = axes.barh(np.arange(num_rows) + offset, numbers[:num_rows], 0.38, color=COLORS[split], label=split)
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=7)
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.margins(x=0.2)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("samples of each class", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)


def _column_lines(dataset: Dataset) -> list[tuple[str, str, str]]:
    """Name, kind and summary of each column, from the training rows."""
    x = dataset.x_train
    if dataset.table is None:
        spans = [(f"column {index}", "number", index) for index in range(x.shape[1])]
        return [(name, kind, _summary(x[:, index])) for name, kind, index in spans]
    lines, start = [], 0
    for column in dataset.table.columns:
        if column.categories:
            fractions = x[:, start : start + len(column.categories)].mean(axis=0)
            order = np.argsort(-fractions, kind="stable")[:4]
            parts = [
                f"{_shorten(column.categories[index] or '(missing)', 14)} {fractions[index]:.0%}" for index in order
            ]
            more = len(column.categories) - len(order)
            summary = ", ".join(parts) + (f", {more} more" if more else "")
            lines.append((column.name, f"{len(column.categories)} categories", summary))
            start += len(column.categories)
        else:
            lines.append((column.name, "number", _summary(x[:, start])))
            start += 1
    return lines


def _summary(values: np.ndarray) -> str:
    return f"{values.min():.4g} ... {values.max():.4g}, mean {values.mean():.4g}, deviation {values.std():.4g}"


def _draw_columns(axes: Axes, lines: list[tuple[str, str, str]], line_height: float) -> None:
    shown = [(_shorten(name, 24), kind, summary) for name, kind, summary in lines[:MAX_COLUMNS]]
    axes.axis("off")
    axes.set_title("columns of the training samples", fontsize=10)
    height = line_height * (len(shown) + 1)
    table = axes.table(
        shown,
        colLabels=("column", "kind", "values"),
        colWidths=(0.24, 0.17, 0.59),
        cellLoc="left",
        colLoc="left",
        edges="horizontal",
        bbox=Bbox.from_bounds(0.0, 1.0 - height, 1.0, height),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, _), cell in table.get_celld().items():
        cell.set(linewidth=0.4, edgecolor="gray")
        cell.set_text_props(weight="bold" if row == 0 else "normal")
    if len(lines) > MAX_COLUMNS:
        axes.text(0.01, 0.0, f"and {len(lines) - MAX_COLUMNS} more columns", fontsize=8)


def _title(dataset: Dataset, num_rows: int) -> str:
    shape = "x".join(map(str, dataset.x_train.shape[1:]))
    samples = f"{len(dataset.x_train):,} training and {len(dataset.x_test):,} test samples"
    what = f"of {shape} pixels" if dataset.kind == "image" else f"of {shape} numbers"
    some = f" (the first {num_rows} shown)" if num_rows < dataset.num_classes else ""
    return f"{dataset.name}: {samples} {what}, {dataset.num_classes} classes{some}"


def _class_labels(dataset: Dataset, num_rows: int) -> list[str]:
    return [_shorten(name, 14) for name in dataset.class_names[:num_rows]]


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
