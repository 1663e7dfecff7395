"""Flags that several commands share: which network, and which samples belong to it.

from keras_compress import cli, options

options.define_model()

def main(argv):
    path = options.model_path(argv)
    ...
    data = options.load_data(path, model)
"""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from keras_compress import cli
from keras_compress.errors import InputError

if TYPE_CHECKING:
    from keras_compress.sweep import Samples
    from keras_compress.zoo import Dataset, ModelCard, Preprocessing

flags.disclaim_key_flags()  # flags belong to the command that asks for them, whose --help shows them
FLAGS = flags.FLAGS


def define_model() -> None:
    """Defines the flags of a network and of its samples."""
    flags.DEFINE_string("model", None, "The same as MODEL.")
    flags.DEFINE_string("dataset", None, "digits, mnist, fashion_mnist, cifar10, or a path. Default: the model card's.")
    flags.DEFINE_alias("ds", "dataset")
    flags.DEFINE_float("scale", None, "Without a model card: the network sees (x * scale - mean) / std.")
    flags.DEFINE_list("mean", None, "Without a model card: one number, or one for each channel.")
    flags.DEFINE_list("std", None, "Without a model card: one number, or one for each channel.")
    flags.DEFINE_integer("seed", 0, "Of the choice of calibration samples.", lower_bound=0)
    flags.DEFINE_bool("allow_lambda", False, "Load a model with Lambda layers, whose code then runs.")
    flags.DEFINE_string("models_dir", "serialized_models", "Where a MODEL without a folder is looked for.")


def define_training() -> None:
    """Defines the flags of a training that goes on from a network."""
    flags.DEFINE_integer("epochs", 4, "Passes over the training samples.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Samples in a step.", lower_bound=1)
    flags.DEFINE_alias("bs", "batch_size")
    flags.DEFINE_float("learning_rate", 0.0005, "Of Adam.")
    flags.DEFINE_list("layers", None, "Names, paths or regular expressions of layers. Default: all that can be.")
    flags.DEFINE_string("checkpoint_dir", None, "A folder for the state after each epoch, to go on after a kill.")
    flags.DEFINE_string("output_dir", "quantized_models", "Where the trained network goes.")
    flags.DEFINE_string("metrics_dir", "model_metrics", "Where NAME.csv goes.")
    flags.DEFINE_string("logs_dir", "train_logs", "Where the folder for TensorBoard goes.")


class Data(NamedTuple):
    """A network's data set: its name, its samples, and the card that says how to feed them."""

    name: str
    samples: "Samples"
    card: "ModelCard"


def numbers(flag: str, kind: Callable[[str], Any]) -> list[Any]:
    """The numbers in a flag that holds a list.

    Raises:
        InputError: a text that is none.
    """
    try:
        return [kind(text) for text in FLAGS[flag].value]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise InputError(
            f"--{flag} takes {wanted} with commas between. Received: {','.join(FLAGS[flag].value)}."
        ) from None


def model_path(argv: list[str]) -> pathlib.Path:
    """Path of the model that the arguments or --model name.

    Raises:
        InputError: there is none of that name.
    """
    text = FLAGS.model if FLAGS.model is not None and len(argv) == 1 else cli.take_arguments(argv, "model")[0]
    path = pathlib.Path(text)
    if path.name != text or _is_model(path):  # a folder in front, or a model right here
        saved = path.with_name(f"{path.name}.keras")
        return saved if saved.is_file() and not _is_model(path) else path
    folder = pathlib.Path(FLAGS.models_dir)
    candidates = [folder / text, *(folder / f"{text}{suffix}" for suffix in (".keras", ".h5"))]
    found = next(filter(_is_model, candidates), None)
    if found is None:
        known = sorted(file.stem for file in folder.glob("*.keras"))
        raise InputError(
            f"There is no model {text!r} in {str(folder)!r}. Known: {', '.join(known) or 'none'}. "
            "Give a path, or train one with train/train_baseline.py."
        )
    return found


def _is_model(path: pathlib.Path) -> bool:
    """Whether there is a file, or a folder with a SavedModel."""
    return path.is_file() or (path / "saved_model.pb").is_file()


def card_path(path: pathlib.Path) -> pathlib.Path:
    """Path of a network's model card: NAME.json, or NAME.card.json where NAME.json is the report of a result."""
    own = path.with_name(f"{path.name.removesuffix(path.suffix)}.card.json")
    return own if own.is_file() else path.with_suffix(".json")


def has_data(path: pathlib.Path) -> bool:
    """Whether a model card or the flags name a data set."""
    return FLAGS.dataset is not None or _has_card(path)


