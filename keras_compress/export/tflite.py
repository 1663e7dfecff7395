"""`export_tflite()`: a TFLite file that holds the very integers of a result."""

import dataclasses
import os
import time
import zlib
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError, check_integer
from keras_compress.export import checking, hybrid, ranges
from keras_compress.export.conversion import convert
from keras_compress.export.editing import Editor
from keras_compress.export.integers import with_ranges
from keras_compress.export.operations import for_converter
from keras_compress.export.placing import Written, in_batches, names, with_codes
from keras_compress.export.policy import MODES, STORAGES, refusal
from keras_compress.files import replacing
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.counts import measure
from keras_compress.measurement.inspection import float_operators
from keras_compress.report import LayerRow, Report, Step
from keras_compress.result import Result
from keras_compress.samples.inputs import model_batches
from keras_compress.samples.model_inputs import input_specs
from keras_compress.samples.samples import Batch, rebatched

SPARSE = "sparse"  # storage of the converter, for floats without codes
FORMATS = ("float16", "int16x8")  # of the converter, for models without codes
MAX_CALIBRATION = 1000  # samples that ranges are measured on
NEAR = 0.01  # relative: of the largest weight, as it is and as the converter has rounded it


def export_tflite(
    model: keras.Model | Result,
    path: str | os.PathLike[str],
    *,
    activations: str = "float",
    storage: str = "fast",
    calibration: Any = None,
    static_batch: int | None = None,
) -> Report:
    """Writes a TFLite file that holds exactly the codes and scales of a result, and checks it before it is there.

    TensorFlow's converter makes the graph; the integers are then written into it, at 2, 4 or 8 bits. BatchNorm behind a
    quantized kernel is folded: codes stay (those of channels with a negative factor change sign) and scales are
    multiplied. Only a channel whose bias would need more than 32 bits, since its weights are next to nothing, gets a
    larger scale and other codes. What has no codes takes the converter's path, or 8 bits in a file of integers. The
    file is read again and compared with the result, and runs on samples next to a simulation of what it rounds; one
    that fails is not left behind.

    Args:
        model: a result of `quantize`, or a plain Keras model.
        path: of the file, ending in .tflite.
        activations: "float": weights become floats when the file is loaded, outputs are those of the Keras model;
            "dynamic": operators that can quantize their inputs on the fly; "int8": integers all through, also as inputs
            and outputs. For a model without codes also "float16" (weights) and "int16x8" (16-bit activations).
        storage: "fast": codes in the width that runs fastest, which is 8 bits, and 4 for Dense; "small": the narrowest
            width that runs; "sparse": floats without the zeros, for a model without codes and activations="float":
            Dense kernels with zeros in blocks of four inputs, (4, 1), then run faster; other zeros make files smaller.
        calibration: samples that ranges of activations are measured on, in any form that `quantize` takes; "int8"
            and "int16x8" need them, unless `quantize_activations` has chosen the ranges (8 bits), which the file then
            has. The checks use them too; without them the samples that go with a result, or random ones within its
            ranges.
        static_batch: size of the batch axis; None leaves it open, which microcontrollers do not understand.

    Returns:
        A report of this step: how each kernel is stored and read, its bytes, and those of the file;
        where activations are rounded, also how far the outputs of its operator are from unrounded ones.

    Raises:
        InputError: a setting that does not exist; codes that no TFLite weight type holds; a model that the converter
            refuses; a file that does not pass the checks.
        StorageError: the file cannot be written.
    """
    return exported(model, path, calibration, activations=activations, storage=storage, static_batch=static_batch)[0]


