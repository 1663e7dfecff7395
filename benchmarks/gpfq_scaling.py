"""Time of the GPFQ solver against the number of features, next to its floor.

    python benchmarks/gpfq_scaling.py
    python benchmarks/gpfq_scaling.py --features=1152,4608 --units=128 --repetitions=21

The floor is what blocked GPFQ cannot do without: the product tril(H) @ W and the trailing block updates, at the
solver's block size, in float64, each timed alone. np.tril(H) itself, a copy, is timed apart and not part of the floor.
Next to it stand the same products block by block below the diagonal, the least work that gives the same sums: half of
the flops of the dense product. All are measured in turn, and the table has medians. Writes gpfq_scaling.{csv,json,md}
and gpfq_scaling.png. About a minute on two cores.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags
from harness import results, timing
from harness.layer_inputs import correlated_rows

from keras_compress.commands import cli
from keras_compress.errors import InputError
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.gpfq import BLOCK_SIZE, gpfq
from keras_compress.numerics.statistics import LayerStatistics

FLAGS = flags.FLAGS

flags.DEFINE_list("features", ["128", "256", "576", "1152", "2304", "4608"], "N, features of a layer.")
flags.DEFINE_list("units", ["128", "512"], "n_out, neurons of a layer.")
flags.DEFINE_integer("bits", 4, "Bits of a weight.", lower_bound=2, upper_bound=16)
flags.DEFINE_integer("repetitions", 9, "Rounds; the table has medians.", lower_bound=1)
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")

SAME, DIFFERENT = "X = X~", "X != X~"


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    features, units = (numbers(name) for name in ("features", "units"))
    machine = results.machine()
    rows = []
    for num_features in features:
        statistics = {inputs: layer_statistics(num_features, inputs) for inputs in (SAME, DIFFERENT)}
        for num_units in units:
            for inputs in (SAME, DIFFERENT):
                rows.append(measured(statistics[inputs], num_units, inputs))
                print(results.markdown(rows[-1:]).splitlines()[-1], flush=True)
    path = results.write(
        FLAGS.results_dir,
        "gpfq_scaling",
        "GPFQ's solver next to its floor",
        {"medians in milliseconds": rows},
        machine=machine,
        settings={"bits": FLAGS.bits, "repetitions": FLAGS.repetitions, "block_size": BLOCK_SIZE, "dtype": "float64"},
        notes=[
            f"floor = tril(H) @ W, with tril(H) at hand, + trailing updates in blocks of {BLOCK_SIZE}.",
            "triangular products: the same sums block by block, without the half of tril(H) @ W that multiplies "
            "zeros; with X = X~ one product instead of two.",
            f"Medians of {FLAGS.repetitions} rounds, in which the functions take turns. {FLAGS.bits} bits a weight.",
        ],
    )
    draw(rows, path.with_suffix(".png"))
    print(path.read_text())


def numbers(flag: str) -> list[int]:
    try:
        values = [int(text) for text in FLAGS[flag].value]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise InputError(
            f"--{flag} takes positive whole numbers with commas between. Received: {','.join(FLAGS[flag].value)}."
        )
    return values


def layer_statistics(num_features: int, inputs: str) -> LayerStatistics:
    """Gram statistics of correlated features with positive means, as behind a ReLU."""
    analog, compressed = correlated_rows(num_features, same=inputs == SAME)
    gram = (compressed.T @ compressed).astype(np.float64)
    cross = gram if analog is compressed else (compressed.T @ analog).astype(np.float64)
    sum_analog, sum_compressed = (rows_of.sum(axis=0, dtype=np.float64) for rows_of in (analog, compressed))
    return LayerStatistics(len(analog), sum_analog, sum_compressed, gram, cross)


def measured(statistics: LayerStatistics, num_units: int, inputs: str) -> dict[str, Any]:
    """A row of the table."""
    num_features = len(statistics.gram)
    weights = np.random.default_rng(1).standard_normal((num_features, num_units))
    largest = 2 ** (FLAGS.bits - 1) - 1
    alphabet = Alphabet(np.arange(-largest, largest + 1), np.full(num_units, 3.0 / largest))
    codes = gpfq(weights, statistics, alphabet).astype(np.float64)
    lower = np.tril(statistics.cross)
    targets = lower @ weights
    seconds = timing.interleaved(
        {
            "tril": lambda: np.tril(statistics.cross),
            "product": lambda: lower @ weights,
            "updates": lambda: trailing_updates(targets, statistics.gram, codes),
            "triangular": lambda: triangular_products(statistics, weights, codes),
            "solver": lambda: gpfq(weights, statistics, alphabet),
        },
        FLAGS.repetitions,
    )
    floor = seconds["product"] + seconds["updates"]
    return {
        "inputs": inputs,
        "N": num_features,
        "n_out": num_units,
        "np.tril(H)": 1e3 * seconds["tril"],
        "tril(H) @ W": 1e3 * seconds["product"],
        "trailing updates": 1e3 * seconds["updates"],
        "floor": 1e3 * floor,
        "triangular products": 1e3 * seconds["triangular"],
        "solver": 1e3 * seconds["solver"],
        "solver / floor": seconds["solver"] / floor,
        "solver / triangular": seconds["solver"] / seconds["triangular"],
    }


def trailing_updates(targets: np.ndarray, gram: np.ndarray, values: np.ndarray) -> None:
    """What right-looking blocks take from the features behind them; `targets` is overwritten."""
    for start in range(0, len(gram) - BLOCK_SIZE, BLOCK_SIZE):
        stop = start + BLOCK_SIZE
        targets[stop:] -= gram[stop:, start:stop] @ values[start:stop]


def triangular_products(statistics: LayerStatistics, weights: np.ndarray, values: np.ndarray) -> None:
    """All that matrix products can do for the solver, block by block, with nothing above the diagonal blocks."""
    gram, cross = statistics.gram, statistics.cross
    for start in range(0, len(gram), BLOCK_SIZE):
        block = slice(start, start + BLOCK_SIZE)
        targets = np.tril(cross[block, block]) @ weights[block]
        if statistics.same_inputs:
            targets += gram[block, :start] @ (weights[:start] - values[:start])
        else:
            targets += cross[block, :start] @ weights[:start]
            targets -= gram[block, :start] @ values[:start]


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Milliseconds against N, a panel for each n_out."""
    from matplotlib import pyplot as plt

    units = sorted({row["n_out"] for row in rows})
    sizes = sorted({row["N"] for row in rows})
    figure, panels = plt.subplots(1, len(units), figsize=(5 * len(units), 4), sharey=True, squeeze=False)
    for panel, num_units in zip(panels[0], units, strict=True):
        for inputs, color in ((SAME, "tab:blue"), (DIFFERENT, "tab:orange")):
            chosen = [row for row in rows if row["n_out"] == num_units and row["inputs"] == inputs]
            for column, style in (("solver", "o-"), ("floor", "s--"), ("triangular products", "^:")):
                points = [row["N"] for row in chosen], [row[column] for row in chosen]
                panel.loglog(*points, style, color=color, label=f"{column}, {inputs}", markersize=4)
        panel.set_title(f"{num_units} neurons")
        panel.set_xlabel("features N")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("milliseconds")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    cli.run(main)
