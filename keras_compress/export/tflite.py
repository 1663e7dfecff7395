"""`export_tflite()`: a TFLite file that holds the very integers of a result."""

import collections
import contextlib
import dataclasses
import os
import time
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.batches import checked_batches, in_chunks, input_specs
from keras_compress.errors import InputError, check_integer
from keras_compress.export import locating, ranges
from keras_compress.export.conversion import convert
from keras_compress.export.editing import Editor
from keras_compress.export.locating import Located, Weighted
from keras_compress.export.policy import MODES, STORAGES, Placement, placement, refusal
from keras_compress.files import replacing
from keras_compress.layers.folding import fold, move_offsets
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import ModelInputs, functional_graph, is_graph
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.counts import measure
from keras_compress.measurement.tflite import Runner
from keras_compress.report import LayerRow, Report, Step
from keras_compress.result import QuantizedKernel, Result, width_of

SPARSE = "sparse"  # storage of the converter, for floats without codes
FORMATS = ("float16", "int16x8")  # of the converter, for models without codes
LEAST_SCALE = 1e-9  # of a channel without weights: the runtime wants positive ones
CHECKED = 64  # samples on which the file is run
PROBED = 16  # samples on which layers are compared
MAX_REPRESENTATIVE = 1000  # samples that ranges are measured on
# How far outputs may be from those of the Keras model, relative to their norm, by what rounds activations.
TOLERANCES = {"float": 1e-4, "dynamic": 0.5, "int8": 0.7, "float16": 0.05, "int16x8": 0.2}


