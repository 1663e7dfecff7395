"""How well a model does on labelled samples."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.paths import ModelInputs, functional_graph, model_in
from keras_compress.measurement.scores import Evaluation, counter_for, input_arrays


def evaluate(model: Any, x: Any, y: Any, *, task: str | None = None, batch_size: int = 256) -> Evaluation:
    """How a model does on labelled samples: accuracy, errors, or the metrics that it was compiled with.

    Args:
        model: a Functional or Sequential model with one output, or the result of a step; with task="compiled" any model
            that is compiled.
        x: (n, ...) array, or a list or dictionary of arrays for a model with several inputs; preprocessed as for
            training.
        y: for scores (n, num_classes), (n,) or (n, 1) integer labels or (n, num_classes) one-hot ones; for scores
            (n, ..., num_classes) of pixels, (n, ...) integer labels or one-hot ones; else numbers of the shape of the
            outputs, 0 and 1 for probabilities of one class.
        task: "classification", "binary", "segmentation", "regression", or "compiled" for the metrics that the model was
            compiled with; None tells it from outputs and labels.
        batch_size: samples in one call of the model.

    Raises:
        InputError: inputs or labels that do not fit the model or each other.
    """
    model = model_in(model)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1. Received: {batch_size}.")
    if task == "compiled":
        return _as_compiled(model, x, y, batch_size)
    shape = _output_shape(model)
    arrays = _aligned_inputs(model, x)
    num_samples = len(arrays[0])
    scores = _scores(model, arrays)
    if None in shape[1:]:
        shape = tuple(scores([tf.constant(array[:1]) for array in arrays]).shape)
    counter = counter_for(y, (num_samples, *(size for size in shape[1:] if size is not None)), task)
    for start in range(0, num_samples, batch_size):
        batch = [tf.constant(array[start : start + batch_size]) for array in arrays]
        counter.add(scores(batch).numpy())
    return counter.evaluation()


def _as_compiled(model: keras.Model, x: Any, y: Any, batch_size: int) -> Evaluation:
    if not model.compiled:
        raise InputError(f"Model {model.name!r} is not compiled. Compile it with metrics, or name another task.")
    metrics = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
    names = sorted(metrics, key=lambda name: name.endswith("loss"))  # the loss last: of others more may be better
    return Evaluation("compiled", {name: float(metrics[name]) for name in names}, len(keras.tree.flatten(x)[0]))


def _scores(model: keras.Model, arrays: list[np.ndarray]) -> Callable[[list[Any]], Any]:
    """A function from a batch to the model's scores in float32."""
    structure = functional_graph(model).input

    def scores(batch: list[Any]) -> Any:
        outputs = model(keras.tree.pack_sequence_as(structure, batch), training=False)
        return tf.cast(keras.tree.flatten(outputs)[0], tf.float32)

    # The number of samples is open, so that a short last batch is not traced again; and a call of a concrete function,
    # unlike one of `tf.function`, does not warn where many models are judged.
    specs = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]
    return tf.function(scores, input_signature=[specs]).get_concrete_function()


def _output_shape(model: keras.Model) -> tuple[int | None, ...]:
    shapes = [tuple(tensor.shape) for tensor in functional_graph(model).outputs]
    if len(shapes) != 1:
        raise InputError(
            f"Expected a model with one output. Received: model {model.name!r} with outputs of shape "
            f'{", ".join(map(str, shapes))}. Compile it with metrics and pass task="compiled".'
        )
    return shapes[0]


def _aligned_inputs(model: keras.Model, x: Any) -> list[np.ndarray]:
    """One array for each input of the model, in the model's order."""
    graph = functional_graph(model)
    names = ModelInputs.of(model).names
    arrays = input_arrays(x, names)
    if len(arrays) != len(graph.inputs):
        raise InputError(
            f"The model has {len(graph.inputs)} inputs ({', '.join(names)}). Received: {len(arrays)} arrays."
        )
    for name, tensor, array in zip(names, graph.inputs, arrays, strict=True):
        expected_shape = tuple(tensor.shape)
        fits = len(expected_shape) == array.ndim and all(
            length in (None, received) for length, received in zip(expected_shape[1:], array.shape[1:], strict=True)
        )
        if not fits or len(array) == 0:
            raise InputError(
                f"Input {name!r} must have the shape {('n', *expected_shape[1:])} with n of at least 1. "
                f"Received: {array.shape}. Preprocess the samples as for training."
            )
        if array.dtype.kind not in "biuf" and tensor.dtype != "string":
            raise InputError(f"Input {name!r} must hold numbers. Received: an array of {array.dtype}.")
        if len(array) != len(arrays[0]):
            raise InputError(f"Inputs must have one length. Received: {len(arrays[0])} and {len(array)} samples.")
    return arrays
