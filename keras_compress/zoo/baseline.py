"""The training behind `train/train_baseline.py`: seeded splits and batches, schedules, the best epoch."""

import dataclasses
import math
import pathlib
import time
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_compress.errors import InputError, UserError
from keras_compress.files import check_writable_folder, new_run, replacing
from keras_compress.samples.splits import split_by_class
from keras_compress.zoo.architectures import build_architecture
from keras_compress.zoo.batches import AUGMENTATIONS, Batches
from keras_compress.zoo.cards import ModelCard, model_paths
from keras_compress.zoo.preprocessing import Preprocessing, fit_preprocessing
from keras_compress.zoo.samples import Dataset

SCHEDULES = ("one_cycle", "constant")
WARMUP = 0.2  # fraction of the steps in which the learning rate rises
EVALUATION_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.002  # at its peak
    schedule: str = "one_cycle"
    validation_fraction: float = 0.1  # of the training samples
    augment: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise InputError(
                f"epochs and batch_size must be at least 1. Received: {self.epochs} and {self.batch_size}."
            )
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be a number above 0. Received: {self.learning_rate}.")
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction must lie between 0 and 1. Received: {self.validation_fraction}.")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}. Received: {self.schedule!r}.")
        if self.augment not in AUGMENTATIONS:
            raise InputError(f"augment must be one of {', '.join(AUGMENTATIONS)}. Received: {self.augment!r}.")


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises from a tenth of `peak` to it and falls to zero, in half cosines (Smith & Topin, 2019).

    Args:
        peak: learning rate after the first `WARMUP` of the steps.
        steps: number of all steps.
    """

    def __init__(self, peak: float, steps: int) -> None:
        self.peak = peak
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        done = keras.ops.cast(step, "float32") / self.steps
        rise = 0.55 - 0.45 * keras.ops.cos(math.pi * done / WARMUP)
        fall = 0.5 + 0.5 * keras.ops.cos(math.pi * keras.ops.minimum((done - WARMUP) / (1 - WARMUP), 1.0))
        return self.peak * keras.ops.where(done < WARMUP, rise, fall)

    def get_config(self) -> dict[str, float]:
        return {"peak": self.peak, "steps": self.steps}


class TrainedNetwork(NamedTuple):
    """What `train_network` has made."""

    path: pathlib.Path
    card_path: pathlib.Path
    logs: pathlib.Path
    dataset: str  # its name
    model: keras.Model
    card: ModelCard
    seconds: float

    def __str__(self) -> str:
        card, name = self.card, self.path.stem
        figures = "   ".join(f"{split} {value:.4f}" for split, value in card.accuracy.items())
        return (
            f"{name}: {card.architecture} with {self.model.count_params():,} parameters on {self.dataset}\n"
            f"accuracy: {figures}\n"
            f"{self.seconds:.0f} seconds; written: {self.path}, {self.card_path}, {self.logs}.csv, {self.logs}/"
        )


def train_network(
    dataset: Dataset,
    architecture: str,
    recipe: Recipe,
    *,
    models_dir: pathlib.Path,
    logs_dir: pathlib.Path,
    source: str,
    options: dict[str, Any] | None = None,
    preprocessing: str | None = None,
    width_multiplier: float = 1.0,
    dropout_scale: float = 1.0,
    name: str | None = None,
    command: str = "",
    verbose: int | str = "auto",
) -> TrainedNetwork:
    """Trains an architecture and writes it with its model card.

    Args:
        dataset: samples.
        architecture: for `build_architecture`, with `width_multiplier` and `dropout_scale`.
        recipe: settings of the training.
        models_dir: folder of NAME.keras and NAME.json.
        logs_dir: folder of NAME.csv, and of NAME/run_1, run_2, ... for TensorBoard.
        source, options: arguments with which `load_dataset` gives the data set again.
        preprocessing: for `fit_preprocessing`; None for "unit" of images, "standardize" of tables.
        name: of the files; None for DATASET_ARCHITECTURE.
        command: for the card.
        verbose: as in `keras.Model.fit`.

    Raises:
        InputError: settings that do not exist or do not fit.
        UserError: the loss became NaN.
    """
    started = time.perf_counter()
    kind = preprocessing or ("unit" if dataset.kind == "image" else "standardize")
    prepare = fit_preprocessing(kind, dataset.x_train, max_value=dataset.max_value)
    assert prepare.shape is not None
    name = name or f"{dataset.name}_{architecture}"
    model_path, card_path = model_paths(models_dir, name)
    logs = logs_dir / name
    sizes = {"width_multiplier": width_multiplier, "dropout_scale": dropout_scale}
    model = build_architecture(architecture, prepare.shape, dataset.num_classes, seed=recipe.seed, **sizes)
    check_writable_folder(model_path.parent)
    check_writable_folder(logs)
    history, accuracy = train(
        model,
        dataset,
        prepare,
        recipe,
        log_csv=logs.with_name(f"{name}.csv"),
        tensorboard=new_run(logs),
        verbose=verbose,
    )
    card = ModelCard(
        dataset=source,
        dataset_options=options or {},
        architecture=architecture,
        preprocessing=prepare,
        table=dataset.table,
        class_names=dataset.class_names,
        seed=recipe.seed,
        settings={**vars(recipe), **sizes},
        accuracy=accuracy,
        history=history,
        command=command,
    )
    with replacing(model_path) as part:
        model.save(part)
    card.write(card_path)
    return TrainedNetwork(model_path, card_path, logs, dataset.name, model, card, time.perf_counter() - started)


def train(
    model: keras.Model,
    dataset: Dataset,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    log_csv: pathlib.Path,
    tensorboard: pathlib.Path,
    verbose: int | str = "auto",
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Trains `model` in place and leaves it with the weights of the epoch of best validation accuracy.

    The test samples are looked at once, by the weights that were kept.

    Args:
        model: a classifier with a softmax output.
        dataset: a part of its training samples becomes the validation split.
        preprocessing: what is done to the samples.
        recipe: settings.
        log_csv: file for one row an epoch.
        tensorboard: folder for TensorBoard.
        verbose: as in `keras.Model.fit`.

    Returns:
        The history of each figure, one number an epoch; and the accuracy on the "train", "validation" and "test"
        samples, without augmentation and dropout.

    Raises:
        InputError: augmentation of a table, or a class of one training sample.
        UserError: the loss became NaN.
    """
    if recipe.augment != "none" and dataset.kind != "image":
        raise InputError(
            f"augment={recipe.augment!r} needs images. Received: {dataset.name!r}, a table. Use augment='none'."
        )
    x, y = dataset.x_train, dataset.y_train
    training, validation = split_by_class(y, recipe.validation_fraction, recipe.seed, names=dataset.class_names)
    batches = Batches(
        x[training], y[training], preprocessing, recipe.batch_size, augment=recipe.augment, seed=recipe.seed
    )
    parts = {
        "train": Batches(x[training], y[training], preprocessing, EVALUATION_BATCH),
        "validation": Batches(x[validation], y[validation], preprocessing, EVALUATION_BATCH),
        "test": Batches(dataset.x_test, dataset.y_test, preprocessing, EVALUATION_BATCH),
    }
    one_cycle = recipe.schedule == "one_cycle"
    rate = OneCycle(recipe.learning_rate, recipe.epochs * len(batches)) if one_cycle else recipe.learning_rate
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        batches,
        epochs=recipe.epochs,
        validation_data=parts["validation"],
        callbacks=[
            keras.callbacks.EarlyStopping(  # never stops; it brings back the best weights
                "val_accuracy", mode="max", patience=recipe.epochs, restore_best_weights=True
            ),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.CSVLogger(log_csv),
            keras.callbacks.TensorBoard(tensorboard),
        ],
        shuffle=False,  # `Batches` does
        verbose=verbose,
    ).history
    if not np.isfinite(history["loss"]).all():
        raise UserError(
            f"The loss became NaN in epoch {len(history['loss'])}. Use a smaller --learning_rate "
            f"(it was {recipe.learning_rate}), or --preprocessing=unit or standardize."
        )
    # An optimizer without moments: the file is a third as large, and loads where the schedule's class is not known.
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)  # else Keras warns at loading that its two variables are missing
    accuracy = {
        split: round(float(model.evaluate(samples, verbose=0, return_dict=True)["accuracy"]), 6)
        for split, samples in parts.items()
    }
    return {name: [float(value) for value in values] for name, values in history.items()}, accuracy
