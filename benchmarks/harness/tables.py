"""Rows of `sweep.run` over several seeds, as means: for a file, for README, and as pictures."""

import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from keras_compress.errors import InputError
from keras_compress.files import replacing
from keras_compress.quantization.presets import PRESETS
from keras_compress.sweep.records import Records

WIDTHS = {3: "ternary", 4: "2 bits", 7: "3 bits", 15: "4 bits", 255: "8 bits"}
METHODS = tuple(reversed(PRESETS))  # in the order of tables: the baseline first
COMPARED = ("gpfq", "msq")  # what README sets next to the best one
MARKS = ("<!-- accuracy-table -->\n", "<!-- /accuracy-table -->\n")
PANEL = (1.9, 0.19)  # inches: width of a panel, height of a line
LEAST_LOSS = 0.1  # points of top-1 up to which the axis of losses is linear

Row = dict[str, Any]


def read(folder: pathlib.Path, networks: Iterable[str]) -> list[Row]:
    """The rows of each network that belong to the weights and the images that were last measured."""
    rows: list[Row] = []
    for name in networks:
        known = [row for row in Records(folder / f"{name}.csv").rows if row["method"] in PRESETS and not row["radius"]]
        last = {(row["samples"], row["seed"]): row["fingerprint"] for row in known}
        current = [row for row in known if row["fingerprint"] == last[row["samples"], row["seed"]]]
        rows += {(row["method"], row["levels"], row["samples"], row["seed"]): row for row in current}.values()
    return rows


def days(rows: list[Row]) -> str:
    """When each network was measured."""
    by_network: dict[str, set[str]] = {}
    for row in rows:
        by_network.setdefault(row["model"], set()).add(row["time"][:10])
    return "; ".join(f"{network} {' to '.join(sorted({min(each), max(each)}))}" for network, each in by_network.items())


