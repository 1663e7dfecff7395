"""Integer files of a network in which weight decay has left channels dead, next to their simulations and TensorFlow's.

    python benchmarks/dead_channels.py --data=DATA

MobileNetV2 (alpha 0.35, 96 x 96) is trained on --images enlarged images, with AdamW and a decay of kernels and gammas
so strong that channels die. Their biases do not decay, and are then more steps than an int32 holds. Files with 8-bit
and 4-bit weights (GPFQ), with ranges by least squared error and with measured ones, are compared with their
simulations on --test_images test images, and with the int8 file that TensorFlow's converter makes of the same network
and the same calibration images. A second network has the gammas next to zero set to 0, as channel pruning does. The
trained network is kept in --models_dir and used again. Writes dead_channels (.json, .md, .csv).
"""

import contextlib
import io
import pathlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from absl import flags
from harness import results
from harness.start import start

from keras_compress.commands import cli

if TYPE_CHECKING:
    import numpy as np

FLAGS = flags.FLAGS

SIZE = 96  # of the images that the network takes
DEAD = 1e-6  # of a layer's largest weight
MOST_STEPS = 2.0**31  # of a bias
BATCH = 100  # images in one call

SETTINGS = (
    "dataset",
    "images",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "pruned_below",
    "num_samples",
    "test_images",
    "seed",
)