def exported(
    model: keras.Model | Result,
    path: str | os.PathLike[str],
    calibration: Any,
    *,
    activations: str,
    storage: str,
    static_batch: int | None,
) -> tuple[Report, keras.Model | None]:
    """`export_tflite`, and the simulation that a file of integers was compared with: it rounds as the runtime does."""
    started = time.perf_counter()
    result = Result.of(model)
    _check_settings(result, path, activations, storage, calibration, static_batch)
    samples = _samples(result, calibration)
    written = _written(result, activations, storage, static_batch, samples)
    checked = _check(written, result, activations, static_batch, [array[: checking.CHECKED] for array in samples])
    with replacing(path) as part:
        part.write_bytes(written.content)
    step = Step("export_tflite", {"activations": activations, "storage": storage, "static_batch": static_batch})
    step.settings["file"] = os.path.basename(os.fspath(path))
    for row in _rows(result, written, checked.errors):
        step.add(row)
    step.figures = {
        "bytes": len(written.content),
        "gzipped bytes": len(zlib.compress(written.content, 9)),
        "ideal bytes": measure(result).ideal_bytes,
        "difference of the outputs": checked.difference,
        "seconds": time.perf_counter() - started,
    }
    if checked.errors:
        step.figures["error grows most at"] = checking.grows_most(checked.errors)
    if activations == "int8" and (floats := float_operators(written.content)) != "0":
        step.figures["operators in floating point"] = floats
    return Report((step,)), checked.simulation


def _written(result: Result, activations: str, storage: str, batch: int | None, samples: list[np.ndarray]) -> Written:
    if activations == "int8" and not Graph(result.model).opaque:
        if ranges.rounded(result.model):
            return with_ranges(result, storage, batch, {}, result.model)
        ranged, called = ranges.measured(result, samples)
        return with_ranges(ranged, storage, batch, called, result.model, loops=False)
    if result.kernels:
        return with_codes(result, activations, storage, batch, samples)
    kind = SPARSE if storage == SPARSE else activations
    content = convert(for_converter(result.model), kind, batch=batch, samples=lambda: in_batches(samples, batch))
    return Written(Editor(content).finish(*names(result.model)), [])


def _check(
    written: Written, result: Result, activations: str, batch: int | None, samples: list[np.ndarray]
) -> checking.Checked:
    """All checks of a file, by what rounds its activations."""
    checking.check_written(written.content, written.placed)
    if written.simulation is not None:
        own = {old: new for new, old in written.called.items()}
        placed = {own.get(each.path, each.path): each for each in written.placed}
        checked = checking.check_integers(written.content, written.simulation, placed, samples, batch)
        errors = {written.called.get(path, path): error for path, error in checked.errors.items()}
        return dataclasses.replace(checked, errors=errors)
    if activations == "dynamic" and not Graph(result.model).opaque:
        model, kernels = hybrid.simulation_of(result.model, written)
        return checking.check_dynamic(written.content, model, kernels, samples)
    return checking.check_floats(written.content, result.model, samples, activations)


def _check_settings(
    result: Result, path: Any, activations: str, storage: str, calibration: Any, static_batch: Any
) -> None:
    if not os.fspath(path).endswith(".tflite"):
        raise InputError(f"The file's name must end in .tflite. Received: {os.fspath(path)!r}.")
    if activations not in MODES + FORMATS:
        raise InputError(f"activations must be one of {', '.join(MODES + FORMATS)}. Received: {activations!r}.")
    if storage not in (*STORAGES, SPARSE):
        raise InputError(f"storage must be one of {', '.join((*STORAGES, SPARSE))}. Received: {storage!r}.")
    if storage == SPARSE and (result.kernels or activations != "float"):
        raise InputError(
            f'storage="{SPARSE}" is for floats: TFLite gives wrong outputs or an error for sparse integers. Received: '
            f'{"a result with codes" if result.kernels else f"""activations="{activations}" """.strip()}. Pass a model '
            'without codes and activations="float".'
        )
    if static_batch is not None:
        check_integer("static_batch", static_batch, 1)
    if activations in FORMATS and result.kernels:
        raise InputError(
            f'activations="{activations}" rounds all weights anew, so that codes would be lost. Choose one of '
            f"{', '.join(MODES)}, or pass the model alone."
        )
    rounding = ranges.rounded(result.model)
    if rounding and activations != "int8":
        raise InputError(
            f"Model {result.model.name!r} rounds its activations, which only a file of integers does too. Received: "
            f'activations="{activations}". Pass "int8"; or the result before quantize_activations, or of a training '
            "with activation_bits=None."
        )
    other = next((path for path, layer in rounding.items() if layer.bits != ranges.BITS), None)
    if other is not None:
        raise InputError(
            f"TFLite's integer activations have {ranges.BITS} bits. Received: {rounding[other].bits} bits in layer "
            f"{other!r}. Quantize the activations with bits={ranges.BITS}."
        )
    if activations in ("int8", "int16x8") and calibration is None and not rounding:
        raise InputError(
            f'activations="{activations}" needs calibration samples, to measure the ranges of activations. Pass a '
            "few hundred, preprocessed as in training."
        )
    for kernel_path, kernel in result.kernels.items():
        if why := refusal(kernel):
            raise InputError(
                f"No TFLite weight type holds the codes of layer {kernel_path!r}: {why}. Use kc.export_packed, or "
                "quantize with kc.Integer."
            )


