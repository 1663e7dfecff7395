"""How the copy of a model is compiled for a training: as the model itself, else by what its outputs and labels say."""

from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.layers.paths import functional_graph, is_graph

OBJECTS = ("optimizer", "metrics", "weighted_metrics")  # settings of `compile` that may have a state


def compile_as(copied: keras.Model, model: keras.Model, labels: Any, optimizer: Any = "adam") -> None:
    """Compiles the copy of a model with optimizer, losses and metrics like those of the model.

    Objects with a state (optimizer, metrics) are made anew from their settings; the learning rate is the present one.

    Args:
        copied: with the outputs of `model`.
        model: where it is not compiled: `optimizer`, and the cross-entropy that fits the labels.
        labels: of some samples.
        optimizer: for a model that has none.

    Raises:
        InputError: labels for which no loss is obvious, or an optimizer whose configuration does not make it.
    """
    settings = _settings(model)
    if settings.get("loss") is None:
        settings["loss"] = loss_for(model, labels)
        settings.setdefault("metrics", ["accuracy"])
    settings.setdefault("optimizer", _anew(optimizer))  # of the strategy in whose scope this is
    settings["steps_per_execution"] = 1  # masks change at steps
    copied.compile(**settings)


def compiled_with(model: keras.Model) -> dict[str, Any]:
    """The arguments with which a model was compiled, those that are not None; none where it was not."""
    if not model.compiled or not hasattr(model, "_compile_config"):
        return {}
    # private: `get_compile_config()` serializes, and a function of the user's own then is a name and no function
    return {name: value for name, value in model._compile_config.config.items() if value is not None}


def _settings(model: keras.Model) -> dict[str, Any]:
    """Those for a copy, which shares no state with the model."""
    settings = compiled_with(model)
    if not settings:
        return {}
    optimizer = model.optimizer  # its learning rate may have been set since
    settings["optimizer"] = getattr(optimizer, "inner_optimizer", optimizer)
    return {name: _anew(value) if name in OBJECTS else value for name, value in settings.items()}


def _anew(value: Any) -> Any:
    """Objects with a state as new ones with the same settings; names, functions and losses as they are."""
    if isinstance(value, (list, tuple)):
        return [_anew(each) for each in value]
    if isinstance(value, dict):
        return {key: _anew(each) for key, each in value.items()}
    if isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        try:
            return type(value).from_config(value.get_config())
        except (TypeError, ValueError, NotImplementedError) as error:  # a class of the user's, incompletely configured
            if isinstance(value, keras.metrics.Metric):
                value.reset_state()  # Keras sets it back before each epoch, but not before the first one
                return value
            raise InputError(
                f"The optimizer {type(value).__name__} cannot be made anew from its configuration ({error}). Let "
                "get_config give the arguments of its constructor."
            ) from error
    return value


def loss_for(model: keras.Model, labels: Any, losses: Any = keras.losses) -> Any:
    """The cross-entropy for a classifier with one output.

    Args:
        model: of Keras 3.
        labels: of some samples.
        losses: module that has it, of Keras 3 or of tf_keras.

    Raises:
        InputError: several outputs, or labels that are no classes.
    """
    outputs = functional_graph(model).outputs
    labels = np.asarray(labels) if not isinstance(labels, (list, tuple, dict)) else np.zeros(0)
    if len(outputs) == 1 and labels.size:
        last = _layer_of(outputs[0])
        activation = getattr(last, "activation", None)
        from_logits = activation not in (keras.activations.softmax, keras.activations.sigmoid) and not isinstance(
            last, keras.layers.Softmax
        )
        classes = outputs[0].shape[-1]
        if classes == 1:
            return losses.BinaryCrossentropy(from_logits=from_logits)
        if np.issubdtype(labels.dtype, np.integer) and (labels.ndim == 1 or labels.shape[1:] == (1,)):
            return losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        if labels.ndim == 2 and labels.shape[1] == classes and np.isin(labels, (0, 1)).all():
            return losses.CategoricalCrossentropy(from_logits=from_logits)
    raise InputError(
        f"Model {model.name!r} is not compiled with a loss, and no loss is obvious for its outputs and labels. Compile "
        "it before: model.compile(optimizer, loss)."
    )


def _layer_of(output: keras.KerasTensor) -> Any:
    """The layer that gives an output, within models too."""
    history = output._keras_history  # private: no other way to the layer of a tensor
    if is_graph(history.operation):
        return _layer_of(functional_graph(history.operation).outputs[history.tensor_index])
    return history.operation
