"""Training of tf_keras models: settings from Keras 3, one order of samples for a seed, a run that can be killed.

tfmot trains models of tf_keras. What stands here is what its techniques share.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.bridge.compiling import compile_for
from keras_compress.bridge.conversion import convert
from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.bridge.strategies import task_of
from keras_compress.errors import InputError, UserError, check_integer
from keras_compress.files import replacing
from keras_compress.samples.feeding import Feed

DROP = 0.02  # of the accuracy on validation samples, above which a training warns
RUN = "run.json"  # what a checkpoint belongs to
HOOKS = [
    f"on_{part}{kind}_{when}"
    for kind, parts in (("batch", ("train_", "test_", "predict_")), ("", ()))
    for part in parts
    for when in ("begin", "end")
] + ["on_epoch_begin", "on_epoch_end", "on_train_begin", "on_train_end", "on_test_begin", "on_test_end"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of a training.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples in one step; those of a `tf.data.Dataset` are its own.
        optimizer, loss, metrics: as in `keras.Model.compile`. Where they are None: how the model was compiled; else
            Adam, and the cross-entropy that fits the labels and the last activation.
        seed: of the order of samples and of random layers.
        checkpoint: a folder for the state after each epoch; a run that finds it there goes on from it, and gives the
            same weights as one that was not interrupted. It is emptied when the run is done. Workers share it.
        strategy: of `tf.distribute`: batches are divided among its devices or workers, each of which calls with the
            same arguments. None for this process alone.
    """

    epochs: int
    batch_size: int = 32
    optimizer: Any = None
    loss: Any = None
    metrics: Sequence[Any] | None = None
    seed: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    strategy: tf.distribute.Strategy | None = None

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, 0)
        check_integer("batch_size", self.batch_size, 1)
        check_integer("seed", self.seed, 0)
        if self.strategy is not None and not isinstance(self.strategy, tf.distribute.Strategy):
            raise InputError(f"strategy must be a tf.distribute.Strategy. Received: {self.strategy!r}.")

    def digest(self) -> str:
        """What tells these settings from others, in every process; where a run takes place is none."""
        kept = dataclasses.replace(self, checkpoint=None, strategy=None)
        values = {field.name: getattr(kept, field.name) for field in dataclasses.fields(kept)}
        return json.dumps(keras.saving.serialize_keras_object(values), default=lambda value: type(value).__name__)


def fit(
    converted: Any,
    samples: Feed,
    training: Training,
    validation: Feed | None,
    callbacks: Sequence[Any],
    begin: Callable[[], None] | None = None,
) -> None:
    """Trains a compiled model of tf_keras.

    Args:
        converted: of tf_keras, compiled.
        samples: to train on.
        training: settings.
        validation: evaluated after each epoch.
        callbacks: of tf_keras or of Keras 3; they see the tf_keras model.
        begin: called first; where a run goes on, its checkpoint then takes the place of what `begin` did to the model.
            It may read samples, whose hooks are then as far in a run that goes on as in one that was not interrupted.

    Raises:
        InputError: a checkpoint of another run.
        UserError: loss or weights became NaN.
    """
    generators = _seed_layers(converted, training.seed)
    state = _State(converted, training, samples, generators) if training.checkpoint is not None else None
    if begin is not None:
        begin()
    done = state.restore() if state is not None else 0
    if done < training.epochs:
        adapted = [_adapted(callback) for callback in callbacks]
        losses = converted.fit(
            samples.shuffled(training.seed, done, training.epochs),
            steps_per_epoch=samples.steps,
            epochs=training.epochs,
            initial_epoch=done,
            validation_data=None if validation is None else validation.in_order(),
            callbacks=[
                *adapted,
                import_tf_keras().callbacks.TerminateOnNaN(),
                *([] if state is None else [state.callback()]),
            ],
            shuffle=False,
            verbose=0,
        ).history["loss"]
        if not all(np.isfinite(values).all() for values in (losses, *converted.get_weights())):
            if state is not None:
                state.clear()
            raise UserError(
                f"Loss or weights became NaN or infinite, by epoch {done + len(losses)}. Pass an optimizer with a "
                "smaller learning rate, or look for NaN among the samples."
            )
    if state is not None:
        state.clear()


def constant_then_cosine(rate: float, constant: int, steps: int) -> Any:
    """A learning rate that stays for some steps of a training, and then falls to zero in half a cosine."""
    if constant >= steps:
        return rate
    return keras.optimizers.schedules.CosineDecay(
        rate, steps - constant, warmup_target=rate if constant else None, warmup_steps=constant
    )


def warn_of_lost_accuracy(figures: dict[str, Any], instead: str) -> None:
    """Adds a warning to the figures of a report, and to the log, where a training has lost more than `DROP`.

    Args:
        figures: of `figures_before` and `figures`; "warning" is added.
        instead: what to do.
    """
    for name, before in list(figures.items()):
        after = figures.get(name.replace(" before", " after"))
        if name.endswith("accuracy before") and after is not None and before - after > DROP:
            figures["warning"] = f"{name.removesuffix(' before')} fell from {before:.2%} to {after:.2%}. {instead}"
            logging.getLogger("keras_compress").warning(figures["warning"])
            return


