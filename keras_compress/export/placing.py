"""Codes put into a file of the converter whose graph is that of the model itself."""

import dataclasses
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.export import locating
from keras_compress.export.conversion import convert
from keras_compress.export.editing import Editor
from keras_compress.export.locating import Located
from keras_compress.export.operations import for_converter
from keras_compress.export.policy import BIASES, Placement, placement
from keras_compress.layers.folding import fold_all, move_offsets
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import ModelInputs, functional_graph, is_graph
from keras_compress.layers.view import KernelView
from keras_compress.measurement import flatbuffer
from keras_compress.numerics.biases import LARGEST, LEAST_SCALE, bias_step, fit_biases
from keras_compress.result import QuantizedKernel, Result, width_of

LEVELS = np.arange(-127, 128)  # of a kernel without codes, as the converter has them


@dataclasses.dataclass(frozen=True)
class Placed:
    """A kernel in a file.

    Attributes:
        path: of the kernel.
        operator: index among the `weighted_operators` of the file.
        kind: of the operator.
        codes: in the operator's layout.
        scale: (n_out,) float32.
        placement: how they are stored and read.
        bias: (n_out,) float64, what an operator of integers is to add; None where floats are added.
        steps: (n_out,) the integers that stand for it.
        step: (n_out,) float64, one step of it.
    """

    path: str
    operator: int
    kind: str
    codes: np.ndarray
    scale: np.ndarray
    placement: Placement
    bias: np.ndarray | None = None
    steps: np.ndarray | None = None
    step: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that is not checked yet.

    Attributes:
        content: of the file.
        placed: the kernels in it.
        simulation: a Keras model that computes what the file is to compute; None where the converter or the runtime
            chose the ranges of activations.
        called: path of a kernel in it -> its path in the result, where that is another one.
    """

    content: bytes
    placed: list[Placed]
    simulation: keras.Model | None = None
    called: Mapping[str, str] = dataclasses.field(default_factory=dict)


def with_codes(result: Result, activations: str, storage: str, batch: int | None, samples: list[np.ndarray]) -> Written:
    """A file with the codes of a result in it; ranges of activations, if there are any, are measured on samples.

    Raises:
        InputError: codes that no TFLite weight type holds, or a graph in which they cannot be placed.
    """
    kernels = result.kernels
    model, folded = fold_all(result.model)
    model = for_converter(model)
    axes = {path: kernel.axes for path, kernel in kernels.items()}
    located = _located(model, axes, batch)
    missing = axes.keys() - {each.path for each in located}
    if missing and is_graph(model):
        model = locating.with_barriers(move_offsets(model, missing), missing)
        located = _located(model, axes, batch)
    floats = base = Editor(convert(model, "float", batch=batch))
    if activations != "float":
        base = Editor(convert(model, activations, batch=batch, samples=lambda: in_batches(samples, batch)))
    views = views_by_path(model)
    # Biases are those of the model itself: behind a layer without an activation they depend on kernels.
    operators, float_operators = (_alike(located, views, editor) for editor in (base, floats))
    placed = []
    for each, number, float_number in zip(located, operators, float_operators, strict=True):
        factor = each.factor * folded.get(each.path, 1.0)
        codes, scale = arranged(kernels[each.path], each.path, each.kind, factor)
        width = width_of(codes)
        assert width is not None  # `arranged` refuses others
        place = placement(each.kind, activations, storage, width)
        operator = floats.weighted[float_number].operator
        bias = floats.bias(operator, each.kind) if place.reads == "static" else None
        placed.append(write(base, views, dataclasses.replace(each, operator=number), codes, scale, place, bias))
    return Written(base.finish(*names(model)), placed)


def write(
    base: Editor,
    views: dict[str, KernelView],
    located: Located,
    codes: np.ndarray,
    scale: np.ndarray,
    place: Placement,
    bias: np.ndarray | None,
    name: str | None = None,
) -> Placed:
    """Gives an operator its weights, and one that computes with integers its bias, (n_out,) floats.

    `name` is the path that the kernel has in the result, where it is another one.
    """
    name = name or located.path
    own = views[located.path].variable.name if name == located.path else name.rpartition("/")[2]
    layer = name.removesuffix(f"/{own}")
    index, _, _ = base.weighted[located.operator]
    if place.reads != "static":
        codes, scale = _positive(codes, scale, located.kind)
        base.place(index, located.kind, f"{layer}/{own}", codes, scale, place)
        return Placed(name, located.operator, located.kind, codes, scale, place)
    axis, step = locating.channel_axis(located.kind), base.input_scale(index, located.kind)
    target = np.zeros(len(scale)) if bias is None else bias.astype(np.float64)
    largest = BIASES.get((located.kind, place.storage_bits), LARGEST)
    fitted = fit_biases(np.moveaxis(codes, axis, 0), scale, target, step, largest)
    codes, scale = np.moveaxis(fitted.codes, 0, axis), fitted.scale
    base.place(index, located.kind, f"{layer}/{own}", codes, scale, place)
    base.set_bias(index, located.kind, fitted.steps, f"{layer}/bias")
    steps, size = fitted.steps, bias_step(step, scale)
    return Placed(name, located.operator, located.kind, codes, scale, place, target, steps, size)


def _positive(codes: np.ndarray, scale: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A channel with scale 0 has no weights: codes become 0, since runtimes need a positive scale."""
    usable = scale >= np.finfo(np.float32).tiny
    kept = np.where(locating.along_channels(usable, kind, codes.ndim), codes, 0)
    return kept, np.where(usable, scale, np.float32(LEAST_SCALE))


