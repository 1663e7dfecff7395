"""Rows of `sweep.run` over several seeds, as means: for a file, for README, and as a picture."""

import math
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from keras_compress.sweep.records import Records

METHODS = {  # name in rows: name in tables, in the order of tables
    "msq": "MSQ",
    "msq_bias": "MSQ, bias corrected",
    "gpfq_uncentered": "GPFQ",
    "gpfq": "GPFQ, centred",
}
WIDTHS = {3: "ternary", 4: "2 bits", 7: "3 bits", 15: "4 bits", 255: "8 bits"}

Row = dict[str, Any]


def read(folder: pathlib.Path, networks: Iterable[str]) -> list[Row]:
    """The newest rows of each network: those of the weights and test images that were last measured."""
    rows: list[Row] = []
    for name in networks:
        known = Records(folder / f"{name}.csv").rows
        newest = {(row["method"], row["levels"], row["samples"], row["seed"]): row for row in known}
        rows += newest.values()
    return rows


def summary(rows: Iterable[Row]) -> list[Row]:
    """A row for each network, number of samples, width and method: mean and standard deviation in percent."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["samples"], row["levels"], row["method"]), []).append(row)
    found = []
    for (model, samples, levels, method), group in groups.items():
        top1 = [100 * row["top1"] for row in group]
        found.append(
            {
                "network": model,
                "samples": samples,
                "width": WIDTHS.get(levels, f"{levels} levels"),
                "levels": levels,
                "method": METHODS.get(method, method),
                "float": round(100 * group[0]["float_top1"], 2),
                "top-1": round(statistics.fmean(top1), 2),
                "std": round(statistics.stdev(top1), 2) if len(top1) > 1 else None,
                "seeds": len(top1),
                "layer error": round(statistics.fmean(row["layer_error"] for row in group), 4),
                "ideal kB": round(group[0]["ideal_bytes"] / 1e3, 1),
                "float kB": round(group[0]["raw_bytes"] / 1e3, 1),
            }
        )
    networks = list(dict.fromkeys(row["network"] for row in found))
    methods = list(METHODS.values())
    return sorted(found, key=lambda row: (networks.index(row["network"]), row["levels"], methods.index(row["method"])))


def readme_block(rows: Iterable[Row]) -> str:
    """One Markdown table: a line for each network and method, a column for each width; the best of a network bold."""
    means = summary(rows)
    widths = sorted({row["levels"] for row in means})
    titles = ["network", "float", "method", *(WIDTHS.get(levels, f"{levels} levels") for levels in widths)]
    lines = [titles, ["---", "---:", "---", *["---:"] * len(widths)]]
    for network in dict.fromkeys(row["network"] for row in means):
        cells = {(row["method"], row["levels"]): row for row in means if row["network"] == network}
        best = {levels: max(row["top-1"] for (_, at), row in cells.items() if at == levels) for levels in widths}
        first = True
        for method in (name for name in METHODS.values() if any(key[0] == name for key in cells)):
            float_top1 = f"{next(iter(cells.values()))['float']:.2f}"
            line = [network, float_top1, method] if first else ["", "", method]
            first = False
            for levels in widths:
                row = cells.get((method, levels))
                line.append("" if row is None else _mean(row, bold=row["top-1"] == best[levels]))
            lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(row: Row, *, bold: bool) -> str:
    text = f"{row['top-1']:.2f}"
    text = f"**{text}**" if bold else text
    return text if row["std"] is None else f"{text} ± {row['std']:.2f}"


def draw(rows: Iterable[Row], path: pathlib.Path) -> None:
    """Accuracy against bits a weight, a panel for each network, a line for each method."""
    from matplotlib import pyplot as plt

    means = summary(rows)
    networks = list(dict.fromkeys(row["network"] for row in means))
    columns = min(4, len(networks))
    lines = math.ceil(len(networks) / columns)
    figure, panels = plt.subplots(lines, columns, figsize=(3.6 * columns, 3.2 * lines), squeeze=False)
    for panel in panels.flat[len(networks) :]:
        panel.axis("off")
    for panel, network in zip(panels.flat, networks, strict=False):
        chosen = [row for row in means if row["network"] == network]
        for method in METHODS.values():
            points = sorted((row for row in chosen if row["method"] == method), key=lambda row: row["levels"])
            if points:
                bits = [math.log2(row["levels"]) for row in points]
                spread = [row["std"] or 0.0 for row in points]
                panel.errorbar(bits, [row["top-1"] for row in points], spread, marker="o", markersize=3, label=method)
        panel.axhline(chosen[0]["float"], color="black", linestyle=":", linewidth=1, label="float")
        panel.set_title(network, fontsize=9)
        panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("bits a weight")
    for panel in panels[:, 0]:
        panel.set_ylabel("top-1, %")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
