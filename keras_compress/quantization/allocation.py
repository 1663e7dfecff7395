"""`allocate()`: more bits where they matter, fewer where they do not, within a budget."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import Calibration, calibrating, parse_bytes
from keras_compress.errors import InputError
from keras_compress.layers.graph import Graph
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Pattern, Patterns
from keras_compress.numerics.allocation import choose_within_budget
from keras_compress.numerics.objective import excess, objective_of
from keras_compress.numerics.statistics import centered_statistics, mean_error
from keras_compress.quantization.accuracy import WIDTHS
from keras_compress.quantization.distance import OutputDistance, Outputs
from keras_compress.quantization.job import Job, input_channels, problems
from keras_compress.quantization.plan import check_forms, check_groups, check_kernels, check_settings, plan_layers
from keras_compress.quantization.quantize import quantize
from keras_compress.quantization.quantizers import GPFQ, Quantizer
from keras_compress.report import LayerRow, Report, Step
from keras_compress.result import Result

Loss = Callable[[keras.Model], float]
CRITERIA = {False: "distance of the network's outputs", True: "loss of the network"}


class Allocation(dict[str, Quantizer]):
    """Path of a layer -> quantizer with its number of bits.

    Attributes:
        criterion: by what bits were weighed.
        report: a row for each layer, and what the criterion says of the choice and of one width everywhere.
    """

    def __init__(self, quantizers: Mapping[str, Quantizer], criterion: str, report: Report):
        super().__init__(quantizers)
        self.criterion = criterion
        self.report = report

    def __str__(self) -> str:
        return str(self.report)


def allocate(
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
) -> Allocation:
    """For each layer a quantizer with its number of bits: pass it to `quantize` as `overrides`.

    Each layer is quantized alone at each width, on the inputs that it gets in the model as it is, and the choice with
    the least sum of their effects on the outputs of the network is found exactly. The criterion is how far the outputs
    move, on a few hundred of the samples and without labels: the divergence where they are probabilities, else the
    squared relative error. With `loss` it is what the loss of the whole model rises by, which takes one call of `loss`
    for each layer and width. No layer is special: the first and the last get what they need.

    Effects of single layers are added up, as if none changed those of others. In the end the model is quantized by the
    choice and with one width everywhere, and where the latter is better by the criterion, it is the answer.

        overrides = kc.allocate(model, images, average_bits=4)
        print(overrides.report)
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
    source_result = Result.of(model)
    method = GPFQ() if quantizer is None else quantizer
    check_settings(method, "auto", 1.0, None)
    if (average_bits is None) == (budget is None):
        received = "neither" if budget is None else "both"
        raise InputError(f"Give average_bits, or budget in bytes. Received: {received}.")
    if not widths:
        raise InputError("widths must name at least one number of bits. Received: none.")
    choices = [method.with_bits(width) for width in widths]  # their constructors check
    graph = Graph(source_result.model)
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
    started = time.perf_counter()
    errors = np.empty(costs.shape)
    relative = np.full(costs.shape, np.nan)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(source_result.model, calibration, memory_budget, batch_size, work_dir))
        assert source is not None
        done = stack.enter_context(progress_bar.tasks("allocate", len(plan) + 1, enabled=progress))
        source.keep = True  # the choice and one width everywhere are tried on the same samples
        distance = OutputDistance(source)
        judge = loss or (lambda network: distance(Outputs(Graph(network))))
        if loss is None:
            job = Job(source, clone_model(source_result.model), plan, "auto", 1.0, seed, {})
            outputs, at_first = Outputs(job.graph), 0.0
        else:
            at_first = loss(source_result.model)
        for place, path in enumerate(plan):
            if loss is None:
                errors[place], relative[place] = _effects(job, path, choices, lambda: distance(outputs))
            else:
                errors[place] = _losses(source_result, path, choices, source, seed, loss) - at_first
            done(path)
        allocated = choose_within_budget(_falling(np.maximum(errors, 0.0), costs), costs, limit)
        assert allocated is not None, "the smallest widths fit"
        fitting = np.flatnonzero(costs.sum(axis=0) <= limit)
        everywhere = np.full(len(plan), fitting[np.argmax(costs.sum(axis=0)[fitting])])

        def tried(indices: np.ndarray) -> float:
            chosen = {path: choices[index] for path, index in zip(plan, indices, strict=True)}
            exact: dict[Pattern, Quantizer | None] = {
                re.compile(re.escape(path)): each for path, each in chosen.items()
            }
            result = quantize(
                source_result, method, source, layers=lambda path: path in chosen, overrides=exact, seed=seed
            )
            return judge(result.model)

        by_choice, by_one = tried(allocated), tried(everywhere)
        done("one width everywhere")
    one_width = f"{choices[everywhere[0]].num_levels} levels everywhere"
    step = Step("allocate", {"criterion": CRITERIA[loss is not None], unit: limit, "seed": seed})
    step.figures = {"criterion at the choice": by_choice, f"criterion at {one_width}": by_one}
    if by_one < by_choice:
        allocated, step.figures["taken"] = everywhere, one_width
    for place, (path, index) in enumerate(zip(plan, allocated, strict=True)):
        row = LayerRow(path, type(graph.views[path].layer).__name__, "allocated", parameters=int(sizes[place]))
        row.alphabet, row.num_levels = repr(choices[index].setting), choices[index].num_levels
        row.effective_bits = float(np.log2(row.num_levels))
        if not np.isnan(relative[place, index]):
            row.relative_error = float(np.sqrt(max(relative[place, index], 0.0)))
        step.add(row)
    step.figures["seconds"] = time.perf_counter() - started
    chosen = {path: choices[index] for path, index in zip(plan, allocated, strict=True)}
    return Allocation(chosen, CRITERIA[loss is not None], source_result.report.extended(step))


