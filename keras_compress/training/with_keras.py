"""Quantization-aware training by Keras 3's own `fit`: `fitting/fake_quantization.py` on a copy of the model."""

import dataclasses
import functools
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_compress.calibration.ranges import Activation, rounded_network
from keras_compress.errors import InputError
from keras_compress.fitting import loop
from keras_compress.fitting.compiling import compile_as
from keras_compress.fitting.constraints import keep
from keras_compress.fitting.fake_quantization import (
    FakeQuantized,
    Group,
    KernelGrid,
    Mode,
    MovingRange,
    begin_ranges,
    fake_quantized,
)
from keras_compress.fitting.strategies import scope
from keras_compress.fitting.training import Fitting
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import functional_graph, layers_by_path
from keras_compress.layers.rewrite import Rewrite, clone_model, rebuild
from keras_compress.layers.rounding import Names, QuantizedTensor, quantized_tensors
from keras_compress.layers.selection import Patterns, select
from keras_compress.layers.splitting import split_layers
from keras_compress.layers.view import KernelView
from keras_compress.numerics.alphabet import integer_levels
from keras_compress.numerics.ranges import TensorAlphabet
from keras_compress.report import Step
from keras_compress.result import QuantizedKernel, Result, VariableState, weight_scales
from keras_compress.result.biases import round_biases

ONE_SCALE = (keras.layers.Conv2DTranspose, keras.layers.Dense)  # for all channels, as tfmot has it
RANGE_BATCHES = 16  # that ranges of activations begin with
WIDTH = 8  # of a kernel without codes


def trained_by_keras(
    source: Result,
    fitting: Fitting,
    bits: int | None,
    activation_bits: int | None,
    layers: Patterns | None,
    float_model: keras.Model | None,
    step: Step,
) -> Result:
    """See `quantization_aware_training`; what it left in floating point is `step.figures["reasons"]`."""
    feed, tested, strategy = fitting.feed, fitting.tested, fitting.training.strategy
    reasons = _left(source, layers)
    split, reason = _split(source.model, activation_bits)
    plan = _Plan(source, split, reasons, bits, activation_bits if not reason else None)
    if float_model is not None:
        plan.begin_with(float_model)
    if reason and activation_bits is not None:
        step.figures["activations"] = f"in floating point, or as they were: {reason}"
    with scope(strategy):
        plain = clone_model(source.model)
        compile_as(plain, source.model, feed.labels)
        step.figures |= loop.figures("before", plain, tested)
        trained = plan.copy()
        compile_as(trained.model, source.model, feed.labels)
        trained.keep(split.by_new_paths(source.masks), split.by_new_paths(source.clusters))
        begin = functools.partial(_begin_ranges, plan, trained, fitting)
        shown, summaries = {"bits": plan.width}, trained.summaries
        loop.fit(trained.model, fitting, shown=shown, begin=begin, summaries=summaries)
    rounded, kernels = plan.result_of(trained)
    changed = {path: VariableState(kernel) for path, kernel in kernels.items()}
    result = source.after(rounded, step, changed=changed, rewrite=split).folded()[0].without_broken(step)
    round_biases(result.model, result.kernels)
    with scope(strategy):
        judged = clone_model(result.model)
        functional_graph(judged).output_names = functional_graph(source.model).output_names
        compile_as(judged, source.model, feed.labels)
        step.figures |= loop.figures("after", judged, tested)
    step.figures["reasons"] = split.by_new_paths(reasons)
    return result


def _left(source: Result, layers: Patterns | None) -> dict[str, str]:
    """Path of each kernel that stays in floating point -> why."""
    views = views_by_path(source.model)
    if not views:
        raise InputError(f"Model {source.model.name!r} has no kernel that can be quantized.")
    chosen = select(layers, list(views), "layers")
    return {path: "not chosen" for path in views if path not in chosen}


def _split(model: keras.Model, activation_bits: int | None) -> tuple[Rewrite, str]:
    """The model with a layer for each step that a file rounds; or a copy, and why activations are left alone."""
    if activation_bits is None:
        return Rewrite(clone_model(model), {}), "activation_bits=None"
    if any(isinstance(layer, QuantizeActivation) for layer in layers_by_path(model).values()):
        return Rewrite(clone_model(model), {}), "its activations are rounded already"
    if opaque := Graph(model).opaque:
        return Rewrite(clone_model(model), {}), opaque
    return split_layers(model), ""