def _samples(result: Result, calibration: Any) -> list[np.ndarray]:
    """One array for each input: the calibration samples, those that go with the result, or random ones."""
    specs = input_specs(result.model)
    if calibration is not None:
        batches = model_batches(calibration, specs, "calibration")
        first = next(rebatched((Batch(batch.inputs) for batch in batches), MAX_CALIBRATION))
        return list(first.inputs)
    known = result.inputs
    if known is not None and known.samples:
        return list(next(model_batches(list(known.samples), specs, "calibration")).inputs)
    shapes = [(checking.CHECKED, *(size or 8 for size in spec.shape[1:])) for spec in specs]
    if known is not None:
        return known.drawn(shapes, [spec.dtype for spec in specs])
    generator = np.random.default_rng(0)
    return [
        (generator.integers(0, 2, shape) if np.dtype(spec.dtype).kind in "iu" else generator.normal(size=shape)).astype(
            spec.dtype
        )
        for spec, shape in zip(specs, shapes, strict=True)
    ]


def _rows(result: Result, written: Written, errors: dict[str, float]) -> list[LayerRow]:
    views = views_by_path(result.model)
    by_path = {each.path: each for each in written.placed}
    held = _held_in_8_bits(written.content)
    rows = []
    for path, view in views.items():
        row = LayerRow(path, type(view.layer).__name__, "float", parameters=view.kernel.size)
        each = by_path.get(path)
        if each is not None and path in result.kernels:
            row.action, row.storage = each.placement.reads, f"int{each.placement.storage_bits}"
            kernel = result.kernels[path]
            row.num_levels, row.effective_bits = len(kernel.levels), kernel.effective_bits
            row.bytes = -(-each.codes.size * each.placement.storage_bits // 8)
            row.relative_error = errors.get(path)
        elif path in result.kernels:
            row.reason = "the converter has no operator whose weights are this kernel; its values are there as floats"
            largest = float(np.abs(view.kernel).max())
            if any(size == view.kernel.size and abs(most - largest) <= NEAR * largest for size, most in held):
                row.action, row.storage = "rounded anew", "int8"
                row.reason = "the converter has no place for its codes here, and has rounded its values to 8 bits anew"
        rows.append(row)
    return rows


def _held_in_8_bits(content: bytes) -> list[tuple[int, float]]:
    """Number and largest absolute value of the weights of each constant of 8 bits, in all graphs of a file."""
    model = flatbuffer.parse(content)
    constants = []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            values = flatbuffer.array_of(model, tensor)
            if flatbuffer.TYPES[tensor.type] == "INT8" and values is not None and values.size:
                constants.append((values.size, float(np.abs(flatbuffer.dequantized(values, tensor)).max())))
    return constants
