"""Time of a grid: ten GPFQ and ten MSQ configurations of the `cnn` that share the analog network's pass.

    python benchmarks/grid.py --data=DATA
    python benchmarks/grid.py --data=DATA --model=serialized_models/cifar10_cnn.keras --num_images=5000

The alphabets are equispaced, ternary to 4 bits, with two scalars: what quantize/quantize_pretrained.py does, with the
evaluation of each quantized network on all 10,000 test images. DATA holds cifar10.npz. Without --model the network has
its first weights: the time does not depend on training, and the accuracies then mean nothing and are not written.
Writes grid.{json,md} and grid_*.csv.
"""

import pathlib
import tempfile
from typing import Any

from absl import flags
from harness import results, timing
from harness.start import start

from keras_compress.commands import cli

FLAGS = flags.FLAGS

flags.DEFINE_string("data", None, f"Folder of cifar10.npz. Default: {results.DATA_VARIABLE}.")
flags.DEFINE_string("model", None, "A .keras file for CIFAR-10 with its model card. Default: cnn with first weights.")
flags.DEFINE_integer("num_images", 5000, "Calibration images.", lower_bound=1)
flags.DEFINE_integer("num_test_images", None, "Test images. Default: all.", lower_bound=1)
flags.DEFINE_list("levels", ["3", "4", "5", "8", "16"], "Levels of a weight.")
flags.DEFINE_list("alphabet_scalars", ["3", "5"], "C, factors on the radius.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")

COLUMNS = ("method", "levels", "scalar", "layer_error", "seconds")


def main(argv: list[str]) -> None:
    data, machine = start(argv)
    from keras_compress import sweep, zoo
    from keras_compress.bridge.loading import load_model

    dataset = zoo.load_dataset(str(data / "cifar10.npz"))
    preprocessing = zoo.Preprocessing(scale=1 / 255)
    if FLAGS.model is None:
        model = zoo.build_architecture("cnn", (32, 32, 3), 10)
    else:
        model = load_model(FLAGS.model)
        preprocessing = zoo.ModelCard.read(pathlib.Path(FLAGS.model).with_suffix(".json")).preprocessing
    tests = slice(FLAGS.num_test_images)
    samples = sweep.DataSplits(
        dataset.x_train, dataset.y_train, dataset.x_test[tests], dataset.y_test[tests], preprocessing
    )
    grid = sweep.Grid(
        methods=["gpfq", "msq"],
        levels=[int(text) for text in FLAGS.levels],
        alphabets=["equispaced"],
        scalars=[float(text) for text in FLAGS.alphabet_scalars],
        num_samples=[FLAGS.num_images],
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = timing.seconds(
            lambda: rows.extend(sweep.run(model, grid, samples, name="cnn", metrics_dir=folder, progress=True))
        )
    columns = COLUMNS if FLAGS.model is None else (*COLUMNS, "float_top1", "top1")
    quantizing = sum(row["seconds"] for row in rows)
    total = {
        "configurations": len(rows),
        "calibration images": FLAGS.num_images,
        "test images": len(samples.x_test),
        "quantizing": quantizing,
        "evaluation and rest": seconds - quantizing,
        "total seconds": seconds,
    }
    path = results.write(
        FLAGS.results_dir,
        "grid",
        "A grid of GPFQ and MSQ on the cnn",
        {"total": [total], "configurations": [{column: row[column] for column in columns} for row in rows]},
        machine=machine,
        settings={"model": FLAGS.model and pathlib.Path(FLAGS.model).name, "alphabet": "equispaced"},
        notes=["One kc.Calibration serves all configurations: the first GPFQ pays for the analog network's pass."],
    )
    print(path.read_text())


if __name__ == "__main__":
    cli.run(main)
