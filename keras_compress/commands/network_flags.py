"""Which network, and which samples belong to it."""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from keras_compress.commands import cli
from keras_compress.errors import InputError

if TYPE_CHECKING:
    from keras_compress.samples.splits import DataSplits
    from keras_compress.zoo import Dataset, ModelCard, Preprocessing

flags.disclaim_key_flags()  # flags belong to the command that asks for them, whose --help shows them
FLAGS = flags.FLAGS


def define_dataset() -> None:
    """Defines the flags of a data set, for commands that begin with one."""
    flags.DEFINE_string(
        "dataset", "digits", "digits, mnist, fashion_mnist, cifar10, or the path of an .npz, .csv or folder."
    )
    flags.DEFINE_alias("ds", "dataset")
    flags.DEFINE_string(
        "label_column", None, "Column of the labels of a .csv. Default: label, target, class, or the last."
    )
    flags.DEFINE_integer("image_size", None, "Height and width to which the images of a folder are resized.")


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


class Data(NamedTuple):
    """A network's data set: its name, its samples, and the card that says how to feed them."""

    name: str
    samples: "DataSplits"
    card: "ModelCard"


def numbers(flag: str, kind: Callable[[str], Any]) -> list[Any]:
    """The numbers in a flag that holds a list.

    Raises:
        InputError: a text that is none.
    """
    try:
        return [kind(text) for text in FLAGS[flag].value]
    except ValueError:
        expected = "whole numbers" if kind is int else "numbers"
        raise InputError(
            f"--{flag} takes {expected} with commas between. Received: {','.join(FLAGS[flag].value)}."
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
    from keras_compress.samples.splits import DataSplits
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
    for part, x in (("training", dataset.x_train), ("test", dataset.x_test)):
        try:
            card.preprocessing.check(x.shape[1:])
        except InputError as error:
            raise InputError(
                f"Data set {dataset.name!r} ({part} samples) does not fit a network for {card.dataset!r}. {error} Name "
                "the data set that the network was trained on, or one like it, with --dataset."
            ) from error
    return Data(dataset.name, DataSplits.of(dataset, card.preprocessing), card)


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
    expected = model.input_shape[1:] if isinstance(model.input_shape, tuple) else ()
    if None in expected or [size for size in expected if size != 1] == [size for size in shape if size != 1]:
        return expected if None not in expected else None
    flat = 1
    for size in shape:
        flat *= size
    return expected if expected == (flat,) else None