def export_tflite(
    model: keras.Model | Result,
    path: str | os.PathLike[str],
    *,
    activations: str = "float",
    storage: str = "fast",
    representative: Any = None,
    static_batch: int | None = None,
) -> Report:
    """Writes a TFLite file that holds exactly the codes and scales of a result, and checks it before it is there.

    TensorFlow's converter makes the graph; the integers are then written into it, at 2, 4 or 8 bits. BatchNorm behind a
    quantized kernel is folded: codes stay (those of channels with a negative factor change sign) and scales are
    multiplied. What has no codes takes the converter's path. The file is read again and compared with the result, and
    runs with and without XNNPACK; one that fails is not left behind.

    Args:
        model: a result of `quantize`, or a plain Keras model.
        path: of the file, ending in .tflite.
        activations: "float": weights become floats when the file is loaded, outputs are those of the Keras model;
            "dynamic": operators that can quantize their inputs on the fly; "int8": integers all through, also as inputs
            and outputs. For a model without codes also "float16" (weights) and "int16x8" (16-bit activations).
        storage: "fast": codes in the width that runs fastest, which is 8 bits, and 4 for Dense; "small": the narrowest
            width that runs; "sparse": floats without the zeros, for a model without codes and activations="float":
            Dense kernels with zeros in blocks of four inputs, (4, 1), then run faster; other zeros make files smaller.
        representative: samples that ranges of activations are measured on, in any form that `quantize` takes; "int8"
            and "int16x8" need them, unless `quantize_activations` has chosen the ranges (8 bits), which the file then
            has. The checks use them too, and random samples without.
        static_batch: size of the batch axis; None leaves it open, which microcontrollers do not understand.

    Returns:
        The result's report with one more step: how each kernel is stored and read, its bytes, and those of the file;
        where activations are rounded, also how far the outputs of its operator are from unrounded ones.

    Raises:
        InputError: a setting that does not exist; codes that no TFLite weight type holds; a model that the converter
            refuses; a file that does not pass the checks.
        StorageError: the file cannot be written.
    """
    started = time.perf_counter()
    given = Result.of(model)
    _check_settings(given, path, activations, storage, representative, static_batch)
    samples = _samples(given.model, representative)
    if given.kernels:
        content, analog, placed = _with_codes(given, activations, storage, static_batch, samples)
    else:
        kind = SPARSE if storage == SPARSE else activations
        converted = _converted(given.model, kind, static_batch, samples)
        content, analog, placed = Editor(converted).finish(*_names(given.model)), None, []
    _check_codes(content, placed)
    errors = {} if analog is None else _layer_errors(content, analog, placed, samples, static_batch)
    worst = _worst(errors) if errors else ""
    differences = _check_outputs(content, given.model, samples, activations, worst)
    with replacing(path) as part:
        part.write_bytes(content)
    step = Step("export_tflite", {"activations": activations, "storage": storage, "static_batch": static_batch})
    step.settings["file"] = os.path.basename(os.fspath(path))
    for row in _rows(given, placed, errors):
        step.add(row)
    step.figures = {
        "bytes": len(content),
        "gzipped bytes": len(zlib.compress(content, 9)),
        "ideal bytes": measure(given).ideal_bytes,
        "difference of the outputs": max(differences),
        "seconds": time.perf_counter() - started,
    }
    if worst:
        step.figures["error grows most at"] = worst
    if activations == "int8" and (floats := _float_operators(content)):
        step.figures["operators in floating point"] = floats
    return given.report.extended(step)


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A kernel in the file.

    Attributes:
        located: which kernel, and which operator reads it.
        codes: as the operator has its weights.
        scale: (n_out,) float32.
        placement: how they are stored and read.
    """

    located: Located
    codes: np.ndarray
    scale: np.ndarray
    placement: Placement


def _with_codes(
    given: Result, activations: str, storage: str, batch: int | None, samples: list[np.ndarray]
) -> tuple[bytes, bytes | None, list[_Placed]]:
    """A file with the codes in it; where activations are rounded, one in which they are not; where the codes are."""
    kernels = given.kernels
    model, folded = _folded(given.model)
    axes = {path: kernel.axes for path, kernel in kernels.items()}
    plain = ranges.without_rounding(model)
    marked, located = _located(plain, axes, batch)
    missing = axes.keys() - {each.path for each in located}
    if missing and is_graph(model):
        model = locating.with_barriers(move_offsets(model, missing), missing)
        plain = ranges.without_rounding(model)
        marked, located = _located(plain, axes, batch)
    views = views_by_path(model)
    kinds = [kind for _, kind, _ in locating.weighted_operators(marked)]
    # Biases are those of the model itself: behind a layer without an activation they hang on kernels.
    floats = base = Editor(convert(plain, "float", batch=batch))
    if activations != "float":
        base = Editor(_converted(model, activations, batch, samples))
    float_operators, operators = (_same_operators(kinds, editor) for editor in (floats, base))
    placed = []
    for each in located:
        kernel = kernels[each.path]
        index, _, weights = operators[each.operator]
        values = locating.arrange(views[each.path].kernel, kernel.axes, each.kind)
        assert values is not None
        if locating.factors(base.floats(weights), values, each.kind, locating.LOOSE) is None:
            raise InputError(
                f"The converter has put something else in place of the kernel of layer {each.path!r} "
                f'(activations="{activations}"). Export with activations="float".'
            )
        codes, scale = _arranged(kernel, each, folded.get(each.path))
        needed = width_of(codes)
        if needed is None:
            raise InputError(
                f"The BatchNorm behind layer {each.path!r} has negative factors, which make 128 of the code -128, and "
                "no TFLite weight type holds that. Quantize with kc.Integer(8), which has no -128."
            )
        place = placement(each.kind, activations, storage, needed)
        own = views[each.path].variable.name
        layer = each.path.removesuffix(f"/{own}")
        base.place(index, each.kind, f"{layer}/{own}", codes, scale, place)
        if place.reads == "static":
            bias = floats.bias(float_operators[each.operator].operator, each.kind)
            base.set_bias(index, each.kind, bias, f"{layer}/bias")
        placed.append(_Placed(each, codes, scale, place))
    names = _names(model)
    return base.finish(*names), None if floats is base else floats.finish(*names), placed


def _converted(model: keras.Model, activations: str, batch: int | None, samples: list[np.ndarray]) -> bytes:
    """The converter's file; ranges of activations are those that the model has, or are measured on the samples."""
    if ranges.rounded(model):
        return convert(ranges.with_ranges(model), activations, batch=batch)
    return convert(model, activations, batch=batch, samples=lambda: _one_by_one(samples))


