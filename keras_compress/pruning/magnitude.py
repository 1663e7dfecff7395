"""`prune_magnitude()`: the smallest weights become zero while Keras 3 trains the others."""

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError, check_integer
from keras_compress.fitting import loop
from keras_compress.fitting.compiling import compile_as
from keras_compress.fitting.constraints import keep
from keras_compress.fitting.rates import constant_then_cosine
from keras_compress.fitting.strategies import scope
from keras_compress.fitting.training import Fitting, Training
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import functional_graph, held_layers, layers_by_path
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Patterns, select
from keras_compress.measurement.counts import measure
from keras_compress.numerics.sparsity import block_mask, m_by_n_mask, magnitude_mask
from keras_compress.pruning.masks import MaskOf, MaskUpdates
from keras_compress.pruning.schedules import PolynomialDecay, PruningSchedule
from keras_compress.pruning.with_tfmot import pruned_by_tfmot
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result, VariableState

ENGINES = ("keras", "tfmot")
PRUNED = (  # exact types in which tfmot prunes kernels
    keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.Conv3D,
    keras.layers.Conv3DTranspose, keras.layers.Dense, keras.layers.Embedding, keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)  # fmt: skip
RATE = 0.001  # of Adam, for a model that is not compiled
KERNELS = ("pointwise_kernel", "embeddings", "kernel")  # the first that a layer has is pruned
WITH_BLOCKS = (keras.layers.Dense, keras.layers.Embedding)  # whose kernels have two axes


def prune_magnitude(
    model: keras.Model | Result,
    train_data: Any,
    *,
    schedule: PruningSchedule | None = None,
    layers: Patterns | None = None,
    m_by_n: tuple[int, int] | None = None,
    block_size: tuple[int, int] | None = None,
    validation: Any = None,
    callbacks: Sequence[Any] = (),
    training: Training | None = None,
    engine: str = "keras",
) -> Result:
    """Fine-tunes a model while its smallest weights become zero, in each kernel for itself (Zhu & Gupta, 2017).

    A copy is fitted by Keras, with the optimizer, the loss and the metrics that the model was compiled with; a model
    that is not compiled gets the cross-entropy that fits, and Adam, whose learning rate of 0.001 falls to zero after
    the last masks. The model that is given is not written to.

    Args:
        model: a Functional or Sequential model, or a result. Codes of a result are dropped, zeros that it keeps stay.
        train_data: (x, y) or (x, y, sample_weight) of arrays; a `tf.data.Dataset` or `keras.utils.PyDataset` of such; a
            `kc.ImageFolder` or `kc.preprocess(...)`.
        schedule: `PolynomialDecay()` by default, 50 to 80 % zeros. tfmot's schedules say when and how much.
        layers: which ones, as in `quantize`; None for all whose kernels tfmot prunes.
        m_by_n: (2, 4) for two zeros among four neighbours along the input axis, in place of a fraction of the kernel.
        block_size: (4, 1) for zeros in blocks of four along the input axis of Dense kernels, which TFLite runs faster;
            other layers are then left alone.
        validation: as `train_data`; evaluated before, after, and after each epoch.
        callbacks: of Keras; they see the copy. `logs["zeros"]` is the fraction of zeros in what is pruned.
        training: epochs, batch size, seed, checkpoint, strategy; None is `kc.Training(epochs=2)`.
        engine: "keras"; or "tfmot", whose own graph is fitted in Keras 2.

    Returns:
        The pruned model, of the same class, names and outputs; `masks`, the zeros to keep in later steps; the report
        with the fraction of zeros in each layer, target and achieved.

    Raises:
        InputError: settings that contradict each other; a schedule that is longer than the training; a checkpoint of
            another run; a model without a loss that is obvious.
    """
    started = time.perf_counter()
    source = Result.of(model)
    functional_graph(source.model)
    schedule = PolynomialDecay() if schedule is None else schedule
    check_settings(schedule, m_by_n, block_size)
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}. Received: {engine!r}.")
    chosen, reasons = _chosen(source.model, layers, m_by_n, block_size)
    fitting = Fitting.of(train_data, validation, callbacks, training, epochs=2)
    steps = fitting.steps
    adam = keras.optimizers.Adam(constant_then_cosine(RATE, schedule.last_step(steps), steps))
    run = pruned_by_tfmot if engine == "tfmot" else _pruned
    pruned, masks, figures = run(source, fitting, chosen, schedule.for_steps(steps), m_by_n, block_size, adam)
    loop.warn_of_lost_accuracy(figures, "Train for more epochs, or ask for fewer zeros.")
    step = Step("prune_magnitude", {"schedule": repr(schedule), "epochs": fitting.training.epochs})
    step.settings |= {name: value for name, value in (("m_by_n", m_by_n), ("block_size", block_size)) if value}
    step.settings |= {"engine": engine} if engine != "keras" else {}
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


