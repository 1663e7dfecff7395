"""Pruning and quantization-aware training: the tutorials' small network on MNIST, and networks that others trained.

    python benchmarks/training.py --data=DATA
    python benchmarks/training.py --data=DATA --parts=networks --networks=deepxplore_lenet1

mnist: each seed trains the network, prunes it to 80 % zeros and trains it on with rounding (`kc.workflows`), as in the
tutorials: ten epochs, batches of 35; ten epochs at most, batches of 500. Accuracies are those on all test images,
sizes those of float weights after gzip for pruning, and of TFLite files after gzip for quantization-aware training. Two
minutes a seed on two cores. networks: each is pruned to 50 and 80 % and trained with rounding to 8 and 4 bits, for
--network_epochs passes over all training images, those of cifar10 mirrored and shifted, by Adam at a learning rate that
falls from --learning_rate to zero in half a cosine, and exported; accuracies on all test images. Writes training_mnist
and training_networks (.json, .md, .csv).
"""

import pathlib
import tempfile
import zlib
from typing import Any

from absl import flags
from harness import networks, results

from keras_compress import cli
from keras_compress.errors import InputError

FLAGS = flags.FLAGS

PARTS = ("mnist", "networks")
BATCH_SIZE = 64  # of `networks`

networks.define_flags([name for name in networks.LABELLED if name not in ("mnist_mlp", "cifar10_cnn")])
flags.DEFINE_list("parts", list(PARTS), "Which ones.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Of first weights and orders of samples.")
flags.DEFINE_integer("epochs", 10, "Of each training.", lower_bound=1)
flags.DEFINE_integer("network_epochs", 4, "Of `networks`.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.001, "Of `networks`, at first.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    unknown = [name for name in FLAGS.parts if name not in PARTS]
    if unknown:
        raise InputError(f"--parts takes {', '.join(PARTS)}. Received: {unknown[0]!r}.")
    data = results.data_folder(FLAGS.data)
    machine = results.machine()
    cli.import_tensorflow()
    for part in FLAGS.parts:
        print({"mnist": tutorials, "networks": pretrained}[part](data, machine).read_text())


def pretrained(data: pathlib.Path, machine: dict[str, Any]) -> pathlib.Path:
    """Networks of others, pruned and rounded."""
    import keras

    import keras_compress as kc
    from keras_compress import sweep, zoo
    from keras_compress.zoo.batches import augmentation_for

    rows = []
    for network in networks.chosen(data):
        dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))
        samples = sweep.Samples.of(dataset, network.preprocessing)
        augment, test = augmentation_for(network.dataset), samples.test()
        train = zoo.Batches(samples.x_train, dataset.y_train, network.preprocessing, BATCH_SIZE, augment=augment)
        rate = keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, FLAGS.network_epochs * len(train))
        model = kc.load_model(network.path)
        float_size = kc.measure(model).gzipped_bytes
        for name, technique, settings in (
            ("50 % zeros", kc.prune_magnitude, {"schedule": kc.PolynomialDecay(0.2, 0.5)}),
            ("80 % zeros", kc.prune_magnitude, {"schedule": kc.PolynomialDecay(0.5, 0.8)}),
            ("8 bits", kc.quantization_aware_training, {"bits": 8}),
            ("4 bits", kc.quantization_aware_training, {"bits": 4}),
        ):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "network.tflite"
                settings |= {"tflite": path} if "bits" in settings else {}
                result = technique(
                    model,
                    train,
                    epochs=FLAGS.network_epochs,
                    optimizer=keras.optimizers.Adam(rate),
                    **settings,
                )
                if "bits" not in settings:
                    kc.export_tflite(result.model, path)
                in_file = kc.evaluate_tflite(path, *test).top1
            row = {"network": network.name, "technique": name, "float top-1": 100 * kc.evaluate(model, *test).top1}
            row |= {"top-1": 100 * kc.evaluate(result.model, *test).top1, "TFLite top-1": 100 * in_file}
            rows.append(row | {"gzipped size": kc.measure(result).gzipped_bytes / float_size})
            print(results.markdown([rows[-1]]).splitlines()[-1], flush=True)
    return results.write(
        FLAGS.results_dir,
        "training_networks",
        "Pruning and quantization-aware training of networks that others trained",
        {"networks": rows},
        machine=machine,
        settings={"network_epochs": FLAGS.network_epochs, "learning_rate": FLAGS.learning_rate},
        notes=[
            "Accuracies on all test images, percent. TFLite: the float file of a pruned network, the file of the "
            "trained graph of a rounded one. gzipped size: float weights after gzip, over those of the float network. "
            "One seed.",
        ],
    )