def _located(model: keras.Model, axes: dict[str, tuple[int, ...]], batch: int | None) -> tuple[Any, list[Located]]:
    """The `ModelT` of a copy whose kernels are markers, and where they are."""
    copy, markers = locating.with_markers(model, list(axes))
    marked = flatbuffer.parse(convert(copy, "float", batch=batch))
    return marked, locating.locate(marked, markers, axes)


def _same_operators(kinds: list[str], base: Editor) -> list[Weighted]:
    """The operators of `base` that stand for those of the copy with markers: of the same kinds in the same order."""
    others = locating.weighted_operators(base.model)
    if [kind for _, kind, _ in others] != kinds:
        raise InputError(
            "The converter has built another graph for this model than for random weights, so that the codes cannot be "
            f"placed: {kinds} and {[kind for _, kind, _ in others]}. Export with another static_batch, or with "
            'activations="float".'
        )
    return others


def _arranged(kernel: QuantizedKernel, located: Located, folded: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Codes as the operator has its weights, and their scales; a negative factor flips codes, not scales.

    `folded`: (n_out,) what a BatchNorm has multiplied the kernel by before the converter did.
    """
    codes = locating.arrange(kernel.codes.astype(np.int16), kernel.axes, located.kind)
    assert codes is not None
    axis = locating.channel_axis(located.kind)
    scale = np.broadcast_to(kernel.scale.reshape(-1), codes.shape[axis])
    factor = located.factor if folded is None else located.factor * folded
    shape = [1] * codes.ndim
    shape[axis] = -1
    codes = np.where(factor.reshape(shape) < 0, -codes, codes)
    scales = (scale.astype(np.float64) * np.abs(factor)).astype(np.float32)
    return codes, np.maximum(scales, np.float32(LEAST_SCALE))


def _folded(model: keras.Model) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """BatchNorm folded wherever that is exact, and what each kernel was multiplied by; the converter folds the rest."""
    if not is_graph(model):
        return model, {}
    folded, folds, _ = fold(model)
    return folded, {fold_.kernel: fold_.factor for fold_ in folds.values()}


def _names(model: keras.Model) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs, in the order of the file; those of the layers, which last."""
    inputs = ModelInputs.of(model)
    if not is_graph(model):
        count = len(keras.tree.flatten(model.compute_output_spec(inputs.structure)))
        return list(inputs.names), [f"output_{index}" for index in range(count)]
    graph = functional_graph(model)
    layers = {id(layer.output): layer.name for layer in graph.layers if isinstance(layer, keras.layers.InputLayer)}
    names = [layers.get(id(tensor), name) for tensor, name in zip(inputs.tensors, inputs.names, strict=True)]
    return names, list(graph.output_names)


def _check_settings(
    given: Result, path: Any, activations: str, storage: str, representative: Any, static_batch: Any
) -> None:
    if not os.fspath(path).endswith(".tflite"):
        raise InputError(f"The file's name must end in .tflite. Received: {os.fspath(path)!r}.")
    if activations not in MODES + FORMATS:
        raise InputError(f"activations must be one of {', '.join(MODES + FORMATS)}. Received: {activations!r}.")
    if storage not in (*STORAGES, SPARSE):
        raise InputError(f"storage must be one of {', '.join((*STORAGES, SPARSE))}. Received: {storage!r}.")
    if storage == SPARSE and (given.kernels or activations != "float"):
        raise InputError(
            f'storage="{SPARSE}" is for floats: TFLite gives wrong outputs or an error for sparse integers. Received: '
            f'{"a result with codes" if given.kernels else f"""activations="{activations}" """.strip()}. Pass a model '
            'without codes and activations="float".'
        )
    if static_batch is not None:
        check_integer("static_batch", static_batch, 1)
    if activations in FORMATS and given.kernels:
        raise InputError(
            f'activations="{activations}" rounds all weights anew, so that codes would be lost. Choose one of '
            f"{', '.join(MODES)}, or pass the model alone."
        )
    rounding = ranges.rounded(given.model)
    if rounding and activations != "int8":
        raise InputError(
            f"Model {given.model.name!r} rounds its activations (quantize_activations), which only a file of integers "
            f'does too. Received: activations="{activations}". Pass "int8", or the result before that step.'
        )
    other = next((path for path, layer in rounding.items() if layer.bits != ranges.BITS), None)
    if other is not None:
        raise InputError(
            f"TFLite's integer activations have {ranges.BITS} bits. Received: {rounding[other].bits} bits in layer "
            f"{other!r}. Quantize the activations with bits={ranges.BITS}."
        )
    if activations in ("int8", "int16x8") and representative is None and not rounding:
        raise InputError(
            f'activations="{activations}" needs representative samples, to measure the ranges of activations. Pass a '
            "few hundred, preprocessed as in training."
        )
    for kernel_path, kernel in given.kernels.items():
        if why := refusal(kernel):
            raise InputError(
                f"No TFLite weight type holds the codes of layer {kernel_path!r}: {why}. Use kc.save_packed, or "
                "quantize with kc.Integer."
            )


def _samples(model: keras.Model, representative: Any) -> list[np.ndarray]:
    """One array for each input: the representative samples, or a few random ones."""
    specs = input_specs(model)
    if representative is not None:
        chunks = in_chunks(checked_batches(representative, specs), MAX_REPRESENTATIVE)
        with contextlib.closing(chunks):  # type: ignore[type-var]
            return next(chunks)
    generator = np.random.default_rng(0)
    arrays = []
    for spec in specs:
        shape = (CHECKED, *(size or 8 for size in spec.shape[1:]))
        whole = np.dtype(spec.dtype).kind in "iu"
        arrays.append((generator.integers(0, 2, shape) if whole else generator.normal(size=shape)).astype(spec.dtype))
    return arrays


def _one_by_one(samples: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    return ([array[index : index + 1] for array in samples] for index in range(len(samples[0])))


def _check_codes(content: bytes, placed: list[_Placed]) -> None:
    """Reads the file again and compares every code and scale with those that its operator should have."""
    model = flatbuffer.parse(content)
    operators = locating.weighted_operators(model)
    for each in placed:
        tensor = model.subgraphs[0].tensors[operators[each.located.operator].tensor]
        values, quantization = flatbuffer.array_of(model, tensor), tensor.quantization
        assert values is not None
        bits = flatbuffer.BITS[flatbuffer.TYPES[tensor.type]]
        same = (
            bits == each.placement.bits
            and np.array_equal(values, each.codes)
            and np.array_equal(np.asarray(quantization.scale, np.float32), each.scale)
            and np.array_equal(quantization.zeroPoint, np.zeros(len(each.scale)))
        )
        if not same:
            raise InputError(f"The file does not hold the codes of layer {each.located.path!r}; it was not written.")


def _check_outputs(
    content: bytes, model: keras.Model, samples: list[np.ndarray], activations: str, worst: str
) -> list[float]:
    """Runs the file with and without XNNPACK on a few samples; relative differences from the Keras model's outputs."""
    chosen = [array[:CHECKED] for array in samples]
    inputs = ModelInputs.of(model)
    wanted = [np.asarray(output) for output in keras.tree.flatten(inputs.call(model, chosen))]
    differences = []
    for delegate in (True, False):
        runner = Runner(content, "the file", delegate=delegate)
        for index, (ours, theirs) in enumerate(zip(runner.outputs(chosen), wanted, strict=True)):
            how = "with" if delegate else "without"
            if not np.isfinite(ours).all():
                raise InputError(f"Output {index} of the file is NaN or Inf {how} XNNPACK; it was not written.")
            norm = float(np.linalg.norm(theirs))
            difference = float(np.linalg.norm(ours - theirs)) / (norm if norm > 0 else 1.0)
            if difference > TOLERANCES[activations]:
                raise InputError(
                    f"Output {index} of the file differs from the Keras model's by {difference:.2%} {how} XNNPACK, and "
                    f'activations="{activations}" may take {TOLERANCES[activations]:.2%}; it was not written.'
                    + (f" The error grows most at layer {worst}." if worst else "")
                )
            differences.append(difference)
    return differences


def _layer_errors(
    content: bytes, analog: bytes, placed: list[_Placed], samples: list[np.ndarray], batch: int | None
) -> dict[str, float]:
    """Path of a kernel -> how far its operator's outputs are from those in the file that rounds no activation.

    The errors are relative, and those of the layers before are in them.
    """
    size = batch or PROBED
    count = max(min(PROBED, len(samples[0])) // size, 1)
    arrays = [np.resize(array, (count * size, *array.shape[1:])) for array in samples]  # repeats what is too short
    runners = [Runner(each, "the file", delegate=False, inner=True) for each in (content, analog)]
    models = [flatbuffer.parse(each) for each in (content, analog)]
    operators = [locating.weighted_operators(model) for model in models]
    sums = np.zeros((len(placed), 2))
    for start in range(0, count * size, size):
        for runner in runners:
            runner.run([array[start : start + size] for array in arrays])
        for row, each in zip(sums, placed, strict=True):
            numbers = [weighted[each.located.operator].operator for weighted in operators]
            ours, theirs = (
                runner.values(model.subgraphs[0].operators[number].outputs[0]).astype(np.float64)
                for runner, model, number in zip(runners, models, numbers, strict=True)
            )
            row += np.square(ours - theirs).sum(), np.square(theirs).sum()
    errors = np.sqrt(sums[:, 0] / np.maximum(sums[:, 1], np.finfo(np.float64).tiny))
    return {each.located.path: float(error) for each, error in zip(placed, errors, strict=True)}


def _float_operators(content: bytes) -> str:
    """Operators that give floats in a file of integers, but for those that turn one into the other; "" for none."""
    model = flatbuffer.parse(content)
    graph = model.subgraphs[0]
    kinds = collections.Counter(
        flatbuffer.operator_name(model, operator)
        for operator in graph.operators
        if any(flatbuffer.TYPES[graph.tensors[tensor].type] == "FLOAT32" for tensor in operator.outputs)
    )
    del kinds["DEQUANTIZE"]
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _worst(errors: dict[str, float]) -> str:
    """The layer whose error exceeds that of the layer before by most."""
    growth = np.diff([0.0, *errors.values()])
    path = list(errors)[int(np.argmax(growth))]
    return f"{path}, to {errors[path]:.2%}"


def _rows(given: Result, placed: list[_Placed], errors: dict[str, float]) -> list[LayerRow]:
    views = views_by_path(given.model)
    by_path = {each.located.path: each for each in placed}
    rows = []
    for path, view in views.items():
        row = LayerRow(path, type(view.layer).__name__, "float", parameters=view.kernel.size)
        each = by_path.get(path)
        if each is not None:
            row.action, row.storage = each.placement.reads, f"int{each.placement.bits}"
            row.num_levels, row.bits = len(given.kernels[path].levels), given.kernels[path].bits
            row.bytes = -(-each.codes.size * each.placement.bits // 8)
            row.relative_error = errors.get(path)
        elif path in given.kernels:
            row.reason = "the converter has no operator whose weights are this kernel; its values are there as floats"
        rows.append(row)
    return rows
