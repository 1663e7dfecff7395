"""A file of integers with the ranges that a model has: each step of the simulation becomes an operator of integers.

The converter makes the graph of a copy whose kernels and biases are markers, with the model's own ranges. Since it sees
a range on every tensor that an integer network rounds, it folds nothing from one step into the next, and what it wrote
is the place of each kernel; weights, biases and scales are then replaced.
"""

from collections.abc import Collection, Mapping

import keras
import numpy as np

from keras_compress.export import locating, ranges
from keras_compress.export.conversion import ConversionError, convert
from keras_compress.export.editing import Editor
from keras_compress.export.locating import Located
from keras_compress.export.placing import Placed, Written, arranged, names, to_8_bits, write
from keras_compress.export.policy import placement
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.affine import Affine, affine_layers
from keras_compress.layers.convolution_views import Depthwise2DView
from keras_compress.layers.folding import fold_all
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import Change, clone_model, rebuild
from keras_compress.layers.rounding import is_relu
from keras_compress.layers.view import KernelView, LinearView
from keras_compress.result import Result, width_of

NEAR = 0.02  # how far a factor or a bias that the converter left alone may seem to be from its marker


def with_ranges(
    result: Result,
    storage: str,
    batch: int | None,
    called: Mapping[str, str],
    named: keras.Model,
    *,
    loops: bool = True,
) -> Written:
    """A file of integers whose ranges of activations are those of the model's `QuantizeActivation` layers.

    Kernels without codes are rounded to 8 bits, one scale a channel. What TFLite cannot compute with integers stays in
    floating point; codes there are stored weight-only.

    Args:
        result: whose model rounds activations.
        storage: "fast" or "small".
        batch: size of the batch axis, or None to leave it open.
        called: path of a kernel -> the path that is to be reported, where it is another one.
        named: the model whose inputs and outputs give the file's their names.
        loops: whether the model may have some, which stay in floating point.

    Raises:
        InputError: codes that no TFLite weight type holds, or a model that the converter refuses.
    """
    folded, factors = fold_all(result.model)
    ranges.check_limits(result, folded, factors)
    model = _as_operators(folded)
    views = _views(model)
    base, located = _converted(model, views, result.kernels.keys(), batch, loops)
    base.set_activations({(layer.scale, layer.zero_point) for layer in ranges.rounded(model).values()})
    simulation = clone_model(model)
    simulated = _views(simulation)
    placed = []
    for each in located:
        kernel, factor = result.kernels.get(each.path), factors.get(each.path, 1.0)
        if kernel is None:
            kernel, factor = to_8_bits(views[each.path]), 1.0
        codes, scale = arranged(kernel, each.path, each.kind, np.asarray(factor))
        integer = base.reads_integers(base.weighted[each.operator].operator, each.kind)
        width = width_of(codes)
        assert width is not None
        place = placement(each.kind, "int8" if integer else "float", storage, width)
        variable = views[each.path].bias_variable
        bias = None if variable is None else np.asarray(variable)
        written = write(base, views, each, codes, scale, place, bias, called.get(each.path))
        _assign(simulated[each.path], written)
        placed.append(written)
    return Written(base.finish(*names(named)), placed, simulation, called)


def _converted(
    model: keras.Model, views: dict[str, KernelView], coded: Collection[str], batch: int | None, loops: bool
) -> tuple[Editor, list[Located]]:
    """The converter's file of a copy with markers, and where they are.

    A kernel that the converter has multiplied by what stands before it, since no range lies between, gets a barrier in
    front of it. Operators of floats keep their biases, and kernels without codes or without a place keep their weights.
    This is repeated until nothing is marked that is to stay.
    """
    marked, biased = set(views), set(views)
    barriers: set[str] = set()
    while True:
        copy, markers = locating.with_markers(model, sorted(marked), _views)
        biases = _mark_biases(copy, biased)
        if barriers:
            copy = locating.with_barriers(copy, barriers)
        try:
            content = convert(ranges.with_ranges(copy), "int8", batch=batch, loops=loops)
        except ConversionError:
            content = convert(ranges.with_ranges(copy, apart=True), "int8", batch=batch, loops=loops)
        base = Editor(content)
        located, changed = _locate(base, markers, biases, {path: views[path].axes for path in marked})
        floats = {
            each.path for each in located if not base.reads_integers(base.weighted[each.operator].operator, each.kind)
        }
        again = (changed & set(coded)) - barriers - floats
        integers = {each.path for each in located} - floats - changed
        kept = integers | again | ((floats - changed) & set(coded))
        if marked == kept and biased == integers | again and not again:
            return base, located
        marked, biased, barriers = kept, integers | again, barriers | again


