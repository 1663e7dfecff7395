"""Accuracy of quantized networks, as in README's table: MSQ and GPFQ, each with and without the bias's help.

    python benchmarks/accuracy.py --data=DATA
    python benchmarks/accuracy.py --data=DATA --networks=mlperf_resnet8 --seeds=0
    python benchmarks/accuracy.py --show

Integer alphabets with a scale for each channel (rule "mse"), BatchNorm folded first where that is exact: ternary
{-1,0,1}, 2 bits {-2,-1,0,1}, and 3, 4 and 8 bits, symmetric. Calibrated on --num_samples random TRAINING images, once
for each seed; top-1 on all test images; nothing is chosen by looking at test images. DATA holds mnist.npz and
cifar10.npz, and others' networks in DATA/models; ours are in serialized_models/ (train/train_baseline.py). What is
missing is named and left out. Each configuration's row is in accuracy/NETWORK.csv the moment it is known, and the same
command goes on after a kill. Writes accuracy.{json,md,csv} and accuracy.png; --show prints README's block from the rows
that are there. About half an hour on two cores.
"""

import logging
import pathlib
import sys
from typing import Any

from absl import flags
from harness import results, tables

from keras_compress import cli
from keras_compress.errors import InputError

FLAGS = flags.FLAGS

NETWORKS = [
    "mnist_mlp",
    "cifar10_cnn",
    "mlperf_resnet8",
    "onepixel_lenet",
    "deepxplore_lenet1",
    "deepxplore_lenet4",
    "deepxplore_lenet5",
]
METHODS = ["msq", "msq_bias", "gpfq_uncentered", "gpfq"]

flags.DEFINE_string("data", None, f"Folder of mnist.npz and cifar10.npz. Default: {results.DATA_VARIABLE}.")
flags.DEFINE_string("models", None, "Folder of others' networks. Default: DATA/models.")
flags.DEFINE_string("models_dir", "serialized_models", "Folder of networks trained here, with their model cards.")
flags.DEFINE_list("networks", NETWORKS, "Which ones; other names are looked for in --models_dir.")
flags.DEFINE_integer("num_samples", 500, "Calibration images.", lower_bound=1)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the choice of calibration images.")
flags.DEFINE_list("levels", ["3", "4"], "Numbers of levels: 3 is ternary, 4 is 2 bits.")
flags.DEFINE_list("bits", ["3", "4", "8"], "Bits, with symmetric alphabets of 2^b - 1 levels.")
flags.DEFINE_bool("fold_batch_normalization", True, "Whether BatchNorm layers are folded first, where that is exact.")
flags.DEFINE_bool("show", False, "Only print README's block from the rows that are there.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    folder = pathlib.Path(FLAGS.results_dir) / ("accuracy" if FLAGS.fold_batch_normalization else "accuracy_unfolded")
    if not FLAGS.show:
        run(folder)
    rows = [row for row in tables.read(folder, FLAGS.networks) if row["samples"] == FLAGS.num_samples]
    if not rows:
        raise InputError(f"There are no rows in {str(folder)!r}. Run without --show first.")
    print(tables.readme_block(rows))


def run(folder: pathlib.Path) -> None:
    """Measures what has no row yet, and writes the tables and the picture."""
    data = results.data_folder(FLAGS.data)
    seeds, levels, bits = (whole_numbers(flag) for flag in ("seeds", "levels", "bits"))
    machine = results.machine()
    cli.import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each quantized network is traced: that is no news
    from harness import trained

    from keras_compress import sweep, zoo
    from keras_compress.bridge.loading import load_model

    grid = sweep.Grid(methods=METHODS, bits=bits, levels=levels, radius="mse", num_samples=[FLAGS.num_samples])
    rows: list[dict[str, Any]] = []
    for name in FLAGS.networks:
        network = trained.find(name, pathlib.Path(FLAGS.models_dir), pathlib.Path(FLAGS.models or data / "models"))
        if network is None:
            print(f"{name}: its file is not there, left out", file=sys.stderr)
            continue
        model = load_model(network.path)
        dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))
        samples = sweep.Samples(
            dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, network.preprocessing, dataset.num_classes
        )
        for seed in seeds:
            rows += sweep.run(
                model,
                grid,
                samples,
                name=name,
                dataset=network.dataset,
                metrics_dir=folder,
                fold=FLAGS.fold_batch_normalization,
                seed=seed,
                progress=True,
            )
    if not rows:
        raise InputError(f"None of the networks is there: {', '.join(FLAGS.networks)}.")
    folded = "BatchNorm folded first where that is exact" if FLAGS.fold_batch_normalization else "BatchNorm not folded"
    path = results.write(
        FLAGS.results_dir,
        folder.name,
        "Accuracy of quantized networks",
        {"top-1 on all test images": tables.summary(rows)},
        machine=machine,
        settings={"num_samples": FLAGS.num_samples, "seeds": seeds, "fold": FLAGS.fold_batch_normalization},
        notes=[
            f"{FLAGS.num_samples} random training images calibrate; mean and standard deviation over seeds "
            f"{', '.join(map(str, seeds))}; {folded}; integer alphabets, a scale a channel, radius by the rule mse.",
        ],
    )
    tables.draw(rows, path.with_suffix(".png"))


def whole_numbers(flag: str) -> list[int]:
    try:
        return [int(text) for text in FLAGS[flag].value]
    except ValueError:
        raise InputError(f"--{flag} takes whole numbers. Received: {','.join(FLAGS[flag].value)}.") from None


if __name__ == "__main__":
    cli.run(main)
