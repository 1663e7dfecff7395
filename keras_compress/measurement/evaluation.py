"""How well a model does on labelled samples."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import functional_graph, model_in
from keras_compress.measurement.scores import Evaluation, evaluated
from keras_compress.samples.blocks import block_length, in_blocks
from keras_compress.samples.feeding import Feed
from keras_compress.samples.inputs import InputSpec, labelled
from keras_compress.samples.model_inputs import input_specs

KERAS_BATCH = 32  # of `keras.Model.evaluate`


def evaluate(
    model: Any, x: Any, y: Any = None, *, task: str | None = None, batch_size: int | None = None
) -> Evaluation:
    """How a model does on labelled samples: accuracy, errors, or the metrics that it was compiled with.

    Args:
        model: a Functional or Sequential model with one output, or the result of a step; with task="compiled" any model
            that is compiled.
        x: (n, ...) array, or a list or dictionary of arrays for a model with several inputs; preprocessed as for
            training. Or inputs and labels together: a tuple, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            generator of batches, `kc.preprocess(...)` or a `kc.ImageFolder`; `y` is then None. They are read batch by
            batch.
        y: for scores (n, num_classes), (n,) or (n, 1) integer labels or (n, num_classes) one-hot ones; for scores
            (n, ..., num_classes) of pixels, (n, ...) integer labels or one-hot ones; else numbers of the shape of the
            outputs, 0 and 1 for probabilities of one class.
        task: "classification", "binary", "segmentation", "regression", or "compiled" for the metrics that the model was
            compiled with; None tells it from outputs and labels, those of the first batch where they come in batches.
        batch_size: samples that are read at a time; None is one block. The network runs over blocks whose length
            depends on its shapes alone, so that no figure depends on it. With task="compiled" as in
            `keras.Model.evaluate`.

    Raises:
        InputError: inputs or labels that do not fit the model or each other.
    """
    model = model_in(model)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1. Received: {batch_size}.")
    if task == "compiled":
        return _as_compiled(model, x, y, batch_size)
    if len(functional_graph(model).outputs) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in functional_graph(model).outputs)
        raise InputError(
            f"Expected a model with one output. Received: model {model.name!r} with outputs of shape {shapes}. "
            'Compile it with metrics and pass task="compiled".'
        )
    specs = input_specs(model)
    scores = _scores(model, specs)
    block = block_length(max(math.prod(size or 1 for size in shape[1:]) for shape in Graph(model).shapes))
    read = max(1, (batch_size or 1) // block) * block

    def blocks_of(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [scores([tf.constant(array) for array in part]).numpy() for part in in_blocks(inputs, block)]

    return evaluated(labelled(x, y), specs, lambda inputs: np.concatenate(blocks_of(inputs)), read, task)


def _as_compiled(model: keras.Model, x: Any, y: Any, batch_size: int | None) -> Evaluation:
    if not model.compiled:
        raise InputError(f"Model {model.name!r} is not compiled. Compile it with metrics, or name another task.")
    if y is None:
        feed = Feed(x, "x", batch_size or KERAS_BATCH)
        metrics = model.evaluate(feed.in_order(), verbose=0, return_dict=True)
        num_samples = feed.samples.num_samples or sum(map(len, feed.samples.batches()))
    else:
        metrics = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
        num_samples = len(keras.tree.flatten(x)[0])
    names = sorted(metrics, key=lambda name: name.endswith("loss"))  # the loss last: of others more may be better
    return Evaluation("compiled", {name: float(metrics[name]) for name in names}, num_samples)


def _scores(model: keras.Model, specs: Sequence[InputSpec]) -> Callable[[list[Any]], Any]:
    """A function from a batch to the model's scores in float32."""
    structure = functional_graph(model).input

    def scores(batch: list[Any]) -> Any:
        outputs = model(keras.tree.pack_sequence_as(structure, batch), training=False)
        return tf.cast(keras.tree.flatten(outputs)[0], tf.float32)

    # The number of samples is open, so that a short last batch is not traced again; and a call of a concrete function,
    # unlike one of `tf.function`, does not warn where many models are judged.
    signature = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in specs]
    return tf.function(scores, input_signature=[signature]).get_concrete_function()
