"""How pictures look; colours and markers of methods are in `quantization.presets`."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from keras_compress.files import replacing
from keras_compress.quantization.presets import PRESETS
from keras_compress.sweep.records import Row

FLOAT = "#000000"
GREY = "#999999"
LONGEST_NAME = 64  # characters of a layer's path
DPI = 120


def in_order(methods: Sequence[str]) -> list[str]:
    """The methods once each, in the order of tables and legends."""
    return [method for method in PRESETS if method in methods]


def width_of(row: Row) -> str:
    """ "4 bits, 15 levels"; "3 levels" where levels were asked for."""
    levels = f"{row['levels']} levels"
    return levels if row["bits"] is None else f"{row['bits']} bit{'s' if row['bits'] != 1 else ''}, {levels}"


def short(path: str) -> str:
    """A layer's path, without its beginning where it is very long."""
    return path if len(path) <= LONGEST_NAME else f"…{path[1 - LONGEST_NAME :]}"


def tidy(axes: Axes) -> None:
    """A light grid behind the data, no box."""
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plain_log_ticks(axes: Axes) -> None:
    """Labels of a logarithmic x axis without powers: 0.5, 1, 2, 5, ..."""
    axes.xaxis.set_major_formatter(FuncFormatter(_plain_number))
    axes.xaxis.set_minor_formatter(FuncFormatter(_plain_if_leading))
    axes.tick_params(axis="x", which="both", labelsize=9)


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for the figure, outside of the data."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(labels), int(figure.get_figwidth() // 1.75)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def save(figure: Figure, folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / f"{name}.png"
    with replacing(path) as part:
        figure.savefig(part, dpi=DPI)
    return path


def _plain_number(value: float, _: Any = None) -> str:
    return f"{value:g}"


def _plain_if_leading(value: float, _: Any = None) -> str:
    """Labels 2, 5, 20, 50, ... between the powers of ten, where a short axis would have one label or none."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
