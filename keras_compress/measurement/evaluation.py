"""How often a classifier is right."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.paths import ModelInputs, functional_graph, model_in
from keras_compress.measurement.scores import Evaluation, ScoreCounter, input_arrays, integer_labels


def evaluate(model: Any, x: Any, y: Any, *, batch_size: int = 256) -> Evaluation:
    """Accuracy of a classifier, which gives a score for each class.

    Args:
        model: a Functional or Sequential model with one output, (n, num_classes), or the result of a step.
        x: (n, ...) array, or a list or dictionary of arrays for a model with several inputs; preprocessed as for
            training.
        y: (n,) or (n, 1) integer labels, or (n, num_classes) one-hot labels.
        batch_size: samples in one call of the model.

    Raises:
        InputError: inputs or labels that do not fit the model or each other.
    """
    model = model_in(model)
    num_classes = _num_classes(model)
    arrays = _aligned_inputs(model, x)
    num_samples = len(arrays[0])
    labels = integer_labels(np.asarray(y), num_samples, num_classes)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1. Received: {batch_size}.")
    scores = _scores(model, arrays)
    counter = ScoreCounter()
    for start in range(0, num_samples, batch_size):
        batch = [tf.constant(array[start : start + batch_size]) for array in arrays]
        counter.add(scores(batch).numpy(), labels[start : start + batch_size])
    return counter.evaluation()


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


def _num_classes(model: keras.Model) -> int:
    shapes = [tuple(tensor.shape) for tensor in functional_graph(model).outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or (shapes[0][1] or 0) < 2:
        raise InputError(
            f"A classifier with one output of shape (n, num_classes), two classes or more, is wanted. "
            f"Received: model {model.name!r} with outputs of shape {', '.join(map(str, shapes))}."
        )
    return int(shapes[0][1])


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
        wanted = tuple(tensor.shape)
        fits = len(wanted) == array.ndim and all(
            length in (None, received) for length, received in zip(wanted[1:], array.shape[1:], strict=True)
        )
        if not fits or len(array) == 0:
            raise InputError(
                f"Input {name!r} must have the shape {('n', *wanted[1:])} with n of at least 1. "
                f"Received: {array.shape}. Preprocess the samples as for training."
            )
        if array.dtype.kind not in "biuf" and tensor.dtype != "string":
            raise InputError(f"Input {name!r} must hold numbers. Received: an array of {array.dtype}.")
        if len(array) != len(arrays[0]):
            raise InputError(f"Inputs must have one length. Received: {len(arrays[0])} and {len(array)} samples.")
    return arrays
