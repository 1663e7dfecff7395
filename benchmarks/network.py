"""Time of a whole quantization next to its floor, by parts, and of the statistics of convolutions in three ways.

    python benchmarks/network.py --data=DATA
    python benchmarks/network.py --data=DATA --networks=cnn --num_images=1000 --repetitions=3
    python benchmarks/network.py --networks=my_network.keras --num_images=500

The floor is one pass of the analog and one of the compressed network over the same batches, each a tf.function that was
traced before, and the Gram statistics of every layer in their fastest exact form; reading, tracing, solver, radius
search and the comparison of outputs are all on top. kc.quantize and the floor take turns in one process. The network
`mlp` takes 25,000 images of MNIST, `cnn` 5,000 of CIFAR-10, with first weights, as time does not depend on training;
DATA holds mnist.npz and cifar10.npz. Writes network.{json,md} and network_*.csv. About ten minutes on two cores.
"""

import functools
import logging
import pathlib
import statistics
from typing import Any

from absl import flags
from harness import results, timing

from keras_compress.commands import cli

FLAGS = flags.FLAGS

flags.DEFINE_string("data", None, f"Folder of mnist.npz and cifar10.npz. Default: {results.DATA_VARIABLE}.")
flags.DEFINE_list("networks", ["mlp", "cnn"], "mlp, cnn, or files NAME.keras or NAME.h5, which get random images.")
flags.DEFINE_alias("model", "networks")
flags.DEFINE_bool("random_images", False, "Random images for mlp and cnn too: no data sets are needed.")
flags.DEFINE_integer("num_images", None, "Default: 25,000 for mlp, 5,000 for cnn, 500 for a file.", lower_bound=1)
flags.DEFINE_integer("levels", 3, "Levels of a weight; 3 is ternary.", lower_bound=2)
flags.DEFINE_integer("repetitions", 5, "Rounds; the tables have medians.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Of kc.quantize. Default: its own choice.", lower_bound=1)
flags.DEFINE_list(
    "floor_batch_sizes",
    ["256", "1024", "4096"],
    "Of the floor, which is that of the fastest size; sizes that do not fill four batches are left out.",
)
flags.DEFINE_integer("statistics_images", 256, "Images for the three ways to a convolution's statistics.")
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    names = FLAGS.networks
    zoo_names = [name for name in names if "." not in name]
    data = results.data_folder(FLAGS.data) if zoo_names and not FLAGS.random_images else None
    machine = results.machine()
    cli.import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each layer's step is traced: that is no news
    from harness import untrained

    wholes, parts, ways = [], [], []
    for name in names:
        model, dataset = untrained.load(name)
        count = FLAGS.num_images or untrained.NUM_IMAGES.get(name, 500)
        images = untrained.training_images(model, dataset, data, count)
        label = pathlib.Path(name).stem
        wholes.append({"network": label, "images": count} | whole(model, images))
        print(results.markdown(wholes[-1:]), flush=True)
        parts += [{"network": label} | row for row in by_part(model, images)]
        ways += [{"network": label} | row for row in three_ways(model, images[: FLAGS.statistics_images])]
    tables = {"whole network": wholes, "parts": parts} | ({"statistics of convolutions": ways} if ways else {})
    path = results.write(
        FLAGS.results_dir,
        "network",
        "kc.quantize next to its floor",
        tables,
        machine=machine,
        settings={flag: FLAGS[flag].value for flag in ("levels", "repetitions", "batch_size", "statistics_images")},
        notes=[
            "Seconds; medians of rounds in which kc.quantize and the floor take turns. ratio = quantize / floor.",
            "first call: the first one in the process, with everything that TensorFlow prepares once.",
            "floor = analog pass + compressed pass + statistics, at the fastest of the batch sizes "
            f"{', '.join(FLAGS.floor_batch_sizes)} that fill four batches.",
            "Parts: one call under cProfile, which slows it down; forward includes the comparison of both networks' "
            "outputs, and trace is Python's part in building TensorFlow's functions.",
            f"Statistics: milliseconds for {FLAGS.statistics_images} images; G alone, as where X = X~, and G and H; "
            "deviation: largest difference of G to patches, over its largest entry.",
        ],
    )
    print(path.read_text())


def quantizer() -> Any:
    import keras_compress as kc

    return kc.GPFQ(alphabet=kc.Integer(levels=FLAGS.levels))


