"""`prune_magnitude()`: tfmot's pruning of small weights, on Keras 3 models."""

import os
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.bridge import training
from keras_compress.bridge.compiling import compile_for
from keras_compress.bridge.conversion import convert, copy_weights, weight_pairs
from keras_compress.bridge.strategies import scope
from keras_compress.bridge.tfmot import import_tfmot
from keras_compress.bridge.training import Training
from keras_compress.errors import InputError, check_integer
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import functional_graph, held_layers, layers_by_path
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Patterns, select
from keras_compress.measurement.counts import measure
from keras_compress.pruning.schedules import PolynomialDecay, PruningSchedule
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result, VariableState
from keras_compress.samples.feeding import Feed

PRUNED = (  # exact types in which tfmot prunes kernels
    keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.Conv3D,
    keras.layers.Conv3DTranspose, keras.layers.Dense, keras.layers.Embedding, keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)  # fmt: skip
RATE = 0.001  # of Adam, for a model that is not compiled
WITH_BLOCKS = (keras.layers.Dense, keras.layers.Embedding)  # whose kernels have two axes


def prune_magnitude(
    model: keras.Model | Result,
    train_data: Any,
    *,
    schedule: PruningSchedule | None = None,
    epochs: int = 2,
    layers: Patterns | None = None,
    m_by_n: tuple[int, int] | None = None,
    block_size: tuple[int, int] | None = None,
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
    """Fine-tunes a model while its smallest weights become zero, in each kernel for itself (Zhu & Gupta, 2017).

    tfmot does the work on a copy in tf_keras; the trained weights come back by layer. The model that is given is not
    written to.

    Args:
        model: a Functional or Sequential model, or a result. Codes of a result are dropped, zeros that it keeps stay.
        train_data: (x, y) or (x, y, sample_weight) of arrays; a `tf.data.Dataset` or `keras.utils.PyDataset` of such.
        schedule: `PolynomialDecay()` by default, 50 to 80 % zeros.
        epochs: passes over the data.
        layers: which ones, as in `quantize`; None for all that tfmot prunes.
        m_by_n: (2, 4) for two zeros among four neighbours along the input axis, in place of a fraction of the kernel.
        block_size: (4, 1) for zeros in blocks of four along the input axis of Dense kernels, which TFLite runs faster;
            other layers are then left alone.
        validation: as `train_data`; evaluated before, after, and after each epoch.
        callbacks: of Keras 3 or tf_keras; they see the model in tf_keras.
        batch_size, optimizer, loss, metrics, seed, checkpoint, strategy: see `Training`
            (keras_compress/bridge/training.py): by default as the model was compiled, else the cross-entropy that fits,
            and Adam, whose learning rate of 0.001 falls to zero after the last masks.

    Returns:
        The pruned model, of the same class, names and outputs; `masks`, the zeros to keep in later steps; the report
        with the fraction of zeros in each layer, target and achieved.

    Raises:
        InputError: a model that tf_keras does not have; settings that contradict each other; a schedule that is longer
            than the training; a checkpoint of another run.
    """
    started = time.perf_counter()
    source = Result.of(model)
    functional_graph(source.model)
    schedule = PolynomialDecay() if schedule is None else schedule
    settings = Training(epochs, batch_size, optimizer, loss, metrics, seed, checkpoint, strategy)
    check_settings(schedule, epochs, m_by_n, block_size)
    chosen, reasons = _chosen(source.model, layers, m_by_n, block_size)
    samples = Feed(train_data, "train_data", batch_size)
    tested = None if validation is None else Feed(validation, "validation", batch_size)
    steps = epochs * samples.steps
    adam = keras.optimizers.Adam(training.constant_then_cosine(RATE, schedule.last_step(steps), steps))
    shared = {"pruning_schedule": schedule.for_steps(steps)}
    if m_by_n is not None:
        shared["sparsity_m_by_n"] = m_by_n
    if block_size is not None:
        shared["block_size"] = block_size
    paths = {id(layer): path for path, layer in layers_by_path(source.model).items()}
    sparsity = import_tfmot().sparsity.keras
    wrappers: dict[str, Any] = {}

    def wrap(layer: keras.Layer, converted: Any) -> Any:
        path = paths[id(layer)]
        if path in chosen:
            wrappers[path] = converted = sparsity.prune_low_magnitude(converted, **shared)
        return converted

    with scope(strategy):
        conversion = convert(source.model, wrap)
        compile_for(conversion.model, source.model, settings, samples.labels, adam)
        figures = training.figures("before", conversion.model, tested)
        training.fit(conversion.model, samples, settings, tested, [sparsity.UpdatePruningStep(), *callbacks])
        for wrapper in wrappers.values():
            for weight, mask, _ in wrapper.pruning_vars:
                weight.assign(weight * mask)
        figures |= training.figures("after", conversion.model, tested)
    training.warn_of_lost_accuracy(figures, "Train for more epochs, or ask for fewer zeros.")
    pruned, masks = _returned(source, conversion.pairs, wrappers, paths)
    step = Step("prune_magnitude", {"schedule": repr(schedule), "epochs": epochs})
    step.settings |= {name: value for name, value in (("m_by_n", m_by_n), ("block_size", block_size)) if value}
    target = schedule.final if m_by_n is None else m_by_n[0] / m_by_n[1]
    for row in _rows(pruned, chosen, reasons, target):
        step.add(row)
    sizes = measure(source.model), measure(pruned)
    step.figures = {
        **figures,
        "zeros": 1 - sizes[1].nonzeros / sizes[1].parameters,
        "bytes": sizes[1].raw_bytes,
        "gzipped bytes before": sizes[0].gzipped_bytes,
        "gzipped bytes": sizes[1].gzipped_bytes,
        "seconds": time.perf_counter() - started,
    }
    return source.after(pruned, step, changed={path: VariableState(mask=mask) for path, mask in masks.items()})


def check_settings(
    schedule: Any,
    epochs: int,
    m_by_n: tuple[int, int] | None = None,
    block_size: tuple[int, int] | None = None,
) -> None:
    """Raises InputError for settings of `prune_magnitude` that contradict each other, or do not exist."""
    if not isinstance(schedule, PruningSchedule):
        raise InputError(
            f"schedule must be kc.PolynomialDecay(...) or kc.ConstantSparsity(...). Received: {schedule!r}."
        )
    check_integer("epochs", epochs, 1)
    if m_by_n is not None and block_size is not None:
        raise InputError("m_by_n and block_size exclude each other. Received: both. Leave one of them out.")
    for name, value, low in (("m_by_n", m_by_n, 1), ("block_size", block_size, 1)):
        if value is None:
            continue
        if not isinstance(value, tuple) or len(value) != 2:
            raise InputError(f"{name} must be a tuple of two integers. Received: {value!r}.")
        for number in value:
            check_integer(name, number, low)
    if m_by_n is not None and m_by_n[0] >= m_by_n[1]:
        raise InputError(f"m_by_n must be (zeros, neighbours), fewer zeros than neighbours. Received: {m_by_n}.")


def _chosen(
    model: keras.Model, layers: Patterns | None, m_by_n: tuple[int, int] | None, block_size: tuple[int, int] | None
) -> tuple[set[str], dict[str, str]]:
    """Paths of the layers to prune, and why others with weights are left alone."""
    possible, reasons = [], {}
    with_kernels = {id(view.layer) for view in views_by_path(model).values()}
    for path, layer in layers_by_path(model).items():
        if type(layer) not in PRUNED:
            if id(layer) in with_kernels or any(id(each) in with_kernels for each in held_layers(layer).values()):
                reasons[path] = f"tfmot prunes no kernel of {type(layer).__name__}"
        elif block_size is not None and type(layer) not in WITH_BLOCKS:
            reasons[path] = "blocks are for kernels with two axes"
        elif m_by_n is not None and type(layer) is not keras.layers.Embedding and layer.weights[0].shape[-2] == 1:
            reasons[path] = f"it has one input channel, and {m_by_n[0]} of {m_by_n[1]} neighbours lie along them"
        else:
            possible.append(path)
    if not possible:
        raise InputError(
            f"Model {model.name!r} has no layer that can be pruned so. tfmot prunes "
            f"{', '.join(kind.__name__ for kind in PRUNED)}."
        )
    chosen = select(layers, possible, "layers", "pruned")
    return chosen, reasons | {path: "not chosen" for path in possible if path not in chosen}


def _returned(
    source: Result, pairs: list[tuple[Any, Any]], wrappers: dict[str, Any], paths: dict[int, str]
) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """A copy of the model with the trained weights, and the zeros of its kernels, those to keep of before too."""
    pruned = clone_model(source.model)
    layers = layers_by_path(pruned)
    kernels = {id(view.variable): (path, view) for path, view in views_by_path(pruned).items()}
    masks = dict(source.masks)
    for layer, converted in pairs:
        path = paths[id(layer)]
        copy_weights(converted, layers[path])
        if path not in wrappers:
            continue
        zeros = {id(weight): mask.numpy() > 0 for weight, mask, _ in wrappers[path].pruning_vars}
        for trained, weight in weight_pairs(converted, layers[path]):
            if id(trained) in zeros and id(weight) in kernels:
                name = kernels[id(weight)][0]
                masks[name] = zeros[id(trained)] & masks.get(name, True)
    for path, view in kernels.values():
        if path in masks:
            view.variable.assign(view.kernel * masks[path])
    return pruned, masks


def _rows(pruned: keras.Model, chosen: set[str], reasons: dict[str, str], target: float) -> list[LayerRow]:
    rows = []
    for path, layer in layers_by_path(pruned).items():
        if path not in chosen and path not in reasons:
            continue
        row = LayerRow(path, type(layer).__name__, "pruned" if path in chosen else "kept")
        row.parameters = sum(weight.numpy().size for weight in layer.weights)
        row.reason = reasons.get(path, "")
        kernels = [weight.numpy() for weight in layer.weights if len(weight.shape) > 1]
        if kernels:
            row.zeros = float(np.mean(np.concatenate([kernel.ravel() for kernel in kernels]) == 0))
        if path in chosen:
            row.target_zeros = target
        rows.append(row)
    return rows
