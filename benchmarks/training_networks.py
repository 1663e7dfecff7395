"""Networks that others trained: pruning, clustering and quantization-aware training.

    python benchmarks/training_networks.py --data=DATA
    python benchmarks/training_networks.py --data=DATA --parts=labelled --networks=deepxplore_lenet1

labelled: each of --networks is pruned to 50 and 80 % and gets quantization-aware training at 8 and 4 bits, for --epochs
passes over all training images, those of cifar10 mirrored and shifted, by Adam at a learning rate that falls from
--learning_rate to zero in half a cosine, and exported; accuracies on all test images. unlabelled: the same for networks
without data here, towards the classes that they themselves give to CIFAR-10's images, enlarged, or to noise; the
fraction of 1,000 other inputs that keep their class. chains: techniques one after the other on --chained; sizes are
those of weights, and of TFLite files with codes in 8 or 4 bits, after gzip. Half an hour on two cores. Writes
training_networks (.json, .md, .csv).
"""

import pathlib
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

from absl import flags
from harness import networks, results
from harness.tasks import BATCH_SIZE, CALIBRATION, Task, task_of

from keras_compress.commands import cli
from keras_compress.errors import InputError

FLAGS = flags.FLAGS

PARTS = ("labelled", "unlabelled", "chains")
INPUTS = 4000  # of networks without labels; a quarter of them tests
CHAINS = [
    ("pruned to 80 %",),
    ("pruned to 80 %", "8 bits, trained"),
    ("pruned to 80 %", "4 bits, GPFQ"),
    ("pruned to 80 %", "16 clusters"),
    ("pruned to 80 %", "16 clusters", "8 bits, trained"),
    ("16 clusters",),
    ("16 clusters", "8 bits, trained"),
    ("8 bits, trained",),
    ("4 bits, GPFQ",),
]

