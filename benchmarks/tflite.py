"""TFLite files: their codes, sizes, accuracies and latencies, next to TensorFlow's converter and ai-edge-quantizer.

    python benchmarks/tflite.py --data=DATA
    python benchmarks/tflite.py --data=DATA --parts=files --networks=mlperf_resnet8
    python benchmarks/tflite.py --parts=speed

files: every network at every width in every mode and storage, on all test samples: files of integers next to the
simulation of their own ranges (`kc.quantize_activations`), others next to the Keras model with the same codes. others:
what other tools make of the same network, sizes, accuracies and latencies in one run; it needs
`pip install ai-edge-quantizer==0.10.0` and, for ResNet8, takes MLPerf's reference file if it is there. speed: random
weights, since only shapes count: a Dense network at 8, 4 and 2 bits, and convolutional ones next to TensorFlow's own
int8 file. Writes tflite_files, tflite_others and tflite_speed (.json, .md, .csv).
"""

import importlib.util
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from absl import flags
from harness import networks, results

from keras_compress import progress
from keras_compress.commands import cli
from keras_compress.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    import keras_compress as kc

FLAGS = flags.FLAGS

PARTS = ("files", "others", "speed")
WIDTHS = ("ternary", "2 bits", "3 bits", "4 bits", "8 bits")
REFERENCES = {"mlperf_resnet8": "mlperf_ic_resnet8_int8.tflite"}  # files that others made of a network
INTEGER_COLUMNS = (
    "network", "width", "activations", "storage", "Keras top-1", "simulation top-1", "top-1", "difference, points",
    "other classes, %", "as it is run, %", "from float activations, points", "operators in floating point",
)  # fmt: skip
UNLABELLED = {  # file, and what it is run on
    "mlperf_kws_dscnn": ("mlperf_kws_dscnn.keras", "random numbers"),
    "mlperf_vww_mobilenet025": ("mlperf_vww_mobilenet025.h5", "CIFAR-10, enlarged"),
}
SPREAD = 3.0  # of the random numbers; with 1 the network gives one class for all of them
STORAGES = ("fast", "small")
RANGES = ("minmax", "mse")  # of files of integers: as `export_tflite` measures them, and of `kc.quantize_activations`
SURE = 1e-3  # a gap between the two highest outputs, beyond which rounding must not change the class
DIFFERENCE = 0.3  # points of accuracy between a file of integers and its simulation, on so many samples or more:
MANY = 10_000
OTHERS = 1.0  # %, samples of another class, where there are fewer
BATCH = 250  # samples in one call

networks.define_flags([*networks.LABELLED, "onepixel_lenet_keras2"])
flags.DEFINE_list("unlabelled", list(UNLABELLED), "Of `files`: networks without labelled data.")
flags.DEFINE_list("parts", list(PARTS), "Which ones.")
flags.DEFINE_list("widths", list(WIDTHS), "Of `files`.")
flags.DEFINE_list("storages", list(STORAGES), "Of `files`.")
flags.DEFINE_list("others_networks", ["mnist_mlp", "cifar10_cnn", "mlperf_resnet8"], "Of `others`.")
flags.DEFINE_integer("num_samples", 500, "Training samples to quantize by and to measure ranges on.", lower_bound=1)
flags.DEFINE_integer("test_samples", 10_000, "Test samples at most.", lower_bound=1)
flags.DEFINE_integer("rounds", 100, "Timed calls of each file, which take turns.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the choice of training samples.")
flags.DEFINE_multi_string("remark", [], "Of `files`: a line below the results, such as how a network was trained.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    for flag, known in (("parts", PARTS), ("widths", WIDTHS), ("storages", STORAGES)):
        unknown = [name for name in FLAGS[flag].value if name not in known]
        if unknown:
            raise InputError(f"--{flag} takes {', '.join(known)}. Received: {unknown[0]!r}.")
    data = results.data_folder(FLAGS.data) if {"files", "others"} & set(FLAGS.parts) else None
    if "others" in FLAGS.parts and importlib.util.find_spec("ai_edge_quantizer") is None:
        raise InputError("--parts=others needs `pip install ai-edge-quantizer==0.10.0`, or choose other --parts.")
    machine = results.machine()
    cli.import_tensorflow()
    for part in FLAGS.parts:
        with tempfile.TemporaryDirectory() as folder:
            parts: dict[str, Callable[..., pathlib.Path]] = {"files": files, "others": others, "speed": speed}
            path = parts[part](data, pathlib.Path(folder), machine)
        print(path.read_text())


def alphabet(width: str) -> "kc.Integer":
    """The integers of a width, exportable: 2 bits are all four of them, more are symmetric."""
    import keras_compress as kc

    if width == "ternary":
        return kc.Integer(levels=3)
    bits = int(width.split()[0])
    return kc.Integer(bits, narrow_range=bits > 2)


def loaded(data: pathlib.Path, names: list[str]) -> Iterator[tuple[str, Any, "np.ndarray", "np.ndarray", "np.ndarray"]]:
    """Name, model, training samples to calibrate on, test samples and labels of each network that is there."""
    import keras_compress as kc
    from keras_compress import sweep, zoo

    for network in networks.chosen(data):
        if network.name in names:
            dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))
            samples = sweep.DataSplits.of(dataset, network.preprocessing)
            test, labels = samples.test().read().parts
            train = samples.calibration(FLAGS.num_samples, FLAGS.seed).read().inputs
            yield (
                network.name,
                kc.load_model(network.path),
                train,
                test[: FLAGS.test_samples],
                labels[: FLAGS.test_samples],
            )


