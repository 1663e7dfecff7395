"""A training that goes on from a network, or begins with one."""

import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from keras_compress.commands import cli
from keras_compress.commands.network_flags import Data, load_data, model_path
from keras_compress.errors import InputError, UserError
from keras_compress.fitting.strategies import STRATEGIES, strategy_of, task_of

if TYPE_CHECKING:
    from keras_compress.samples.samples import IndexedSamples

CALIBRATION = 500  # training samples for ranges of activations that no training has found

flags.disclaim_key_flags()  # flags belong to the command that asks for them, whose --help shows them
FLAGS = flags.FLAGS


def define_training() -> None:
    """Defines the flags of a training."""
    flags.DEFINE_string("architecture", None, "In place of MODEL: mlp, cnn, lenet, ...; is trained on --dataset first.")
    flags.DEFINE_integer("baseline_epochs", 20, "Of the training of an --architecture.", lower_bound=1)
    flags.DEFINE_integer("epochs", 4, "Passes over the training samples.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Samples in a step, of all workers together.", lower_bound=1)
    flags.DEFINE_alias("bs", "batch_size")
    flags.DEFINE_float("learning_rate", 0.001, "Of Adam, at the beginning.")
    flags.DEFINE_enum(
        "learning_rate_schedule",
        "cosine",
        ["cosine", "constant"],
        "cosine: falls to zero in half a cosine; in pruning, only after the last masks.",
    )
    flags.DEFINE_string(
        "augment", "auto", "none, shift or flip_shift. auto: as on the model card, else flip_shift for cifar10."
    )
    flags.DEFINE_list("layers", None, "Names, paths or regular expressions of layers. Default: all that can be.")
    flags.DEFINE_enum(
        "strategy", "none", STRATEGIES, "tf.distribute: all devices here, or the workers in the variable TF_CONFIG."
    )
    flags.DEFINE_enum("engine", "keras", ["keras", "tfmot"], "Keras 3's own fit, or tfmot's graph in Keras 2.")
    flags.DEFINE_string("checkpoint_dir", None, "A folder for the state after each epoch, to go on after a kill.")
    flags.DEFINE_string("output_dir", "quantized_models", "Where the trained network goes.")
    flags.DEFINE_string("metrics_dir", "model_metrics", "Where NAME.csv goes.")
    flags.DEFINE_string("logs_dir", "train_logs", "Where the folder for TensorBoard goes.")


class TrainingJob(NamedTuple):
    """A training that the flags describe: what it takes, and where its result goes."""

    name: str  # of the files
    given: Any  # a Result, or the model
    model: Any
    data: Data
    train: Any
    settings: dict[str, Any]  # further arguments of the technique

    @property
    def writes(self) -> bool:
        """Whether this is the one of the workers that writes files."""
        return task_of(self.settings["training"].strategy) == 0

    def write(
        self, result: Any, folder: pathlib.Path, *, bits: int | None = None, activations: str | None = None
    ) -> None:
        """Saves the result with its model card, records what it cost, and prints it.

        Args:
            result: of the training.
            folder: of its files.
            bits: of the weights, where they were rounded.
            activations: of the TFLite file; None for no file.
        """
        if not self.writes:
            return
        from keras_compress import sweep
        from keras_compress.measurement.counts import compare_sizes
        from keras_compress.measurement.tflite import evaluate_tflite

        network = self.name.rpartition("_")[0]
        result.save(folder / self.name)
        self.data.card.write(folder / f"{self.name}.card.json")
        files, tflite = {}, folder / f"{self.name}.tflite"
        if activations is not None and self._export(result, tflite, activations):
            files["qat"] = evaluate_tflite(tflite, self.data.samples.test()).top1, tflite.stat().st_size
        row = sweep.record_training(
            result,
            self.model,
            self.data.samples,
            name=network,
            dataset=self.data.name,
            file=self.name,
            metrics_dir=FLAGS.metrics_dir,
            batch_size=FLAGS.batch_size,
            seed=FLAGS.seed,
            bits=bits,
            tflite=files,
        )
        print(result.report)
        before, after = row["float_top1"], row["top1"]
        print(f"top-1:    {before:.2%} before, {after:.2%} after, on {row['test_samples']:,} test samples")
        print(compare_sizes(before=self.given, after=result))
        for top1, size in files.values():
            print(f"TFLite:   {top1:.2%}, {size:,} bytes: {tflite}")
        print(f"network:  {folder / self.name}.keras")
        print(f"table:    {FLAGS.metrics_dir}/{network}.csv")

    def _export(self, result: Any, tflite: pathlib.Path, activations: str) -> bool:
        """Whether there is a file; a network that was trained is not lost for want of one."""
        from keras_compress.export.ranges import rounded
        from keras_compress.export.tflite import export_tflite

        ranged = activations != "int8" or rounded(result.model)
        calibration = None if ranged else self.data.samples.training(FLAGS.seed)[0].take(CALIBRATION, FLAGS.seed)
        try:
            export_tflite(result, tflite, activations=activations, calibration=calibration)
        except UserError as error:
            print(f"TFLite:   no file: {error}")
            return False
        return True


