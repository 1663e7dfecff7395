"""`recalibrate_batch_normalization()`: statistics of BatchNorm layers, measured again on the network as it is."""

import contextlib
import os
import time
from typing import Any

import keras
import numpy as np

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import calibrating
from keras_compress.calibration.forward import Stages
from keras_compress.errors import InputError
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Patterns, select
from keras_compress.numerics.population import Population
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result


def recalibrate_batch_normalization(
    model: keras.Model | Result,
    calibration: Any,
    *,
    layers: Patterns | None = None,
    memory_budget: int | str = "2GB",
    batch_size: int | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Result:
    """A copy of a model whose BatchNorm layers have the mean and the variance of what they read.

    After quantization a BatchNorm reads other values than in training, and its moving mean and variance are those of
    the training. Here they become the mean and the variance over all calibration samples, layer by layer in the order
    of the network, so that each one sees what the new statistics of the earlier ones make. One pass over the network;
    the statistics are those of the population, not moving averages. Kernels and their codes stay. Layers within other
    layers, such as TimeDistributed, are left as they are.

    Args:
        model: a built Functional or Sequential model, or the result of an earlier step.
        calibration: a few hundred samples or more, in any form that `quantize` takes.
        layers: which BatchNorm layers: names, paths, regular expressions or a function of the path; None is all.
        memory_budget, batch_size, work_dir, progress: as for `quantize`.

    Raises:
        InputError: a model without a BatchNorm layer, a subclassed one, or one that passes on masks; data or a setting
            that cannot be used; statistics that would not be finite.
        StorageError: as for `quantize`.
    """
    started = time.perf_counter()
    source_result = Result.of(model)
    graph = Graph(source_result.model)
    graph.check_known(f"What the layers of model {source_result.model.name!r} read cannot be seen")
    calls = _calls_by_path(graph)
    if not calls:
        raise InputError(
            f"Model {source_result.model.name!r} calls no BatchNormalization layer: it never did, or all are folded. "
            "Leave this step out, or take it before folding."
        )
    chosen = select(layers, list(calls), "layers")
    if calibration is None:
        raise InputError("BatchNorm statistics are measured on calibration data. Received: None.")
    order = _in_order(graph, {path: indices for path, indices in calls.items() if path in chosen})
    recalibrated = clone_model(source_result.model)
    new_layers = layers_by_path(recalibrated)
    step = Step("recalibrate_batch_normalization", {})
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(source_result.model, calibration, memory_budget, batch_size, work_dir))
        assert source is not None
        done = stack.enter_context(progress_bar.tasks(step.technique, len(order), enabled=progress))
        inputs = {path: sorted({graph.calls[index].inputs[0] for index in calls[path]}) for path in order}
        stages = Stages(source, Graph(recalibrated), {tensor for tensors in inputs.values() for tensor in tensors})
        for path in calls:
            layer = new_layers[path]
            row = LayerRow(path, type(layer).__name__, "kept", parameters=layer.count_params())
            if path not in chosen:
                row.reason = "the settings leave it out (layers=)"
            elif path not in order:
                row.reason = "what it reads depends on its own output"
            step.add(row)
        for path in order:
            _measure(stages, path, inputs[path], new_layers[path], step.rows[list(calls).index(path)])
            done(path)
        step.figures = {"seconds": time.perf_counter() - started, "samples": source.num_samples}
    return source_result.after(recalibrated, step)


def _calls_by_path(graph: Graph) -> dict[str, list[int]]:
    """Indices of the calls of each BatchNorm layer."""
    calls: dict[str, list[int]] = {}
    for index, call in enumerate(graph.calls):
        if type(call.operation) is keras.layers.BatchNormalization:
            calls.setdefault(call.path, []).append(index)
    return calls


def _in_order(graph: Graph, calls: dict[str, list[int]]) -> list[str]:
    """Layers, each after those that its inputs depend on; one that depends on itself is left out."""
    before = {}
    for path, indices in calls.items():
        needed = set(graph.needed([graph.calls[index].inputs[0] for index in indices], graph.inputs))
        before[path] = {other for other, other_calls in calls.items() if needed.intersection(other_calls)}
    waiting = [path for path in calls if path not in before[path]]
    order: list[str] = []
    while waiting:
        ready = [path for path in waiting if not before[path].intersection(waiting)]
        order += ready[:1]
        waiting.remove(ready[0] if ready else waiting[0])  # none is ready where two depend on each other
    return order


def _measure(stages: Stages, path: str, tensors: list[int], layer: keras.Layer, row: LayerRow) -> None:
    """Gives a layer the statistics of the tensors that it reads, and its row what changed."""
    started = time.perf_counter()
    axis = layer.axis
    population = Population(layer.moving_mean.shape[0])

    def visit(tensor: int, values: Any) -> None:
        population.add(np.moveaxis(np.asarray(values), axis, -1).reshape(-1, len(population.mean)))

    stages.show(tensors, visit)
    mean, variance = population.mean, population.variance
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise InputError(
            f"What BatchNorm layer {path!r} reads is not finite for some calibration samples: its new statistics would "
            "be NaN or Inf. Look at the weights of the layers before it."
        )
    old_mean, old_variance = (np.asarray(value, np.float64) for value in (layer.moving_mean, layer.moving_variance))
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    row.action = "recalibrated"
    row.rows = population.count
    row.mean_moved = float(np.sqrt(np.mean((mean - old_mean) ** 2 / (variance + layer.epsilon))))
    ratio = (variance + layer.epsilon) / np.maximum(old_variance + layer.epsilon, np.finfo(np.float32).tiny)
    row.variance_ratio = float(np.exp(np.mean(np.log(ratio))))
    row.seconds = time.perf_counter() - started