def unlabelled(data: pathlib.Path) -> Iterator[tuple[str, Any, "np.ndarray", "np.ndarray", "np.ndarray"]]:
    """The same of networks without labelled data: the labels are the classes that the float network gives."""
    import numpy as np

    import keras_compress as kc
    from keras_compress import sweep, zoo

    for name in FLAGS.unlabelled:
        file, kind = UNLABELLED[name]
        path = pathlib.Path(FLAGS.models or data / "models") / file
        if not path.is_file():
            continue
        model = kc.load_model(path)
        generator = np.random.default_rng(FLAGS.seed)
        shape = model.input_shape[1:]
        if kind == "random numbers":
            shapes = [(FLAGS.num_samples, *shape)] * 2
            train, test = (generator.normal(scale=SPREAD, size=each).astype("float32") for each in shapes)
        else:
            samples = sweep.DataSplits.of(zoo.load_dataset(str(data / "cifar10.npz")), zoo.Preprocessing(scale=1 / 255))
            chosen = samples.calibration(FLAGS.num_samples, FLAGS.seed), samples.test().at(range(FLAGS.num_samples))
            times = shape[0] // 32
            train, test = (each.read().inputs.repeat(times, axis=1).repeat(times, axis=2) for each in chosen)
        yield name, model, train, test, model.predict(test, verbose=0).argmax(axis=1)


