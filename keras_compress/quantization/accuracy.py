"""Accuracy-controlled quantization: layers get bits back, the most sensitive first, until the drop is small enough.

The sensitivity of a layer is measured once, without labels: how much nearer the outputs of the quantized network come
to those of the analog one when this layer alone gets its analog weights back. One bit more quarters the square of an
error, so that this one measurement puts all bit upgrades in an order. The score is measured on the validation data
only, for as few points of that order as a bisection needs.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.calibration import Calibration, calibrating
from keras_compress.calibration.walk import execute
from keras_compress.errors import InputError
from keras_compress.layers.absorption import mean_absorbers
from keras_compress.layers.graph import Graph
from keras_compress.layers.selection import Pattern, Patterns
from keras_compress.measurement.evaluation import evaluate
from keras_compress.quantization.plan import check_settings, checked_plan
from keras_compress.quantization.quantize import quantize
from keras_compress.quantization.quantizers import Quantizer
from keras_compress.result import Result

WIDTHS = (2, 3, 4, 5, 6, 8)  # bits that a layer may get

JUDGED_SAMPLES = 256  # calibration samples on which sensitivities are measured

Plan = dict[str, Quantizer | None]
Score = Callable[[keras.Model], float]


def quantize_with_accuracy_control(
    model: keras.Model | Result,
    quantizer: Quantizer,
    calibration: Any,
    validation: Any,
    *,
    max_drop: float = 0.01,
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
    """`quantize`, with more bits for the most sensitive layers until the score has not fallen by more than `max_drop`.

    Layers get bits back (2, 3, 4, 5, 6, 8, floating point), the most sensitive first; the report says which and how
    much. It takes several quantizations, which share the pass through the analog network.

    Args:
        model, quantizer, calibration: as for `quantize`; the quantizer is the one to begin with.
        validation: (inputs, labels), whose score is the first figure of `kc.evaluate`, such as top-1; or a function of
            a model that gives a score, larger is better. Samples that neither calibrate nor test.
        max_drop: how far the score may fall, such as 0.01.
        layers, overrides, keep_zeros, form, memory_budget, batch_size, patch_fraction, work_dir, seed, progress: as for
            `quantize`.

    Raises:
        InputError: see `quantize`; validation data of another form; a drop that cannot be kept as long as one layer is
            quantized.
        StorageError: see `quantize`.
    """
    source_result, score = Result.of(model), _score_of(max_drop, validation)
    check_settings(quantizer, form, patch_fraction, keep_zeros)
    if calibration is None:
        raise InputError("Sensitivities are measured on calibration data. Received: None.")
    plan = checked_plan(Graph(source_result.model), quantizer, layers, overrides)
    with calibrating(source_result.model, calibration, memory_budget, batch_size, work_dir) as source:
        assert source is not None
        source.keep = True

        def run(chosen: Plan) -> Result:
            exact: dict[Pattern, Quantizer | None] = {
                re.compile(re.escape(path)): each for path, each in chosen.items()
            }
            return quantize(
                source_result,
                quantizer,
                source,
                layers=lambda path: path in chosen,
                overrides=exact,
                keep_zeros=keep_zeros,
                form=form,
                patch_fraction=patch_fraction,
                seed=seed,
                progress=progress,
            )

        return _keep_accuracy(run, plan, source_result.model, source, score, float(max_drop))


def _score_of(max_drop: Any, validation: Any) -> Score:
    """The score that is to be kept: a function of a model, larger is better."""
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 <= max_drop < math.inf:
        raise InputError(f"max_drop must be a number from 0 upwards, such as 0.01. Received: {max_drop!r}.")
    if callable(validation):
        return lambda model: float(validation(model))
    if isinstance(validation, tuple) and len(validation) == 2:
        x, y = validation
        return lambda model: evaluate(model, x, y).score
    raise InputError(
        "validation must be (inputs, labels), or a function of a model that gives a score. Received: "
        f"{type(validation).__name__}."
    )


def _keep_accuracy(
    run: Callable[[Plan], Result],
    plan: Mapping[str, Quantizer],
    model: keras.Model,
    source: Calibration,
    score: Score,
    max_drop: float,
) -> Result:
    """The result with the fewest bit upgrades whose score is within `max_drop` of the model's score.

    Args:
        run: quantizes by a plan.
        plan: path -> quantizer to begin with.
        model: the analog network.
        source: open calibration data of the model.
        score: of a model, larger is better.
        max_drop: how far the score may fall.

    Raises:
        InputError: no number of upgrades keeps the drop within bounds, as long as one layer is quantized.
    """
    least_score = score(model) - max_drop
    tried: dict[int, tuple[Result, float]] = {}
    upgrades: list[Plan] = [dict(plan)]

    def at(count: int) -> float:
        if count not in tried:
            result = run(upgrades[count])
            tried[count] = (result, score(result.model))
        return tried[count][1]

    if at(0) < least_score:
        upgrades += _upgrades(plan, _sensitivities(tried[0][0], model, source))
        low, high = 0, 1  # `low` is known to be too few
        while high < len(upgrades) - 1 and at(high) < least_score:
            low, high = high, min(2 * high, len(upgrades) - 1)
        if at(high) < least_score:
            left = ", ".join(path for path, quantizer in upgrades[high].items() if quantizer is not None)
            raise InputError(
                f"max_drop={max_drop:g} cannot be kept. Expected: a score of at least {least_score:.4g}. Received: "
                f"{tried[high][1]:.4g} with {left} alone quantized. Allow more, or pass overrides={{path: None}}."
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if at(middle) < least_score else (low, middle)
        chosen = high
    else:
        chosen = 0
    result, reached = tried[chosen]
    step = result.report.steps[-1]
    step.technique, figures = "quantize_with_accuracy_control", step.figures
    figures |= {"score before": least_score + max_drop, "score": reached, "max_drop": max_drop}
    figures["walks"] = sum(int(other.report.steps[-1].figures["walks"]) for other, _ in tried.values())
    figures["given back"] = ", ".join(
        f"{path}: {_name(quantizer)} to {_name(upgrades[chosen][path])}"
        for path, quantizer in plan.items()
        if upgrades[chosen][path] != quantizer
    )
    return result


def _upgrades(plan: Mapping[str, Quantizer], sensitivities: dict[str, float]) -> list[Plan]:
    """Plans with one upgrade more each, until one layer alone is quantized."""
    current: Plan = dict(plan)
    left = dict(sensitivities)
    plans: list[Plan] = []
    while True:
        quantized = {path: quantizer for path, quantizer in current.items() if quantizer is not None}
        path = max(quantized, key=lambda path: left[path])
        wider = _wider(quantized[path])
        if wider is not None:
            left[path] *= (quantized[path].num_levels / wider.num_levels) ** 2
        elif len(quantized) == 1:
            return plans
        current[path] = wider
        plans.append(dict(current))


def _wider(quantizer: Quantizer) -> Quantizer | None:
    """The same with the next width that has more levels; None beyond the last."""
    candidates = (quantizer.with_bits(bits) for bits in WIDTHS)
    return next((other for other in candidates if other.num_levels > quantizer.num_levels), None)


def _name(quantizer: Quantizer | None) -> str:
    return "floating point" if quantizer is None else f"{quantizer.num_levels} levels"


def _sensitivities(result: Result, model: keras.Model, source: Calibration) -> dict[str, float]:
    """For each quantized kernel, by how much the squared distance of the outputs falls without its codes."""
    graph, compressed_graph = Graph(model), Graph(result.model)
    originals, absorbers = mean_absorbers(model, graph), mean_absorbers(result.model, compressed_graph)
    blocks = list(source.input_blocks(source.block_size, JUDGED_SAMPLES))
    analog_outputs = [_outputs(graph, inputs) for inputs in blocks]

    def distance() -> float:
        pairs = (
            pair
            for inputs, outputs in zip(blocks, analog_outputs, strict=True)
            for pair in zip(_outputs(compressed_graph, inputs), outputs, strict=True)
        )
        return sum(float(np.square(compressed - analog).sum()) for compressed, analog in pairs)

    whole = distance()
    sensitivities = {}
    for path in [path for path in graph.views if path in result.kernels]:
        variables = [(compressed_graph.views[path].variable, graph.views[path].variable)]
        if path in absorbers:
            variables.append((absorbers[path].variable, originals[path].variable))
        values = [np.asarray(compressed).copy() for compressed, _ in variables]
        for compressed, analog in variables:
            compressed.assign(analog)
        sensitivities[path] = whole - distance()
        for (compressed, _), value in zip(variables, values, strict=True):
            compressed.assign(value)
    return sensitivities


def _outputs(graph: Graph, inputs: list[Any]) -> list[np.ndarray]:
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    execute(graph, range(len(graph.calls)), values)
    return [np.asarray(values[tensor], np.float64) for tensor in graph.outputs]
