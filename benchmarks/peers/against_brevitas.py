"""GPFQ, OPTQ and Qronos against those of Brevitas 0.13.4, on the same folded weights, inputs and scales.

    python -m venv peer-venv
    peer-venv/bin/pip install --editable . brevitas==0.13.4 torch tqdm
    peer-venv/bin/python benchmarks/peers/against_brevitas.py --data=DATA
    peer-venv/bin/python benchmarks/peers/against_brevitas.py --data=DATA --parts=updates --features=1152 --units=128

Brevitas and PyTorch (its CPU build is enough) are no dependencies of keras_compress: an environment of their own, with
keras_compress in it, keeps them apart. All runs in one process. Three parts, each with its own files:

codes: layer by layer, `gpfq_mode` gets the X, X~, weights and scales that `keras_compress.numerics.gpfq` gets, in
float64 and in its default float32. Where a neuron's codes differ: how far from halfway between two values the
argument of the first difference lies, in steps of the alphabet, next to what rounding the terms of its sum can change.
All later values of the neuron follow another path.

updates: seconds of `update()` alone, the statistics being there on both sides, in turn with our solvers, on as many
threads. Brevitas computes in float32, its default; we in float64.

accuracy: the ResNet8 of MLPerf Tiny on CIFAR-10, BatchNorm folded, weights only, --num_samples random TRAINING images,
once for each seed; top-1 on all test images. Brevitas: GPFQ, Qronos and GPTQ, each in natural order and by `act_order`,
without and with `bias_correction_mode`, with our scales (rule "mse") and with its own (least squared error of the
weights). Its best is chosen by the test images, in its favour; ours is named beforehand, and also measured without
fitting scales to codes, which Brevitas does not do. A row is in brevitas_accuracy/rows.csv the moment it is known, and
the same command goes on after a kill; without that file all is measured anew.

Writes brevitas_{codes,updates,accuracy}.{json,md} and CSV files. DATA holds cifar10.npz and mnist.npz, and others'
networks in DATA/models; ours are in serialized_models/. What is missing is named and left out.
"""

import csv
import importlib.util
import itertools
import logging
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
from absl import flags

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the harness of all benchmarks is

from harness import networks, results, timing
from harness.layer_inputs import correlated_rows

from keras_compress.commands import cli
from keras_compress.errors import InputError
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.gpfq import gpfq
from keras_compress.numerics.optq import optq
from keras_compress.numerics.statistics import LayerStatistics, statistics_of

FLAGS = flags.FLAGS

PARTS = ["codes", "updates", "accuracy"]
NEEDED = {"brevitas": "brevitas==0.13.4", "torch": "torch", "tqdm": "tqdm"}
NETWORK = "mlperf_resnet8"  # of the accuracies
WIDTHS = {15: "4 bits", 7: "3 bits", 4: "2 bits", 3: "ternary"}
PACKAGE, PEER = "keras_compress", "Brevitas"
REFINED = "OPTQ, corrected, refined"
BEST = f"{REFINED}, distilled"  # our best method, with fitted scales
PRECISIONS = ("float64", "float32")

flags.DEFINE_list("parts", PARTS, "Which ones.")
networks.define_flags([NETWORK, "cifar10_cnn", "mnist_mlp"], "codes: which ones.")
flags.DEFINE_integer("num_images", 100, "codes: images that give X and X~.", lower_bound=1)
flags.DEFINE_list("features", ["1152", "2304", "4608"], "updates: N, features of a layer.")
flags.DEFINE_list("units", ["128", "512"], "updates: n_out, neurons of a layer.")
flags.DEFINE_integer("repetitions", 3, "updates: rounds; the table has medians.", lower_bound=1)
flags.DEFINE_integer("num_samples", 1000, "accuracy: calibration images.", lower_bound=1)
flags.DEFINE_list("seeds", ["0", "1", "2"], "accuracy: of the choice of calibration images.")
flags.DEFINE_integer(
    "finalists",
    None,
    "accuracy: after the first seed only so many of Brevitas' runs, its best at a width.",
    lower_bound=1,
)
flags.DEFINE_list("levels", ["15", "7", "4", "3"], "codes, accuracy: numbers of levels: 4 and 3 bits, 2 bits, ternary.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")

