"""`fit()`: Keras 3's own, in an order of samples that a seed gives, as a run that can be killed."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError, UserError
from keras_compress.fitting.checkpoint import Checkpoint, digest_of, without_saved_state
from keras_compress.fitting.strategies import distribute, task_of
from keras_compress.fitting.summaries import Summaries, TrainingSummaries
from keras_compress.fitting.training import Fitting
from keras_compress.samples.feeding import Feed

DROP = 0.02  # of the accuracy on validation samples, above which a training warns
PRIME = 7919  # apart are the seeds of random layers

logger = logging.getLogger("keras_compress")


def fit(
    model: keras.Model,
    fitting: Fitting,
    *,
    own: Sequence[keras.callbacks.Callback] = (),
    state: Sequence[Any] = (),
    shown: Mapping[str, float] | None = None,
    begin: Callable[[], None] | None = None,
    summaries: Summaries = dict,
) -> None:
    """Trains a compiled model.

    Args:
        model: compiled; its constraints stay in force.
        fitting: samples, callbacks and settings of the user's.
        own: callbacks of the technique, called before the user's.
        state: further variables of the technique.
        shown: name -> number of the technique's in the logs of each epoch, and so in Keras' lines.
        begin: called before the first step; what a checkpoint holds then takes the place of what it did to the model.
            It may read samples, whose hooks are then as far in a run that goes on as in one that was not interrupted.
        summaries: gives what `TrainingSummaries` among the callbacks write.

    Raises:
        InputError: a checkpoint of another run, or callbacks of another library.
        UserError: loss or weights became NaN.
    """
    feed, callbacks, training = fitting.feed, fitting.callbacks, fitting.training
    check_callbacks(callbacks)
    for callback in callbacks:
        if isinstance(callback, TrainingSummaries):
            callback.summaries = summaries
    seed_layers(model, training.seed)
    model.optimizer.build(model.trainable_variables)
    distribute(model, feed.first.parts)
    run = _Run(model, fitting, state) if training.checkpoint is not None else None
    if begin is not None:
        begin()
    done = run.restore() if run is not None else 0
    verbose = training.verbose
    if verbose == "auto":  # one of several workers speaks
        verbose = 0 if task_of(training.strategy) else 1 if sys.stdout.isatty() else 2
    history = model.fit(
        feed.shuffled(training.seed, done, training.epochs),
        steps_per_epoch=feed.steps,
        epochs=training.epochs,
        initial_epoch=done,
        validation_data=None if fitting.tested is None else fitting.tested.in_order(),
        callbacks=[
            _Shown(shown or {}),
            *own,
            *callbacks,
            _StopOnNaN(),
            *([] if run is None else [run]),
        ],
        shuffle=False,
        verbose=verbose,
    ).history
    losses = history.get("loss", [])
    weights = (np.asarray(variable) for variable in model.trainable_variables)
    if not np.isfinite(losses).all() or not all(np.isfinite(weight).all() for weight in weights):
        if run is not None:
            run.checkpoint.clear()
        raise UserError(
            f"Loss or weights became NaN or infinite, by epoch {done + len(losses)}. Compile the model with a smaller "
            "learning rate, or look for NaN among the samples."
        )
    if run is not None:
        run.checkpoint.clear()


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raises InputError for what is no callback of Keras 3."""
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise InputError(f"Callbacks must be keras.callbacks.Callback. Received: {type(callback).__name__}.")


def seed_layers(model: keras.Model, seed: int) -> None:
    """Random layers, such as Dropout, draw from the seed on, whatever numbers were drawn before.

    Without it each process would draw other numbers, and a run that goes on would too.
    """
    generators = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    for number, variable in enumerate(generators):
        variable.assign(np.asarray([seed + PRIME * (number + 1), 0], variable.dtype))


def figures(when: str, model: keras.Model, validation: Feed | None) -> dict[str, Any]:
    """Loss and metrics of a compiled model, as a report has them; none without samples."""
    if validation is None:
        return {}
    distribute(model, validation.first.parts)
    values = model.evaluate(validation.in_order(), verbose=0, return_dict=True)
    return {f"validation {name} {when}": float(value) for name, value in values.items()}


def warn_of_lost_accuracy(figures: dict[str, Any], instead: str) -> None:
    """Adds a warning to the figures of a report, and to the log, where a training has lost more than `DROP`.

    Args:
        figures: of `figures` before and after; "warning" is added.
        instead: what to do.
    """
    for name, before in list(figures.items()):
        after = figures.get(name.replace(" before", " after"))
        if name.endswith("accuracy before") and after is not None and before - after > DROP:
            figures["warning"] = f"{name.removesuffix(' before')} fell from {before:.2%} to {after:.2%}. {instead}"
            logger.warning(figures["warning"])
            return


class _StopOnNaN(keras.callbacks.Callback):
    """Ends a training whose loss is not finite: by epochs, since Keras' own waits for the loss of each step."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not np.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


class _Shown(keras.callbacks.Callback):
    def __init__(self, shown: Mapping[str, float]):
        super().__init__()
        self.shown = dict(shown)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs.update(self.shown)


class _Run(keras.callbacks.Callback):
    """Writes the state after each epoch; the last one of the callbacks, so that it sees what the others made of it."""

    def __init__(
        self,
        model: keras.Model,
        fitting: Fitting,
        state: Sequence[Any],
    ):
        super().__init__()
        self.variables = [*model.variables, *model.optimizer.variables, *state]
        feed, training = fitting.feed, fitting.training
        self.others = list(fitting.callbacks)
        run = {"weights": digest_of(self.variables), "settings": training.digest(), "data": feed.digest()}
        self.checkpoint = Checkpoint(training.checkpoint, run, writes=task_of(training.strategy) == 0)
        if names := without_saved_state(self.others):
            logger.warning(
                "%s: the checkpoint does not hold all that is in them, and a run that goes on has them as new",
                ", ".join(names),
            )

    def restore(self) -> int:
        """Epochs that are done."""
        return self.checkpoint.restore(self.variables)

    def on_train_begin(self, logs: Any = None) -> None:
        self.checkpoint.restore_callbacks(self.others)  # which have begun anew by now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        done = self.params["epochs"] if self.model.stop_training else epoch + 1
        self.checkpoint.save(done, self.variables, self.others)