def load_data(path: pathlib.Path, model: Any) -> Data:
    """The data set, with the preprocessing of the model card or of the flags.

    Raises:
        InputError: neither names a data set, both describe the preprocessing, or a value does not fit.
    """
    from keras_compress.sweep import Samples
    from keras_compress.zoo import ModelCard, load_dataset

    described = [flag for flag in ("scale", "mean", "std") if FLAGS[flag].value is not None]
    if _has_card(path):
        if described:
            raise InputError(
                f"The model card {str(card_path(path))!r} holds the preprocessing. Leave out --{described[0]}."
            )
        card = ModelCard.read(card_path(path))
        same = FLAGS.dataset in (None, card.dataset)
        dataset = card.load_dataset() if same else load_dataset(FLAGS.dataset, seed=FLAGS.seed)
    elif FLAGS.dataset is None:
        raise InputError(
            f"There is no model card {str(card_path(path))!r}. Name the data set with --dataset, and the preprocessing "
            "with --scale, --mean and --std if the network does not want the samples as they are."
        )
    else:
        dataset = load_dataset(FLAGS.dataset, seed=FLAGS.seed)
        card = ModelCard(FLAGS.dataset, "", _preprocessing(model, dataset), FLAGS.seed)
    return Data(dataset.name, Samples.of(dataset, card.preprocessing), card)


class TrainingJob(NamedTuple):
    """A training that the flags describe: what it takes, and where its result goes."""

    name: str  # of the files
    given: Any  # a Result, or the model
    model: Any
    data: Data
    train: tuple[Any, Any]
    settings: dict[str, Any]  # further arguments of the technique

    def write(
        self, result: Any, folder: pathlib.Path, *, bits: int | None = None, tflite: pathlib.Path | None = None
    ) -> None:
        """Saves the result with its model card, records what it cost, and prints it."""
        from keras_compress import sweep
        from keras_compress.measurement.tflite import evaluate_tflite

        result.save(folder / self.name)
        self.data.card.write(folder / f"{self.name}.card.json")
        files = {}
        if tflite is not None:
            files["qat"] = evaluate_tflite(tflite, *self.data.samples.test()).top1, tflite.stat().st_size
        row = sweep.record_training(
            result,
            self.model,
            self.data.samples,
            name=self.name.rpartition("_")[0],
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
        for top1, size in files.values():
            print(f"TFLite:   {top1:.2%}, {size:,} bytes: {tflite}")
        print(f"network:  {folder / self.name}.keras")
        print(f"table:    {FLAGS.metrics_dir}/{self.name.rpartition('_')[0]}.csv")


def load_training(path: pathlib.Path, suffix: str) -> TrainingJob:
    """What the flags of `define_training` describe, for the network at a path.

    Raises:
        InputError: a network or samples that do not fit, or a learning rate that is none.
    """
    import keras

    from keras_compress import sweep
    from keras_compress.bridge.loading import load_model
    from keras_compress.files import check_writable_folder
    from keras_compress.result import has_codes, load_result

    if not FLAGS.learning_rate > 0:
        raise InputError(f"--learning_rate must be above 0. Received: {FLAGS.learning_rate}.")
    stem = path.name.removesuffix(path.suffix)
    given = load_result(path, allow_lambda=FLAGS.allow_lambda) if has_codes(path) else None
    model = given.model if given is not None else load_model(path, allow_lambda=FLAGS.allow_lambda)
    data = load_data(path, model)
    data.samples.check(model, 1)
    train, validation = sweep.split(data.samples, FLAGS.seed)
    name = f"{stem}_{suffix}"
    for folder in (FLAGS.output_dir, FLAGS.metrics_dir, FLAGS.logs_dir):
        check_writable_folder(folder)
    settings = {
        "epochs": FLAGS.epochs,
        "batch_size": FLAGS.batch_size,
        "optimizer": keras.optimizers.Adam(FLAGS.learning_rate),
        "metrics": ["accuracy"],
        "layers": FLAGS.layers,
        "validation": validation,
        "seed": FLAGS.seed,
        "checkpoint": FLAGS.checkpoint_dir,
        "callbacks": [keras.callbacks.TensorBoard(str(pathlib.Path(FLAGS.logs_dir) / name), write_graph=False)],
    }
    return TrainingJob(name, given if given is not None else model, model, data, train, settings)


def _has_card(path: pathlib.Path) -> bool:
    """Results have a NAME.json of their own."""
    found = card_path(path)
    result = path.with_name(path.name.removesuffix(path.suffix) + ".codes.npz")
    return found.is_file() and (found.name.endswith(".card.json") or not result.is_file())


def _preprocessing(model: Any, dataset: "Dataset") -> "Preprocessing":
    """What --scale, --mean and --std say."""
    from keras_compress.zoo import Preprocessing

    mean = numbers("mean", float) if FLAGS.mean is not None else [0.0]
    std = numbers("std", float) if FLAGS.std is not None else [1.0]
    for flag, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, dataset.x_train.shape[-1]):
            raise InputError(
                f"--{flag} takes one number, or {dataset.x_train.shape[-1]}. Received: {len(values)} numbers."
            )
    if 0.0 in std:
        raise InputError("--std divides and must not be 0.")
    return Preprocessing(
        scale=1.0 if FLAGS.scale is None else FLAGS.scale,
        mean=mean if len(mean) > 1 else mean[0],
        std=std if len(std) > 1 else std[0],
        shape=input_shape(model, dataset.x_train.shape[1:]),
    )


def input_shape(model: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The model's input shape where samples differ from it by axes of one channel, or by being flat; else None."""
    wanted = model.input_shape[1:] if isinstance(model.input_shape, tuple) else ()
    if None in wanted or [size for size in wanted if size != 1] == [size for size in shape if size != 1]:
        return wanted if None not in wanted else None
    flat = 1
    for size in shape:
        flat *= size
    return wanted if wanted == (flat,) else None
