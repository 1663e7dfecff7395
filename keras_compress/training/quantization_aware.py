"""`quantization_aware_training()`: a model that is trained while its weights and activations are rounded."""

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.fitting import loop
from keras_compress.fitting.training import Fitting, Training
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.activation import check_bits as check_activation_bits
from keras_compress.layers.kernels import refusal
from keras_compress.layers.paths import functional_graph, layers_by_path
from keras_compress.layers.selection import Patterns
from keras_compress.measurement.counts import measure
from keras_compress.report import LayerRow, Step
from keras_compress.result import Result
from keras_compress.training.with_keras import WIDTH, trained_by_keras
from keras_compress.training.with_tfmot import ACTIVATION_BITS, trained_by_tfmot

ENGINES = ("keras", "tfmot")
BITS = range(2, 9)


def quantization_aware_training(
    model: keras.Model | Result,
    train_data: Any,
    *,
    bits: int | None = None,
    activation_bits: int | None = 8,
    layers: Patterns | None = None,
    float_model: keras.Model | None = None,
    validation: Any = None,
    callbacks: Sequence[Any] = (),
    training: Training | None = None,
    engine: str = "keras",
) -> Result:
    """Fine-tunes a model while its weights and activations are rounded (Jacob et al., 2018, section 3).

    A copy is fitted by Keras, with the optimizer, the loss and the metrics that the model was compiled with, else Adam
    and the cross-entropy that fits. Gradients go straight through the rounding.

    Kernels that have codes begin at them, and their scales are trained too (Esser et al., 2020). Others
    have 2^bits - 1 levels, 4 for 2 bits, of which the outermost is the largest weight in each step; Dense kernels have
    one scale, others one for each channel. Activations are rounded where a full-integer TFLite file rounds them, to
    ranges that begin as the means of 16 batches and move as in tfmot. Zeros and clusters that a result keeps stay.
    BatchNorm normalizes while the model is trained, and is then folded wherever that is exact: scales are multiplied,
    codes stay.

    Args:
        model: a Functional or Sequential model, or a result.
        train_data: in any form that `keras.Model.fit` takes.
        bits: of the weights, 2 to 8. Codes of a result that have as many levels are where the training begins; others
            are dropped. None takes codes as they are, and 8 bits for other kernels.
        activation_bits: 2 to 16, of which TFLite files have 8; None leaves activations in floating point. Those that
            `quantize_activations` has rounded stay as they are.
        layers: whose kernels are rounded, as in `quantize`; None for all that `quantize` knows.
        float_model: the model that was quantized. Kernels with codes then begin with its weights, rounded to the grid
            of the codes: rounding forgets what they know. None begins at the codes themselves.
        validation: as `train_data`; evaluated before, after, and after each epoch.
        callbacks: of Keras; they see the copy.
        training: epochs, batch size, seed, checkpoint, strategy; None is `kc.Training(epochs=1)`.
        engine: "keras"; or "tfmot", whose own graph is fitted in Keras 2: codes are dropped, kernels of fewer layers
            are rounded, and the ranges of its activations are not part of the result.

    Returns:
        The model with kernels on the trained grid and, as `quantize_activations` gives it, with the trained ranges of
        its activations; their codes, so that `export_tflite` writes both exactly; the report.

    Raises:
        InputError: settings that do not exist; a model without such kernels, or without a loss that is obvious; a
            checkpoint of another run.
    """
    started = time.perf_counter()
    source = Result.of(model)
    functional_graph(source.model)
    check_settings(bits, activation_bits, engine)
    if engine == "tfmot" and float_model is not None:
        raise InputError("engine='tfmot' drops codes, so that float_model has no meaning. Leave one of them out.")
    fitting = Fitting.of(train_data, validation, callbacks, training, epochs=1)
    step = Step("quantization_aware_training", {"bits": bits, "activation_bits": activation_bits})
    step.settings["epochs"] = fitting.training.epochs
    step.settings |= {"float_model": float_model.name} if float_model is not None else {}
    if engine == "tfmot":
        step.settings["engine"] = engine
        result = trained_by_tfmot(source, fitting, bits or WIDTH, layers, step)
    else:
        result = trained_by_keras(source, fitting, bits, activation_bits, layers, float_model, step)
    loop.warn_of_lost_accuracy(step.figures, "Train for more epochs, or with more bits.")
    _add_rows(step, result)
    sizes = measure(source.model), measure(result)
    step.figures |= {
        "bytes": sizes[0].raw_bytes,
        "ideal bytes": sizes[1].ideal_bytes,
        "seconds": time.perf_counter() - started,
    }
    return result


def check_settings(
    bits: int | None = None, activation_bits: int | None = ACTIVATION_BITS, engine: str = "keras"
) -> None:
    """Raises InputError for settings of `quantization_aware_training` that do not exist."""
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}. Received: {engine!r}.")
    if bits is not None and bits not in BITS:
        raise InputError(f"bits must be an integer from {BITS[0]} to {BITS[-1]}. Received: {bits!r}.")
    if activation_bits is not None:
        check_activation_bits(activation_bits)
    if engine == "tfmot" and activation_bits != ACTIVATION_BITS:
        raise InputError(f"engine='tfmot' rounds activations to {ACTIVATION_BITS} bits. Received: {activation_bits!r}.")


def _add_rows(step: Step, result: Result) -> None:
    """A row for each kernel, each rounded tensor, and each layer whose weights stay in floating point."""
    reasons: dict[str, str] = step.figures.pop("reasons")
    kernels = result.kernels
    layers = layers_by_path(result.model)
    for path, layer in layers.items():
        mine = [each for each in kernels if each == path or each.startswith(path + "/")]
        for name in mine:
            row = LayerRow(name, type(layer).__name__, "quantized", parameters=kernels[name].codes.size)
            row.num_levels, row.effective_bits = len(kernels[name].levels), kernels[name].effective_bits
            row.storage, row.zeros = kernels[name].storage, float(np.mean(kernels[name].codes == 0))
            step.add(row)
        if isinstance(layer, QuantizeActivation):
            ends = [layer.scale * (code - layer.zero_point) for code in (layer.lowest, layer.highest)]
            row = LayerRow(path, type(layer).__name__, "quantized", low=ends[0], high=ends[1])
            row.num_levels, row.effective_bits = 2**layer.bits, float(layer.bits)
            row.scale, row.zero_point = layer.scale, layer.zero_point
            step.add(row)
        elif layer.weights and not mine:
            reason = reasons.get(path) or refusal(layer)
            step.add(LayerRow(path, type(layer).__name__, "float", reason, parameters=layer.count_params()))
