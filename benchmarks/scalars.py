"""Accuracy against the alphabet scalar C next to the numbers that the 2021 paper's code published.

    python benchmarks/scalars.py --data=DATA
    python benchmarks/scalars.py --data=DATA --networks=mnist_mlp_raw
    python benchmarks/scalars.py --data=DATA --networks=cifar10_cnn
    python benchmarks/scalars.py --data=DATA --networks=cifar10_cnn --patches=per_channel

Lybrand & Saab (2021) quantize to C * median|W| * linspace(-1, 1, M): `mnist_mlp` ternary with 25,000 images and C from
1 to 10, `cifar10_cnn` with 5,000 images, 3, 4, 8 and 16 levels and C from 2 to 6. Their networks were other trainings
(float 98.24 and 89.22 %), and their convolutions took each input channel for itself (--patches=per_channel), so that
the pattern is to be compared and not the digits. `mnist_mlp_raw` is trained as theirs was, but for the learning
rate's schedule, and `mnist_mlp_raw_constant` with a constant one, as theirs (--schedule=constant):

    python train/train_baseline.py --dataset=mnist --architecture=mlp --preprocessing=raw --epochs=100 \\
        --learning_rate=0.001 --validation_fraction=0.2 --name=mnist_mlp_raw

BatchNorm stays, as it follows a ReLU. Ours are in serialized_models/ (train/train_baseline.py). Rows are in
scalars/NETWORK.csv the moment they are known, and the same command goes on after a kill. Writes
scalars_NETWORK.{json,md,csv,png}. On two cores mnist_mlp takes a minute.
"""

import logging
import pathlib
from typing import Any

from absl import flags
from harness import published, results

from keras_compress.commands import cli
from keras_compress.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("data", None, f"Folder of mnist.npz and cifar10.npz. Default: {results.DATA_VARIABLE}.")
flags.DEFINE_string("models_dir", "serialized_models", "Folder of networks trained here, with their model cards.")
flags.DEFINE_list("networks", ["mnist_mlp"], "mnist_mlp, mnist_mlp_raw, mnist_mlp_raw_constant, cifar10_cnn.")
flags.DEFINE_integer("num_samples", None, "Calibration images. Default: 25,000 and 5,000.", lower_bound=1)
flags.DEFINE_list("alphabet_scalars", None, "C. Default: 1 to 10 for mnist_mlp, 2 to 6 for cifar10_cnn.")
flags.DEFINE_list("levels", None, "Levels of a weight. Default: 3 for mnist_mlp; 3, 4, 8, 16 for cifar10_cnn.")
flags.DEFINE_enum("patches", "joint", ["joint", "per_channel"], "Patches of convolutions.")
flags.DEFINE_integer("seed", 0, "Of the choice of calibration images.", lower_bound=0)
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")

METHODS = {"gpfq_uncentered": "GPFQ", "gpfq": "GPFQ, centred", "msq": "MSQ"}


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    data = results.data_folder(FLAGS.data)
    unknown = [name for name in FLAGS.networks if name not in published.EXPERIMENTS]
    if unknown:
        raise InputError(f"Published numbers are for {', '.join(published.EXPERIMENTS)}. Received: {unknown[0]!r}.")
    machine = results.machine()
    cli.import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each quantized network is traced: that is no news
    for name in FLAGS.networks:
        experiment = published.EXPERIMENTS[name]
        rows = measure(name, experiment, data)
        suffix = "" if FLAGS.patches == "joint" else f"_{FLAGS.patches}"
        path = results.write(
            FLAGS.results_dir,
            f"scalars_{name}{suffix}",
            f"{name}: accuracy against the alphabet scalar",
            {"top-1 in percent": comparison(rows, experiment)},
            machine=machine,
            settings={"samples": rows[0]["samples"], "patches": FLAGS.patches, "seed": FLAGS.seed},
            notes=[
                f"Float {100 * rows[0]['float_top1']:.2f} here, {100 * experiment.float_top1:.2f} published, with "
                f"{rows[0]['samples']:,} training images; patches {FLAGS.patches} here, per channel published.",
                "Alphabet: equispaced, radius C * median|W| of each layer.",
            ],
        )
        draw(rows, experiment, path.with_suffix(".png"))
        print(path.read_text())


def measure(name: str, experiment: published.Experiment, data: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of the grid, in its order."""
    from harness import trained

    from keras_compress import sweep, zoo
    from keras_compress.bridge.loading import load_model

    network = trained.find(name, pathlib.Path(FLAGS.models_dir), data)
    if network is None:
        raise InputError(
            f"There is no network {name}.keras in {FLAGS.models_dir!r}. Train it with "
            f"train/train_baseline.py --dataset={experiment.dataset} --architecture={experiment.architecture}."
        )
    dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))
    samples = sweep.DataSplits.of(dataset, network.preprocessing)
    grid = sweep.Grid(
        methods=list(METHODS),
        levels=[int(text) for text in FLAGS.levels] if FLAGS.levels else experiment.levels,
        alphabets=["equispaced"],
        scalars=[float(text) for text in FLAGS.alphabet_scalars] if FLAGS.alphabet_scalars else experiment.scalars,
        num_samples=[FLAGS.num_samples or experiment.num_samples],
        patches=FLAGS.patches,
        fold=False,
    )
    return sweep.run(
        load_model(network.path),
        grid,
        samples,
        name=name,
        dataset=network.dataset,
        metrics_dir=pathlib.Path(FLAGS.results_dir) / "scalars",
        seed=FLAGS.seed,
        progress=True,
    )


def comparison(rows: list[dict[str, Any]], experiment: published.Experiment) -> list[dict[str, Any]]:
    """A line for each number of levels and C."""
    lines: dict[tuple[int, float], dict[str, Any]] = {}
    for row in rows:
        at = row["levels"], row["scalar"]
        line = lines.setdefault(at, {"levels": row["levels"], "C": f"{row['scalar']:g}"})
        line[METHODS[row["method"]]] = round(100 * row["top1"], 2)
    for at, line in lines.items():
        gpfq, msq = experiment.top1.get(at, (None, None))
        line["GPFQ, published"] = None if gpfq is None else round(100 * gpfq, 2)
        line["MSQ, published"] = None if msq is None else round(100 * msq, 2)
    return list(lines.values())


def draw(rows: list[dict[str, Any]], experiment: published.Experiment, path: pathlib.Path) -> None:
    """Accuracy against C, a panel for each number of levels; what was published is dashed."""
    from matplotlib import pyplot as plt

    levels = list(dict.fromkeys(row["levels"] for row in rows))
    figure, panels = plt.subplots(1, len(levels), figsize=(4 * len(levels), 3.5), sharey=True, squeeze=False)
    for panel, number in zip(panels[0], levels, strict=True):
        for method, color in zip(METHODS, ("tab:blue", "tab:green", "tab:red"), strict=True):
            points = [
                (row["scalar"], row["top1"]) for row in rows if (row["levels"], row["method"]) == (number, method)
            ]
            panel.plot(*zip(*points, strict=True), "o-", color=color, markersize=3, label=METHODS[method])
        for index, (method, color) in enumerate((("GPFQ", "tab:blue"), ("MSQ", "tab:red"))):
            points = sorted((scalar, pair[index]) for (at, scalar), pair in experiment.top1.items() if at == number)
            if points:
                panel.plot(*zip(*points, strict=True), "--", color=color, linewidth=1, label=f"{method}, published")
        panel.axhline(rows[0]["float_top1"], color="black", linestyle=":", linewidth=1)
        panel.set_title(f"{number} levels")
        panel.set_xlabel("C")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("top-1")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    cli.run(main)
