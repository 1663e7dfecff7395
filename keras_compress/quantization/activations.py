"""`quantize_activations()`: a model that computes with the activations of an integer network."""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import Calibration, calibrating
from keras_compress.calibration.forward import visit_tensors
from keras_compress.calibration.ranges import RANGES, Activation, choose_alphabets, rounded_network
from keras_compress.calibration.walk import ERROR_SAMPLES
from keras_compress.errors import InputError
from keras_compress.layers.activation import QuantizeActivation, check_bits
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rounding import quantized_tensors
from keras_compress.layers.selection import Patterns, select
from keras_compress.layers.splitting import split_layers
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result, weight_scales
from keras_compress.result.biases import round_biases

BEYOND = 0.501  # steps: no rounding moves a value that far, unless it is clipped


def quantize_activations(
    model: keras.Model | Result,
    calibration: Any,
    *,
    bits: int = 8,
    symmetric: bool = False,
    ranges: str = "mse",
    layers: Patterns | None = None,
    overrides: Mapping[Any, int | None] | None = None,
    memory_budget: int | str = "2GB",
    batch_size: int | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Result:
    """A copy of a model that rounds its activations as an integer network does, to be evaluated before it is exported.

    The result is an ordinary Keras model with a `QuantizeActivation` layer on each tensor that a full-integer TFLite
    file rounds: the inputs, and the outputs of operations, with the BatchNorm and the ReLU behind a kernel as one
    operation. Pooling, reshaping and joining keep the alphabet of their inputs. A Dense or convolutional layer with
    another activation than a ReLU becomes two layers, since the tensor in between is rounded too. Kernels and their
    codes stay: quantize them first.

    Values are `scale * (code - zero_point)`, with one scale and zero point for each tensor. Those of softmax, sigmoid
    and tanh are fixed; all others come from the data, from the model as it is.

    Args:
        model: a built Functional or Sequential model, or the result of an earlier step.
        calibration: a few hundred samples, in any form that `quantize` takes.
        bits: of an activation, 2 to 16.
        symmetric: whether the zero point is 0 and there are as many levels below zero as above; False is what int8
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
    source_result = Result.of(model)
    check_bits(bits)
    if not isinstance(symmetric, bool):
        raise InputError(f"symmetric must be True or False. Received: {symmetric!r}.")
    if ranges not in RANGES:
        raise InputError(f"ranges must be one of {', '.join(RANGES)}. Received: {ranges!r}.")
    if any(isinstance(layer, QuantizeActivation) for layer in layers_by_path(source_result.model).values()):
        raise InputError(
            f"Activations of model {source_result.model.name!r} are quantized already: it has QuantizeActivation "
            "layers. Pass the model from before that step."
        )
    Graph(source_result.model).check_known(f"Tensors within model {source_result.model.name!r} cannot be rounded")
    split = split_layers(source_result.model)
    network, graph = split.model, Graph(split.model)
    tensors = quantized_tensors(graph)
    widths = _widths([tensor.path for tensor in tensors], bits, layers, overrides)
    chosen = [Activation(tensor, width) for tensor in tensors if (width := widths[tensor.path]) is not None]
    if not chosen:
        raise InputError(
            f"There is no activation to quantize: of {len(tensors)} tensors that an integer network rounds, the "
            "settings leave none."
        )
    if calibration is None:
        raise InputError("Ranges of activations are measured on calibration data. Received: None.")
    step = Step("quantize_activations", {"bits": bits, "symmetric": symmetric, "ranges": ranges})
    kernels = split.by_new_paths(source_result.kernels)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(source_result.model, calibration, memory_budget, batch_size, work_dir))
        assert source is not None
        passes = 3 if ranges == "mse" else 2
        done = stack.enter_context(progress_bar.tasks(step.technique, passes, enabled=progress))
        choose_alphabets(source, graph, chosen, symmetric, ranges, done)
        quantized = rounded_network(network, graph, chosen, weight_scales(kernels))
        _measure(source, graph, chosen)
        done("errors")
        step.figures = {"samples": source.num_samples}
    paths = {id(layer): path for path, layer in layers_by_path(quantized).items()}
    for activation in chosen:
        step.add(_row(paths[id(activation.layer)], activation))
    step.figures = {"seconds": time.perf_counter() - started, **step.figures}
    if left := [path for path, width in widths.items() if width is None]:
        step.figures["left in floating point"] = ", ".join(left)
    round_biases(quantized, kernels)
    return source_result.after(quantized, step, rewrite=split, inputs=source.inputs)


def _widths(
    paths: list[str], bits: int, layers: Patterns | None, overrides: Mapping[Any, int | None] | None
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


def _measure(source: Calibration, graph: Graph, chosen: list[Activation]) -> None:
    """Measures the rounding error of each tensor, alone, on about `ERROR_SAMPLES` samples, spread over the data."""
    owner = {number: activation for activation in chosen for number in activation.tensor.tensors}

    def compare(number: int, values: Any) -> None:
        activation = owner[number]
        assert activation.layer is not None
        analog = tf.cast(values, tf.float32)
        error = analog - activation.layer(analog)
        activation.squares += [2 * float(tf.nn.l2_loss(part)) for part in (error, analog)]
        low, high = activation.layer.lowest - BEYOND, activation.layer.highest + BEYOND
        steps = analog / activation.layer.scale + activation.layer.zero_point
        activation.clipped += int(tf.math.count_nonzero((steps < low) | (steps > high)))
        activation.count += int(tf.size(analog))

    visit_tensors(source, graph, owner.keys(), compare, stride=max(1, source.num_samples // ERROR_SAMPLES))


def _row(path: str, activation: Activation) -> LayerRow:
    alphabet = activation.alphabet
    assert alphabet is not None
    error, norm = activation.squares
    return LayerRow(
        path,
        activation.tensor.kind,
        "quantized",
        num_levels=alphabet.num_levels,
        effective_bits=float(np.log2(alphabet.num_levels)),
        relative_error=float(np.sqrt(error / norm)) if norm > 0 else 0.0,
        low=alphabet.low,
        high=alphabet.high,
        scale=alphabet.scale,
        zero_point=alphabet.zero_point,
        clipped=activation.clipped / activation.count,
    )
