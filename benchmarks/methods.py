"""Every method on ImageNet-sized layers: time next to the floor of its matrix products, and peak memory.

    python benchmarks/methods.py
    python benchmarks/methods.py --methods=gpfq,optq --layers=conv --repetitions=9

conv is a 3x3 convolution of 512 channels, N = 4,608 features, where all methods work on N x N matrices; fc a Dense
layer behind 7x7x512 inputs, N = 25,088 as in VGG16, where those that have it take the direct form, and the others say
how many bytes they need and refuse. Both have 512 neurons. Each method gets a process of its own, which first quantizes
a network of two layers with `kc.quantize` and random images: its peak memory (VmHWM, TensorFlow included) is that of
this call, and the time is that of the second layer, whose inputs differ in both networks. Then the solver and its floor
take turns on random inputs, in float64: `harness/products.py` says which products each method cannot do without. Writes
methods.{json,md} and methods_*.csv, and ends with exit code 1 if a process failed.
"""

import json
import signal
import subprocess
import sys
from typing import Any

from absl import flags
from harness import results, timing

from keras_compress.commands import cli
from keras_compress.errors import InputError
from keras_compress.quantization.presets import PRESETS

FLAGS = flags.FLAGS

LAYERS = {"conv": 3, "fc": 7}  # taps along each side
LIMIT = 4 * 2**30  # bytes

SOLVERS = [name for name in reversed(PRESETS) if not PRESETS[name].distilled]  # distillation is no solver

flags.DEFINE_list("methods", SOLVERS, "Which ones.")
flags.DEFINE_list("layers", list(LAYERS), "conv, fc.")
flags.DEFINE_integer("channels", 512, "Input channels; N is 9 times as many, or 49 times.", lower_bound=1)
flags.DEFINE_integer("units", 512, "Neurons.", lower_bound=1)
flags.DEFINE_integer("conv_images", 64, "Calibration images of conv, with 196 positions each.", lower_bound=1)
flags.DEFINE_integer("fc_images", 1500, "Calibration images of fc.", lower_bound=1)
flags.DEFINE_integer("bits", 4, "Bits of a weight.", lower_bound=2, upper_bound=16)
flags.DEFINE_string("memory_budget", "2GB", "Of kc.quantize.")
flags.DEFINE_integer("repetitions", 3, "Rounds; the table has medians.", lower_bound=1)
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")
flags.DEFINE_string("only", None, "Measure this LAYER:METHOD in this process and print JSON.")


def main(argv: list[str]) -> int:
    cli.take_arguments(argv)
    for flag, known in (("methods", SOLVERS), ("layers", LAYERS)):
        unknown = [name for name in FLAGS[flag].value if name not in known]
        if unknown:
            raise InputError(f"--{flag} takes {', '.join(known)}. Received: {unknown[0]!r}.")
    if FLAGS.only is not None:
        cli.import_tensorflow()
        print(json.dumps(measured(*FLAGS.only.split(":"))))
        return 0
    machine = results.machine()
    cli.import_tensorflow()
    tables: dict[str, list[dict[str, Any]]] = {}
    for layer in FLAGS.layers:
        features = LAYERS[layer] ** 2 * FLAGS.channels
        for method in FLAGS.methods:
            row = in_a_process(layer, method)
            heading = f"{layer} N {features}" + "".join(f" {name}" for name in ("refused", "failed") if name in row)
            tables.setdefault(heading, []).append({"method": PRESETS[method].label} | row)
            print(results.markdown(tables[heading][-1:]).splitlines()[-1], flush=True)
    path = results.write(
        FLAGS.results_dir,
        "methods",
        f"Methods on layers with {FLAGS.units:,} neurons",
        tables,
        machine=machine,
        settings={
            "bits": FLAGS.bits,
            "conv_images": FLAGS.conv_images,
            "fc_images": FLAGS.fc_images,
            "memory_budget": FLAGS.memory_budget,
            "repetitions": FLAGS.repetitions,
        },
        notes=[
            "layer s: of the layer in `kc.quantize`, with statistics, radius rule and solver, measured once.",
            f"solver s, floor s: medians of {FLAGS.repetitions} rounds in which they take turns, X != X~, float64. The "
            "floor is the sum of the products that are named, each timed alone.",
            f"peak GiB: VmHWM of the process up to the end of `kc.quantize`, TensorFlow included; {FLAGS.conv_images} "
            f"images for conv, {FLAGS.fc_images:,} for fc; memory_budget={FLAGS.memory_budget}.",
        ],
    )
    print(path.read_text())
    return int(any(heading.endswith("failed") for heading in tables))