Row = dict[str, Any]
Run = tuple[str, str, str]  # of Brevitas: scales, method, order


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    check_parts()
    levels = whole_numbers("levels", allowed=list(WIDTHS))
    features, units, seeds = whole_numbers("features"), whole_numbers("units"), whole_numbers("seeds", low=0)
    check_installed()
    data = results.data_folder(FLAGS.data) if {"codes", "accuracy"} & set(FLAGS.parts) else None
    machine = results.machine()
    cli.import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each quantized network is traced: that is no news
    import torch

    torch.set_num_threads(machine["cores"])  # as many as NumPy's BLAS has
    machine |= {name: metadata.version(name) for name in ("torch", "brevitas")}
    print(f"{versions(machine)}, {torch.get_num_threads()} threads", flush=True)
    if "codes" in FLAGS.parts and data is not None:
        codes(data, levels, machine)
    if "updates" in FLAGS.parts:
        updates(features, units, machine)
    if "accuracy" in FLAGS.parts and data is not None:
        accuracy(data, levels, seeds, machine)


def check_installed() -> None:
    """Raises InputError where Brevitas or what it needs is not there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(NEEDED)} are needed. Received: an environment without {', '.join(missing)}. Install them "
            f"next to keras_compress, best in an environment of its own: pip install {' '.join(NEEDED.values())}"
        )


def check_parts() -> None:
    if not FLAGS.parts or not set(FLAGS.parts) <= set(PARTS):
        raise InputError(f"--parts takes some of {', '.join(PARTS)}. Received: {','.join(FLAGS.parts)}.")


def whole_numbers(flag: str, *, low: int = 1, allowed: list[int] | None = None) -> list[int]:
    try:
        values = [int(text) for text in FLAGS[flag].value]
    except ValueError:
        values = []
    if not values or min(values) < low or (allowed and not set(values) <= set(allowed)):
        expected = f"some of {', '.join(map(str, allowed))}" if allowed else f"whole numbers from {low} upwards"
        raise InputError(f"--{flag} takes {expected}. Received: {','.join(FLAGS[flag].value)}.")
    return values


def versions(machine: Row) -> str:
    return f"Brevitas {machine['brevitas']}, PyTorch {machine['torch']}"


def network(name: str, data: pathlib.Path) -> tuple[Any, Any] | None:
    """The folded model and its labelled samples; None where its file is missing."""
    import keras_compress as kc
    from keras_compress import sweep, zoo

    trained = networks.find(name, data)
    if trained is None:
        print(f"{name}: its file is not there, left out", file=sys.stderr)
        return None
    dataset = zoo.load_dataset(str(data / f"{trained.dataset}.npz"))
    samples = sweep.DataSplits.of(dataset, trained.preprocessing)
    return kc.fold_batch_normalization(kc.load_model(trained.path)).model, samples


# codes


def codes(data: pathlib.Path, levels: list[int], machine: Row) -> None:
    """Our codes next to those of `gpfq_mode`, for each layer."""
    rows: list[Row] = []
    differences: list[Row] = []
    for name in FLAGS.networks:
        loaded = network(name, data)
        if loaded is None:
            continue
        model, samples = loaded
        images = samples.calibration(FLAGS.num_images, seed=0).read().inputs
        for num_levels in levels:
            for layer, matrix, analog, compressed, alphabet in layers(model, images, num_levels):
                row, first = compared(matrix, analog, compressed, alphabet)
                setting = {"network": name, "layer": layer, "width": WIDTHS[num_levels]}
                rows.append(setting | row)
                differences += [setting | difference for difference in first]
                print(results.markdown(rows[-1:]).splitlines()[-1], flush=True)
    if not rows:
        raise InputError(f"None of the networks is there: {', '.join(FLAGS.networks)}.")
    tables = {"in all": in_all(rows, differences), "layers": rows}
    if differences:
        tables["first differences"] = differences
    path = results.write(
        FLAGS.results_dir,
        "brevitas_codes",
        "Codes of GPFQ here and in Brevitas, from the same inputs and scales",
        tables,
        machine=machine,
        settings={"num_images": FLAGS.num_images, "levels": levels},
        notes=[
            f"{versions(machine)}. Brevitas computes in the precision named; ours always in float64.",
            "N: features; m: rows of X and X~; columns float64 and float32: the fraction of codes that are equal.",
            "BatchNorm folded first; X~ from our GPFQ of the layers before, uncentred; scales by the rule mse.",
            "First differences: in each neuron whose codes differ, the first feature at which they do. Distance: of "
            "the argument in float64 from halfway between two values, in steps of the alphabet. Rounding: what "
            "that precision can change of it by rounding the terms of its sum alone: unit roundoff * sum of |terms|.",
        ],
    )
    print(path.read_text().split("## layers")[0])


def layers(model: Any, images: np.ndarray, num_levels: int) -> Iterator[tuple[str, Any, Any, Any, Alphabet]]:
    """Name, weights (N, n_out), X, X~ (m, N) and alphabet of each layer; X~ by our GPFQ of the layers before it."""
    import tensorflow as tf
    from harness.floor import Recorder

    import keras_compress as kc

    result = kc.quantize(model, kc.GPFQ(alphabet=kc.Integer(levels=num_levels), centered=False), images)
    recorder = Recorder(model, result.model, list(result.kernels))
    views = recorder.graphs[0].views
    for path, ((analog, compressed),) in recorder.inputs(tf.constant(images)).items():
        kernel = result.kernels[path]
        rows = [views[path].rows(tensor)[0].numpy() for tensor in (analog, compressed)]
        if np.array_equal(*rows):
            rows[1] = rows[0]
        yield path, views[path].matrices(views[path].kernel)[0], *rows, Alphabet(kernel.levels, kernel.scale)


def compared(
    matrix: np.ndarray, analog: np.ndarray, compressed: np.ndarray, alphabet: Alphabet
) -> tuple[Row, list[Row]]:
    """A row for one layer, and its neurons' first differences."""
    import brevitas_side

    layer_statistics = statistics_of(analog, compressed)
    package_codes = gpfq(matrix.astype(np.float64), layer_statistics, alphabet)
    row: Row = {"N": matrix.shape[0], "n_out": matrix.shape[1], "m": len(analog)}
    differences: list[Row] = []
    for precision in PRECISIONS:
        arguments = ("GPFQ", matrix, analog, compressed, len(alphabet.levels), alphabet.scale, precision)
        with brevitas_side.layer_job(*arguments) as job:
            job.update()
            peer_codes = job.codes()
        row[precision] = float(np.mean(package_codes == peer_codes))
        differences += [
            {"precision": precision}
            | first_difference(matrix, layer_statistics, alphabet, package_codes, peer_codes, int(neuron), precision)
            for neuron in np.flatnonzero((package_codes != peer_codes).any(axis=0))
        ]
    row["neurons that differ"] = sum(difference["precision"] == PRECISIONS[-1] for difference in differences)
    return row, differences