def summary(rows: Iterable[Row]) -> list[Row]:
    """A row for each network, width and method, in the order of tables: means and standard deviations in percent."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["levels"], row["method"]), []).append(row)
    networks = list(dict.fromkeys(model for model, _, _ in groups))
    means = []
    for (model, levels, method), group in sorted(
        groups.items(), key=lambda item: (networks.index(item[0][0]), item[0][1], METHODS.index(item[0][2]))
    ):
        top1 = [100 * row["top1"] for row in group]
        errors = [100 * row["layer_error"] for row in group]
        means.append(
            {
                "network": model,
                "width": width_of(levels),
                "levels": levels,
                "method": method,
                "label": PRESETS[method].label,
                "samples": group[0]["samples"],
                "seeds": len(group),
                "float": round(100 * group[0]["float_top1"], 2),
                "top-1": round(statistics.fmean(top1), 2),
                "top-1 std": round(statistics.stdev(top1), 2) if len(group) > 1 else None,
                "layer error": round(statistics.fmean(errors), 2),
                "layer error std": round(statistics.stdev(errors), 2) if len(group) > 1 else None,
                "zeros": round(100 * statistics.fmean(row["zeros"] for row in group), 1),
                "ideal kB": round(group[0]["ideal_bytes"] / 1e3, 1),
                "float kB": round(group[0]["raw_bytes"] / 1e3, 1),
            }
        )
    return means


def width_of(levels: int) -> str:
    return WIDTHS.get(levels, f"{levels} levels")


def network_tables(means: Sequence[Row]) -> dict[str, str]:
    """For each network a Markdown table: a line for each method, for each width top-1 and layer error; best bold."""
    tables = {}
    for network in dict.fromkeys(row["network"] for row in means):
        rows = [row for row in means if row["network"] == network]
        cells = {(row["method"], row["levels"]): row for row in rows}
        widths = sorted({row["levels"] for row in rows})
        best = {levels: best_row(row for row in rows if row["levels"] == levels) for levels in widths}
        least = {levels: min(row["layer error"] for row in rows if row["levels"] == levels) for levels in widths}
        lines = [["method", *(text for levels in widths for text in (width_of(levels), "error"))]]
        for method in (name for name in METHODS if any(key[0] == name for key in cells)):
            line = [PRESETS[method].label]
            for levels in widths:
                row = cells.get((method, levels))
                if row is None:
                    line += ["", ""]
                    continue
                line.append(_mean(row, "top-1", bold=row["top-1"] == best[levels]["top-1"]))
                line.append(_mean(row, "layer error", bold=row["layer error"] == least[levels], spread=False))
            lines.append(line)
        tables[f"{network}, float {rows[0]['float']:.2f}"] = _markdown(lines, left=1)
    return tables


def best_row(means: Iterable[Row]) -> Row:
    """The highest top-1; of equal ones, the least layer error."""
    return max(means, key=lambda row: (row["top-1"], -row["layer error"]))


def readme_block(rows: Iterable[Row]) -> str:
    """One Markdown table: for each network and width the best method, and those it is compared with."""
    means = summary(rows)
    lines = [
        [
            "network",
            "float",
            "width",
            "best method",
            "top-1",
            "layer error",
            *(PRESETS[method].label for method in COMPARED),
        ]
    ]
    for network in dict.fromkeys(row["network"] for row in means):
        network_rows = [row for row in means if row["network"] == network]
        for index, levels in enumerate(sorted({row["levels"] for row in network_rows})):
            column = {row["method"]: row for row in network_rows if row["levels"] == levels}
            best = best_row(column.values())
            lines.append(
                [
                    *((network, f"{best['float']:.2f}") if index == 0 else ("", "")),
                    width_of(levels),
                    best["label"],
                    _mean(best, "top-1", bold=True),
                    f"{best['layer error']:.2f} %",
                    *(_mean(column[method], "top-1") if method in column else "" for method in COMPARED),
                ]
            )
    return _markdown(lines, left=1, right=(1, 4, 5, 6, 7))


def replace_block(path: pathlib.Path, block: str) -> None:
    """Puts the block between its marks in a document.

    Raises:
        InputError: the document has no such marks.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if any(text.count(mark) != 1 for mark in MARKS):
        raise InputError(f"{str(path)!r} needs the lines {MARKS[0].strip()} and {MARKS[1].strip()}, once each.")
    before, _, rest = text.partition(MARKS[0])
    with replacing(path) as part:
        part.write_text(f"{before}{MARKS[0]}{block}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


def _mean(row: Row, name: str, *, bold: bool = False, spread: bool = True) -> str:
    text = f"**{row[name]:.2f}**" if bold else f"{row[name]:.2f}"
    return text if row[f"{name} std"] is None or not spread else f"{text} ± {row[f'{name} std']:.2f}"


def _markdown(lines: list[list[str]], *, left: int = 0, right: Sequence[int] | None = None) -> str:
    """A Markdown table whose first line has the titles; columns `right`, or all but the first `left`, to the right."""
    columns = range(left, len(lines[0])) if right is None else right
    rule = ["---:" if index in columns else "---" for index in range(len(lines[0]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def draw(means: Sequence[Row], folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """NAME.png, top-1 lost, and NAME_layer_errors.png: a panel for each network and width, a line for each method."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import LogLocator

    def losses(axes: Axes) -> None:
        axes.set_xscale("symlog", linthresh=LEAST_LOSS, linscale=0.5)
        axes.set_xticks([0, 0.1, 1, 10, 100])
        axes.axvline(0, color="black", linestyle=":", linewidth=1)

    def errors(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))

    lost = [row | {"lost": row["float"] - row["top-1"], "lost std": row["top-1 std"]} for row in means]
    return [
        _draw(lost, "lost", "top-1 lost, percentage points", losses, folder, name),
        _draw(means, "layer error", "mean relative error of the layers, %", errors, folder, f"{name}_layer_errors"),
    ]


def _draw(means: Sequence[Row], value: str, title: str, scale: Any, folder: pathlib.Path, name: str) -> pathlib.Path:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from keras_compress.sweep import style

    networks = list(dict.fromkeys(row["network"] for row in means))
    widths = sorted({row["levels"] for row in means})
    methods = [method for method in METHODS if any(row["method"] == method for row in means)]
    size = (PANEL[0] * len(networks) + 2.2, (PANEL[1] * len(methods) + 0.6) * len(widths) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(widths), len(networks), sharey=True, sharex="col", squeeze=False)
    for panels, levels in zip(grid, widths, strict=True):
        for axes, network in zip(panels, networks, strict=True):
            panel_rows = [row for row in means if (row["network"], row["levels"]) == (network, levels)]
            for row in panel_rows:
                preset = PRESETS[row["method"]]
                axes.errorbar(
                    row[value],
                    methods.index(row["method"]),
                    xerr=row[f"{value} std"],
                    color=preset.color,
                    marker=preset.marker,
                    markersize=6,
                    linewidth=1,
                )
            scale(axes)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(f"{network}, {width_of(levels)}", fontsize=9)
            axes.set_yticks(range(len(methods)), [PRESETS[method].label for method in methods], fontsize=8)
            axes.set_ylim(len(methods) - 0.4, -0.6)
            axes.tick_params(axis="x", labelsize=8, labelbottom=True)
            style.tidy(axes)
    figure.supxlabel(f"{title}; mean and standard deviation", fontsize=10)
    return style.save(figure, folder, name)
