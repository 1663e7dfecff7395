"""`Training`: how a model is fitted, whatever the technique."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_compress.errors import InputError, check_integer
from keras_compress.samples.feeding import Feed

VERBOSE = ("auto", 0, 1, 2)


@keras.saving.register_keras_serializable(package="keras_compress")
@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is fitted. Optimizer, loss and metrics are those that the model was compiled with.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples in one step; those of a `tf.data.Dataset` or a `keras.utils.PyDataset` are its own.
        seed: of the order of samples and of random layers.
        checkpoint: a folder for the state after each epoch; a run that finds it there goes on from it, and gives the
            same weights as one that was not interrupted. It is emptied when the run is done. Workers share it.
        strategy: of `tf.distribute`: batches are divided among its devices or workers, each of which calls with the
            same arguments. None for this process alone.
        verbose: as in `keras.Model.fit`: 0 for nothing, 1 for a bar, 2 for a line an epoch; "auto" is 1 on a terminal
            and 2 elsewhere.

    Raises:
        InputError: a setting out of range.
    """

    epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    strategy: Any = None
    verbose: int | str = "auto"

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, 1)
        check_integer("batch_size", self.batch_size, 1)
        check_integer("seed", self.seed, 0)
        if self.strategy is not None and not isinstance(self.strategy, tf.distribute.Strategy):
            raise InputError(f"strategy must be a tf.distribute.Strategy. Received: {self.strategy!r}.")
        if self.verbose not in VERBOSE or isinstance(self.verbose, bool):
            raise InputError(f"verbose must be one of {', '.join(map(str, VERBOSE))}. Received: {self.verbose!r}.")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; a strategy belongs to its process, and is none of them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        checkpoint = None if self.checkpoint is None else os.fspath(self.checkpoint)
        return fields | {"checkpoint": checkpoint, "strategy": None}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Training":
        return cls(**config)

    def digest(self) -> str:
        """What tells these settings from others, in every process; where a run takes place is none of it."""
        return json.dumps({name: self.get_config()[name] for name in ("epochs", "batch_size", "seed")})


@dataclasses.dataclass(frozen=True)
class Fitting:
    """What users pass to every training.

    Attributes:
        feed: samples to train on.
        tested: those that are evaluated before, after, and after each epoch; or None.
        callbacks: of Keras.
        training: settings.
    """

    feed: Feed
    tested: Feed | None
    callbacks: Sequence[Any]
    training: Training

    @classmethod
    def of(cls, train_data: Any, validation: Any, callbacks: Sequence[Any], training: Any, epochs: int) -> "Fitting":
        """From the arguments of a technique; no settings are so many epochs.

        Raises:
            InputError: data or settings of another kind.
        """
        if training is None:
            training = Training(epochs)
        if not isinstance(training, Training):
            raise InputError(f"training must be kc.Training(...). Received: {training!r}.")
        tested = None if validation is None else Feed(validation, "validation", training.batch_size)
        return cls(Feed(train_data, "train_data", training.batch_size), tested, callbacks, training)

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.training.epochs * self.feed.steps
