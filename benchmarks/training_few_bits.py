"""Quantization-aware training at 4, 3 and 2 bits that begins with codes of GPFQ, and with rounding.

    python benchmarks/training_few_bits.py --data=DATA
    python benchmarks/training_few_bits.py --data=DATA --networks=deepxplore_lenet1 --seeds=0

Each of --networks is trained for --epochs passes over all training images, those of cifar10 mirrored and shifted, by
Adam at a learning rate that falls from --learning_rate to zero in half a cosine, once for each seed of the order of
images: from the float weights, rounded to the largest one (float); from the codes and scales of
`kc.quantize(model, kc.GPFQ(bits))` (codes); from the float weights on the grid of these codes (grid). Activations have
8 bits. Top-1 on all test images. Writes training_few_bits (.json, .md, .csv).
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from absl import flags
from harness import networks, results
from harness.start import start
from harness.tasks import task_of

from keras_compress.commands import cli

FLAGS = flags.FLAGS

networks.define_flags([name for name in networks.LABELLED if name not in ("mnist_mlp", "cifar10_cnn")])
flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the trainings.")
flags.DEFINE_list("bits", ["4", "3", "2"], "Of the weights.")
flags.DEFINE_integer("epochs", 1, "Of each training.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.001, "At the beginning.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    data, machine = start(argv)
    rows = []
    for row in measured(data):
        rows.append(row)
        print(results.markdown([row]), flush=True)
        path = results.write(
            FLAGS.results_dir,
            "training_few_bits",
            "Quantization-aware training at few bits, from codes and from rounding",
            {"codes": rows},
            machine=machine,
            settings={"epochs": FLAGS.epochs, "learning_rate": FLAGS.learning_rate, "seeds": FLAGS.seeds},
            notes=[
                "Top-1 on all test images, percent, of networks that round their activations to 8 bits; mean and "
                "standard deviation over the seeds. float: begun with rounding to the largest weight; codes: with the "
                "codes of GPFQ; grid: with the float weights on its grid. GPFQ: its codes, before any training, with "
                "float activations."
            ],
        )
    print(path.read_text())


def measured(data: pathlib.Path) -> Iterator[dict[str, Any]]:
    import numpy as np

    import keras_compress as kc

    for network in networks.chosen(data):
        seeds = [int(seed) for seed in FLAGS.seeds]
        tasks = {seed: task_of(network, data, seed) for seed in seeds}
        task = tasks[seeds[0]]
        for bits in map(int, FLAGS.bits):
            quantized = kc.quantize(task.model, kc.GPFQ(bits=bits), task.calibration)
            row: dict[str, Any] = {"network": network.name, "bits": bits}
            row["GPFQ"] = 100 * kc.evaluate(quantized.model, *task.test).top1
            for name, given, more in (
                ("float", task.model, {}),
                ("codes", quantized, {}),
                ("grid", quantized, {"float_model": task.model}),
            ):
                top1 = []
                for seed in seeds:
                    settings = task.training(given, FLAGS.epochs, FLAGS.learning_rate, seed)
                    result = kc.quantization_aware_training(given, tasks[seed].train, bits=bits, **settings, **more)
                    top1.append(100 * kc.evaluate(result.model, *task.test).top1)
                row |= {name: float(np.mean(top1)), f"{name}, spread": float(np.std(top1))}
            yield row


if __name__ == "__main__":
    cli.run(main)