def first_difference(
    matrix: np.ndarray,
    layer_statistics: LayerStatistics,
    alphabet: Alphabet,
    package_codes: np.ndarray,
    peer_codes: np.ndarray,
    neuron: int,
    precision: str,
) -> Row:
    """How far from halfway between two values a neuron's codes part, and how far rounding reaches there."""
    feature = int(np.argmax(package_codes[:, neuron] != peer_codes[:, neuron]))
    weights = matrix[: feature + 1, neuron].astype(np.float64)
    values = alphabet.decode(package_codes)[:feature, neuron].astype(np.float64)
    gram, cross = layer_statistics.gram, layer_statistics.cross
    terms = np.concatenate([cross[feature, : feature + 1] * weights, -gram[feature, :feature] * values])
    step = gram[feature, feature] * alphabet.unit[neuron]
    argument = terms.sum() / step
    unit_roundoff = np.finfo(precision).eps / 2
    return {
        "neuron": int(neuron),
        "feature": feature,
        "ours": int(package_codes[feature, neuron]),
        "theirs": int(peer_codes[feature, neuron]),
        "distance": float(abs(argument - np.floor(argument) - 0.5)),
        "rounding": float(unit_roundoff * np.abs(terms).sum() / abs(step)),
    }


def in_all(rows: list[Row], differences: list[Row]) -> list[Row]:
    """A row for each network and precision."""
    totals = []
    for name in [*dict.fromkeys(row["network"] for row in rows), "all"]:
        chosen = [row for row in rows if name in (row["network"], "all")]
        sizes = [row["N"] * row["n_out"] for row in chosen]
        for precision in PRECISIONS:
            parted = [d for d in differences if name in (d["network"], "all") and d["precision"] == precision]
            equal = round(sum(row[precision] * size for row, size in zip(chosen, sizes, strict=True)))
            totals.append(
                {
                    "network": name,
                    "precision": precision,
                    "layers": len(chosen),
                    "codes": sum(sizes),
                    "that differ": sum(sizes) - equal,
                    "equal, %": 100 * equal / sum(sizes),
                    "neurons": sum(row["n_out"] for row in chosen),
                    "neurons that differ": len(parted),
                    "within rounding": sum(d["distance"] <= d["rounding"] for d in parted),
                    "farthest, steps": max((d["distance"] for d in parted), default=None),
                }
            )
    return totals