def to_8_bits(view: KernelView) -> QuantizedKernel:
    """A kernel's weights rounded as the converter rounds them: the largest of each channel is 127 steps."""
    kernel = view.kernel.astype(np.float64)
    others = tuple(axis for axis in range(kernel.ndim) if axis not in view.axes)
    scale = (np.abs(kernel).max(axis=others, keepdims=True) / LEVELS[-1]).astype(np.float32)
    codes = np.rint(kernel / np.where(scale > 0, scale, 1)).astype(np.int64)
    along = [kernel.shape[axis] for axis in view.axes]
    return QuantizedKernel(np.clip(codes, LEVELS[0], LEVELS[-1]), LEVELS, scale.reshape(along), view.axes)


def in_batches(samples: list[np.ndarray], batch: int | None) -> Iterator[list[np.ndarray]]:
    """Samples in batches of the size that a file has, one where it is open; the last one is filled up."""
    size = batch or 1
    for start in range(0, len(samples[0]), size):
        yield [np.resize(array[start : start + size], (size, *array.shape[1:])) for array in samples]


def arranged(kernel: QuantizedKernel, path: str, kind: str, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes in an operator's layout, and their scales, (n_out,); a negative factor flips codes, not scales.

    Raises:
        InputError: codes that no weight type holds once they are flipped.
    """
    codes = locating.arrange(kernel.codes.astype(np.int16), kernel.axes, kind)
    assert codes is not None
    scale = np.broadcast_to(kernel.scale.reshape(-1), codes.shape[locating.channel_axis(kind)])
    codes = np.where(locating.along_channels(factor, kind, codes.ndim) < 0, -codes, codes)
    if width_of(codes) is None:
        raise InputError(
            f"The BatchNorm behind layer {path!r} has negative factors, which make 128 of the code -128, and no TFLite "
            "weight type holds that. Quantize with kc.Integer(8), which has no -128."
        )
    return codes, (scale.astype(np.float64) * np.abs(factor)).astype(np.float32)


def names(model: keras.Model) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs, in the order of the file; those of the layers, which last."""
    inputs = ModelInputs.of(model)
    if not is_graph(model):
        count = len(keras.tree.flatten(model.compute_output_spec(inputs.structure)))
        return list(inputs.names), [f"output_{index}" for index in range(count)]
    graph = functional_graph(model)
    layers = {id(layer.output): layer.name for layer in graph.layers if isinstance(layer, keras.layers.InputLayer)}
    input_names = [layers.get(id(tensor), name) for tensor, name in zip(inputs.tensors, inputs.names, strict=True)]
    return input_names, list(graph.output_names)


def _located(model: keras.Model, axes: dict[str, tuple[int, ...]], batch: int | None) -> list[Located]:
    """Where kernels are, found in a copy whose kernels are markers."""
    copy, markers = locating.with_markers(model, list(axes))
    return locating.locate(flatbuffer.parse(convert(copy, "float", batch=batch)), markers, axes)


def _alike(located: list[Located], views: dict[str, KernelView], editor: Editor) -> list[int]:
    """For each kernel the weighted operator whose weights resemble it, by its number; the order decides between equals.

    Operators of one model come in another order where the converter has made another graph of it.

    Raises:
        InputError: no operator resembles a kernel.
    """
    chosen: list[int] = []
    for each in located:
        view = views[each.path]
        values = locating.arrange(view.kernel, view.axes, each.kind)
        assert values is not None
        numbers = [
            number
            for number, (_, kind, tensor) in enumerate(editor.weighted)
            if kind == each.kind
            and number not in chosen
            and editor.shape(tensor) == values.shape
            and locating.factors(editor.floats(tensor), values, kind, locating.LOOSE) is not None
        ]
        if not numbers:
            raise InputError(
                f"The converter has put something else in place of the kernel of layer {each.path!r}, so that its "
                'codes cannot be placed. Export with another static_batch, or with activations="float".'
            )
        chosen.append(each.operator if each.operator in numbers else numbers[0])
    return chosen
