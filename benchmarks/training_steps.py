"""Seconds of a training step: pruning, clustering and quantization-aware training next to a float step of Keras.

    python benchmarks/training_steps.py
    python benchmarks/training_steps.py --networks=resnet18 --repetitions=5

Untrained networks for images of CIFAR-10's size with random images, batches of --batch_size, Adam. Each round trains in
every way for some epochs, one way after the other; a step is the fastest epoch after the first, over its steps, and the
table has medians over the rounds, as ratios to `keras.Model.fit` on the same batches. Masks of pruning change every 28
steps, once in an epoch, as in a training of 3,750 steps. tfmot's engine trains in Keras 2. Writes
training_steps (.json, .md, .csv).
"""

import time
from collections.abc import Callable
from typing import Any

from absl import flags
from harness import results, timing

from keras_compress.commands import cli

FLAGS = flags.FLAGS
EPOCHS = 4
FREQUENCY = 28  # steps between masks, as kc.PolynomialDecay() has it in a training of 3,750 steps

flags.DEFINE_list("networks", ["cnn", "lenet", "resnet18"], "Architectures of the zoo.")
flags.DEFINE_integer("images", 1792, "Of an epoch.", lower_bound=64)
flags.DEFINE_integer("batch_size", 64, "Of a step.", lower_bound=1)
flags.DEFINE_integer("repetitions", 3, "Rounds.", lower_bound=1)
flags.DEFINE_string("results_dir", results.FOLDER, "Where the files go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    machine = results.machine()
    cli.import_tensorflow()
    rows = []
    for name in FLAGS.networks:
        rows.append({"network": name} | measure(name))
        print(results.markdown([rows[-1]]), flush=True)
    path = results.write(
        FLAGS.results_dir,
        "training_steps",
        "Seconds of a training step",
        {"steps": rows},
        machine=machine,
        settings={"images": FLAGS.images, "batch_size": FLAGS.batch_size, "repetitions": FLAGS.repetitions},
        notes=[
            "float: milliseconds of a step of keras.Model.fit on the batches that our trainings read; all others as "
            "multiples of it, in the same round. float, arrays: keras.Model.fit on arrays. quantization-aware: with "
            "kernels and activations of 8 bits."
        ],
    )
    print(path.read_text())


def measure(name: str) -> dict[str, float]:
    import keras
    import numpy as np

    import keras_compress as kc
    from keras_compress import zoo
    from keras_compress.samples.feeding import Feed

    width = {"width_multiplier": 0.25} if name.startswith(("resnet", "vgg")) else {}
    network = zoo.build_architecture(name, (32, 32, 3), num_classes=10, **width)
    network.compile("adam", "sparse_categorical_crossentropy")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(FLAGS.images, 32, 32, 3)).astype("float32")
    y = generator.integers(0, 10, FLAGS.images)
    training, feed = kc.Training(EPOCHS, FLAGS.batch_size, verbose=0), Feed((x, y), "train_data", FLAGS.batch_size)

    def copied() -> keras.Model:
        copy = keras.models.clone_model(network)
        copy.compile("adam", "sparse_categorical_crossentropy")
        return copy

    def plain(clock: Any) -> None:
        copied().fit(
            feed.shuffled(0, 0, EPOCHS), steps_per_epoch=feed.steps, epochs=EPOCHS, verbose=0, callbacks=[clock]
        )

    def arrays(clock: Any) -> None:
        copied().fit(x, y, FLAGS.batch_size, EPOCHS, verbose=0, callbacks=[clock])

    def technique(function: Callable[..., Any], **settings: Any) -> Callable[[Any], None]:
        return lambda clock: function(network, (x, y), training=training, callbacks=[clock], **settings)

    schedule = kc.PolynomialDecay(0.5, 0.8, frequency=FREQUENCY)
    ways = {
        "float": plain,
        "float, arrays": arrays,
        "pruning": technique(kc.prune_magnitude, schedule=schedule),
        "clustering": technique(kc.cluster_weights),
        "quantization-aware": technique(kc.quantization_aware_training),
        "pruning, tfmot": technique(kc.prune_magnitude, schedule=schedule, engine="tfmot"),
        "quantization-aware, tfmot": technique(kc.quantization_aware_training, engine="tfmot"),
    }
    steps = -(-FLAGS.images // FLAGS.batch_size)
    rounds = []
    for _ in range(FLAGS.repetitions):
        times = {way: fastest_epoch(run) / steps for way, run in ways.items()}
        rounds.append(
            {way: 1000 * seconds if way == "float" else seconds / times["float"] for way, seconds in times.items()}
        )
    return timing.medians(rounds)


def fastest_epoch(run: Callable[[Any], None]) -> float:
    """Seconds; the first one traces."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    clock = Clock()
    run(clock)
    return min(clock.seconds[1:])


if __name__ == "__main__":
    cli.run(main)