@dataclasses.dataclass
class _Trained:
    """A copy that is trained.

    Attributes:
        model: what is fitted.
        network: the model whose layers it calls.
        grids: path of a kernel -> where it lies.
        groups: number of a group of tensors -> its layers.
    """

    model: FakeQuantized
    network: keras.Model
    grids: dict[str, KernelGrid]
    groups: dict[int, Group]

    def keep(self, masks: Mapping[str, np.ndarray], clusters: Mapping[str, np.ndarray]) -> None:
        """Zeros and equal weights stay."""
        keep({path: view.variable for path, view in views_by_path(self.network).items()}, masks, clusters)

    def summaries(self) -> dict[str, float]:
        """The ranges, by the names of their layers."""
        values: dict[str, float] = {}
        for group in self.groups.values():
            for name, value in zip(("low", "high"), group.ends(), strict=True):
                values |= {f"range/{each.name}/{name}": float(value) for each in group.members}
        return values


class _Plan:
    """What is rounded, and how copies are made that train and that have been trained."""

    def __init__(
        self, source: Result, split: Rewrite, reasons: Mapping[str, str], bits: int | None, activation_bits: int | None
    ):
        self.source = source
        self.split = split
        self.levels = integer_levels(bits or WIDTH)  # of kernels without codes
        self.activation_bits = activation_bits or 0  # 0 where there are no tensors to round
        self.graph = Graph(split.model)
        self.tensors: list[QuantizedTensor] = [] if activation_bits is None else quantized_tensors(self.graph)
        left = split.by_new_paths(reasons)
        self.kernels = [path for path in views_by_path(split.model) if path not in left]
        self.codes = {
            path: codes
            for path, codes in split.by_new_paths(source.kernels).items()
            if bits is None or np.array_equal(codes.levels, self.levels)
        }
        self.clusters = split.by_new_paths(source.clusters)

    def begin_with(self, float_model: keras.Model) -> None:
        """Kernels with codes get the weights of a model with the same kernels, which are rounded to their grid."""
        kernels = self.split.by_new_paths({path: view.kernel for path, view in views_by_path(float_model).items()})
        for path, view in views_by_path(self.split.model).items():
            if path not in self.codes or path not in self.kernels:
                continue
            if path not in kernels or kernels[path].shape != view.kernel.shape:
                received = "no such kernel" if path not in kernels else f"{kernels[path].shape}"
                raise InputError(
                    f"float_model must have the kernels of the result. Expected: {path!r} of shape "
                    f"{view.kernel.shape}. Received: {received}. Pass the model that was quantized."
                )
            view.variable.assign(kernels[path])

    @property
    def width(self) -> float:
        """Bits a weight, on average over the weights that are rounded."""
        views = views_by_path(self.split.model)
        sizes = [views[path].kernel.size for path in self.kernels]
        levels = [self.codes[path].levels if path in self.codes else self.levels for path in self.kernels]
        widths = [(len(each) - 1).bit_length() for each in levels]
        return float(np.average(widths, weights=sizes))

    def copy(self) -> _Trained:
        """A copy to be fitted."""
        mode = Mode()
        behind, groups = self._moving(mode)
        network = rebuild(self.split.model, insert=lambda tensor: behind.get(id(tensor), [])).model
        model = fake_quantized(network, self.source.model.name)
        model.dtype_policy = self.source.model.dtype_policy
        model.output_names = functional_graph(self.source.model).output_names
        views = views_by_path(network)
        grids = {path: self._grid(path, views[path]) for path in self.kernels}
        model.follow(list(grids.values()), mode)
        return _Trained(model, network, grids, groups)

    def _moving(self, mode: Mode) -> tuple[dict[int, list[keras.Layer]], dict[int, Group]]:
        """The layer behind each tensor, by its symbol, and the groups of tensors with one range."""
        names, bits = Names(self.graph), self.activation_bits
        behind: dict[int, list[keras.Layer]] = {}
        groups: dict[int, Group] = {}
        for tensor in self.tensors:
            name = names.new(tensor.path, "range")
            if tensor.function is None:
                group = groups.setdefault(tensor.group, Group())
                behind[id(tensor.symbol)] = [MovingRange(bits, mode, group, name=name)]
            elif not set(tensor.tensors) & set(self.graph.outputs):
                # Not the outputs: a loss takes logarithms of probabilities, of which rounding makes zeros.
                alphabet = TensorAlphabet.of_function(*tensor.function, bits)
                behind[id(tensor.symbol)] = [QuantizeActivation(bits, alphabet.scale, alphabet.zero_point, name=name)]
        return behind, groups

    def _grid(self, path: str, view: KernelView) -> KernelGrid:
        codes = self.codes.get(path)
        if codes is None:
            return KernelGrid(view.variable, self.levels, self._axes(path, view))
        entries = codes.along(np.arange(codes.scale.size).reshape(codes.scale.shape))
        return KernelGrid(
            view.variable,
            codes.levels,
            scale=codes.scale.reshape(-1),
            entries=entries,
            zero_point=codes.along(codes.zero_point),
            gap=codes.along(codes.gap),
        )

    def _axes(self, path: str, view: KernelView) -> tuple[int, ...]:
        """Equal weights have equal codes where there is one scale."""
        return () if type(view.layer) in ONE_SCALE or path in self.clusters else view.axes

    def result_of(self, trained: _Trained) -> tuple[keras.Model, dict[str, QuantizedKernel]]:
        """A copy with the trained weights, decoded from their codes, which rounds its activations; and the codes."""
        network = clone_model(self.split.model)
        layers = layers_by_path(trained.network)
        for path, layer in layers_by_path(network).items():
            layer.set_weights(layers[path].get_weights())
        views = views_by_path(network)
        kernels = {path: self._quantized(path, views[path], grid) for path, grid in trained.grids.items()}
        for path, kernel in kernels.items():
            views[path].variable.assign(kernel.decode())
        if not self.tensors:
            return network, kernels
        graph = Graph(network)
        activations = [
            Activation(tensor, self.activation_bits, self._alphabet(tensor, trained))
            for tensor in quantized_tensors(graph)
        ]
        return rounded_network(network, graph, activations, weight_scales(kernels)), kernels

    def _quantized(self, path: str, view: KernelView, grid: KernelGrid) -> QuantizedKernel:
        kernel = tf.constant(np.asarray(grid.variable))
        codes = np.rint(grid.levels(kernel)).astype(np.int32)
        scales = np.asarray(grid.scales(kernel))
        if before := self.codes.get(path):
            factor = scales / np.asarray(grid.start)
            gap = None if before.gap is None else (before.gap * factor.reshape(before.gap.shape)).astype(np.float32)
            return dataclasses.replace(before, codes=codes, scale=scales.reshape(before.scale.shape), gap=gap)
        axes = self._axes(path, view)
        scale = scales.reshape([codes.shape[axis] for axis in axes] or [1])
        return QuantizedKernel(codes, self.levels, scale, view.axes)

    def _alphabet(self, tensor: QuantizedTensor, trained: _Trained) -> TensorAlphabet:
        bits = self.activation_bits
        if tensor.function is not None:
            return TensorAlphabet.of_function(*tensor.function, bits)
        low, high = trained.groups[tensor.group].ends()
        return TensorAlphabet.of_range(float(low), float(high), bits)


def _begin_ranges(plan: _Plan, trained: _Trained, fitting: Fitting) -> None:
    """Of a model that belongs to no strategy: the distributed one runs by `fit` only."""
    if not trained.groups:
        return
    alone = trained if fitting.training.strategy is None else plan.copy()
    batches = (batch[0] for batch in fitting.feed.shuffled(fitting.training.seed, 0, 1).take(RANGE_BATCHES))
    begin_ranges(alone.model, batches, alone.groups.values())
    if alone is trained:
        return
    for number, group in trained.groups.items():
        for own, other in zip(group.members, alone.groups[number].members, strict=True):
            own.low.assign(np.asarray(other.low))
            own.high.assign(np.asarray(other.high))