# updates


def updates(features: list[int], units: list[int], machine: Row) -> None:
    """Times of one layer's update."""
    rows: list[Row] = []
    for num_features in features:
        analog, compressed = correlated_rows(num_features, same=False)
        layer_statistics = statistics_of(analog, compressed)
        for num_units in units:
            rows += update_rows(analog, compressed, layer_statistics, num_units)
            print("\n".join(results.markdown(rows[-3:]).splitlines()[-3:]), flush=True)
    path = results.write(
        FLAGS.results_dir,
        "brevitas_updates",
        "The update of one layer, here and in Brevitas",
        {"medians in seconds": rows},
        machine=machine,
        settings={"bits": 4, "repetitions": FLAGS.repetitions, "load_average_after": round(os.getloadavg()[0], 2)},
        notes=[
            f"{versions(machine)}, {machine['cores']} threads on both sides. Brevitas in float32, its default; ours in "
            "float64. Statistics are there on both sides and not timed. X and X~ differ. 4 bits a weight.",
            f"Medians of {FLAGS.repetitions} rounds, in which Brevitas' update stands between two of ours; ratio: the "
            "median of each round's ratio of Brevitas' time to the mean of ours.",
            f"Load average after the run {os.getloadavg()[0]:.2f}: other work on the machine lengthens both sides.",
        ],
    )
    print(path.read_text())


def update_rows(
    analog: np.ndarray, compressed: np.ndarray, layer_statistics: LayerStatistics, num_units: int
) -> list[Row]:
    """A row for each algorithm, for one size of layer."""
    import brevitas_side

    matrix = np.random.default_rng(1).standard_normal((analog.shape[1], num_units), dtype=np.float32)
    alphabet = Alphabet(np.arange(-7, 8), np.full(num_units, 3 / 7))
    weights = matrix.astype(np.float64)
    solvers: dict[str, Callable[[], Any]] = {
        "GPFQ": lambda: gpfq(weights, layer_statistics, alphabet),
        "GPTQ": lambda: optq(weights, layer_statistics, alphabet),
        "Qronos": lambda: optq(weights, layer_statistics, alphabet, target="qronos", damping=1e-4),
    }

    def peer_seconds(algorithm: str) -> float:
        with brevitas_side.layer_job(algorithm, matrix, analog, compressed, 15, alphabet.scale) as job:
            return timing.seconds(job.update)

    rows = []
    for algorithm, function in solvers.items():
        function()  # to warm up
        rounds = []
        for _ in range(FLAGS.repetitions):
            before, update, after = timing.seconds(function), peer_seconds(algorithm), timing.seconds(function)
            rounds.append({PACKAGE: (before + after) / 2, PEER: update, "ratio": 2 * update / (before + after)})
        rows.append({"algorithm": algorithm, "N": len(matrix), "n_out": num_units} | timing.medians(rounds))
    return rows


# accuracy