def load_training(argv: list[str], suffix: str, technique: Callable[[], dict[str, Any]]) -> TrainingJob:
    """What the flags of `define_training` describe.

    Args:
        argv: the program's name, and the network's unless --architecture names what is to be trained first.
        suffix: of the files' names, behind that of the network.
        technique: gives its own settings, and raises InputError for bad ones: before a network is trained for it.

    Raises:
        InputError: a network or samples that do not fit, or settings that do not exist.
    """
    if not FLAGS.learning_rate > 0:
        raise InputError(f"--learning_rate must be above 0. Received: {FLAGS.learning_rate}.")
    path = model_path(argv) if FLAGS.architecture is None else None
    if path is None and FLAGS.strategy == "multiworker":
        raise InputError(
            "--architecture is trained by one process. Train it with train/train_baseline.py, and give its name to the "
            "workers."
        )
    strategy = _strategy()
    from keras_compress.bridge.loading import load_model
    from keras_compress.fitting.compiling import loss_for
    from keras_compress.fitting.training import Training
    from keras_compress.result import has_codes, load_result

    own = technique()
    path = path or _from_scratch(argv)
    given = load_result(path, allow_lambda=FLAGS.allow_lambda) if has_codes(path) else None
    model = given.model if given is not None else load_model(path, allow_lambda=FLAGS.allow_lambda)
    data = load_data(path, model)
    data.samples.check(model, 1)
    train, validation = data.samples.training(FLAGS.seed)
    name = f"{path.name.removesuffix(path.suffix)}_{suffix}"
    _check_folders()
    batches = _augmented(train, data)
    optimizer = _optimizer(train.num_batches(FLAGS.batch_size), own.get("schedule"))
    model.compile(optimizer, loss_for(model, train.rows(slice(0, 1)).labels), metrics=["accuracy"])
    settings = own | {
        "layers": FLAGS.layers,
        "validation": validation,
        "training": Training(FLAGS.epochs, FLAGS.batch_size, FLAGS.seed, FLAGS.checkpoint_dir, strategy),
        "callbacks": _callbacks(name) if task_of(strategy) == 0 else [],
    }
    return TrainingJob(name, given if given is not None else model, model, data, batches, settings)


def _strategy() -> Any:
    """The tf.distribute.Strategy of --strategy, or None."""
    cli.import_tensorflow(find_devices=FLAGS.strategy != "multiworker")
    return strategy_of(FLAGS.strategy)


def _from_scratch(argv: list[str]) -> pathlib.Path:
    """Trains the --architecture, as train/train_baseline.py does by default; the path of the network."""
    from keras_compress.zoo import baseline, load_dataset
    from keras_compress.zoo.batches import augmentation_for

    cli.take_arguments(argv)
    _check_folders()
    source = FLAGS.dataset or "digits"
    dataset = load_dataset(source, seed=FLAGS.seed)
    augment = augmentation_for(dataset.name, FLAGS.augment)
    trained = baseline.train_network(
        dataset,
        FLAGS.architecture,
        baseline.Recipe(epochs=FLAGS.baseline_epochs, augment=augment, seed=FLAGS.seed),
        models_dir=pathlib.Path(FLAGS.models_dir),
        logs_dir=pathlib.Path(FLAGS.logs_dir),
        source=source,
        command=cli.command_line(),
        verbose=1 if sys.stdout.isatty() else 2,
    )
    print(trained)
    return trained.path


def _check_folders() -> None:
    from keras_compress.files import check_writable_folder

    for folder in (FLAGS.output_dir, FLAGS.metrics_dir, FLAGS.logs_dir):
        check_writable_folder(folder)


def _augmented(train: "IndexedSamples", data: Data) -> Any:
    """The samples themselves where nothing is augmented, else batches of them."""
    from keras_compress.zoo import Batches
    from keras_compress.zoo.batches import AUGMENTATIONS, augmentation_for

    shape = train.rows(slice(0, 1)).inputs.shape[1:]
    images = len(shape) == 3
    augment = FLAGS.augment
    if augment == "auto":
        augment = data.card.settings.get("augment", augmentation_for(data.name)) if images else "none"
    if augment not in AUGMENTATIONS:
        raise InputError(f"--augment takes auto, {', '.join(AUGMENTATIONS)}. Received: {augment!r}.")
    if augment == "none":
        return train
    if not images:
        raise InputError(
            f"--augment={augment} takes images, of shape (height, width, channels). Received: samples of shape {shape}."
        )
    x, y = train.unprocessed().parts
    return Batches(x, y, data.card.preprocessing, FLAGS.batch_size, augment=augment, seed=FLAGS.seed)


def _optimizer(steps: int, masks: Any) -> Any:
    """Adam, for so many steps in an epoch, and a schedule of masks or None."""
    import keras

    from keras_compress.fitting.rates import constant_then_cosine

    rate = FLAGS.learning_rate
    if FLAGS.learning_rate_schedule == "cosine":
        steps *= FLAGS.epochs
        rate = constant_then_cosine(rate, 0 if masks is None else masks.last_step(steps), steps)
    return keras.optimizers.Adam(rate)


def _callbacks(name: str) -> list[Any]:
    from keras_compress.files import new_run
    from keras_compress.fitting.summaries import TrainingSummaries

    return [TrainingSummaries(new_run(pathlib.Path(FLAGS.logs_dir) / name), write_graph=False)]
