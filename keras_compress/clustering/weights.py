"""`cluster_weights()`: kernels of a few shared values, which are fine-tuned."""

import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError, check_integer
from keras_compress.fitting import loop
from keras_compress.fitting.compiling import compile_as
from keras_compress.fitting.constraints import keep
from keras_compress.fitting.strategies import scope
from keras_compress.fitting.training import Fitting, Training
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import functional_graph
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Patterns, select
from keras_compress.layers.view import KernelView
from keras_compress.measurement.counts import measure
from keras_compress.numerics.clusters import k_means
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result, VariableState

MOST = 256  # clusters of a kernel
LEAST_WEIGHTS = 8  # of a cluster, on average: a kernel with fewer gains nothing


def cluster_weights(
    model: keras.Model | Result,
    train_data: Any,
    *,
    number_of_clusters: int = 16,
    layers: Patterns | None = None,
    validation: Any = None,
    callbacks: Sequence[Any] = (),
    training: Training | None = None,
) -> Result:
    """Gives each kernel a few values that its weights share, and fine-tunes these values (Han et al., 2016, section 3).

    The values are found by k-means; which weight has which value then stays. `quantization_aware_training` keeps equal
    weights equal, so that a file has as few different integers.

    Args:
        model: a Functional or Sequential model, or a result. Codes of a result are dropped, zeros that it keeps stay.
        train_data: (x, y) or (x, y, sample_weight) of arrays; a `tf.data.Dataset` or `keras.utils.PyDataset` of such.
        number_of_clusters: different values in a kernel at most, 2 to 256, that of zeros to keep among them.
        layers: whose kernels, as in `quantize`; None for all that have eight weights for each cluster.
        validation: as `train_data`; evaluated before, after, and after each epoch.
        callbacks: of Keras; they see the copy.
        training: epochs, batch size, seed, checkpoint, strategy; None is `kc.Training(epochs=1)`. Optimizer, loss and
            metrics are those that the model was compiled with, else Adam and the cross-entropy that fits.

    Returns:
        The model, of the same class, names and outputs; `clusters`, which weights share a value; the report.

    Raises:
        InputError: settings that do not exist; a checkpoint of another run; a model without a loss that is obvious.
    """
    started = time.perf_counter()
    source = Result.of(model)
    functional_graph(source.model)
    check_integer("number_of_clusters", number_of_clusters, 2)
    if number_of_clusters > MOST:
        raise InputError(f"number_of_clusters must be at most {MOST}. Received: {number_of_clusters}.")
    fitting = Fitting.of(train_data, validation, callbacks, training, epochs=1)
    chosen, reasons = _chosen(source.model, views_by_path(source.model), layers, number_of_clusters)
    clustered = clone_model(source.model)
    views = views_by_path(clustered)
    clusters = {path: _share_values(views[path], source.masks.get(path), number_of_clusters) for path in sorted(chosen)}
    with scope(fitting.training.strategy):
        copied = clone_model(source.model)
        compile_as(copied, source.model, fitting.feed.labels)
        figures = loop.figures("before", copied, fitting.tested)
        copied.set_weights(clustered.get_weights())
        keep({path: view.variable for path, view in views_by_path(copied).items()}, source.masks, clusters)
        loop.fit(copied, fitting)
        figures |= loop.figures("after", copied, fitting.tested)
    loop.warn_of_lost_accuracy(figures, "Train for more epochs, or take more clusters.")
    clustered.set_weights(copied.get_weights())
    step = Step("cluster_weights", {"number_of_clusters": number_of_clusters, "epochs": fitting.training.epochs})
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
