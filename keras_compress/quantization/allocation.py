"""`allocate_bits()`: more bits where they matter, fewer where they do not, within a budget."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import Calibration, calibrating, parse_bytes
from keras_compress.errors import InputError
from keras_compress.layers.clone import clone_model
from keras_compress.layers.graph import Graph
from keras_compress.layers.selection import Patterns
from keras_compress.layers.view import KernelView
from keras_compress.numerics.allocation import allocate
from keras_compress.numerics.objective import excess, objective_of
from keras_compress.numerics.statistics import centered_evidence
from keras_compress.quantization.accuracy import WIDTHS
from keras_compress.quantization.job import Job, input_channels, problems
from keras_compress.quantization.plan import check_forms, check_groups, check_kernels, check_settings, plan_layers
from keras_compress.quantization.quantize import quantize
from keras_compress.quantization.quantizers import GPFQ, Quantizer
from keras_compress.result import Result

Loss = Callable[[keras.Model], float]


def allocate_bits(
    model: keras.Model | Result,
    calibration: Any,
    *,
    average_bits: float | None = None,
    budget: int | str | None = None,
    quantizer: Quantizer | None = None,
    widths: Sequence[int] = WIDTHS,
    layers: Patterns | None = None,
    loss: Loss | None = None,
    memory_budget: int | str = "2GB",
    batch_size: int | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Quantizer]:
    """For each layer a quantizer with its number of bits: pass it to `quantize` as `overrides`.

    Each layer is quantized alone at each width, on the inputs that it gets in the model as it is, and the choice with
    the least sum of errors within the budget is found exactly. A layer's error is the squared relative error of its
    outputs, from one pass over the data; with `loss`, what the loss of the whole model rises by, which takes one call
    of `loss` for each layer and width. No layer is special: the first and the last get what their errors ask for.

        overrides = kc.allocate_bits(model, images, average_bits=4)
        result = kc.quantize(model, kc.GPFQ(), images, overrides=overrides)

    Args:
        model: a built Functional or Sequential model, or the result of an earlier step.
        calibration: as for `quantize`.
        average_bits: bits of a quantized weight, on average over all of them.
        budget: in place of `average_bits`: bytes of all quantized kernels, with 4 bytes for each scale; a number, or
            text such as "40KB".
        quantizer: the method; None is `GPFQ()`. Its number of bits does not matter.
        widths: bits to choose from.
        layers: which layers to quantize, as for `quantize`.
        loss: of a model, smaller is better: with labels, or against the float model's own outputs.
        memory_budget, batch_size, work_dir, seed, progress: as for `quantize`.

    Raises:
        InputError: neither or both of `average_bits` and `budget`, or one that the smallest widths exceed; and what
            `quantize` raises.
        StorageError: as for `quantize`.
    """
    given = Result.of(model)
    method = GPFQ() if quantizer is None else quantizer
    check_settings(method, "auto", 1.0, None)
    if (average_bits is None) == (budget is None):
        received = "neither" if budget is None else "both"
        raise InputError(f"Give average_bits, or budget in bytes. Received: {received}.")
    if not widths:
        raise InputError("widths must name at least one number of bits. Received: none.")
    choices = [method.with_bits(width) for width in widths]  # their constructors check
    graph = Graph(given.model)
    plan = plan_layers(graph, method, layers, None)
    check_kernels(graph, plan)
    check_groups(graph, plan)
    check_forms(graph, plan, "auto", calibration, memory_budget)
    sizes = np.array([graph.views[path].kernel.size for path in plan])
    if average_bits is not None:
        limit, unit = float(average_bits) * sizes.sum(), "bits"
        costs = np.outer(sizes, widths)
    else:
        limit, unit = _bytes_of(budget), "bytes"
        channels = np.array([graph.views[path].num_channels for path in plan])
        scales = channels if method.setting.per_channel else np.ones_like(channels)
        costs = -(-np.outer(sizes, widths) // 8) + 4 * scales[:, None]
    least = int(costs.min(axis=1).sum())
    if least > limit:
        raise InputError(
            f"{min(widths)} bits everywhere need {least:,} {unit}, and the budget is {limit:,.0f} {unit}. "
            "Allow more, smaller widths, or fewer layers."
        )
    errors = np.empty(costs.shape)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(given.model, calibration, memory_budget, batch_size, work_dir))
        assert source is not None
        done = stack.enter_context(progress_bar.tasks("allocate", len(plan), enabled=progress))
        if loss is None:
            job = Job(source, clone_model(given.model), plan, "auto", 1.0, seed, {})
        else:
            source.keep, at_first = True, loss(given.model)
        for row, path in enumerate(plan):
            if loss is None:
                errors[row] = _layer_errors(job, path, choices)
            else:
                errors[row] = _losses(given.model, path, choices, source, seed, loss) - at_first
            done(path)
    chosen = allocate(np.maximum(errors, 0.0), costs, limit)
    assert chosen is not None, "the smallest widths fit"
    return {path: choices[index] for path, index in zip(plan, chosen, strict=True)}


def _layer_errors(job: Job, path: str, choices: list[Quantizer]) -> np.ndarray:
    """(num_widths,) ||XW - XQ||^2 / ||XW||^2 of one layer, around their means where the bias takes the mean."""
    view = job.graph.views[path]
    if view.memoryless:
        return _rounding_errors(view, choices)
    matrices = view.matrices(view.kernel.astype(np.float64))
    method = choices[0]
    evidence, _ = job.evidence(path, method if method.evidence == "gram" else GPFQ(), view)  # MSQ is judged like others
    assert evidence is not None
    centered = path in job.absorbers
    takes_mean = centered and (method.centers or method.bias_correction)
    alphabets = [choice.layer_alphabet(matrices, evidence) for choice in choices]
    errors, norm = np.zeros(len(choices)), 0.0
    every = [problems(view, matrices, evidence, alphabet) for alphabet in alphabets]
    for choices_of_group in zip(*every, strict=True):
        _, matrix, facts, _ = choices_of_group[0]
        judge = objective_of(matrix, centered_evidence(facts) if takes_mean else facts)
        output = judge.place(matrix).energy().sum()
        for index, (group, _, _, letters) in enumerate(choices_of_group):
            codes, letters = choices[index].solve(
                matrix,
                facts,
                letters,
                centered=choices[index].centers and centered,
                channels=input_channels(view),
                generator=job.generator(path, group),
            )
            errors[index] += excess(judge.place(letters.decode(codes).astype(np.float64))).sum() + output
        norm += output
    return errors / norm if norm > 0 else errors


def _rounding_errors(view: KernelView, choices: list[Quantizer]) -> np.ndarray:
    """(num_widths,) ||W - Q||^2 / ||W||^2 of a kernel whose inputs say nothing."""
    matrices = view.matrices(view.kernel.astype(np.float64))
    norm = np.square(matrices).sum()
    errors = []
    for choice in choices:
        every = problems(view, matrices, None, choice.layer_alphabet(matrices, None))
        errors.append(sum(np.square(w - letters.decode(letters.nearest(w))).sum() for _, w, _, letters in every))
    return np.array(errors) / norm if norm > 0 else np.zeros(len(choices))


def _losses(
    model: keras.Model, path: str, choices: list[Quantizer], source: Calibration, seed: int, loss: Loss
) -> np.ndarray:
    """(num_widths,) losses of the model with this one layer quantized."""
    results = (quantize(model, choice, source, layers=lambda other: other == path, seed=seed) for choice in choices)
    return np.array([loss(result.model) for result in results])


def _bytes_of(budget: Any) -> float:
    try:
        return parse_bytes(budget, least=1)
    except InputError as error:
        raise InputError(f'budget must be bytes, or text such as "40KB". Received: {budget!r}.') from error
