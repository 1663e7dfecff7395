"""`quantize()`: every kernel of a model, layer by layer, from the inputs to the outputs."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import keras

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import calibrating
from keras_compress.errors import InputError
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import refusal, views_by_path
from keras_compress.layers.paths import all_layers_by_path, held_layers
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Patterns
from keras_compress.quantization.distillation import distill_scales
from keras_compress.quantization.job import Job
from keras_compress.quantization.plan import check_forms, check_settings, checked_plan, zero_masks
from keras_compress.quantization.presets import preset_of
from keras_compress.quantization.quantizers import Quantizer
from keras_compress.report import LayerRow, Step
from keras_compress.result import QuantizedKernel, Result, VariableState


def quantize(
    model: keras.Model | Result,
    quantizer: Quantizer | str,
    calibration: Any = None,
    *,
    bits: int | None = None,
    layers: Patterns | None = None,
    overrides: Mapping[Any, Quantizer | None] | None = None,
    keep_zeros: bool | None = None,
    form: str = "auto",
    memory_budget: int | str = "2GB",
    batch_size: int | None = None,
    patch_fraction: float = 1.0,
    work_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Result:
    """A quantized copy of a model, the integers behind its kernels, and a report.

    Kernels of dense, convolutional, embedding and recurrent layers are quantized in the order in which the model calls
    them, each one with the inputs that it gets from the layers that are quantized already. Any other layer with weights
    stays in floating point; the report says why. The model that comes in is not written to.

    Layers within other layers (projections of MultiHeadAttention, parts of a layer of your own) and those of subclassed
    models, whose connections are not known, are quantized too: their inputs are observed while the model runs. In a
    subclassed model each kernel takes a pass of its own from the inputs, which is slower.

    Args:
        model: a built model, or the result of an earlier step.
        quantizer: `MSQ(...)`, `GPFQ(...)`, ...; or the name of a method: "best", "fast", or one of those in the tables
            of accuracy, such as "gpfq_refined". After one of the distilled methods, "best" among them, `distill_scales`
            follows, with `model` as the teacher.
        calibration: a few hundred samples, preprocessed as in training: an array, a list or dictionary of arrays, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator of batches, or a `Calibration`, which several
            calls can share. Labels are ignored. None is enough for MSQ without bias correction.
        bits: of a method that is named; None is 4.
        layers: which layers to quantize: names, paths, regular expressions or a function of the path; None is all.
        overrides: pattern -> another quantizer for these layers, or None to leave them in floating point; later
            patterns win.
        keep_zeros: True: weights that are zero stay zero. None: those that the result's masks name. False: none.
        form: "gram" keeps N x N matrices, "direct" the residual of all rows; "auto" takes the smaller one.
        memory_budget: bytes, or text such as "512MB"; what does not fit goes to disk.
        batch_size: samples that are read and kept at a time; None is one block. No number depends on it.
        patch_fraction: fraction of the patches of a convolution that are used, drawn without replacement.
        work_dir: folder for activations that do not fit.
        seed: of the patches' draw, and of stochastic quantizers.
        progress: whether to show a bar (on a terminal) or lines.

    Raises:
        InputError: a model, data or setting that cannot be used; found before any work starts.
        StorageError: `work_dir` cannot be written to, or its disk is full.
    """
    started = time.perf_counter()
    source_result = Result.of(model)
    quantizer, distilled = _chosen(quantizer, bits)
    check_settings(quantizer, form, patch_fraction, keep_zeros)
    graph = Graph(source_result.model)
    plan = checked_plan(graph, quantizer, layers, overrides)
    check_forms(graph, plan, form, calibration, memory_budget)
    masks = zero_masks(graph, plan, source_result, keep_zeros)
    needs_data = [path for path, chosen in plan.items() if chosen.requires != "nothing" and _must_have_data(chosen)]
    if needs_data and calibration is None:
        raise InputError(
            f"{plan[needs_data[0]]!r} needs calibration data. Pass a few hundred samples, preprocessed as in training."
        )
    step = Step("quantize", {"quantizer": repr(quantizer), "form": form, "seed": seed})
    if patch_fraction < 1:
        step.settings["patch_fraction"] = patch_fraction
    if criterion := getattr(overrides, "criterion", None):
        step.settings["bits by"] = criterion  # of `allocate`
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(source_result.model, calibration, memory_budget, batch_size, work_dir))
        compressed = clone_model(source_result.model)
        job = Job(source, compressed, plan, form, patch_fraction, seed, masks)
        if distilled and source is not None:
            source.keep = True
        done = stack.enter_context(progress_bar.tasks("quantize", len(plan), enabled=progress))
        kernels: dict[str, QuantizedKernel] = {}
        rows: dict[str, LayerRow] = {}
        for path, chosen in plan.items():
            kernels[path], rows[path] = job.quantize_layer(path, chosen)
            done(path)
        if job.walk is not None:
            job.walk.finish()
            for path, row in rows.items():
                row.relative_error = job.relative_error(path)
        for row in _all_rows(source_result, graph, rows):
            step.add(row)
        step.figures = {"seconds": time.perf_counter() - started}
        if graph.opaque:
            step.figures["slow walk"] = f"{graph.opaque}: each kernel took a pass of its own through the model"
        if source is not None:
            step.figures |= {"samples": source.num_samples, "walks": int(job.walk is not None)}
        changed = {path: VariableState(kernel, masks.get(path)) for path, kernel in kernels.items()}
        inputs = None if source is None else source.inputs
        states = {path: state.without(["mask"] if path in plan else []) for path, state in source_result.states.items()}
        before = dataclasses.replace(source_result, states=states)
        result = before.after(compressed, step, changed=changed, inputs=inputs)
        if distilled:
            result = distill_scales(
                result, source, teacher=source_result, layers=lambda path: path in kernels, seed=seed
            )
    return result


def _chosen(quantizer: Quantizer | str, bits: int | None) -> tuple[Quantizer, bool]:
    """The quantizer, and whether `distill_scales` follows."""
    if isinstance(quantizer, str):
        preset = preset_of(quantizer)
        return preset.build(bits=bits), preset.distilled
    if bits is not None:
        raise InputError(f"bits goes with the name of a method, such as 'best'. Received: {bits!r} with {quantizer!r}.")
    return quantizer, False


def _must_have_data(quantizer: Quantizer) -> bool:
    """Memoryless quantization without bias correction is better with data, and possible without."""
    return quantizer.requires == "gram" or quantizer.bias_correction


def _all_rows(source_result: Result, graph: Graph, rows: dict[str, LayerRow]) -> list[LayerRow]:
    """A row for each kernel that we know and each other layer with weights: what was done, or why nothing."""
    all_rows = []
    views = views_by_path(source_result.model)
    of_layer: dict[int, list[str]] = {}
    for path, view in views.items():
        of_layer.setdefault(id(view.layer), []).append(path)
    done: set[int] = set()
    for path, layer in all_layers_by_path(source_result.model).items():
        kernels = of_layer.get(id(layer), [])
        for kernel in kernels:
            row = rows.get(kernel)
            if row is None:
                action, why = "float", "the settings leave it out (layers= or overrides=)"
                if kernel in source_result.kernels:
                    action, why = "kept", "its codes of an earlier step are kept"
                elif kernel not in graph.views:
                    why = graph.unseen.get(kernel, "no call of the model reaches it")
                size = layer.count_params() if len(kernels) == 1 else views[kernel].kernel.size
                row = LayerRow(kernel, type(layer).__name__, action, why, parameters=size)
            all_rows.append(row)
        own = {id(weight): weight for weight in layer.weights}
        inner = {id(weight) for held in held_layers(layer).values() for weight in held.weights}
        left = [weight for name, weight in own.items() if name not in done and (kernels or name not in inner)]
        done.update(map(id, left))
        if left and not kernels:
            size = sum(math.prod(weight.shape) for weight in left)
            all_rows.append(LayerRow(path, type(layer).__name__, "float", refusal(layer), parameters=size))
    return all_rows