flags.DEFINE_string("data", None, f"Folder of DATASET.npz. Default: {results.DATA_VARIABLE}.")
flags.DEFINE_enum("dataset", "fashion_mnist", ["fashion_mnist", "cifar10", "mnist"], "Which images.")
flags.DEFINE_string("models_dir", "serialized_models", "Folder in which the trained network is kept, and looked for.")
flags.DEFINE_integer("images", 12_000, "Training images.", lower_bound=10)
flags.DEFINE_integer("epochs", 5, "Of the training.", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "Of the training.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.005, "Of AdamW, the highest; it rises at first, and falls like a cosine.")
flags.DEFINE_float("weight_decay", 2.5, "Of kernels and gammas, a step: that times the learning rate.")
flags.DEFINE_float("pruned_below", 1e-3, "Gammas that the second network has as 0: of their layer's largest.")
flags.DEFINE_list("bits", ["8", "4"], "Of the weights.")
flags.DEFINE_integer("num_samples", 500, "Training images to quantize by and to measure ranges on.", lower_bound=1)
flags.DEFINE_integer("test_images", 10_000, "Test images at most.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of first weights, orders and choices of images.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    data, machine = start(argv)
    import keras
    import numpy as np

    from keras_compress import zoo

    dataset = zoo.load_dataset(str(data / f"{FLAGS.dataset}.npz"))
    keras.utils.set_random_seed(FLAGS.seed)
    chosen = np.random.default_rng(FLAGS.seed).permutation(len(dataset.x_train))[: FLAGS.images]
    model = trained(dataset.x_train[chosen], dataset.y_train[chosen])
    calibration = np.asarray(enlarged(dataset.x_train[chosen[: FLAGS.num_samples]]))
    test = dataset.x_test[: FLAGS.test_images], dataset.y_test[: FLAGS.test_images].reshape(-1)
    networks = {"as trained": model, f"gammas below {FLAGS.pruned_below:g} set to 0": without_small_gammas(model)}
    tables: dict[str, list[dict[str, Any]]] = {"channels": [], "files": []}
    for name, network in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            channels, rows = measure(network, calibration, test, pathlib.Path(folder))
        tables["channels"].append({"network": name} | channels)
        tables["files"] += [{"network": name} | row for row in rows]
    path = results.write(
        FLAGS.results_dir,
        "dead_channels",
        f"Integer files of a MobileNetV2 with dead channels, {FLAGS.dataset} enlarged to {SIZE} x {SIZE}",
        tables,
        machine=machine,
        settings={name: FLAGS[name].value for name in SETTINGS},
        notes=[
            f"Top-1 in percent on the first {len(test[0]):,} test images, the same for all. Trained on "
            f"{FLAGS.images:,} images for {FLAGS.epochs} epochs; AdamW, learning rate {FLAGS.learning_rate:g}, decay "
            f"{FLAGS.weight_decay:g}; the first {FLAGS.num_samples} of these images calibrate.",
            f"dead: no folded weight above {DEAD:g} of the layer's largest. overflow: the bias is 2^31 steps or more, "
            "a step being the input's scale times the channel's largest weight over 127.",
            "difference: points of the file above its own simulation. other classes: percent of images that file and "
            "simulation give different classes. to TensorFlow's: points above TensorFlow's int8 file.",
            "difference of outputs: on 32 calibration images, relative, from the export's report.",
        ],
    )
    print(path.read_text())


def enlarged(images: Any) -> Any:
    """Images as the network takes them: (n, 96, 96, 3), -1 to 1."""
    import tensorflow as tf

    images = images if len(images.shape) == 4 else images[..., None]
    images = tf.image.resize(images, (SIZE, SIZE)) / 127.5 - 1
    return tf.repeat(images, 3 // images.shape[-1], axis=-1)


def trained(x: "np.ndarray", y: "np.ndarray") -> Any:
    """The network, from --models_dir where it is there."""
    import keras
    import tensorflow as tf

    import keras_compress as kc

    settings = (FLAGS.images, FLAGS.epochs, FLAGS.batch_size, FLAGS.learning_rate, FLAGS.weight_decay, FLAGS.seed)
    path = pathlib.Path(FLAGS.models_dir) / f"{FLAGS.dataset}_mobilenetv2_{'_'.join(map(str, settings))}.keras"
    if path.is_file():
        return kc.load_model(path)
    model = keras.applications.MobileNetV2((SIZE, SIZE, 3), alpha=0.35, weights=None, classes=10)
    for layer in model.layers:
        if type(layer) is keras.layers.BatchNormalization:
            layer.momentum = 0.9  # 0.999 needs more steps than there are
    steps = FLAGS.epochs * -(-len(x) // FLAGS.batch_size)
    warm = steps // 10
    rate = keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate / 10, steps - warm, warmup_target=FLAGS.learning_rate, warmup_steps=warm
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=FLAGS.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["beta", "bias"])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = tf.data.Dataset.from_tensor_slices((x, y.reshape(-1))).shuffle(len(x), seed=FLAGS.seed)
    batches = batches.batch(FLAGS.batch_size).map(lambda images, labels: (enlarged(images), labels))

    def say(epoch: int, logs: dict[str, float]) -> None:
        count, channels = dead(kc.fold_batch_normalization(model).model)
        print(f"epoch {epoch + 1}: {logs}, {count} of {channels} channels dead", file=sys.stderr, flush=True)

    model.fit(
        batches.prefetch(2),
        epochs=FLAGS.epochs,
        verbose=0,
        shuffle=False,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=say)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def without_small_gammas(model: Any) -> Any:
    """A copy whose gammas next to zero are 0."""
    import keras
    import numpy as np

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if type(layer) is keras.layers.BatchNormalization:
            gamma = np.asarray(layer.gamma)
            layer.gamma.assign(np.where(np.abs(gamma) < FLAGS.pruned_below * np.abs(gamma).max(), 0, gamma))
    return copy


def measure(
    model: Any, calibration: "np.ndarray", test: tuple["np.ndarray", "np.ndarray"], folder: pathlib.Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of channels of a network, and those of its files."""
    import numpy as np

    import keras_compress as kc

    images, labels = test

    def top1(predicted: "np.ndarray") -> float:
        return 100 * float(np.mean(predicted == labels))

    folded = kc.fold_batch_normalization(model)
    count, channels = dead(folded.model)
    counted: dict[str, Any] = {"channels": channels, "dead": count}
    path = folder / "network.tflite"
    path.write_bytes(by_tensorflow(model, calibration))
    reference = classes_of_file(path, images)
    names = ("file", "simulation", "top-1", "difference", "other classes", "to TensorFlow's", "kB", "float operators")
    empty: dict[str, Any] = dict.fromkeys((*names, "difference of outputs"))
    rows = [
        empty | {"file": "none: the float network", "top-1": top1(classes_of_model(model, images))},
        empty | {"file": "TensorFlow's int8", "top-1": top1(reference), "kB": path.stat().st_size / 1000},
    ]
    rows[1]["float operators"] = float_operators(path)
    with kc.Calibration(folded.model, calibration) as shared:
        quantized = {bits: kc.quantize(folded, kc.GPFQ(bits), shared) for bits in map(int, FLAGS.bits)}
    for bits, weights in quantized.items():
        for ranges in ("mse", "minmax"):
            simulation = kc.quantize_activations(weights, calibration, ranges=ranges)
            if "overflow" not in counted:
                layers = overflowing(simulation.model, folded.model)
                counted["overflow"] = sum(int(each.sum()) for each in layers)
                counted |= {"kernels": len(layers), "all of them overflow": sum(bool(each.all()) for each in layers)}
            source = simulation if ranges == "mse" else weights
            report = kc.export_tflite(source, path, activations="int8", calibration=calibration)
            simulated, in_file = classes_of_model(simulation.model, images), classes_of_file(path, images)
            row = empty | {
                "file": f"W{bits}A8, " + ("ranges chosen" if ranges == "mse" else "ranges measured by the export"),
                "simulation": top1(simulated),
                "top-1": top1(in_file),
                "difference": top1(in_file) - top1(simulated),
                "other classes": 100 * float(np.mean(in_file != simulated)),
                "to TensorFlow's": top1(in_file) - top1(reference),
                "kB": path.stat().st_size / 1000,
                "float operators": float_operators(path),
                "difference of outputs": report.steps[-1].figures["difference of the outputs"],
            }
            print(results.markdown([row]).splitlines()[-1], file=sys.stderr, flush=True)
            rows.append(row)
    return counted, rows


def by_tensorflow(model: Any, calibration: "np.ndarray") -> bytes:
    """The file that TensorFlow's converter makes, with nothing of ours."""
    import tensorflow as tf

    from keras_compress import progress

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with progress.quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):  # it prints every variable
        return bytes(converter.convert())


def classes_of_model(model: Any, images: "np.ndarray") -> "np.ndarray":
    """What a Keras model says of each image."""
    return classes(lambda batch: model.predict_on_batch(batch), images)


def classes_of_file(path: pathlib.Path, images: "np.ndarray") -> "np.ndarray":
    """What a file says of each image; `kc.evaluate_tflite` counts the same."""
    from keras_compress.measurement.tflite import runner_of

    runner = runner_of(path, threads=2)
    return classes(lambda batch: runner.outputs([batch])[0], images)


def classes(scores: Any, images: "np.ndarray") -> "np.ndarray":
    """The highest of the scores of each image."""
    import numpy as np

    starts = range(0, len(images), BATCH)
    parts = (scores(np.asarray(enlarged(images[start : start + BATCH]))) for start in starts)
    return np.concatenate([np.argmax(part, axis=1) for part in parts])


def float_operators(path: pathlib.Path) -> int:
    """Operators of a file that give floats, but for those that turn integers into floats."""
    from keras_compress.measurement import flatbuffer

    model = flatbuffer.parse(path.read_bytes())
    (graph,) = model.subgraphs
    return sum(
        flatbuffer.operator_name(model, operator) != "DEQUANTIZE"
        and any(flatbuffer.TYPES[graph.tensors[tensor].type] == "FLOAT32" for tensor in operator.outputs)
        for operator in graph.operators
    )


def largest(view: Any) -> "np.ndarray":
    """Largest weight of each channel."""
    import numpy as np

    others = tuple(axis for axis in range(view.kernel.ndim) if axis not in view.axes)
    return np.abs(view.kernel).max(axis=others).ravel()


def dead(folded: Any) -> tuple[int, int]:
    """Channels whose weights are all next to nothing, and all channels."""
    from keras_compress.layers.kernels import views_by_path

    sizes = [largest(view) for view in views_by_path(folded).values()]
    return sum(int((each <= DEAD * each.max()).sum()) for each in sizes), sum(map(len, sizes))


def overflowing(simulation: Any, folded: Any) -> list["np.ndarray"]:
    """For each kernel which channels have a bias of more steps than an int32 holds."""
    import numpy as np

    from keras_compress.layers.activation import QuantizeActivation
    from keras_compress.layers.graph import Graph
    from keras_compress.layers.kernels import views_by_path

    graph, views, layers = Graph(simulation), views_by_path(folded), []
    for path, view in views.items():
        (index,) = graph.linear_calls(path)
        call = graph.calls[index]
        while not isinstance(call.operation, QuantizeActivation):
            call = graph.calls[graph.producer[call.inputs[0]]]
        bias = np.abs(np.asarray(view.bias_variable, np.float64))
        step = largest(view).astype(np.float64) / 127 * call.operation.scale
        layers.append((bias > 0) & (bias >= MOST_STEPS * step))
    return layers


if __name__ == "__main__":
    cli.run(main)