def tutorials(data: pathlib.Path, machine: dict[str, Any]) -> pathlib.Path:
    """The small network on MNIST."""
    import keras

    from keras_compress import zoo

    mnist = zoo.load_dataset(str(data / "mnist.npz"))
    train, test = (each.astype("float32").reshape(-1, 28, 28) / 255 for each in (mnist.x_train, mnist.x_test))
    rows = []
    for seed in FLAGS.seeds:
        keras.utils.set_random_seed(int(seed))
        rows.append({"seed": int(seed)} | pruned(train, mnist.y_train, test, mnist.y_test))
        keras.utils.set_random_seed(int(seed))
        rows[-1] |= rounded(train, mnist.y_train, test, mnist.y_test)
        print(results.markdown([rows[-1]]), flush=True)
    return results.write(
        FLAGS.results_dir,
        "training_mnist",
        "Pruning and quantization-aware training of the tutorials' network on MNIST",
        {"mnist": rows},
        machine=machine,
        settings={"epochs": FLAGS.epochs},
        notes=[
            "Accuracies on the 10,000 test images, percent. Baselines are trained twice: batches of 35 for ten epochs, "
            "and batches of 32 until the loss on the last tenth of the training images no longer falls.",
            "pruned size: float weights after gzip, over those of its baseline. QAT size: the TFLite file of the "
            "trained graph after gzip, over the float TFLite file of its baseline after gzip.",
        ],
    )


def pruned(x: Any, y: Any, x_test: Any, y_test: Any) -> dict[str, float]:
    """The first tutorial."""
    import keras_compress as kc

    recipe = kc.workflows.ModelPruning(epochs=FLAGS.epochs)
    recipe.train_baseline_model(x, y)
    recipe.apply_pruning()
    recipe.train_pruned_model(x, y)
    assert recipe.pruned is not None
    sizes = [kc.measure(model).gzipped_bytes for model in (recipe.model, recipe.pruned.model)]
    return {
        "baseline": 100 * recipe.evaluate_baseline(x_test, y_test),
        "pruned to 80 %": 100 * recipe.evaluate_pruned_model(x_test, y_test),
        "pruned size": sizes[1] / sizes[0],
    }


def rounded(x: Any, y: Any, x_test: Any, y_test: Any) -> dict[str, float]:
    """The second tutorial."""
    import keras_compress as kc

    recipe = kc.workflows.QuantizationAwareTraining()
    recipe.train(x, y, epochs=FLAGS.epochs)
    recipe.apply_quantization_aware_training()
    recipe.train_q_aware_model(x, y, epochs=FLAGS.epochs)
    original, q_aware = recipe.evaluate(x_test, y_test)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.tflite"
        content = recipe.convert_to_tflite()
        with open(path, "wb") as file:
            file.write(content)
        in_file = kc.evaluate_tflite(path, x_test, y_test).top1
        kc.export_tflite(recipe.model, path)
        with open(path, "rb") as file:
            float_size = len(zlib.compress(file.read(), 9))
    return {
        "QAT baseline": 100 * original,
        "QAT": 100 * q_aware,
        "QAT file": 100 * in_file,
        "QAT size": len(zlib.compress(content, 9)) / float_size,
    }


if __name__ == "__main__":
    cli.run(main)