def in_a_process(layer: str, method: str) -> dict[str, Any]:
    """What this script prints with --only; how the process ended where it prints nothing."""
    names = ("channels", "units", "conv_images", "fc_images", "bits", "memory_budget", "repetitions")
    settings = [f"--{name}={FLAGS[name].value}" for name in names]
    command = [sys.executable, __file__, f"--only={layer}:{method}", *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    return {"failed": f"the process ended with {ended}"}


def measured(layer: str, method: str) -> dict[str, Any]:
    """Quantizes the network, then times the solver next to its floor; or the message with which it refuses."""
    import keras
    import numpy as np
    from harness import products

    import keras_compress as kc
    from keras_compress.numerics.statistics import ArraySamples, statistics_of
    from keras_compress.sweep.memory import peak_bytes

    chosen = PRESETS[method].build(bits=FLAGS.bits)
    rng = np.random.default_rng(0)
    side = 14 if layer == "conv" else 7
    count = FLAGS.conv_images if layer == "conv" else FLAGS.fc_images
    keras.utils.set_random_seed(0)
    model = network(layer, side)
    images = np.maximum(rng.standard_normal((count, side, side, FLAGS.channels), dtype=np.float32), 0)
    try:
        result = kc.quantize(
            model, chosen, images, overrides={"before": kc.MSQ(FLAGS.bits)}, memory_budget=FLAGS.memory_budget
        )
    except InputError as error:
        return {"refused": str(error)}
    peak = peak_bytes()
    (row,) = (row for row in result.report.steps[-1].rows if row.path == "layer")
    weights = np.asarray(model.get_layer("layer").kernel, np.float64).reshape(-1, FLAGS.units)
    rows = len(weights) + 64 if layer == "conv" else count
    analog, compressed = random_inputs(rows, len(weights))
    statistics: Any = statistics_of(analog, compressed) if layer == "conv" else ArraySamples(analog, compressed)
    alphabet = chosen.layer_alphabet(weights[None], [statistics])

    def solve() -> Any:
        return chosen.solve(weights, statistics, alphabet, centered=chosen.centers, generator=np.random.default_rng(0))

    codes, fitted_alphabet = solve()
    decoded = fitted_alphabet.decode(codes).astype(np.float64)
    if layer == "conv":
        parts = products.gram_parts(chosen, weights, statistics, decoded)
    else:
        doubles = ArraySamples(analog.astype(np.float64), compressed.astype(np.float64))
        parts = products.direct_parts(chosen, weights, doubles, decoded)
    seconds = timing.medians(
        [
            {name: timing.seconds(function) for name, function in {"solver": solve, **parts}.items()}
            for _ in range(FLAGS.repetitions)
        ]
    )
    floor = sum(seconds[name] for name in parts) or None
    return {
        "form": row.form or "none",
        "layer s": row.seconds,
        "solver s": seconds["solver"],
        "floor s": floor,
        "solver / floor": floor and seconds["solver"] / floor,
        "products of the floor": ", ".join(f"{name} {seconds[name]:.2g}" for name in parts),
        "peak GiB": round(peak / 2**30, 2),
        "within 4 GiB": "yes" if peak <= LIMIT else "NO",
    }


def network(layer: str, side: int) -> Any:
    """A 1x1 convolution, so that the inputs of the layer behind it differ in both networks, and the layer."""
    import keras

    last: list[Any] = [keras.layers.Conv2D(FLAGS.units, LAYERS["conv"], padding="same", name="layer")]
    if layer == "fc":
        last = [keras.layers.Flatten(), keras.layers.Dense(FLAGS.units, name="layer")]
    before = keras.layers.Conv2D(FLAGS.channels, 1, activation="relu", name="before")
    return keras.Sequential([keras.Input((side, side, FLAGS.channels)), before, *last])


def random_inputs(rows: int, features: int) -> tuple[Any, Any]:
    """X and X~ in float32: correlated features with positive means, as behind a ReLU, and the same with noise."""
    import numpy as np

    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((rows, features // 4 + 1), dtype=np.float32)
    mixing = rng.standard_normal((features // 4 + 1, features), dtype=np.float32)
    analog = np.maximum(hidden @ mixing / np.float32(features) ** 0.5, 0)
    noise = rng.standard_normal(analog.shape, dtype=np.float32)
    return analog, np.maximum(analog + np.float32(0.1) * noise, 0)


if __name__ == "__main__":
    cli.run(main)
