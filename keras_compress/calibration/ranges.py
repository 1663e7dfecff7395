"""Alphabets of the quantized tensors of a full-integer network, chosen from the values that they take in the data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.calibration import Calibration
from keras_compress.calibration.forward import visit_tensors
from keras_compress.errors import InputError
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.folding import fold_all
from keras_compress.layers.graph import Graph
from keras_compress.layers.limits import LEAST, Limit, limits
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import rebuild
from keras_compress.layers.rounding import Names, QuantizedTensor
from keras_compress.numerics.ranges import Histogram, MinMax, MovingAverage, TensorAlphabet, mse_range

RANGES = ("mse", "moving_average", "minmax")
STILL = 512  # half a step of 8 bits
LIMITED = 8  # bits of activations whose scales runtimes limit


@dataclasses.dataclass
class Activation:
    """A tensor that is to be quantized.

    Attributes:
        tensor: which one.
        bits: of its codes.
        alphabet: of its values, once it is known.
        layer: what quantizes it.
        squares: sums of squares: of what rounding takes, of the values.
        clipped, count: how many values lie beyond the alphabet, of how many.
    """

    tensor: QuantizedTensor
    bits: int
    alphabet: TensorAlphabet | None = None
    layer: QuantizeActivation | None = None
    squares: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
    clipped: int = 0
    count: int = 0


def choose_alphabets(
    source: Calibration,
    graph: Graph,
    chosen: list[Activation],
    symmetric: bool,
    ranges: str,
    done: Callable[[str], None],
) -> None:
    """Gives each tensor its alphabet: of its function, or of the range that its group has in the data.

    Args:
        source: the samples; it is open.
        graph: of the network that `quantized_tensors` looked at.
        chosen: the tensors.
        symmetric: whether zero points are 0.
        ranges: one of `RANGES`.
        done: called behind each pass over the data.

    Raises:
        InputError: activations that are not finite.
    """
    range_of = {each.tensor.group: each.tensor.range_of for each in chosen if each.tensor.function is None}
    groups = {number: group for group, numbers in range_of.items() for number in numbers}
    extremes = {number: MovingAverage() if ranges == "moving_average" else MinMax() for number in groups}
    channels = {number: _Channels() for number in groups}

    def find(number: int, values: Any) -> None:
        samples = np.asarray(values, np.float32)
        samples = samples.reshape(len(samples), -1)
        lows, highs = samples.min(axis=1), samples.max(axis=1)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise InputError(
                f"The outputs of layer {graph.calls[graph.producer[number]].path!r} must be finite. Received: NaN or "
                "Inf for some calibration samples. Look at the weights of this layer and of those before it."
            )
        extremes[number].add(lows, highs)
        if ranges == "mse":
            channels[number].add(samples.reshape(-1, np.shape(values)[-1]))

    visit_tensors(source, graph, groups.keys(), find)
    done("extremes")
    spans = {}
    for group, numbers in range_of.items():
        lows, highs = zip(*(extremes[number].range() for number in numbers), strict=True)
        spans[group] = min(lows), max(highs)
    histograms = {}
    if ranges == "mse":
        histograms = {group: Histogram(*span) for group, span in spans.items()}

        def count(number: int, values: Any) -> None:
            array, still = np.asarray(values), channels[number].still(spans[groups[number]])
            histograms[groups[number]].add(array[..., ~still])

        visit_tensors(source, graph, groups.keys(), count)
        done("histograms")
    alphabets: dict[tuple[int, int], TensorAlphabet] = {}
    for each in chosen:
        group, width = key = each.tensor.group, each.bits
        if key not in alphabets:
            if each.tensor.function is not None:
                alphabets[key] = TensorAlphabet.of_function(*each.tensor.function, width, symmetric=symmetric)
            else:
                span = spans[group]
                if histograms:
                    low, high = mse_range(histograms[group], width, symmetric=symmetric)
                    held = [channels[number].ends_of_still(span) for number in range_of[group]]
                    span = min([low, *(ends[0] for ends in held)]), max([high, *(ends[1] for ends in held)])
                alphabets[key] = TensorAlphabet.of_range(*span, width, symmetric=symmetric)
        each.alphabet = alphabets[key]


class _Channels:
    """The least and the largest value of each channel, the last axis of a tensor.

    A channel that hardly changes says nothing to the layers behind it but a constant: in networks with weight decay
    many channels die so. Where their equal values are counted, the range of least squared error is the one that meets
    them exactly, and clips the channels that live.
    """

    def __init__(self) -> None:
        self.low: Any = np.inf
        self.high: Any = -np.inf

    def add(self, rows: np.ndarray) -> None:
        """(m, channels)."""
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))

    def still(self, span: tuple[float, float]) -> np.ndarray:
        """Which channels change by less than a part in `STILL` of what the tensor spans; none where all do."""
        still = np.atleast_1d((self.high - self.low) * STILL < span[1] - span[0])
        return still & ~still.all()

    def ends_of_still(self, span: tuple[float, float]) -> tuple[float, float]:
        """The least and the largest value of these channels: a constant that is clipped is another constant."""
        still = self.still(span)
        if not still.any():
            return np.inf, -np.inf
        return float(self.low[still].min()), float(self.high[still].max())


def rounded_network(
    network: keras.Model, graph: Graph, chosen: Sequence[Activation], weight_scales: Mapping[str, np.ndarray]
) -> keras.Model:
    """A copy of a network that quantizes each chosen tensor, whose alphabet is known.

    Scales that runtimes would refuse are raised: nothing is lost but steps that are less than 1/255 of those before.

    Args:
        network: as `split_layers` gave it.
        graph: of it.
        chosen: the tensors; each one gets its layer.
        weight_scales: path of a kernel with codes -> its scales, as `limits` takes them.

    Raises:
        InputError: a scale that can be raised without end.
    """
    _add_layers(graph, chosen)
    model = _with_layers(network, chosen)
    paths = {id(layer): path for path, layer in layers_by_path(model).items()}
    rounding = {paths[id(each.layer)]: each for each in chosen if each.bits == LIMITED}
    bounds = [
        bound for bound in limits(*fold_all(model), weight_scales) if rounding.keys() >= {bound.output, *bound.inputs}
    ]
    if not _raise_scales(rounding, bounds):
        return model
    _add_layers(graph, chosen)
    return _with_layers(network, chosen)


def _raise_scales(rounding: Mapping[str, Activation], bounds: Sequence[Limit]) -> bool:
    """Raises the scales of alphabets until all limits hold; whether there was one to raise."""
    groups = {path: each.tensor.group for path, each in rounding.items()}
    scales = {}
    for each in rounding.values():
        assert each.alphabet is not None
        scales[each.tensor.group] = each.alphabet.scale
    before = dict(scales)
    scales = {group: max(scale, LEAST) for group, scale in scales.items()}
    for _ in range(len(scales) + 1):
        beyond = [bound for bound in bounds if _raised(bound, groups, scales)]
        if not beyond:
            break
    else:
        raise InputError(
            f"The inputs and outputs of layer {beyond[-1].path!r} are in a group with one scale, and its weights are "
            "so large that no step of 8 bits is right for both. Look at the largest of these weights, or "
            f"leave {beyond[-1].path!r} in floating point (layers=)."
        )
    raised = {group for group, scale in scales.items() if scale > before[group]}
    for each in rounding.values():
        if each.tensor.group in raised:
            assert each.alphabet is not None
            each.alphabet = each.alphabet.with_scale(scales[each.tensor.group])
    return bool(raised)


def _raised(bound: Limit, groups: Mapping[str, int], scales: dict[int, float]) -> bool:
    """Raises the scale of what an operator makes if need be; whether it was so."""
    least, group = bound.factor * max(scales[groups[path]] for path in bound.inputs), groups[bound.output]
    low = scales[group] < least
    scales[group] = max(scales[group], least)
    return low


def _with_layers(network: keras.Model, chosen: Sequence[Activation]) -> keras.Model:
    """A copy of a network with the layer of each chosen tensor behind it."""
    layers: dict[int, list[keras.layers.Layer]] = {
        id(each.tensor.symbol): [each.layer] for each in chosen if each.layer is not None
    }
    return rebuild(network, insert=lambda tensor: layers.get(id(tensor), [])).model


def _add_layers(graph: Graph, chosen: Sequence[Activation]) -> None:
    """Gives each tensor the layer that quantizes it to its alphabet."""
    names = Names(graph)
    for each in chosen:
        alphabet = each.alphabet
        assert alphabet is not None
        each.layer = QuantizeActivation(
            alphabet.bits,
            alphabet.scale,
            alphabet.zero_point,
            symmetric=alphabet.symmetric,
            name=names.new(each.tensor.path, "quantized"),
            dtype="float32",
        )
