"""`quantize_activations()`: a model that computes with the activations of an integer network."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import Calibration, calibrating
from keras_compress.calibration.forward import visit_tensors
from keras_compress.calibration.walk import ERROR_SAMPLES
from keras_compress.errors import InputError
from keras_compress.layers.activation import QuantizeActivation, check_bits
from keras_compress.layers.clone import rebuild
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rounding import Names, RoundedTensor, rounded_tensors, split_activations
from keras_compress.layers.selection import Pattern, Patterns, select
from keras_compress.numerics.ranges import Histogram, MinMax, MovingAverage, TensorAlphabet, mse_range
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result

RANGES = ("mse", "moving_average", "minmax")
BEYOND = 0.501  # steps: no rounding moves a value that far, unless it is clipped


@dataclasses.dataclass
class _Activation:
    """A tensor that is to be rounded.

    Attributes:
        tensor: which one.
        bits: of its codes.
        alphabet: its letters, once they are known.
        layer: what rounds it.
        squares: sums of squares: of what rounding takes, of the values.
        clipped, count: how many values lie beyond the letters, of how many.
    """

    tensor: RoundedTensor
    bits: int
    alphabet: TensorAlphabet | None = None
    layer: QuantizeActivation | None = None
    squares: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
    clipped: int = 0
    count: int = 0


def quantize_activations(
    model: keras.Model | Result,
    calibration: Any,
    *,
    bits: int = 8,
    symmetric: bool = False,
    ranges: str = "mse",
    layers: Patterns | None = None,
    overrides: Mapping[Pattern, int | None] | None = None,
    memory_budget: int | str = "2GB",
    batch_size: int | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Result:
    """A copy of a model that rounds its activations as an integer network does, to be evaluated before it is exported.

    What comes out is an ordinary Keras model with a `QuantizeActivation` layer on each tensor that a full-integer
    TFLite file rounds: the inputs, and the outputs of operations, with the BatchNorm and the ReLU behind a kernel as
    one operation. Pooling, reshaping and joining pass on the letters of their inputs. A Dense or convolutional layer
    with another activation than a ReLU becomes two layers, since what lies between is rounded too. Kernels and their
    codes stay: quantize them first.

    Letters are `scale * (code - zero_point)`, one scale and zero point a tensor. Those of softmax, sigmoid and tanh are
    fixed; all others come from the data, from the model as it is.

    Args:
        model: a built Functional or Sequential model, or the result of an earlier step.
        calibration: a few hundred samples, in any form that `quantize` takes.
        bits: of an activation, 2 to 16.
        symmetric: whether the zero point is 0 and there are as many letters below zero as above; False is what int8
            files have.
        ranges: "minmax" spans all values; "moving_average" the average extremes of 32 samples at a time; "mse"
            searches the range that leaves the least squared error.
        layers: which tensors, by the layers that make them (inputs by their names): names, paths, regular expressions
            or a function of the path; None is all.
        overrides: pattern -> another number of bits for these tensors, or None to leave them in floating point; later
            patterns win.
        memory_budget, batch_size, work_dir, progress: as for `quantize`.

    Raises:
        InputError: a model, data or setting that cannot be used; a subclassed model, or one that passes on masks;
            activations that are quantized already, or that are not finite.
        StorageError: as for `quantize`.
    """
    started = time.perf_counter()
    given = Result.of(model)
    check_bits(bits)
    if not isinstance(symmetric, bool):
        raise InputError(f"symmetric must be True or False. Received: {symmetric!r}.")
    if ranges not in RANGES:
        raise InputError(f"ranges must be one of {', '.join(RANGES)}. Received: {ranges!r}.")
    if any(isinstance(layer, QuantizeActivation) for layer in layers_by_path(given.model).values()):
        raise InputError(
            f"Activations of model {given.model.name!r} are quantized already: it has QuantizeActivation layers. Pass "
            "the model from before that step."
        )
    Graph(given.model).check_known(f"Tensors within model {given.model.name!r} cannot be rounded")
    network = split_activations(given.model)
    graph = Graph(network)
    tensors = rounded_tensors(graph)
    widths = _widths([tensor.path for tensor in tensors], bits, layers, overrides)
    chosen = [_Activation(tensor, width) for tensor in tensors if (width := widths[tensor.path]) is not None]
    if not chosen:
        raise InputError(
            f"There is no activation to quantize: of {len(tensors)} tensors that an integer network rounds, the "
            "settings leave none."
        )
    if calibration is None:
        raise InputError("Ranges of activations are measured on calibration data. Received: None.")
    step = Step("quantize_activations", {"bits": bits, "symmetric": symmetric, "ranges": ranges})
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(given.model, calibration, memory_budget, batch_size, work_dir))
        assert source is not None
        passes = 3 if ranges == "mse" else 2
        done = stack.enter_context(progress_bar.tasks(step.technique, passes, enabled=progress))
        _choose_alphabets(source, graph, chosen, symmetric, ranges, done)
        names = Names(graph)
        for activation in chosen:
            activation.layer = _layer(names.new(activation.tensor.path, "quantized"), activation.alphabet)
        _measure(source, graph, chosen)
        done("errors")
        step.figures = {"samples": source.num_samples}
    layers_behind = {id(activation.tensor.symbol): [activation.layer] for activation in chosen}
    quantized = rebuild(network, insert=lambda tensor: layers_behind.get(id(tensor), []))
    paths = {id(layer): path for path, layer in layers_by_path(quantized).items()}
    for activation in chosen:
        step.add(_row(paths[id(activation.layer)], activation))
    step.figures = {"seconds": time.perf_counter() - started, **step.figures}
    if left := [path for path, width in widths.items() if width is None]:
        step.figures["left in floating point"] = ", ".join(left)
    result = Result(quantized, dict(given.kernels), dict(given.masks), given.report.extended(step))
    result.check()
    return result


def _widths(
    paths: list[str], bits: int, layers: Patterns | None, overrides: Mapping[Pattern, int | None] | None
) -> dict[str, int | None]:
    """Bits of the tensors that each layer makes; None leaves them in floating point."""
    paths = list(dict.fromkeys(paths))
    selected = select(layers, paths, "layers")
    widths: dict[str, int | None] = {path: bits if path in selected else None for path in paths}
    for pattern, other in (overrides or {}).items():
        if other is not None:
            check_bits(other)
        widths |= dict.fromkeys(select(pattern, paths, "overrides"), other)
    return widths


def _choose_alphabets(
    source: Calibration,
    graph: Graph,
    chosen: list[_Activation],
    symmetric: bool,
    ranges: str,
    done: Callable[[str], None],
) -> None:
    """Letters of each tensor: of its function, or of the range that its family has in the data."""
    range_of = {each.tensor.family: each.tensor.range_of for each in chosen if each.tensor.function is None}
    families = {number: family for family, numbers in range_of.items() for number in numbers}
    extremes = {number: MovingAverage() if ranges == "moving_average" else MinMax() for number in families}

    def find(number: int, values: Any) -> None:
        samples = np.asarray(values, np.float32)
        samples = samples.reshape(len(samples), -1)
        lows, highs = samples.min(axis=1), samples.max(axis=1)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise InputError(
                f"What layer {graph.calls[graph.producer[number]].path!r} makes is not finite for some calibration "
                "samples. Look at the weights of this layer and of those before it."
            )
        extremes[number].add(lows, highs)

    visit_tensors(source, graph, families.keys(), find)
    done("extremes")
    spans = {}
    for family, numbers in range_of.items():
        lows, highs = zip(*(extremes[number].range() for number in numbers), strict=True)
        spans[family] = min(lows), max(highs)
    histograms = {}
    if ranges == "mse":
        histograms = {family: Histogram(*span) for family, span in spans.items()}
        visit_tensors(
            source, graph, families.keys(), lambda number, values: histograms[families[number]].add(np.asarray(values))
        )
        done("histograms")
    alphabets: dict[tuple[int, int], TensorAlphabet] = {}
    for each in chosen:
        family, width = key = each.tensor.family, each.bits
        if key not in alphabets:
            if each.tensor.function is not None:
                alphabets[key] = TensorAlphabet.of_function(*each.tensor.function, width, symmetric=symmetric)
            else:
                span = spans[family]
                if histograms:
                    span = mse_range(histograms[family], width, symmetric=symmetric)
                alphabets[key] = TensorAlphabet.of_range(*span, width, symmetric=symmetric)
        each.alphabet = alphabets[key]


def _layer(name: str, alphabet: TensorAlphabet | None) -> QuantizeActivation:
    assert alphabet is not None
    return QuantizeActivation(
        alphabet.bits, alphabet.scale, alphabet.zero_point, symmetric=alphabet.symmetric, name=name, dtype="float32"
    )


def _measure(source: Calibration, graph: Graph, chosen: list[_Activation]) -> None:
    """What rounding takes from each tensor, alone, on about `ERROR_SAMPLES` samples, spread over the data."""
    owner = {number: activation for activation in chosen for number in activation.tensor.tensors}

    def compare(number: int, values: Any) -> None:
        activation = owner[number]
        assert activation.layer is not None
        wanted = tf.cast(values, tf.float32)
        error = wanted - activation.layer(wanted)
        activation.squares += [2 * float(tf.nn.l2_loss(part)) for part in (error, wanted)]
        low, high = activation.layer.lowest - BEYOND, activation.layer.highest + BEYOND
        steps = wanted / activation.layer.scale + activation.layer.zero_point
        activation.clipped += int(tf.math.count_nonzero((steps < low) | (steps > high)))
        activation.count += int(tf.size(wanted))

    visit_tensors(source, graph, owner.keys(), compare, stride=max(1, source.num_samples // ERROR_SAMPLES))


def _row(path: str, activation: _Activation) -> LayerRow:
    alphabet = activation.alphabet
    assert alphabet is not None
    error, norm = activation.squares
    return LayerRow(
        path,
        activation.tensor.kind,
        "quantized",
        num_levels=alphabet.num_levels,
        bits=float(np.log2(alphabet.num_levels)),
        relative_error=float(np.sqrt(error / norm)) if norm > 0 else 0.0,
        low=alphabet.low,
        high=alphabet.high,
        scale=alphabet.scale,
        zero_point=alphabet.zero_point,
        clipped=activation.clipped / activation.count,
    )