def files(data: pathlib.Path, folder: pathlib.Path, machine: dict[str, Any]) -> pathlib.Path:
    """Each network, width, mode and storage; written anew with each network."""
    import tensorflow as tf

    import keras_compress as kc

    rows: list[dict[str, Any]] = []
    packed: list[dict[str, Any]] = []
    for name, model, train, test, labels in itertools.chain(loaded(data, FLAGS.networks), unlabelled(data)):
        with progress.quiet_stderr():
            float_bytes = len(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        with kc.Calibration((folded := kc.fold_batch_normalization(model)).model, train) as calibration:
            quantized = {
                width: kc.quantize(folded, kc.GPFQ(alphabet=alphabet(width)), calibration) for width in FLAGS.widths
            }
        for width, result in quantized.items():
            unrounded = result.model.predict(test, batch_size=BATCH, verbose=0)
            packed.append({"network": name, "width": width} | packed_size(result, folder))
            for activations, source, simulation in in_all_modes(result, train):
                expected = None if simulation is None else simulation.predict(test, batch_size=BATCH, verbose=0)
                content = b""
                for storage in FLAGS.storages:
                    path = folder / "net.tflite"
                    row = {"network": name, "width": width, "activations": activations, "storage": storage}
                    figures, as_run = written(source, path, activations, storage, train)
                    if path.read_bytes() == content:
                        rows.append(rows[-1] | row)  # the same file
                        continue
                    content = path.read_bytes()
                    as_run = None if as_run is None else as_run.predict(test, batch_size=BATCH, verbose=0)
                    row |= sizes(path, source, float_bytes) | outputs(path, test, labels, unrounded, expected, as_run)
                    floats = "0" if activations.startswith("int8") else "all"
                    row["operators in floating point"] = figures.get("operators in floating point", floats)
                    row["error grows most at"] = figures.get("error grows most at", "")
                    rows.append(row)
                    print(results.markdown([row]).splitlines()[-1], flush=True)
        path = write_files(rows, packed, machine)
    return path


def in_all_modes(result: "kc.Result", train: "np.ndarray") -> Iterator[tuple[str, "kc.Result", Any]]:
    """Activations, what is exported, and the model that a file of integers is to compute."""
    import keras_compress as kc
    from keras_compress.export.policy import MODES

    for mode in MODES:
        if mode != "int8":
            yield mode, result, None
    for ranges in RANGES:
        rounded = kc.quantize_activations(result, train, ranges=ranges)
        yield f"int8, {ranges}", result if ranges == "minmax" else rounded, rounded.model


def written(
    source: "kc.Result", path: pathlib.Path, activations: str, storage: str, train: "np.ndarray"
) -> tuple[dict[str, Any], Any]:
    """Writes a file, measuring ranges where `source` has none; what the report says of it.

    Also the simulation that it was compared with, where that rounds sums as the runtime's own kernels do.
    """
    from keras_compress.export.simulation import RoundInTwoSteps
    from keras_compress.export.tflite import exported

    mode = activations.partition(",")[0]
    report, simulation = exported(source, path, train, activations=mode, storage=storage, static_batch=None)
    layers = [] if simulation is None else simulation.layers
    return report.steps[-1].figures, simulation if any(isinstance(each, RoundInTwoSteps) for each in layers) else None


def worst_files(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each network and mode: the worst over widths and storages."""
    import numpy as np

    worst = []
    for name, activations in dict.fromkeys((row["network"], row["activations"]) for row in rows):
        group = [row for row in rows if (row["network"], row["activations"]) == (name, activations)]
        small = [row["rest / bound"] for row in group if row["storage"] == "small"]
        most = max(group, key=lambda row: abs(row["difference, points"]))
        worst.append(
            {
                "network": name,
                "activations": activations,
                "samples": most["samples"],
                "files": len(group),
                "codes equal": f"{np.mean([row['codes equal'] for row in group]):.0%}",
                "small: rest / bound": max(small, default=None),
                "same class where sure": min(row["same class where sure"] for row in group),
                "difference, points": most["difference, points"],
                "there": most["width"],
                "other classes, %": max(row["other classes, %"] for row in group),
                "as it is run, %": max(row["as it is run, %"] for row in group),
                "from float activations, points": max(
                    (row["from float activations, points"] for row in group), key=lambda points: abs(points)
                ),
                "beyond the limits": sum(beyond(row) for row in group),
            }
        )
    return worst


def beyond(row: dict[str, Any]) -> bool:
    """Whether a file of integers is further from its simulation than it may be."""
    if not row["activations"].startswith("int8"):
        return False
    if row["samples"] >= MANY:
        return abs(row["difference, points"]) > DIFFERENCE
    return bool(row["as it is run, %"] > OTHERS)


def write_files(rows: list[dict[str, Any]], packed: list[dict[str, Any]], machine: dict[str, Any]) -> pathlib.Path:
    """The tables of `files`."""
    return results.write(
        FLAGS.results_dir,
        "tflite_files",
        "TFLite files next to simulations of their ranges, and the Keras models with the same codes",
        {"files": rows, "packed": packed},
        machine=machine,
        settings={name: FLAGS[name].value for name in ("num_samples", "test_samples", "seed", "widths", "storages")},
        sections={
            "the worst over widths and storages": results.markdown(worst_files(rows)),
            "files of integers and their simulations": results.markdown(
                [{name: row[name] for name in INTEGER_COLUMNS} for row in rows if row["activations"].startswith("int8")]
            ),
            "packed": results.markdown(packed),
        },
        notes=[
            "codes equal: every kernel's codes, read from the file, in the numbers in which the result has them; "
            "`export_tflite` has compared each of them at its place. In a file of integers a channel whose bias would "
            "not fit into 32 bits has a larger scale, with which its codes, of no effect next to the bias, become 0: "
            "so in mlperf_vww_mobilenet025, whose files differ in such channels alone.",
            "small: rest / bound: what is not codes, over 1.1 x (float file - 4 bytes a weight) + 16 bytes a channel; "
            "the float file is that of TensorFlow's converter.",
            'simulation: `kc.quantize_activations(result, samples, ranges=...).model`. "int8, minmax" is the file that '
            "`export_tflite` makes of the result, with the same samples as `calibration=`; "
            '"int8, mse" the one that it makes of what `kc.quantize_activations` gives.',
            "difference: top-1 of the file minus that of its simulation, points; for floats and dynamic, minus that of "
            "the Keras model with the same codes, which has float activations. other classes: of all test samples, "
            "those with another class than there. same class where sure: fraction with the same class, of those whose "
            f"two highest outputs differ by more than {SURE:g} there.",
            "as it is run: other classes than those of the simulation that `export_tflite` compares the file with. "
            "LiteRT runs 4-bit convolutions in kernels of its own, which round each sum twice; that simulation too.",
            "from float activations: top-1 of the file minus that of the Keras model with the same codes.",
            f"beyond the limits: files of integers whose top-1 is more than {DIFFERENCE:g} points from that of the "
            f"simulation; where there are fewer than {MANY:,} samples, more than {OTHERS:g} % other classes as it is "
            "run.",
            "Labels of "
            + " and ".join(f"{name} ({kind})" for name, (_, kind) in UNLABELLED.items())
            + " are the classes "
            "that the float network gives.",
            "packed / ideal: bytes of `export_packed`, over bits x weights / 8 and all other numbers in float32.",
            *FLAGS.remark,
        ],
    )


def packed_size(result: "kc.Result", folder: pathlib.Path) -> dict[str, Any]:
    """Bytes of the packed file next to what its numbers need."""
    import math

    import keras_compress as kc

    kc.export_packed(result, folder / "net.packed")
    size = (folder / "net.packed").stat().st_size
    weights = sum(kernel.codes.size for kernel in result.kernels.values())
    levels = max(len(kernel.levels) for kernel in result.kernels.values())
    bits = 1.6 if levels == 3 else math.ceil(math.log2(levels))
    scales = sum(kernel.scale.size for kernel in result.kernels.values())
    rest = 4 * (result.model.count_params() - weights + scales)
    return {"weights": weights, "bytes": size, "packed / ideal": size / (bits * weights / 8 + rest)}


def sizes(path: pathlib.Path, result: "kc.Result", float_bytes: int) -> dict[str, Any]:
    """Bytes of a file, of its codes, and of the rest next to its bound; whether the codes are those of the result."""
    import numpy as np

    from keras_compress.measurement import flatbuffer

    model = flatbuffer.parse(flatbuffer.read_bytes(path))
    tensors = {tensor.name.decode().removesuffix("/kernel"): tensor for tensor in model.subgraphs[0].tensors}
    equal, code_bytes = [], 0
    for kernel_path, kernel in result.kernels.items():
        if kernel_path not in tensors:
            continue
        codes = flatbuffer.array_of(model, tensors[kernel_path])
        assert codes is not None
        code_bytes += len(model.buffers[tensors[kernel_path].buffer].data)
        equal.append(np.array_equal(np.sort(codes, axis=None), np.sort(kernel.codes, axis=None)))
    weights = sum(kernel.codes.size for kernel in result.kernels.values())
    channels = sum(np.prod([kernel.codes.shape[axis] for axis in kernel.axes]) for kernel in result.kernels.values())
    rest = path.stat().st_size - code_bytes
    return {
        "bytes": path.stat().st_size,
        "code bytes": code_bytes,
        "rest / bound": rest / (1.1 * (float_bytes - 4 * weights) + 16 * channels),
        "codes equal": len(equal) == len(result.kernels) and all(equal),
    }


def outputs(
    path: pathlib.Path,
    x: "np.ndarray",
    labels: "np.ndarray",
    unrounded: "np.ndarray",
    simulated: "np.ndarray | None",
    as_run: "np.ndarray | None",
) -> dict[str, Any]:
    """Accuracy of a file, and how often its class is that of its simulation, or else of the Keras model."""
    import numpy as np

    from keras_compress.measurement.tflite import runner_of

    (file_outputs,) = runner_of(path, threads=2).outputs([x], BATCH)
    expected = unrounded if simulated is None else simulated
    ordered = np.sort(expected, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] > SURE
    same = file_outputs.argmax(axis=1) == expected.argmax(axis=1)
    equal = same if as_run is None else file_outputs.argmax(axis=1) == as_run.argmax(axis=1)
    top1, expected_top1, keras_top1 = (
        100 * float(np.mean(each.argmax(axis=1) == labels)) for each in (file_outputs, expected, unrounded)
    )
    return {
        "samples": len(x),
        "Keras top-1": keras_top1,
        "simulation top-1": None if simulated is None else expected_top1,
        "top-1": top1,
        "difference, points": top1 - expected_top1,
        "other classes, %": 100 * float(np.mean(~same)),
        "as it is run, %": 100 * float(np.mean(~equal)),
        "from float activations, points": top1 - keras_top1,
        "same class where sure": float(np.mean(same[sure])),
    }


Writer = Callable[[pathlib.Path], Any]  # writes a file


def others(data: pathlib.Path, folder: pathlib.Path, machine: dict[str, Any]) -> pathlib.Path:
    """Ours next to the converter's, ai-edge-quantizer's and the reference file."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, model, train, test, labels in loaded(data, FLAGS.others_networks):
        rows: list[dict[str, Any]] = []
        paths: list[pathlib.Path] = []
        for tool, weights, activations, write in candidates(model, train, folder):
            path = folder / f"{len(rows)}.tflite"
            row = {"tool": tool, "weights": weights, "activations": activations}
            rows.append(row | {"kB": None, "top-1": None, "ms": None, "ratio": None, "failed": ""})
            paths.append(path)
            path.unlink(missing_ok=True)
            try:
                write(path)
            except Exception as error:  # of other tools: what they say is the result
                rows[-1]["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:90]}"
                continue
            if len(rows) > 1 and paths[-2].is_file() and paths[-2].read_bytes() == path.read_bytes():
                rows.pop()  # fast and small are one file
                paths.pop()
                rows[-1]["weights"] = rows[-1]["weights"].replace("fast", "fast, small")
        reference = pathlib.Path(FLAGS.models or data / "models") / REFERENCES.get(name, "none")
        if reference.is_file():
            row = {"tool": "MLPerf's reference", "weights": "int8", "activations": "int8"}
            rows.append(row | {"kB": None, "top-1": None, "ms": None, "ratio": None, "failed": ""})
            paths.append(reference)
        measure(rows, paths, test, labels)
        tables[name] = rows
        print(results.markdown(rows), flush=True)
    return results.write(
        FLAGS.results_dir,
        "tflite_others",
        "TFLite files of several tools",
        tables,
        machine=machine,
        settings={name: FLAGS[name].value for name in ("num_samples", "test_samples", "seed", "rounds")},
        notes=[
            f"ranges and codes from {FLAGS.num_samples} training samples; MLPerf calibrated its file on test images.",
            f"ms: medians of {FLAGS.rounds} rounds in which the files of a network take turns, one sample, one thread; "
            "ratio: to the converter's float file.",
            "int8, our ranges: by least squared error, of `kc.quantize_activations`; else least and largest values.",
            "failed: what the tool or the interpreter says.",
        ],
    )


def candidates(model: Any, train: "np.ndarray", folder: pathlib.Path) -> Iterator[tuple[str, str, str, Writer]]:
    """Tool, weights, activations, and what writes the file."""
    import keras_compress as kc

    def exported(source: Any, **settings: Any) -> Writer:
        return lambda path: kc.export_tflite(source, path, calibration=train, **settings)

    def own_files(method: str, result: Any) -> Iterator[tuple[str, str, str, Writer]]:
        rounded = kc.quantize_activations(result, train)
        for mode, source in (("float", result), ("dynamic", result), ("int8", result), ("int8, our ranges", rounded)):
            for storage in ("fast", "small"):
                settings = {"activations": mode.partition(",")[0], "storage": storage}
                yield f"ours, {method}", f"{width}, {storage}", mode, exported(source, **settings)

    def by_edge_quantizer(source: pathlib.Path, recipe: Any) -> Writer:
        return lambda path: edge_quantizer(source, path, recipe, train)

    for weights, kind in (("float32", "float"), ("int8", "dynamic"), ("int8", "int8")):
        yield "converter", weights, kind, by_converter(model, kind, train)
    yield "ours, no codes", "int8", "int8", exported(model, activations="int8")
    float_file, decoded = folder / "float_file.tflite", folder / "decoded.tflite"
    kc.export_tflite(model, float_file)
    for bits, kinds in ((8, ("weight-only", "dynamic", "static")), (4, ("weight-only", "dynamic"))):
        for kind in kinds:
            yield "ai-edge-quantizer, min-max", f"int{bits}", kind, by_edge_quantizer(float_file, min_max(bits, kind))
    folded = kc.fold_batch_normalization(model)
    with kc.Calibration(folded.model, train) as calibration:
        for width in ("8 bits", "4 bits", "ternary"):
            result = kc.quantize(folded, kc.GPFQ(alphabet=alphabet(width)), calibration)
            yield from own_files("GPFQ", result)
            if width == "4 bits":
                kc.export_tflite(result.model, decoded)
                recovered = "ai-edge-quantizer, recovery of our GPFQ codes", "int4", "weight-only"
                yield *recovered, by_edge_quantizer(decoded, recovery())
            if width != "8 bits":  # where there is nothing left to gain
                fitted = kc.OPTQ(alphabet=alphabet(width), target="corrected", radius="search", refine=3)
                result = kc.distill_scales(kc.quantize(folded, fitted, calibration), calibration, teacher=folded)
                yield from own_files("OPTQ, corrected, refined, distilled", result)


def by_converter(model: Any, kind: str, samples: "np.ndarray") -> Writer:
    """TensorFlow's own file of a model."""
    from keras_compress.export.conversion import convert

    return lambda path: path.write_bytes(
        convert(model, kind, batch=None, samples=lambda: ([sample[None]] for sample in samples))
    )


def measure(rows: list[dict[str, Any]], paths: list[pathlib.Path], test: "np.ndarray", labels: "np.ndarray") -> None:
    """Fills in size, accuracy and latency of each file."""
    import keras_compress as kc

    timed = []
    for row, path in zip(rows, paths, strict=True):
        if row["failed"]:
            continue
        row["kB"] = path.stat().st_size / 1000
        try:
            row["top-1"] = 100 * kc.evaluate_tflite(path, test, labels, threads=2).top1
        except InputError as error:
            row["failed"] = str(error)[:90]
        else:
            timed.append((row, path))
    files = [path for _, path in timed]
    timings = kc.benchmark_tflite(files[0], against=files[1:], rounds=FLAGS.rounds)
    for (row, _), timing in zip(timed, timings, strict=True):
        row["ms"], row["ratio"] = timing.milliseconds, timing.ratio


def min_max(bits: int, kind: str) -> Any:
    """ai-edge-quantizer's own recipe."""
    from ai_edge_quantizer import recipe

    return {
        (8, "weight-only"): recipe.weight_only_wi8_afp32,
        (4, "weight-only"): recipe.weight_only_wi4_afp32,
        (8, "dynamic"): recipe.dynamic_wi8_afp32,
        (4, "dynamic"): recipe.dynamic_wi4_afp32,
        (8, "static"): recipe.static_wi8_ai8,
    }[bits, kind]()


def recovery() -> Any:
    """Its recipe that looks for the grid on which weights lie already."""
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    return recipe.weight_only_wi4_afp32(AlgorithmName.DEQUANTIZED_WEIGHT_RECOVERY)


def edge_quantizer(source: pathlib.Path, path: pathlib.Path, recipe: Any, samples: "np.ndarray") -> None:
    """What ai-edge-quantizer makes of a float file."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer

    tool = quantizer.Quantizer(str(source), recipe)
    statistics = None
    if tool.need_calibration:
        (name,) = Interpreter(model_path=str(source)).get_signature_runner().get_input_details()
        statistics = tool.calibrate({"serving_default": [{name: sample[None]} for sample in samples]})
    path.write_bytes(tool.quantize(statistics).quantized_model)


def speed(data: pathlib.Path | None, folder: pathlib.Path, machine: dict[str, Any]) -> pathlib.Path:
    """Ratios of latencies, in one run for each network."""
    import keras
    import numpy as np

    import keras_compress as kc
    from keras_compress import zoo

    layers = keras.layers
    keras.utils.set_random_seed(FLAGS.seed)
    wide, deep = (
        keras.Sequential([keras.Input((size,)), *(layers.Dense(units, "relu") for units in hidden), layers.Dense(10)])
        for size, hidden in ((784, [2048] * 2), (1024, [1024] * 4))
    )
    mobile = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)
    convolutional = {"cnn": zoo.build_architecture("cnn", (32, 32, 3), 10), "MobileNetV2 0.35, 96 x 96": mobile}
    tables: dict[str, list[dict[str, Any]]] = {"dense": [], "convolutional": [], "sparse": sparse_rows(wide, folder)}
    for (name, model), mode in itertools.product(
        {"784-2048-2048-10": wide, "4 x 1024": deep}.items(), ("dynamic", "int8")
    ):
        samples = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:])).astype(np.float32)
        files_of = [(8, "fast"), (4, "fast"), (2, "fast"), (2, "small")]
        paths = []
        for bits, storage in files_of:
            paths.append(folder / f"{mode}_{bits}_bits_{storage}.tflite")
            result = kc.quantize(model, kc.MSQ(alphabet=alphabet(f"{bits} bits")))
            kc.export_tflite(result, paths[-1], activations=mode, storage=storage, calibration=samples)
        for (bits, storage), path, timing in zip(files_of, paths, in_turn(paths), strict=True):
            row = {"network": name, "activations": mode, "bits": bits, "storage": storage}
            row["kB"] = path.stat().st_size / 1000
            tables["dense"].append(row | {"ms": timing.milliseconds, "ratio to 8 bits": timing.ratio})
    for name, model in convolutional.items():
        folded = kc.fold_batch_normalization(model)
        samples = np.random.default_rng(0).uniform(size=(64, *model.input_shape[1:])).astype(np.float32)
        paths = [folder / f"converter_{kind}.tflite" for kind in ("int8", "float")]
        for path, kind in zip(paths, ("int8", "float"), strict=True):
            by_converter(model, kind, samples)(path)
        exports = {"no codes, int8": (model, "int8", "fast")}
        for width in ("8 bits", "4 bits"):
            result = kc.quantize(folded, kc.MSQ(alphabet=alphabet(width)))
            exports |= {f"ours, {width}, int8, {storage}": (result, "int8", storage) for storage in ("fast", "small")}
            exports[f"ours, {width}, float, fast"] = (result, "float", "fast")
        for index, (source, mode, storage) in enumerate(exports.values()):
            paths.append(folder / f"{index}.tflite")
            kc.export_tflite(source, paths[-1], activations=mode, storage=storage, calibration=samples)
        for file, path, timing in zip(
            ("converter, int8", "converter, float", *exports), paths, in_turn(paths), strict=True
        ):
            row = {"network": name, "file": file, "kB": path.stat().st_size / 1000, "ms": timing.milliseconds}
            tables["convolutional"].append(row | {"ratio to the converter's int8": timing.ratio})
    return results.write(
        FLAGS.results_dir,
        "tflite_speed",
        "Latency of TFLite files, by width and storage",
        tables,
        machine=machine,
        settings={"rounds": FLAGS.rounds, "seed": FLAGS.seed},
        notes=[
            f"medians of {FLAGS.rounds} rounds in which the files of a network take turns, one sample, one thread, "
            "XNNPACK on this processor; ratios: medians of the rounds' ratios. Random weights.",
        ],
    )


def sparse_rows(model: Any, folder: pathlib.Path) -> list[dict[str, Any]]:
    """A Dense network with 80 and 90 % zeros, scattered and in blocks of four inputs, as floats."""
    import keras
    import numpy as np

    import keras_compress as kc

    model = keras.models.clone_model(model)
    full = [layer.kernel.numpy() for layer in model.layers]
    kc.export_tflite(model, folder / "dense.tflite")
    paths, kinds = [folder / "dense.tflite"], [("no zeros", "fast")]
    for fraction, block in itertools.product((0.8, 0.9), (1, 4)):
        generator = np.random.default_rng(FLAGS.seed)
        for layer, kernel in zip(model.layers[:-1], full, strict=False):
            kept = generator.uniform(size=(kernel.shape[0] // block, kernel.shape[1])) >= fraction
            layer.kernel.assign(kernel * kept.repeat(block, axis=0))
        kinds.append((f"{fraction:.0%} zeros" + (" in blocks (4, 1)" if block == 4 else ""), "sparse"))
        paths.append(folder / f"sparse_{fraction}_{block}.tflite")
        kc.export_tflite(model, paths[-1], storage="sparse")
    rows = []
    for (zeros, storage), path, timing in zip(kinds, paths, in_turn(paths), strict=True):
        row = {"network": "784-2048-2048-10", "zeros": zeros, "storage": storage, "kB": path.stat().st_size / 1000}
        rows.append(row | {"ms": timing.milliseconds, "ratio to no zeros": timing.ratio})
    return rows


def in_turn(paths: list[pathlib.Path]) -> Any:
    """Timings of the files, ratios to the first one."""
    import keras_compress as kc

    return kc.benchmark_tflite(paths[0], against=paths[1:], rounds=FLAGS.rounds)


if __name__ == "__main__":
    cli.run(main)