networks.define_flags([name for name in networks.LABELLED if name not in ("mnist_mlp", "cifar10_cnn")])
flags.DEFINE_list("parts", list(PARTS), "Which ones.")
flags.DEFINE_list("chained", ["deepxplore_lenet5"], "Networks of `chains`.")
flags.DEFINE_integer("epochs", 4, "Of each training.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.001, "At the beginning.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    unknown = [name for name in FLAGS.parts if name not in PARTS]
    if unknown:
        raise InputError(f"--parts takes {', '.join(PARTS)}. Received: {unknown[0]!r}.")
    data = results.data_folder(FLAGS.data)
    machine = results.machine()
    cli.import_tensorflow()
    functions = {"labelled": labelled, "unlabelled": unlabelled, "chains": chains}
    tables: dict[str, list[dict[str, Any]]] = {}
    for part in FLAGS.parts:
        for row in functions[part](data):
            tables.setdefault(part, []).append(row)
            print(results.markdown([row]).splitlines()[-1], flush=True)
            path = write(tables, machine)
    print(path.read_text())


def write(tables: dict[str, list[dict[str, Any]]], machine: dict[str, Any]) -> pathlib.Path:
    """The rows that are there; a run of an hour that is ended leaves what it has measured."""
    return results.write(
        FLAGS.results_dir,
        "training_networks",
        "Networks that others trained: pruning, clustering and quantization-aware training",
        tables,
        machine=machine,
        settings={"epochs": FLAGS.epochs, "learning_rate": FLAGS.learning_rate},
        notes=[
            "One seed. labelled: accuracies on all test images, percent. TFLite: the float file of a "
            "pruned network, the full-integer one with the trained ranges after quantization-aware training. gzipped "
            "size: weights as float32 after gzip, over those of the float network.",
            "unlabelled: inputs that keep the float network's class, percent, of 1,000 outside of the training.",
            "chains: accuracies on all test images, percent; sizes as fractions of those of the float network: weights "
            'as float32 after gzip, and the TFLite file (storage="small"; activations of 8 bits where they were '
            "trained with them, else float) after gzip.",
        ],
    )


def labelled(data: pathlib.Path) -> Iterator[dict[str, Any]]:
    import keras_compress as kc

    for network in networks.chosen(data):
        task = task_of(network, data)
        known = {"float top-1": 100 * kc.evaluate(task.model, *task.test).top1}
        yield from trained(network.name, known, task, ("top-1", "TFLite top-1"))


def unlabelled(data: pathlib.Path) -> Iterator[dict[str, Any]]:
    """MLPerf Tiny's other networks for microcontrollers."""
    import numpy as np

    import keras_compress as kc
    from keras_compress import zoo

    images = zoo.load_dataset(str(data / "cifar10.npz")).x_train[:INPUTS].repeat(3, 1).repeat(3, 2)
    noise = np.random.default_rng(0).normal(size=(INPUTS, 49, 10, 1)).cumsum(axis=1)
    folder = pathlib.Path(FLAGS.models or data / "models")
    for file, inputs in (("mlperf_kws_dscnn.keras", noise), ("mlperf_vww_mobilenet025.h5", images / np.float32(255))):
        model = kc.load_model(folder / file)
        inputs = inputs.astype("float32")
        classes = model.predict(inputs, verbose=0).argmax(axis=1)
        test = INPUTS // 4
        train = zoo.Batches(inputs[test:], classes[test:], zoo.Preprocessing(), BATCH_SIZE)
        task = Task(model, train, inputs[test:][:CALIBRATION], (inputs[:test], classes[:test]))
        known = {"classes": len(np.unique(classes))}
        yield from trained(file.partition(".")[0], known, task, ("agreement", "TFLite agreement"))


def trained(name: str, known: dict[str, Any], task: Task, names: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """A row for each technique: what is known of the float network; accuracies of the result and of its TFLite file."""
    import keras_compress as kc

    float_size = kc.measure(task.model).gzipped_bytes
    for label, technique, own in (
        ("50 % zeros", kc.prune_magnitude, {"schedule": kc.PolynomialDecay(0.2, 0.5)}),
        ("80 % zeros", kc.prune_magnitude, {"schedule": kc.PolynomialDecay(0.5, 0.8)}),
        ("8 bits", kc.quantization_aware_training, {"bits": 8}),
        ("4 bits", kc.quantization_aware_training, {"bits": 4}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "network.tflite"
            result = technique(task.model, task.train, **settings(task, task.model), **own)
            kc.export_tflite(result, path, activations="int8" if "bits" in own else "float")
            in_file = kc.evaluate_tflite(path, *task.test).top1
        row = {"network": name, "technique": label, **known}
        row |= {names[0]: 100 * kc.evaluate(result.model, *task.test).top1, names[1]: 100 * in_file}
        yield row | {"gzipped size": kc.measure(result).gzipped_bytes / float_size}


def chains(data: pathlib.Path) -> Iterator[dict[str, Any]]:
    """What the first step won, after the second."""
    import keras_compress as kc

    for name in FLAGS.chained:
        network = networks.find(name, data)
        if network is None:
            raise InputError(f"The file of the network {name!r} is not there.")
        task = task_of(network, data)
        steps = {
            "pruned to 80 %": lambda source, task=task: kc.prune_magnitude(
                source, task.train, **settings(task, source)
            ),
            "16 clusters": lambda source, task=task: kc.cluster_weights(source, task.train, **settings(task, source)),
            "8 bits, trained": lambda source, task=task: kc.quantization_aware_training(
                source, task.train, **settings(task, source)
            ),
            "4 bits, GPFQ": lambda source, task=task: kc.quantize(source, kc.GPFQ(bits=4), task.calibration),
        }
        done: dict[tuple[str, ...], Any] = {(): kc.Result(task.model)}
        float_sizes = sizes_of(done[()])
        for chain in [(), *CHAINS]:
            if chain:
                done[chain] = steps[chain[-1]](done[chain[:-1]])
            sizes = sizes_of(done[chain])
            row = {"network": name, "steps": ", then ".join(chain) or "float"}
            row |= {"top-1": 100 * kc.evaluate(done[chain].model, *task.test).top1}
            row |= {"weights, gzipped": sizes[0] / float_sizes[0], "TFLite file, gzipped": sizes[1] / float_sizes[1]}
            yield row


def settings(task: Task, source: Any) -> dict[str, Any]:
    return task.training(source, FLAGS.epochs, FLAGS.learning_rate)


def sizes_of(result: Any) -> tuple[int, int]:
    """Bytes of the weights and of the TFLite file, both after gzip."""
    import keras_compress as kc

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.tflite"
        rounded = any(type(layer) is kc.QuantizeActivation for layer in result.model.layers)
        kc.export_tflite(result, path, activations="int8" if rounded else "float", storage="small")
        return kc.measure(result).gzipped_bytes, len(zlib.compress(path.read_bytes(), 9))


if __name__ == "__main__":
    cli.run(main)
