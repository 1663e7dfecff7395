"""Training of tfmot's graphs, models of tf_keras: one order of samples for a seed, a run that can be killed."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.errors import InputError, UserError
from keras_compress.files import remove_parts, replacing
from keras_compress.fitting.checkpoint import digest_of
from keras_compress.fitting.strategies import task_of
from keras_compress.fitting.training import Fitting, Training
from keras_compress.samples.feeding import Feed

ENGINE = "tfmot"
RUN = "run.json"  # what a checkpoint belongs to
HOOKS = [
    f"on_{part}{kind}_{when}"
    for kind, parts in (("batch", ("train_", "test_", "predict_")), ("", ()))
    for part in parts
    for when in ("begin", "end")
] + ["on_epoch_begin", "on_epoch_end", "on_train_begin", "on_train_end", "on_test_begin", "on_test_end"]  # fmt: skip


def fit(
    converted: Any,
    fitting: Fitting,
    own: Sequence[Any] = (),
    begin: Callable[[], None] | None = None,
) -> None:
    """Trains a compiled model of tf_keras.

    Args:
        converted: of tf_keras, compiled.
        fitting: samples, callbacks and settings of the user's; callbacks, of Keras 3 too, see the tf_keras model.
        own: callbacks of the technique, called before the user's.
        begin: called first; where a run goes on, its checkpoint then takes the place of what `begin` did to the model.
            It may read samples, whose hooks are then as far in a run that goes on as in one that was not interrupted.

    Raises:
        InputError: a checkpoint of another run.
        UserError: loss or weights became NaN.
    """
    samples, validation, training = fitting.feed, fitting.tested, fitting.training
    generators = _seed_layers(converted, training.seed)
    state = _State(converted, training, samples, generators) if training.checkpoint is not None else None
    if begin is not None:
        begin()
    done = state.restore() if state is not None else 0
    if done < training.epochs:
        adapted = [_adapted(callback) for callback in (*own, *fitting.callbacks)]
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
            "engine": ENGINE,
            "weights": digest_of(converted.variables),
            "settings": training.digest(),
            "data": samples.digest(),
        }

    def restore(self) -> int:
        """Epochs that are done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / RUN
        latest = tf.train.latest_checkpoint(str(self.folder))
        known = json.loads(path.read_text()) if path.is_file() else self.run
        if latest is None and known.get("engine") == ENGINE:
            if self.task == 0:
                with replacing(path) as part:
                    part.write_text(json.dumps(self.run))
            return 0
        if known != self.run or not path.is_file():
            raise InputError(
                f"The checkpoint in {str(self.folder)!r} is that of another run: another engine or model, other data "
                "or settings. Name another folder, or remove this one."
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
            remove_parts(self.folder / RUN)
        with contextlib.suppress(OSError):  # there is something else
            self.folder.rmdir()


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