def accuracy(data: pathlib.Path, levels: list[int], seeds: list[int], machine: Row) -> None:
    """Top-1 of one network, quantized by both sides."""
    import brevitas_side

    from keras_compress.layers.graph import Graph

    loaded = network(NETWORK, data)
    if loaded is None:
        raise InputError(f"The network {NETWORK} is not there. Name the folder that holds it with --models.")
    model, samples = loaded
    images, labels = samples.test().read().parts
    outputs = brevitas_side.outputs(brevitas_side.Network(Graph(model)), images)
    apart = float(np.abs(outputs - model.predict(images, batch_size=256, verbose=0)).max())
    if apart > 1e-4:
        raise RuntimeError(f"the network in PyTorch is another one: its outputs differ by {apart}")
    float_top1 = float(np.mean(outputs.argmax(axis=1) == labels.ravel()))
    rows = Rows(pathlib.Path(FLAGS.results_dir) / "brevitas_accuracy" / "rows.csv")
    for seed in seeds:
        calibration = samples.calibration(FLAGS.num_samples, seed).read().inputs
        for num_levels in levels:
            finalists = None
            if FLAGS.finalists and seed != seeds[0]:
                finalists = best_runs(rows, {"samples": FLAGS.num_samples, "seed": seeds[0], "levels": num_levels})
            measure(model, calibration, images, labels, rows, {"seed": seed, "levels": num_levels}, finalists)
    chosen = [row for row in rows.rows if row["seed"] in seeds and row["levels"] in levels]
    finals = (
        f"At seeds after {seeds[0]} only those of Brevitas' runs that were its best {FLAGS.finalists} at each width."
    )
    means = summary([row for row in chosen if row["samples"] == FLAGS.num_samples], float_top1)
    path = results.write(
        FLAGS.results_dir,
        "brevitas_accuracy",
        f"Accuracy of {NETWORK}, quantized here and by Brevitas",
        {"best": best(means), "all": means},
        machine=machine,
        settings={"num_samples": FLAGS.num_samples, "seeds": seeds, "levels": levels, "finalists": FLAGS.finalists},
        notes=[
            f"{versions(machine)}. {FLAGS.num_samples} random training images calibrate; means and standard deviations "
            f"over seeds {', '.join(map(str, seeds))}; top-1 on {len(images):,} test images in percent; float "
            f"{100 * float_top1:.2f}. Weights only, BatchNorm folded.",
            f"The float network in PyTorch and in Keras: outputs differ by at most {apart:.1g}.",
            "scales: mse are ours by that rule, weighted by the inputs' second moments; Brevitas gets those of our "
            "GPFQ with the bias kept, and our other rows with mse follow the rule after their own layers; own are "
            "Brevitas' (least squared error of the weights); fitted are those that our method fits to its codes.",
            "Brevitas' best is the best of its rows at that width by the test images themselves; ours is the same "
            "method at all widths.",
            *([finals] if FLAGS.finalists else []),
        ],
    )
    print(path.read_text().split("## all")[0])


def measure(
    model: Any,
    calibration: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    rows: "Rows",
    setting: Row,
    finalists: list[Run] | None,
) -> None:
    """Adds the rows of one seed and width that are not there yet; of Brevitas' runs only `finalists`, if given."""
    import brevitas_side

    import keras_compress as kc
    from keras_compress.layers.graph import Graph
    from keras_compress.quantization.presets import PRESETS

    alphabet = kc.Integer(levels=setting["levels"])
    setting = {"samples": len(calibration)} | setting
    quantizers = {  # (method, scales, bias): quantizer
        ("GPFQ", "mse", "kept"): kc.GPFQ(alphabet=alphabet, centered=False),
        ("GPFQ", "mse", "centred"): kc.GPFQ(alphabet=alphabet),
        (REFINED, "mse", "centred"): PRESETS["optq_refined_mse"].build(alphabet=alphabet),
        (REFINED, "fitted", "centred"): PRESETS["optq_refined"].build(alphabet=alphabet),
        (BEST, "fitted", "centred"): PRESETS["optq_distilled"].build(alphabet=alphabet),
    }
    scales: dict[str, Any] = {"own": None}
    for (method, kind, bias), quantizer in quantizers.items():
        key = setting | {"side": PACKAGE, "method": method, "scales": kind, "order": "natural", "bias": bias}
        gives_scales = (method, bias) == ("GPFQ", "kept")
        if key in rows and not gives_scales:
            continue
        started = time.perf_counter()
        result = kc.quantize(model, quantizer, calibration)
        if method == BEST:
            result = kc.distill_scales(result, calibration, teacher=model)
        seconds = time.perf_counter() - started
        if gives_scales:
            scales[kind] = {path: kernel.scale for path, kernel in result.kernels.items()}
        if key not in rows:
            rows.append(key | {"top1": kc.evaluate(result.model, images, labels).top1, "seconds": seconds})

    def top1(counterpart: Any) -> float:
        return float(np.mean(brevitas_side.outputs(counterpart, images).argmax(axis=1) == labels.ravel()))

    runs = list(itertools.product(scales, brevitas_side.ALGORITHMS, ("natural", "act_order")))
    if finalists is not None:
        runs = [run for run in runs if run in finalists]
    for kind, algorithm, order in runs:
        key = setting | {"side": PEER, "method": algorithm, "scales": kind, "order": order}
        if key | {"bias": "kept"} in rows and key | {"bias": "corrected"} in rows:
            continue
        counterpart = brevitas_side.Network(Graph(model), setting["levels"], scales[kind])
        started = time.perf_counter()
        brevitas_side.quantize(counterpart, algorithm, calibration, act_order=order == "act_order")
        seconds = time.perf_counter() - started
        if key | {"bias": "kept"} not in rows:
            rows.append(key | {"bias": "kept", "top1": top1(counterpart), "seconds": seconds})
        started = time.perf_counter()
        brevitas_side.correct_biases(counterpart, calibration)
        seconds += time.perf_counter() - started
        rows.append(key | {"bias": "corrected", "top1": top1(counterpart), "seconds": seconds})