def _falling(errors: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Errors that do not rise with the cost: what few samples say of many bits is noise."""
    order = np.argsort(costs, axis=1, kind="stable")
    falling = np.minimum.accumulate(np.take_along_axis(errors, order, axis=1), axis=1)
    result = np.empty_like(errors)
    np.put_along_axis(result, order, falling, axis=1)
    return result


def _effects(
    job: Job, path: str, choices: list[Quantizer], distance: Callable[[], float]
) -> tuple[np.ndarray, np.ndarray]:
    """(num_widths,) distances of the network's outputs with this layer alone quantized, and errors of its own."""
    view, absorber = job.graph.views[path], job.absorbers.get(path)
    variables = [view.variable, *([] if absorber is None else [absorber.variable])]
    before = [np.asarray(variable).copy() for variable in variables]
    distances, errors = [], []
    for kernel, shift, error in _quantized_alone(job, path, choices):
        view.variable.assign(kernel)
        if shift is not None and absorber is not None:
            absorber.absorb(shift)
        distances.append(distance())
        errors.append(error)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
    return np.array(distances), np.array(errors)


def _quantized_alone(
    job: Job, path: str, choices: list[Quantizer]
) -> Iterator[tuple[np.ndarray, np.ndarray | None, float]]:
    """For each width the kernel, the mean error for the bias, and ||XW - XQ||^2 / ||XW||^2, centred if it takes one."""
    view = job.graph.views[path]
    matrices = view.matrices(view.kernel.astype(np.float64))
    method = choices[0]
    statistics = None
    if not view.memoryless:  # MSQ is judged like others
        assert job.source is not None
        shared = job.source.shared_statistics
        known = set(shared)
        statistics, _ = job.statistics(path, method if method.requires == "gram" else GPFQ(), view)
        for key in shared.keys() - known:
            del shared[key]  # matrices of all layers at once would be too much
    centered = path in job.absorbers and not view.memoryless
    takes_mean = centered and (method.centers or method.bias_correction)
    judges: dict[int, Any] = {}
    for choice in choices:
        decoded, shifts, error, norm = [], [], 0.0, 0.0
        every = problems(view, matrices, statistics, choice.layer_alphabet(matrices, statistics))
        for group, matrix, group_statistics, alphabet in every:
            if view.memoryless:
                values = alphabet.decode(alphabet.nearest(matrix)).astype(np.float64)
                error, norm = error + np.square(matrix - values).sum(), norm + np.square(matrix).sum()
            else:
                codes, alphabet = choice.solve(
                    matrix,
                    group_statistics,
                    alphabet,
                    centered=choice.centers and centered,
                    channels=input_channels(view),
                    generator=job.generator(path, group),
                )
                values = alphabet.decode(codes).astype(np.float64)
                if group not in judges:
                    judges[group] = objective_of(
                        matrix, centered_statistics(group_statistics) if takes_mean else group_statistics
                    )
                output = judges[group].place(matrix).energy().sum()
                error, norm = error + excess(judges[group].place(values)).sum() + output, norm + output
                shifts.append(mean_error(matrix, values, group_statistics).ravel())
            decoded.append(values)
        kernel = view.kernel_of(decoded[0] if view.solved_together else np.stack(decoded)).astype(np.float32)
        shift = np.concatenate(shifts) if takes_mean else None
        yield kernel, shift, float(error / norm) if norm > 0 else 0.0


def _losses(
    source_result: Result, path: str, choices: list[Quantizer], source: Calibration, seed: int, loss: Loss
) -> np.ndarray:
    """(num_widths,) losses of the model with this one layer quantized."""
    results = (
        quantize(source_result.model, choice, source, layers=lambda other: other == path, seed=seed)
        for choice in choices
    )
    return np.array([loss(result.model) for result in results])


def _bytes_of(budget: Any) -> float:
    try:
        return parse_bytes(budget, least=1)
    except InputError as error:
        raise InputError(f'budget must be bytes, or text such as "40KB". Received: {budget!r}.') from error
