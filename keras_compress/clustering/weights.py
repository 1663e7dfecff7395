"""`cluster_weights()`: kernels of a few shared values, which are fine-tuned."""

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.bridge import training
from keras_compress.bridge.compiling import compile_for
from keras_compress.bridge.conversion import Conversion, convert, copy_weights, weight_pairs
from keras_compress.bridge.keeping import Kept, keeping
from keras_compress.bridge.strategies import scope
from keras_compress.bridge.training import Training
from keras_compress.errors import InputError, check_integer
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import functional_graph
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Patterns, select
from keras_compress.layers.view import KernelView
from keras_compress.measurement.counts import measure
from keras_compress.numerics.clusters import k_means
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result, VariableState
from keras_compress.samples.feeding import Feed

MOST = 256  # clusters of a kernel
LEAST_WEIGHTS = 8  # of a cluster, on average: a kernel with fewer gains nothing


def cluster_weights(
    model: keras.Model | Result,
    train_data: Any,
    *,
    number_of_clusters: int = 16,
    epochs: int = 1,
    layers: Patterns | None = None,
    validation: Any = None,
    callbacks: Sequence[Any] = (),
    batch_size: int = 32,
    optimizer: Any = None,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Result:
    """Gives each kernel a few values that its weights share, and fine-tunes these values (Han et al., 2016, section 3).

    The values are found by k-means; which weight has which value then stays. `quantization_aware_training` keeps equal
    weights equal, so that a file has as few different integers.

    Args:
        model: a Functional or Sequential model, or a result. Codes of a result are dropped, zeros that it keeps stay.
        train_data: (x, y) or (x, y, sample_weight) of arrays; a `tf.data.Dataset` or `keras.utils.PyDataset` of such.
        number_of_clusters: different values in a kernel at most, 2 to 256, that of zeros to keep among them.
        epochs: passes over the data.
        layers: whose kernels, as in `quantize`; None for all that have eight weights for each cluster.
        validation: as `train_data`; evaluated before, after, and after each epoch.
        callbacks: of Keras 3 or tf_keras; they see the model in tf_keras.
        batch_size, optimizer, loss, metrics, seed, checkpoint, strategy: see `Training`
            (keras_compress/bridge/training.py).

    Returns:
        The model, of the same class, names and outputs; `clusters`, which weights share a value; the report.

    Raises:
        InputError: a model that tf_keras does not have; settings that do not exist; a checkpoint of another run.
    """
    started = time.perf_counter()
    source = Result.of(model)
    functional_graph(source.model)
    check_integer("number_of_clusters", number_of_clusters, 2)
    if number_of_clusters > MOST:
        raise InputError(f"number_of_clusters must be at most {MOST}. Received: {number_of_clusters}.")
    check_integer("epochs", epochs, 1)
    settings = Training(epochs, batch_size, optimizer, loss, metrics, seed, checkpoint, strategy)
    clustered = clone_model(source.model)
    views = views_by_path(clustered)
    chosen, reasons = _chosen(clustered, views, layers, number_of_clusters)
    samples = Feed(train_data, "train_data", batch_size)
    tested = None if validation is None else Feed(validation, "validation", batch_size)
    clusters = {path: _share_values(views[path], source.masks.get(path), number_of_clusters) for path in sorted(chosen)}
    with scope(strategy):
        figures = training.figures_before(source.model, settings, samples, tested)
        conversion = convert(clustered)
        compile_for(conversion.model, source.model, settings, samples.labels)
        kept = _kept(conversion, views, clusters, source.masks)
        training.fit(conversion.model, samples, settings, tested, [*keeping(kept), *callbacks])
        figures |= training.figures("after", conversion.model, tested)
    training.warn_of_lost_accuracy(figures, "Train for more epochs, or take more clusters.")
    for layer, converted in conversion.pairs:
        copy_weights(converted, layer)
    step = Step("cluster_weights", {"number_of_clusters": number_of_clusters, "epochs": epochs})
    for path, view in views.items():
        row = LayerRow(path, type(view.layer).__name__, "clustered" if path in chosen else "kept")
        row.parameters, row.reason = view.kernel.size, reasons.get(path, "")
        row.zeros = float(np.mean(view.kernel == 0))
        if path in chosen:
            row.num_levels = len(np.unique(view.kernel))
            row.effective_bits = math.log2(row.num_levels)
        step.add(row)
    sizes = measure(source.model), measure(clustered)
    step.figures = {
        **figures,
        "gzipped bytes before": sizes[0].gzipped_bytes,
        "gzipped bytes": sizes[1].gzipped_bytes,
        "seconds": time.perf_counter() - started,
    }
    return source.after(
        clustered, step, changed={path: VariableState(clusters=each) for path, each in clusters.items()}
    )


def _chosen(
    model: keras.Model, views: dict[str, KernelView], layers: Patterns | None, number_of_clusters: int
) -> tuple[set[str], dict[str, str]]:
    """Paths of the kernels to cluster, and why others are left alone."""
    least = LEAST_WEIGHTS * number_of_clusters
    possible = [path for path, view in views.items() if view.kernel.size >= least]
    if not possible:
        raise InputError(
            f"Model {model.name!r} has no kernel with {least} weights, eight for each cluster. Take fewer clusters."
        )
    chosen = select(layers, possible, "layers", "clustered")
    few = f"it has fewer than {least} weights"
    return chosen, {path: "not chosen" if path in possible else few for path in views if path not in chosen}


def _share_values(view: KernelView, mask: np.ndarray | None, number_of_clusters: int) -> np.ndarray:
    """Gives weights of the kernel their shared values; which weight has which."""
    kernel = view.kernel
    kept = np.ones(kernel.shape, bool) if mask is None else mask
    zeros = int(not kept.all())
    labels = np.zeros(kernel.shape, np.int32)
    shared = np.zeros_like(kernel)
    if kept.any():
        centroids, assignment = k_means(kernel[kept], number_of_clusters - zeros)
        labels[kept] = assignment + zeros
        shared[kept] = centroids[assignment]
    view.variable.assign(shared)
    return labels


def _kept(
    conversion: Conversion, views: dict[str, KernelView], clusters: dict[str, np.ndarray], masks: dict[str, np.ndarray]
) -> list[Kept]:
    paths = {id(view.variable): path for path, view in views.items()}
    kept = []
    for layer, converted in conversion.pairs:
        for weight, counterpart in weight_pairs(layer, converted):
            path = paths.get(id(weight), "")
            if path in clusters or path in masks:
                kept.append(Kept(counterpart, masks.get(path), clusters.get(path)))
    return kept