def whole(model: Any, images: Any) -> dict[str, Any]:
    """A row: kc.quantize and its floor, in turn."""
    import tensorflow as tf
    from harness.floor import Recorder, floor

    import keras_compress as kc

    quantized: list[Any] = []

    def quantize() -> None:
        quantized[:] = [kc.quantize(model, quantizer(), images, batch_size=FLAGS.batch_size)]

    first = timing.seconds(quantize)
    result = quantized[0]
    paths = [row.path for row in result.report.steps[-1].rows if row.action == "quantized" and row.form == "gram"]
    recorder = Recorder(model, result.model, paths)
    same = recorder.same(tf.convert_to_tensor(images[:64]))
    batch_sizes = [int(size) for size in FLAGS.floor_batch_sizes]
    sizes = [size for size in batch_sizes if 4 * size <= len(images)] or [min(batch_sizes)]
    for size in sizes:  # warms up
        floor(recorder, images[: 2 * size], size, same)
    rounds: list[dict[str, float]] = []
    floors: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(FLAGS.repetitions):
        rounds.append({"quantize": timing.seconds(quantize)})
        for size in sizes:
            floors[size].append(floor(recorder, images, size, same))
    lowest = min((timing.medians(floors[size]) for size in sizes), key=lambda medians: medians["floor"])
    median = statistics.median(values["quantize"] for values in rounds)
    return {"first call": first, "quantize": median} | lowest | {"ratio": median / lowest["floor"]}


def by_part(model: Any, images: Any) -> list[dict[str, Any]]:
    """Rows: where the time of one call goes."""
    from harness.parts import parts

    import keras_compress as kc

    seconds = parts(lambda: kc.quantize(model, quantizer(), images, batch_size=FLAGS.batch_size))
    return [
        {"part": name, "seconds": value, "percent": 100 * value / sum(seconds.values())}
        for name, value in seconds.items()
    ]


def three_ways(model: Any, images: Any) -> list[dict[str, Any]]:
    """Rows: patches, taps and correlation for each convolution of the network."""
    import tensorflow as tf
    from harness.floor import Recorder

    from keras_compress.layers.convolution_views import ConvolutionView
    from keras_compress.layers.graph import Graph

    paths = [path for path, view in Graph(model).views.items() if isinstance(view, ConvolutionView)]
    if not paths:
        return []
    recorder = Recorder(model, model, paths)
    rows = []
    for path, pairs in recorder.inputs(tf.convert_to_tensor(images)).items():
        rows.append(_three_ways_of(path, recorder.views[path], pairs[0][0]))
        print(results.markdown(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def _three_ways_of(path: str, view: Any, inputs: Any) -> dict[str, Any]:
    import numpy as np

    from keras_compress.calibration.gather import Gatherer, gram_method

    geometry = view.geometry
    height, width = view.images(inputs).shape[1:3]
    methods = ["patches"]
    if max(geometry.dilation) == 1:
        methods.append("taps")
        if max(geometry.strides) == 1 and gram_method(geometry, height, width) == "correlation":
            methods.append("correlation")
    other = inputs + 0.0  # another tensor with the same numbers

    def gram(method: str, same: bool) -> Any:
        gatherer = Gatherer(view, gram=True, same=same, name=path, method=method)
        gatherer.add(inputs, inputs if same else other)
        statistics: Any = gatherer.result()[0]
        return statistics.gram

    seconds = timing.interleaved(
        {
            f"{method}, {products}": functools.partial(gram, method, same)
            for method in methods
            for products, same in (("G", True), ("G and H", False))
        },
        FLAGS.repetitions,
    )
    exact = gram("patches", True)
    row: dict[str, Any] = {
        "layer": path,
        "input": "x".join(map(str, inputs.shape[1:])),
        "kernel": "x".join(map(str, view.kernel.shape)),
        "stride": max(geometry.strides),
        "chosen": gram_method(geometry, height, width),
    }
    for method in ("patches", "taps", "correlation"):
        for products in ("G", "G and H"):
            value = seconds.get(f"{method}, {products}")
            row[f"{method}, {products}"] = None if value is None else 1e3 * value
        deviation = np.abs(gram(method, True) - exact).max() / np.abs(exact).max() if method in methods else None
        if method != "patches":
            row[f"{method}, deviation"] = None if deviation is None else float(deviation)
    return row


if __name__ == "__main__":
    cli.run(main)
