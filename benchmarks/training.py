"""The tutorials' small network on MNIST: pruning and quantization-aware training.

    python benchmarks/training.py --data=DATA

Each seed trains the network, prunes it to 80 % zeros and gives it quantization-aware training (`kc.workflows`), as in
the tutorials: ten epochs, batches of 35; ten epochs at most, batches of 500. Accuracies are those on all test images,
sizes those of float weights after gzip for pruning, and of TFLite files after gzip for quantization-aware training. Two
minutes a seed on two cores. Writes training_mnist (.json, .md, .csv).
"""

import tempfile
import zlib
from typing import Any

from absl import flags
from harness import results
from harness.start import start

from keras_compress.commands import cli

FLAGS = flags.FLAGS

flags.DEFINE_string("data", None, f"Folder of mnist.npz. Default: {results.DATA_VARIABLE}.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Of first weights and orders of samples.")
flags.DEFINE_integer("epochs", 10, "Of each training.", lower_bound=1)
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    data, machine = start(argv)
    import keras

    from keras_compress import zoo

    mnist = zoo.load_dataset(str(data / "mnist.npz"))
    train, test = (each.astype("float32").reshape(-1, 28, 28) / 255 for each in (mnist.x_train, mnist.x_test))
    rows = []
    for seed in FLAGS.seeds:
        keras.utils.set_random_seed(int(seed))
        rows.append({"seed": int(seed)} | pruned(train, mnist.y_train, test, mnist.y_test))
        keras.utils.set_random_seed(int(seed))
        rows[-1] |= quantization_aware(train, mnist.y_train, test, mnist.y_test)
        print(results.markdown([rows[-1]]), flush=True)
    path = results.write(
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
    print(path.read_text())


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


def quantization_aware(x: Any, y: Any, x_test: Any, y_test: Any) -> dict[str, float]:
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
