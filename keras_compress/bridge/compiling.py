"""How a model of tf_keras is compiled for a training: as the Keras 3 model was."""

import inspect
from typing import Any

import keras

from keras_compress.bridge.counterparts import NoCounterpartError, objects
from keras_compress.bridge.libraries import import_tf_keras, keras_2
from keras_compress.errors import InputError
from keras_compress.fitting.compiling import compiled_with, loss_for
from keras_compress.layers.paths import functional_graph

KINDS = {  # setting of `compile`: module of its objects
    "optimizer": "optimizers",
    "loss": "losses",
    "loss_weights": "losses",
    "metrics": "metrics",
    "weighted_metrics": "metrics",
}
BY_LOSS = ("accuracy", "acc", "crossentropy", "ce")  # metrics that `compile` chooses to fit the loss


def compile_for(converted: Any, model: keras.Model, labels: Any, optimizer: Any = "adam") -> None:
    """Compiles the tf_keras model of a model as the model was compiled.

    Args:
        converted: of tf_keras, with the outputs of `model`.
        model: of Keras 3. Where it is not compiled: `optimizer`, and the cross-entropy that fits the labels.
        labels: of a sample at least.
        optimizer: of Keras 3, for a model that has none.

    Raises:
        InputError: labels for which no loss is obvious, or an optimizer, loss or metric that tf_keras does not have.
    """
    settings = {name: _converted_state(model, name, value) for name, value in _compiled(model).items()}
    if "loss" not in settings:
        settings["loss"] = loss_for(model, labels, import_tf_keras().losses)
        settings.setdefault("metrics", ["accuracy"])
    settings.setdefault("optimizer", _converted(optimizer, "optimizer"))
    converted.compile(**settings)


def _compiled(model: keras.Model) -> dict[str, Any]:
    """The arguments with which a model of Keras 3 was compiled; none where it was not."""
    state = {name: value for name, value in compiled_with(model).items() if name in KINDS or name == "run_eagerly"}
    if isinstance(state.get("optimizer"), str):  # its learning rate may have been set since
        optimizer = model.optimizer
        state["optimizer"] = getattr(optimizer, "inner_optimizer", optimizer)
    return state


def _converted_state(model: keras.Model, name: str, value: Any) -> Any:
    if name not in KINDS:
        return value
    graph = functional_graph(model)
    names = graph.output_names
    if isinstance(value, dict) and not isinstance(graph.output, dict) and set(value) <= set(names):
        # Layers within models have other names where models are opened: the order of outputs stays.
        values = [value.get(each) for each in names]
        value = values if len(values) > 1 else values[0]
    try:
        return _converted(value, name)
    except InputError as error:
        raise InputError(f"Model {model.name!r} is compiled with {name}={value!r}. {error}") from error


def _converted(value: Any, name: str) -> Any:
    """A setting of `compile` for tf_keras; text, functions and objects that are tf_keras' own stay."""
    tf_keras = import_tf_keras()
    own = (tf_keras.optimizers.Optimizer, tf_keras.losses.Loss, tf_keras.metrics.Metric)
    if isinstance(value, (*own, int, float)) or value is None:
        return value
    if inspect.isfunction(value) and not value.__module__.startswith("keras."):
        return value  # of the user's own: it sees tensors of TensorFlow in both libraries
    if isinstance(value, str):
        return _named(value, name)
    if isinstance(value, (list, tuple)):
        return [_converted(each, name) for each in value]
    if isinstance(value, dict) and "class_name" not in value:
        return {key: _converted(each, name) for key, each in value.items()}
    if not isinstance(value, dict):
        hidden = getattr(value, "_fn_kwargs", {})  # private: Huber's configuration does not have its delta
        value = keras.saving.serialize_keras_object(value)
        if isinstance(value["config"], dict):
            value["config"].update(hidden)
    try:
        return objects(value, keras_2(), f"The setting {name}")
    except NoCounterpartError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"tf_keras refuses {name}: {' '.join(str(error).split())[:200]}") from error


def _named(value: str, name: str) -> str:
    """The text itself, if tf_keras knows an optimizer, loss or metric of that name."""
    kind = getattr(import_tf_keras(), KINDS[name])
    try:
        # tf_keras gives the text back where it knows no metric.
        if value not in BY_LOSS and isinstance(kind.get(value), str):
            raise ValueError(value)
    except ValueError as error:
        raise InputError(f"{name}: Keras knows none that is called {value!r}.") from error
    return value