def figures_before(model: keras.Model, training: Training, samples: Feed, validation: Feed | None) -> dict[str, Any]:
    """Loss and metrics of a model of Keras 3 that is to be trained; none, and no work, without samples."""
    if validation is None:
        return {}
    plain = convert(model).model
    compile_for(plain, model, training, samples.labels)
    return figures("before", plain, validation)


def figures(when: str, converted: Any, validation: Feed | None) -> dict[str, Any]:
    """Loss and metrics of a compiled model of tf_keras, as a report has them; none without samples."""
    if validation is None:
        return {}
    values = converted.evaluate(validation.in_order(), verbose=0, return_dict=True)
    return {f"validation {name} {when}": float(value) for name, value in values.items()}


def _seed_layers(converted: Any, seed: int) -> list[tf.random.Generator]:
    """Random layers, such as Dropout, draw from generators of their own, whose state can be saved; from the seed on.

    Without them each process would draw other numbers, and a run that goes on would too.
    """
    import_tf_keras()
    from tf_keras.src.backend import RandomGenerator  # not exported

    generators: list[tf.random.Generator] = []
    for layer in converted._flatten_layers():
        if hasattr(layer, "_random_generator"):
            own = RandomGenerator(seed + 7919 * (len(generators) + 1), rng_type="stateful")
            own._maybe_init()
            layer._random_generator = own
            generators.append(own._generator)
    return generators


class _State:
    """The state of a training on disk: weights, optimizer, random numbers, and how many epochs are done."""

    def __init__(self, converted: Any, training: Training, samples: Feed, generators: list[tf.random.Generator]):
        assert training.checkpoint is not None
        self.folder = pathlib.Path(training.checkpoint)
        self.task = task_of(training.strategy)
        self.epoch = tf.Variable(0, dtype=tf.int64)
        optimizer = converted.optimizer
        optimizer.build(converted.trainable_variables)
        # All variables by number, and not by object: wrappers of tfmot hold theirs in ways that a checkpoint misses.
        variables = [*converted.variables, *optimizer.variables]
        self.checkpoint = tf.train.Checkpoint(epoch=self.epoch, values=variables, random=generators)
        # All workers have to write at once; what the first one writes counts.
        written = self.folder if self.task == 0 else self.folder / f"worker_{self.task}"
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(written), max_to_keep=1)
        self.run = {
            "weights": _digest(converted.variables),
            "settings": training.digest(),
            "data": samples.digest(),
        }

    def restore(self) -> int:
        """Epochs that are done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / RUN
        latest = tf.train.latest_checkpoint(str(self.folder))
        if latest is None or not path.is_file():
            if self.task == 0:
                with replacing(path) as part:
                    part.write_text(json.dumps(self.run))
            return 0
        if json.loads(path.read_text()) != self.run:
            raise InputError(
                f"The checkpoint in {str(self.folder)!r} is that of another run: another model, other data or other "
                "settings. Name another folder, or remove this one."
            )
        self.checkpoint.restore(latest).assert_consumed()
        return int(self.epoch)

    def callback(self) -> Any:
        def save(epoch: int, logs: Any) -> None:
            self.epoch.assign(epoch + 1)
            self.manager.save()

        return import_tf_keras().callbacks.LambdaCallback(on_epoch_end=save)

    def clear(self) -> None:
        """Removes what the run left in its folder, and the folder if nothing else is there."""
        if self.task:
            shutil.rmtree(self.folder / f"worker_{self.task}", ignore_errors=True)
        else:
            for path in [*self.folder.glob("ckpt-*"), self.folder / "checkpoint", self.folder / RUN]:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something else
            self.folder.rmdir()


def _digest(variables: list[Any]) -> str:
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def _adapted(callback: Any) -> Any:
    """A callback of Keras 3 as one of tf_keras: the same hooks are called."""
    tf_keras = import_tf_keras()
    if isinstance(callback, tf_keras.callbacks.Callback):
        return callback
    if not isinstance(callback, keras.callbacks.Callback):
        raise InputError(f"Callbacks must be keras.callbacks.Callback. Received: {type(callback).__name__}.")

    class Adapted(tf_keras.callbacks.Callback):  # type: ignore[name-defined]
        def set_model(self, model: Any) -> None:
            callback.set_model(model)
            self.model = model

        def set_params(self, params: Any) -> None:
            callback.set_params(params)

    def forwarded(name: str) -> Callable[..., None]:
        return lambda self, *args, **kwargs: getattr(callback, name)(*args, **kwargs)

    for name in HOOKS:
        setattr(Adapted, name, forwarded(name))
    return Adapted()
