"""How often a classifier is right."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.paths import ModelInputs, functional_graph
from keras_compress.measurement.scores import (
    PROBABILITY_TOLERANCE,
    SMALLEST_PROBABILITY,
    Evaluation,
    integer_labels,
)


def evaluate(model: keras.Model, x: Any, y: Any, *, batch_size: int = 256) -> Evaluation:
    """Accuracy of a classifier, which gives a score for each class.

    Args:
        model: a Functional or Sequential model with one output, (n, num_classes).
        x: (n, ...) array, or a list or dictionary of arrays for a model with several inputs; preprocessed as for
            training.
        y: (n,) or (n, 1) integer labels, or (n, num_classes) one-hot labels.
        batch_size: samples in one call of the model.

    Raises:
        InputError: inputs or labels that do not fit the model or each other.
    """
    num_classes = _num_classes(model)
    arrays = _aligned_inputs(model, x)
    num_samples = len(arrays[0])
    labels = integer_labels(np.asarray(y), num_samples, num_classes)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1. Received: {batch_size}.")
    judge = _judge(model, arrays, labels)
    parts = []
    for start in range(0, num_samples, batch_size):
        batch = [tf.constant(array[start : start + batch_size]) for array in arrays]
        parts.append([part.numpy() for part in judge(batch, tf.constant(labels[start : start + batch_size]))])
    ranks, losses, probable = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Evaluation(
        top1=float(np.mean(ranks < 1)),
        top5=float(np.mean(ranks < 5)) if num_classes > 5 else None,
        loss=float(np.mean(losses, dtype=np.float64)) if probable.all() else None,
        num_samples=num_samples,
    )


def _judge(model: keras.Model, arrays: list[np.ndarray], labels: np.ndarray) -> Callable[[list[Any], Any], Any]:
    """A function from a batch and its labels to three values a sample: how many classes have a higher score than the
    right one, the cross entropy, and whether the outputs are probabilities."""
    structure = functional_graph(model).input

    def judge(batch: list[Any], labels: Any) -> Any:
        outputs = model(keras.tree.pack_sequence_as(structure, batch), training=False)
        scores = tf.cast(keras.tree.flatten(outputs)[0], tf.float32)
        own = tf.gather(scores, labels, axis=1, batch_dims=1)[:, tf.newaxis]
        classes = tf.range(tf.shape(scores)[1], dtype=labels.dtype)
        higher = (scores > own) | ((scores == own) & (classes < labels[:, tf.newaxis]))
        undefined = tf.reduce_any(tf.math.is_nan(scores), axis=1)
        ranks = tf.where(undefined, tf.shape(scores)[1], tf.reduce_sum(tf.cast(higher, tf.int32), axis=1))
        losses = -tf.math.log(tf.clip_by_value(own[:, 0], SMALLEST_PROBABILITY, 1.0))
        sums_to_one = tf.abs(tf.reduce_sum(scores, axis=1) - 1) <= PROBABILITY_TOLERANCE
        return ranks, losses, sums_to_one & tf.reduce_all(scores >= 0, axis=1)

    # The number of samples is open, so that a short last batch is not traced again; and a call of a concrete function,
    # unlike one of `tf.function`, does not warn where many models are judged.
    specs = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]
    signature = [specs, tf.TensorSpec([None], labels.dtype)]
    return tf.function(judge, input_signature=signature).get_concrete_function()


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
    if isinstance(x, dict):
        if x.keys() != set(names):
            raise InputError(f"Inputs must be named {sorted(names)}. Received: {sorted(map(str, x))}.")
        arrays = [np.asarray(x[name]) for name in names]
    else:
        arrays = [np.asarray(array) for array in (x if isinstance(x, list | tuple) else [x])]
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