def best_runs(rows: "Rows", setting: Row) -> list[Run]:
    """The first --finalists of Brevitas' runs with this setting, by the better of their two rows."""
    peer_rows = [row for row in rows.rows if row["side"] == PEER and all(row[k] == v for k, v in setting.items())]
    peer_rows.sort(key=lambda row: -row["top1"])
    return list(dict.fromkeys((row["scales"], row["method"], row["order"]) for row in peer_rows))[: FLAGS.finalists]


class Rows:
    """A CSV file of measured rows, each written the moment it is known."""

    KEY = ("samples", "seed", "levels", "side", "method", "scales", "order", "bias")

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.rows: list[Row] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    numbers = {name: int(row[name]) for name in ("samples", "seed", "levels")}
                    self.rows.append(row | numbers | {name: float(row[name]) for name in ("top1", "seconds")})

    def __contains__(self, key: Row) -> bool:
        return any(all(row[name] == key[name] for name in self.KEY) for row in self.rows)

    def append(self, row: Row) -> None:
        new = not self.path.is_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*self.KEY, "top1", "seconds"], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row | {"seconds": round(row["seconds"], 3)})
        self.rows.append(row)
        print(", ".join(f"{row[name]}" for name in self.KEY), f"{row['top1']:.2%}, {row['seconds']:.1f} s", flush=True)


def summary(rows: list[Row], float_top1: float) -> list[Row]:
    """Means over seeds, a row for each width and method."""
    names = ("levels", "side", "method", "scales", "order", "bias")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    means = []
    for (num_levels, *rest), group in groups.items():
        top1 = [100 * row["top1"] for row in group]
        means.append(
            {"width": WIDTHS[num_levels]}
            | dict(zip(names[1:], rest, strict=True))
            | {
                "top-1": round(statistics.fmean(top1), 2),
                "std": round(statistics.stdev(top1), 2) if len(top1) > 1 else None,
                "loss": round(100 * float_top1 - statistics.fmean(top1), 2),
                "seeds": len(top1),
                "seconds": round(statistics.median(row["seconds"] for row in group), 1),
            }
        )
    widths = list(WIDTHS.values())
    return sorted(means, key=lambda row: (widths.index(row["width"]), row["side"] == PEER))


def best(means: list[Row]) -> list[Row]:
    """For each width: our best method, with given and with fitted scales, and Brevitas' best row with each scales."""
    best_rows = []
    for width in dict.fromkeys(row["width"] for row in means):
        here = [row for row in means if row["width"] == width]
        best_rows += [row for row in here if row["side"] == PACKAGE and row["method"] == BEST]
        seeds = max(row["seeds"] for row in here)
        peer_rows = [row for row in here if row["side"] == PEER and row["seeds"] == seeds]
        for scales in dict.fromkeys(row["scales"] for row in peer_rows):
            best_rows.append(max((row for row in peer_rows if row["scales"] == scales), key=lambda row: row["top-1"]))
    return best_rows


if __name__ == "__main__":
    cli.run(main)
