"""Trainings in tests: settings of `kc.Training` and of `compile` in one dictionary."""

import dataclasses

import keras_compress as kc
from keras_compress.fitting.compiling import loss_for
from keras_compress.samples.feeding import Feed

TRAINING = {field.name for field in dataclasses.fields(kc.Training)}


def fitted(technique, model, data, *, optimizer=None, loss=None, metrics=None, **settings):
    """A technique with these settings, on the model compiled anew where an optimizer, a loss or metrics are given."""
    training = {"verbose": 0} | {name: settings.pop(name) for name in TRAINING & settings.keys()}
    if optimizer is not None or loss is not None or metrics is not None:
        plain = model.model if isinstance(model, kc.Result) else model
        own = plain.loss if plain.compiled else None
        plain.compile(
            optimizer or (plain.optimizer if plain.compiled else "adam"),
            loss or own or loss_for(plain, Feed(data, "data", 32).labels),
            metrics=metrics if metrics is not None else ["accuracy"],
        )
    return technique(model, data, training=kc.Training(**training), **settings)
