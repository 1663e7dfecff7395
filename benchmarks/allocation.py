"""Bits by `kc.allocate` against the same bits everywhere: accuracy at 3 and 4 bits on average.

    python benchmarks/allocation.py --data=DATA
    python benchmarks/allocation.py --data=DATA --networks=cifar10_v2_0,mlperf_resnet8 --seeds=0

Networks of depthwise layers are trained here for a few epochs (harness/depthwise.py) and kept in --models_dir; others'
networks lie in DATA/models. BatchNorm is folded, GPFQ quantizes, --num_samples random TRAINING images calibrate and are
all that the allocation sees; top-1 is on all test images. DATA holds cifar10.npz, fashion_mnist.npz and mnist.npz. What
is missing is named and left out. Writes allocation.{json,md} and CSV files. Half an hour on two cores, and as much for
the training.
"""

import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from harness import networks, results
from harness.start import start

from keras_compress.commands import cli

FLAGS = flags.FLAGS

DEPTHWISE = ["cifar10_v1_0", "cifar10_v1_1", "cifar10_v2_0", "cifar10_v2_1", "fashion_v1_0", "fashion_v1_1"]
OTHERS = [name for name in networks.LABELLED if name not in ("mnist_mlp", "cifar10_cnn")]

networks.define_flags(DEPTHWISE + OTHERS)
flags.DEFINE_integer("num_samples", 500, "Calibration images.", lower_bound=1)
flags.DEFINE_list("seeds", ["0", "1"], "Of the choice of images.")
flags.DEFINE_list("average_bits", ["3", "4"], "Bits of a weight, on average.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    data, machine = start(argv)
    rows: list[dict[str, Any]] = []
    for name, model, training, test in trained_networks(data):
        for row in measured(model, training, test):
            rows.append({"network": name} | row)
            print(results.markdown(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    path = results.write(
        FLAGS.results_dir,
        "allocation",
        "Bits by allocation and the same bits everywhere, top-1 in percent",
        {"means": means(rows), "all": rows},
        machine=machine,
        settings={name: FLAGS[name].value for name in ("num_samples", "seeds")},
        notes=[
            f"{FLAGS.num_samples} random training images calibrate and choose; top-1 on all test images (10,000: the "
            "standard error of an accuracy of 70, 90 and 98 % is 0.46, 0.3 and 0.14 points).",
            "gain: allocated minus everywhere. criterion: divergence of the outputs from the float network's on 256 of "
            "the calibration images. taken: what `allocate` gave.",
        ],
    )
    print(path.read_text())


def trained_networks(data: pathlib.Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, network, prepared training images, (prepared test images, labels)."""
    from harness import depthwise

    from keras_compress import load_model, zoo

    names = FLAGS.networks
    for name in [name for name in names if name in depthwise.NETWORKS]:
        path = data / f"{depthwise.NETWORKS[name][0]}.npz"
        if not path.is_file():
            print(f"{name}: {path.name} is not there, left out", file=sys.stderr)
            continue
        dataset = zoo.load_dataset(str(path))
        model = depthwise.load(name, dataset.x_train, dataset.y_train, pathlib.Path(FLAGS.models_dir))
        test = depthwise.prepared(dataset.x_test), dataset.y_test
        yield name, model, depthwise.prepared(dataset.x_train), test
    FLAGS.networks = [name for name in names if name not in depthwise.NETWORKS]
    for network in networks.chosen(data) if FLAGS.networks else ():
        model = load_model(network.path)
        dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))

        def prepared(images: Any, network: Any = network, model: Any = model) -> Any:
            return network.preprocessing(images).reshape(-1, *model.input_shape[1:])

        yield network.name, model, prepared(dataset.x_train), (prepared(dataset.x_test), dataset.y_test)


def measured(model: Any, training: Any, test: Any) -> Iterator[dict[str, Any]]:
    """A row for each seed and number of bits."""
    import numpy as np

    import keras_compress as kc

    def top1(network: Any) -> float:
        return round(100 * kc.evaluate(network, *test).top1, 2)

    folded = kc.fold_batch_normalization(model)
    before = top1(model)
    for seed in map(int, FLAGS.seeds):
        chosen = np.random.default_rng(seed).permutation(len(training))[: FLAGS.num_samples]
        with kc.Calibration(folded.model, training[chosen]) as calibration:
            for bits in map(int, FLAGS.average_bits):
                everywhere = kc.quantize(folded, kc.GPFQ(bits), calibration)
                started = time.perf_counter()
                overrides = kc.allocate(folded, calibration, average_bits=bits)
                seconds = time.perf_counter() - started
                allocated = kc.quantize(folded, kc.GPFQ(), calibration, overrides=overrides)
                row: dict[str, Any] = {
                    "bits": bits,
                    "seed": seed,
                    "float": before,
                    "everywhere": top1(everywhere.model),
                }
                row["allocated"] = top1(allocated.model)
                row["gain"] = round(row["allocated"] - row["everywhere"], 2)
                row["taken"] = overrides.report.steps[-1].figures.get("taken", "the choice")
                row["last layer"] = list(overrides.values())[-1].bits
                yield row | {"seconds": round(seconds, 1)}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the seeds."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["bits"]), []).append(row)
    names = ("float", "everywhere", "allocated", "gain", "seconds")
    return [
        {"network": network, "bits": bits}
        | {name: round(sum(row[name] for row in group) / len(group), 2) for name in names}
        for (network, bits), group in groups.items()
    ]


if __name__ == "__main__":
    cli.run(main)
