"""What `quantize()` checks and decides before any work starts: settings, layers, kernels, zeros to keep."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.calibration import Calibration, parse_bytes
from keras_compress.errors import InputError
from keras_compress.layers.graph import Graph
from keras_compress.layers.selection import Patterns, select
from keras_compress.quantization.quantizers import Quantizer
from keras_compress.result import Result

FORMS = ("auto", "gram", "direct")


def check_settings(quantizer: Any, form: str, patch_fraction: float, keep_zeros: Any) -> None:
    """Raises InputError for settings out of range."""
    if not isinstance(quantizer, Quantizer):
        name = " The names of methods go with kc.quantize." if isinstance(quantizer, str) else ""
        raise InputError(f"quantizer must be a quantizer such as kc.GPFQ(bits=4). Received: {quantizer!r}.{name}")
    if form not in FORMS:
        raise InputError(f"form must be one of {', '.join(FORMS)}. Received: {form!r}.")
    if not 0 < patch_fraction <= 1:
        raise InputError(f"patch_fraction must lie in (0, 1]. Received: {patch_fraction!r}.")
    if patch_fraction < 1 and form == "direct":
        raise InputError("patch_fraction below 1 goes with form='gram' or 'auto', not with 'direct'.")
    if keep_zeros not in (None, True, False):
        raise InputError(f"keep_zeros must be True, False or None. Received: {keep_zeros!r}.")


def plan_layers(
    graph: Graph, quantizer: Quantizer, layers: Patterns | None, overrides: Mapping[Any, Quantizer | None] | None
) -> dict[str, Quantizer]:
    """The quantizer of each layer to quantize, in the order of the walk."""
    paths = list(graph.views)
    chosen: dict[str, Quantizer | None] = dict.fromkeys(select(layers, paths, "layers"), quantizer)
    for pattern, other in (overrides or {}).items():
        if other is not None and not isinstance(other, Quantizer):
            raise InputError(f"overrides must map patterns to quantizers or None. Received: {other!r}.")
        for path in select(pattern, paths, "overrides"):
            chosen[path] = other
    plan = {path: other for path in paths if (other := chosen.get(path)) is not None}
    if not plan:
        raise InputError(
            f"There is no layer to quantize: of {len(paths)} layers with a known kernel, the settings leave none."
        )
    return plan


def checked_plan(
    graph: Graph, quantizer: Quantizer, layers: Patterns | None, overrides: Mapping[Any, Quantizer | None] | None
) -> dict[str, Quantizer]:
    """`plan_layers`, whose kernels and groups of features are as their quantizers need them."""
    plan = plan_layers(graph, quantizer, layers, overrides)
    check_kernels(graph, plan)
    check_groups(graph, plan)
    return plan


def check_kernels(graph: Graph, plan: dict[str, Quantizer]) -> None:
    """Raises InputError for weights that are not finite."""
    for path in plan:
        bad = int((~np.isfinite(graph.views[path].kernel)).sum())
        if bad:
            raise InputError(
                f"The kernel of layer {path!r} has {bad} weights that are NaN or Inf. The training diverged; train "
                "again, or leave the layer out with layers= or overrides=."
            )


def check_groups(graph: Graph, plan: dict[str, Quantizer]) -> None:
    """Raises InputError for groups of input features where they mean nothing."""
    for path, quantizer in plan.items():
        layer = graph.views[path].layer
        if quantizer.setting.group_size is not None and type(layer) is not keras.layers.Dense:
            raise InputError(
                f"group_size is for Dense layers, and {path!r} is a {type(layer).__name__} layer. Give it another "
                "quantizer with overrides=, or choose layers with layers=."
            )


def check_forms(
    graph: Graph, plan: dict[str, Quantizer], form: str, calibration: Any, memory_budget: int | str
) -> None:
    """Raises InputError where a quantizer needs N x N matrices and cannot have them."""
    budget = calibration.memory_budget if isinstance(calibration, Calibration) else parse_bytes(memory_budget)
    for path, quantizer in plan.items():
        view = graph.views[path]
        if quantizer.requires != "gram" or view.memoryless or (quantizer.has_direct_form and graph.linear_calls(path)):
            continue
        if form == "direct":
            raise InputError(
                f"{quantizer!r} works on N x N matrices, for which form='direct' leaves no room: use 'gram'."
            )
        features = view.num_features
        size = 8 * features**2 * (2 * view.groups + quantizer.matrices)
        if size > budget:
            raise InputError(
                f"{type(quantizer).__name__} needs {size / 1e6:,.0f} MB for matrices of {features:,} x {features:,} in "
                f"layer {path!r}, and memory_budget is {budget / 1e6:,.0f} MB. Raise it, or quantize this layer with "
                "kc.GPFQ(), which has a form without them, by means of overrides=."
            )


def zero_masks(
    graph: Graph, plan: dict[str, Quantizer], result: Result, keep_zeros: bool | None
) -> dict[str, np.ndarray]:
    """False where a weight must stay zero."""
    if keep_zeros is None:
        masks = {path: result.masks[path] for path in plan if path in result.masks}
    elif keep_zeros:
        masks = {path: graph.views[path].kernel != 0 for path in plan}
    else:
        masks = {}
    for path in masks:
        if not plan[path].setting.has_zero and not masks[path].all():
            raise InputError(
                f"Layer {path!r} has zeros to keep, and {plan[path].setting!r} has none. Use an odd number of levels."
            )
    return masks
