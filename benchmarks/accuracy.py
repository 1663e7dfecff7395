"""Accuracy of quantized networks: every method at every width, as in README's table.

    python benchmarks/accuracy.py --data=DATA
    python benchmarks/accuracy.py --data=DATA --networks=mlperf_resnet8 --seeds=0
    python benchmarks/accuracy.py --show --readme=README.md

Integer alphabets with a scale for each channel, BatchNorm folded first where that is exact: ternary {-1,0,1}, 2 bits
{-2,-1,0,1}, and 3 and 4 bits, symmetric. Scales follow the radius rule "mse", but for Beacon and the refined methods,
which fit them, if their name does not say MSE. Calibrated on --num_samples random TRAINING images, once for each seed
and the same for all methods; top-1 on all test images; nothing is chosen by looking at test images. DATA holds
mnist.npz and cifar10.npz, and others' networks in DATA/models; ours are in serialized_models/
(train/train_baseline.py). What is missing is named and left out. Each configuration's row is in accuracy/NETWORK.csv
the moment it is known, and the same command goes on after a kill; rows of older code count too, so remove the folder to
measure anew. Writes accuracy.{json,md,csv}, accuracy.png and accuracy_layer_errors.png, and prints README's block,
which --readme puts into a document; --show does no more than that with the rows that are there.
"""

import logging
import pathlib
from typing import Any

from absl import flags
from harness import networks, results, tables

from keras_compress.commands import cli
from keras_compress.errors import InputError
from keras_compress.quantization.presets import preset_of

FLAGS = flags.FLAGS

networks.define_flags(networks.LABELLED)
flags.DEFINE_list("methods", list(tables.METHODS), "Which ones.")
flags.DEFINE_integer("num_samples", 500, "Calibration images.", lower_bound=1)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the choice of calibration images.")
flags.DEFINE_list("levels", ["3", "4"], "Numbers of levels: 3 is ternary, 4 is 2 bits.")
flags.DEFINE_list("bits", ["3", "4"], "Bits, with symmetric alphabets of 2^b - 1 levels.")
flags.DEFINE_bool("fold_batch_normalization", True, "Whether BatchNorm layers are folded first, where that is exact.")
flags.DEFINE_bool("show", False, "Only print README's block from the rows that are there.")
flags.DEFINE_string("readme", None, "A document whose block is replaced by the new one.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    seeds, levels, bits = (whole_numbers(flag) for flag in ("seeds", "levels", "bits"))
    for name in FLAGS.methods:
        preset_of(name)  # checks
    folder = pathlib.Path(FLAGS.results_dir) / ("accuracy" if FLAGS.fold_batch_normalization else "accuracy_unfolded")
    machine = results.machine()
    cli.import_tensorflow()
    if not FLAGS.show:
        measure(folder, seeds, levels, bits)
    rows = [
        row
        for row in tables.read(folder, FLAGS.networks)
        if row["samples"] == FLAGS.num_samples
        and row["seed"] in seeds
        and row["levels"] in {*levels, *(2**width - 1 for width in bits)}
        and row["method"] in FLAGS.methods
    ]
    if not rows:
        raise InputError(f"There are no rows in {str(folder)!r}. Run without --show first.")
    if not FLAGS.show:
        write(folder, rows, machine, seeds)
    block = tables.readme_block(rows)
    print(block)
    if FLAGS.readme is not None:
        tables.replace_block(pathlib.Path(FLAGS.readme), block)


def measure(folder: pathlib.Path, seeds: list[int], levels: list[int], bits: list[int]) -> None:
    """Adds the rows that are not in the folder yet."""
    data = results.data_folder(FLAGS.data)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each quantized network is traced: that is no news
    from keras_compress import sweep, zoo
    from keras_compress.bridge.loading import load_model

    grid = sweep.Grid(
        methods=FLAGS.methods,
        bits=bits,
        levels=levels,
        num_samples=[FLAGS.num_samples],
        fold=FLAGS.fold_batch_normalization,
    )
    for network in networks.chosen(data):
        model = load_model(network.path)
        dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))
        samples = sweep.DataSplits(  # without training labels: nothing is chosen here
            dataset.x_train, None, dataset.x_test, dataset.y_test, network.preprocessing, dataset.num_classes
        )
        for seed in seeds:
            sweep.run(
                model,
                grid,
                samples,
                name=network.name,
                dataset=network.dataset,
                metrics_dir=folder,
                seed=seed,
                progress=True,
            )


def write(folder: pathlib.Path, rows: list[tables.Row], machine: dict[str, Any], seeds: list[int]) -> None:
    """The tables and the pictures."""
    means = tables.summary(rows)
    folded = "BatchNorm folded first where that is exact" if FLAGS.fold_batch_normalization else "BatchNorm not folded"
    path = results.write(
        FLAGS.results_dir,
        folder.name,
        "Accuracy of quantized networks",
        {"top-1 on all test images": means},
        machine=machine,
        settings={"num_samples": FLAGS.num_samples, "seeds": seeds, "fold": FLAGS.fold_batch_normalization},
        notes=[
            f"Top-1 in percent on all test images; {FLAGS.num_samples} random training images calibrate, the same for "
            f"all methods; mean and standard deviation over seeds {', '.join(map(str, seeds))}; {folded}.",
            "error: relative error of a layer's outputs on the calibration images in percent (`kc.Report`), arithmetic "
            "mean over the layers and over the seeds.",
            "Integer alphabets with a scale a channel: ternary {-1, 0, 1}, 2 bits {-2, -1, 0, 1}, 3 and 4 bits "
            "symmetric. Scales by the radius rule mse, but for Beacon and the refined methods, which fit them, if the "
            "name does not say MSE.",
            "Bold: the best of a column.",
            f"Measured: {tables.days(rows)}.",
        ],
        sections=tables.network_tables(means),
    )
    tables.draw(means, path.parent, folder.name)


def whole_numbers(flag: str) -> list[int]:
    try:
        return [int(text) for text in FLAGS[flag].value]
    except ValueError:
        raise InputError(f"--{flag} takes whole numbers. Received: {','.join(FLAGS[flag].value)}.") from None


if __name__ == "__main__":
    cli.run(main)