def _pruned(
    source: Result,
    fitting: Fitting,
    chosen: set[str],
    schedule: Any,
    m_by_n: tuple[int, int] | None,
    block_size: tuple[int, int] | None,
    optimizer: Any,
) -> tuple[keras.Model, dict[str, np.ndarray], dict[str, Any]]:
    """The model, its masks and its figures, by Keras 3's `fit`."""
    feed = fitting.feed
    with scope(fitting.training.strategy):
        copied = clone_model(source.model)
        compile_as(copied, source.model, feed.labels, optimizer)
        figures = loop.figures("before", copied, fitting.tested)
        variables = _variables(copied, chosen)
        earlier = source.masks
        ones = {path: np.ones(variable.shape, bool) for path, variable in variables.items()}
        kernels = {path: view.variable for path, view in views_by_path(copied).items()} | variables
        kept = keep(kernels, earlier | {path: mask & earlier.get(path, np.True_) for path, mask in ones.items()}, {})
        updated = {path: kept[path] for path in variables}
        updates = MaskUpdates(
            updated, earlier, schedule, _mask_of(m_by_n, block_size), feed.steps, once=m_by_n is not None
        )
        state = [each.mask for each in updated.values()]
        loop.fit(copied, fitting, own=[updates], state=state, summaries=updates.summaries)
        figures |= loop.figures("after", copied, fitting.tested)
    pruned = clone_model(source.model)
    pruned.set_weights(copied.get_weights())
    views = views_by_path(pruned)
    masks = earlier | {path: each.mask.numpy() > 0 for path, each in updated.items() if path in views}
    return pruned, masks, figures


def _variables(model: keras.Model, chosen: set[str]) -> dict[str, keras.Variable]:
    """The kernel of each chosen layer, by its path."""
    layers = layers_by_path(model)
    paths = {id(view.variable): path for path, view in views_by_path(model).items()}
    variables = {}
    for path in sorted(chosen):
        name = next(name for name in KERNELS if hasattr(layers[path], name))
        variable = getattr(layers[path], name)
        variables[paths.get(id(variable), path)] = variable
    return variables


def _mask_of(m_by_n: tuple[int, int] | None, block_size: tuple[int, int] | None) -> MaskOf:
    if m_by_n is not None:
        return lambda kernel, sparsity: m_by_n_mask(kernel, *m_by_n)
    if block_size is not None:
        return lambda kernel, sparsity: block_mask(kernel, sparsity, block_size)
    return magnitude_mask


def check_settings(
    schedule: Any,
    m_by_n: tuple[int, int] | None = None,
    block_size: tuple[int, int] | None = None,
) -> None:
    """Raises InputError for settings of `prune_magnitude` that contradict each other, or do not exist."""
    if not isinstance(schedule, PruningSchedule):
        raise InputError(
            f"schedule must be kc.PolynomialDecay(...) or kc.ConstantSparsity(...). Received: {schedule!r}."
        )
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