def _locate(
    base: Editor, markers: dict[str, np.ndarray], biases: dict[str, np.ndarray], axes: dict[str, tuple[int, ...]]
) -> tuple[list[Located], set[str]]:
    """Operators whose weights are markers as the converter rounds them, and kernels that it has changed."""
    located: list[Located] = []
    changed: set[str] = set()
    for number, (index, kind, tensor) in enumerate(base.weighted):
        weights = base.floats(tensor)
        matches: list[tuple[float, str, np.ndarray]] = []
        for path, marker in markers.items():
            candidate = locating.arrange(marker, axes[path], kind)
            if candidate is not None and candidate.shape == weights.shape:
                factor = locating.factors(weights, candidate, kind, locating.LOOSE)
                if factor is not None:
                    matches.append((float(np.abs(factor - 1).max()), path, factor))
        if matches:
            distance, path, factor = min(matches, key=lambda match: match[0])
            if distance > NEAR or (path in biases and not _has_bias(base, index, kind, biases[path])):
                changed.add(path)
            located.append(Located(path, number, kind, factor))
    return located, changed


def _has_bias(base: Editor, index: int, kind: str, marker: np.ndarray) -> bool:
    """Whether the bias of an operator is a marker, as the converter rounds it."""
    bias = base.bias(index, kind)
    return bias is not None and bool(
        np.abs(bias - marker).max() <= NEAR * np.abs(marker).max() + base.bias_step(index, kind)
    )


def _mark_biases(model: keras.Model, paths: Collection[str]) -> dict[str, np.ndarray]:
    """Gives kernels' layers random biases, small enough for the steps of every operator; path -> (n_out,)."""
    size = 100 * min((layer.scale for layer in ranges.rounded(model).values()), default=1.0)
    views, written = _views(model), {}
    for number, path in enumerate(sorted(paths)):
        variable = views[path].bias_variable
        if variable is not None:
            values = size * np.random.default_rng([number, 1]).normal(size=variable.shape)
            variable.assign(values.astype(np.float32))
            written[path] = values
    return written


def _as_operators(model: keras.Model) -> keras.Model:
    """The model with layers as TFLite has operators of integers for them, equal where each range is rounded.

    A factor and an offset for each channel become a depthwise convolution; a ReLU with another upper end than 6 loses
    it where the range of its outputs ends there.
    """
    graph = Graph(model)
    new: dict[str, keras.Layer] = dict(affine_layers(graph))
    for call in graph.calls:
        layer = call.operation
        if type(layer) is keras.layers.ReLU and layer.max_value not in (None, 6) and is_relu(layer):
            readers = [each.operation for each in graph.calls if set(call.outputs) & set(each.inputs)]
            ends = [isinstance(each, QuantizeActivation) and _highest(each) <= layer.max_value for each in readers]
            if ends and all(ends) and not set(call.outputs) & set(graph.outputs):
                new[call.path] = keras.layers.ReLU(name=layer.name)
    return rebuild(model, {path: Change([layer]) for path, layer in new.items()}).model if new else model


def _highest(rounding: QuantizeActivation) -> float:
    """What rounds to the highest level lies above this."""
    return float(rounding.scale * (rounding.highest - rounding.zero_point - 0.5))


def _views(model: keras.Model) -> dict[str, KernelView]:
    """Views of the kernels that can be the weights of an operator."""
    views: dict[str, KernelView] = {}
    views |= {path: view for path, view in views_by_path(model).items() if isinstance(view, LinearView)}
    affine = {path: layer for path, layer in layers_by_path(model).items() if type(layer) is Affine}
    return views | {path: Depthwise2DView(layer) for path, layer in affine.items()}


def _assign(view: KernelView, placed: Placed) -> None:
    """Gives a layer of the simulation the numbers that the file holds."""
    scale = locating.along_channels(placed.scale, placed.kind, placed.codes.ndim)
    kernel = placed.codes.astype(np.float32) * scale
    view.variable.assign(locating.disarrange(kernel, view.kernel.shape, view.axes, placed.kind))
    if placed.steps is not None and view.bias_variable is not None:
        view.bias_variable.assign(placed.steps * placed.step)
