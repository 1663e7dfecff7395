"""Accuracy with rounded activations: which rule for the ranges, W4A8, and BatchNorm statistics measured again.

    python benchmarks/activations.py --data=DATA
    python benchmarks/activations.py --data=DATA --networks=mlperf_resnet8 --seeds=0

Three tables. "rules": the rules for ranges at several bits, weights in floating point, the classifier's last two
tensors at 8 bits; top-1 on --num_selection TRAINING images that did not calibrate, which is what the default rule was
chosen by. "networks": top-1 on all test images of the float network, of 8 bits everywhere (MSQ, radius "max"), of 4-bit
weights (GPFQ) without and with 8-bit activations. "batch normalization": networks quantized with their BatchNorm layers
in place, before and after kc.recalibrate_batch_normalization. Calibrated on --num_samples random training images, once
for each seed; means over the seeds. DATA holds mnist.npz and cifar10.npz, and others' networks in DATA/models; ours are
in serialized_models/ (train/train_baseline.py). What is missing is named and left out. Writes activations.{json,md} and
a CSV file for each table.
"""

import sys
from typing import Any

from absl import flags
from harness import networks, results
from harness.start import start

from keras_compress.commands import cli

FLAGS = flags.FLAGS

RULES = ("minmax", "moving_average", "mse")

networks.define_flags(networks.LABELLED)
flags.DEFINE_integer("num_samples", 500, "Calibration images.", lower_bound=1)
flags.DEFINE_integer("num_selection", 4000, "Training images that compare the rules.", lower_bound=1)
flags.DEFINE_list("seeds", ["0", "1"], "Of the choice of images.")
flags.DEFINE_list("bits", ["8", "6", "4"], "Of the activations, where the rules are compared.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    data, machine = start(argv)
    import numpy as np

    from keras_compress import load_model, zoo

    tables: dict[str, list[dict[str, Any]]] = {"rules": [], "networks": [], "batch normalization": []}
    for network in networks.chosen(data):
        model = load_model(network.path)
        dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))

        def prepared(images: Any, network: Any = network, model: Any = model) -> Any:
            return network.preprocessing(images).reshape(-1, *model.input_shape[1:])

        test = prepared(dataset.x_test), dataset.y_test
        parts = []
        for seed in FLAGS.seeds:
            chosen = np.random.default_rng(int(seed)).permutation(len(dataset.x_train))
            own, other = np.split(chosen[: FLAGS.num_samples + FLAGS.num_selection], [FLAGS.num_samples])
            selection = prepared(dataset.x_train[other]), dataset.y_train[other]
            parts.append(measure(model, prepared(dataset.x_train[own]), selection, test))
            print(f"{network.name}, seed {seed}: done", file=sys.stderr)
        for title, rows in tables.items():
            for same in zip(*(part[title] for part in parts), strict=True):
                rows.append({"network": network.name} | mean(same))
    path = results.write(
        FLAGS.results_dir,
        "activations",
        "Accuracy with rounded activations, top-1 in percent",
        {title: rows for title, rows in tables.items() if rows},
        machine=machine,
        settings={name: FLAGS[name].value for name in ("num_samples", "num_selection", "seeds")},
        notes=[
            f"{FLAGS.num_samples} random training images calibrate; means over seeds {', '.join(FLAGS.seeds)}.",
            f"rules: on {FLAGS.num_selection} other training images, BatchNorm folded where that is exact, weights in "
            "floating point. networks and batch normalization: on all test images.",
        ],
    )
    print(path.read_text())


def measure(model: Any, calibration: Any, selection: Any, test: Any) -> dict[str, list[dict[str, Any]]]:
    """The rows of all three tables for one network and one choice of images."""
    import keras_compress as kc

    def top1(network: Any, samples: Any) -> float:
        return 100 * kc.evaluate(network, *samples).top1

    folded = kc.fold_batch_normalization(model)
    last = f"{folded.model.layers[-1].name}.*"  # the logits, and the softmax behind them
    rules = []
    with kc.Calibration(folded.model, calibration) as shared:
        for symmetric in (False, True):
            for bits in map(int, FLAGS.bits):
                settings: dict[str, Any] = {"bits": bits, "symmetric": symmetric, "overrides": {last: 8}}
                row: dict[str, Any] = {"letters": "symmetric" if symmetric else "asymmetric", "bits": bits}
                row["float"] = top1(model, selection)
                for rule in RULES:
                    row[rule] = top1(kc.quantize_activations(folded, shared, ranges=rule, **settings).model, selection)
                rules.append(row)
    eight = kc.quantize(folded, kc.MSQ(8, radius="max"))
    four = kc.quantize(folded, kc.GPFQ(4), calibration)
    networks = {
        "float": top1(model, test),
        "W8A8": top1(kc.quantize_activations(eight, calibration).model, test),
        "W4": top1(four.model, test),
        "W4A8": top1(kc.quantize_activations(four, calibration).model, test),
    }
    normalized = []
    if any(type(layer).__name__ == "BatchNormalization" for layer in model.layers):
        for quantizer in (kc.MSQ(4), kc.MSQ(3), kc.GPFQ(3), kc.GPFQ(2)):
            result = kc.quantize(model, quantizer, calibration)
            again = kc.recalibrate_batch_normalization(result, calibration)
            normalized.append(
                {"weights": repr(quantizer), "before": top1(result.model, test), "after": top1(again.model, test)}
            )
    return {"rules": rules, "networks": [networks], "batch normalization": normalized}


def mean(rows: Any) -> dict[str, Any]:
    """Rows of several seeds as one: numbers that differ are averaged."""
    return {
        name: round(sum(row[name] for row in rows) / len(rows), 2) if isinstance(value, float) else value
        for name, value in rows[0].items()
    }


if __name__ == "__main__":
    cli.run(main)
