"""Fake quantization in Keras 3: kernels on grids, activations in ranges that move, gradients straight through.

Both are float32 numbers that an integer network would have; gradients pass where nothing is clipped (Jacob et al.,
2018, section 3.1).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Keras exports no test for a class with the constructor of a Functional model.
from keras.src.models.functional import functional_like_constructor

from keras_compress.layers.paths import functional_graph

DECAY = 0.999  # of the moving averages of ranges, as tfmot's
LEAST_SCALE = 1e-9  # of a channel whose weights are all zero
ROUNDED = 1e-4  # steps that the largest weight may lie beyond the outermost level, and is not clipped
LEAST_RANGE = 1e-6  # for which TensorFlow's operation rounds without NaN


class KernelGrid:
    """The values on which a kernel lies while a model is trained: steps of a scale, perhaps from a zero point.

    Args:
        variable: the kernel, which stays in floating point.
        levels: (num_levels,) integers, evenly spaced.
        axes: of the kernel, those that run over channels with a scale each; () for one scale. The largest weight in
            each step decides the scale (tfmot's LastValueQuantizer).
        scale: (n,) to begin with, in place of that: each is trained, times exp(t).
        entries: which of these scales a weight has: integers that broadcast to the kernel's shape.
        zero_point, gap: of `QuantizedKernel`, likewise of a shape that broadcasts; None for none.
    """

    def __init__(
        self,
        variable: keras.Variable,
        levels: np.ndarray,
        axes: Sequence[int] = (),
        *,
        scale: np.ndarray | None = None,
        entries: np.ndarray | None = None,
        zero_point: np.ndarray | None = None,
        gap: np.ndarray | None = None,
    ):
        self.variable = variable
        self.axes = tuple(axes)
        self.step = float(levels[1] - levels[0])
        self.shift = float(levels[0]) / self.step % 1
        self.ends = float(levels[0]), float(levels[-1])
        self.zero_point = np.float32(0) if zero_point is None else np.asarray(zero_point, np.float32)
        self.start = None if scale is None else np.maximum(np.asarray(scale, np.float32), np.float32(LEAST_SCALE))
        self.entries = entries
        self.widening = None
        self.logarithm: keras.Variable | None = None
        if self.start is not None:
            self.widening = None if gap is None else np.asarray(gap / self.start[entries], np.float32)
            self.logarithm = keras.Variable(np.zeros(self.start.shape, np.float32), name="logarithm_of_the_scale")

    def scales(self, kernel: Any) -> Any:
        """Of a kernel: (n,) as they are trained, or one for each channel, in a shape that broadcasts."""
        if self.start is not None:
            assert self.logarithm is not None
            return self.start * tf.exp(tf.convert_to_tensor(self.logarithm))
        others = [axis for axis in range(kernel.shape.rank) if axis not in self.axes]
        largest = tf.reduce_max(tf.abs(tf.stop_gradient(kernel)), axis=others, keepdims=True)
        return tf.maximum(2 * largest / (self.ends[1] - self.ends[0]), LEAST_SCALE)

    def levels(self, kernel: Any) -> Any:
        """The level of each weight, a float32 number."""
        return self._levels(kernel / self._scale(kernel))

    def rounded(self, kernel: Any) -> Any:
        """The kernel on its grid; gradients of kernel and scale as of Esser et al., 2020, equations 1 to 3."""
        scale = self._scale(kernel)
        steps = kernel / scale
        low, high = (self._values(tf.constant(end)) for end in self.ends)
        clipped = tf.clip_by_value(steps, low - ROUNDED, high + ROUNDED)
        return scale * (clipped + tf.stop_gradient(self._values(self._levels(steps)) - clipped))

    def _scale(self, kernel: Any) -> Any:
        return self.scales(kernel) if self.start is None else tf.gather(self.scales(kernel), self.entries)

    def _levels(self, steps: Any) -> Any:
        low, high = self.ends
        if self.widening is not None:  # zero, or at least one step and the gap
            magnitude = tf.maximum(tf.round(tf.abs(steps) - self.widening), 1)
            near = tf.abs(steps) < (self.widening + 1) / 2
            return tf.clip_by_value(tf.where(near, 0.0, tf.sign(steps) * magnitude), low, high)
        nearest = self.step * (tf.round(steps / self.step + self.zero_point - self.shift) + self.shift)
        return tf.clip_by_value(nearest, low, high)

    def _values(self, levels: Any) -> Any:
        """In steps of the scale."""
        values = levels - self.zero_point
        return values if self.widening is None else values + tf.sign(levels) * self.widening


class Mode:
    """What a model is being called for; its ranges ask for it.

    Attributes:
        training: whether ranges follow the data.
        decay: of the moving average.
    """

    training = False
    decay: Any = DECAY


class Group:
    """Tensors with one range, that which the ranges of all of them span: what is joined has one alphabet.

    Attributes:
        members: a layer for each tensor.
    """

    def __init__(self) -> None:
        self.members: list[MovingRange] = []

    def ends(self) -> tuple[Any, Any]:
        """The least and the largest value, tensors."""
        low = tf.reduce_min([tf.convert_to_tensor(each.low) for each in self.members])
        high = tf.reduce_max([tf.convert_to_tensor(each.high) for each in self.members])
        return low, tf.maximum(high, low + LEAST_RANGE)


class MovingRange(keras.layers.Layer):
    """Rounds to 2^bits values, zero among them, in a range that follows the data while a model is trained.

    Both ends are exponential moving averages of the batches' extremes, as in tfmot's MovingAverageQuantizer. They move
    in every training, also where a nested model is called with training=False.

    Args:
        bits: of the activations.
        mode: of the model.
        group: of tensors with one range.
    """

    def __init__(self, bits: int, mode: Mode, group: Group, **settings: Any):
        super().__init__(autocast=False, dtype="float32", **settings)
        self.bits = bits
        self.mode = mode
        self.group = group
        zeros = {"shape": (), "initializer": "zeros", "trainable": False}
        self.low, self.high = (self.add_weight(name=name, **zeros) for name in ("low", "high"))
        group.members.append(self)

    def call(self, inputs: Any) -> Any:
        values = tf.cast(inputs, tf.float32)
        if self.mode.training:
            batch = tf.stop_gradient(_of_all_replicas(values))
            ends = (self.low, tf.minimum(tf.reduce_min(batch), 0)), (self.high, tf.maximum(tf.reduce_max(batch), 0))
            for variable, end in ends:
                before = tf.convert_to_tensor(variable)
                variable.assign(before + (1 - self.mode.decay) * (end - before))
        rounded = tf.quantization.fake_quant_with_min_max_vars(values, *self.group.ends(), self.bits)
        return tf.cast(rounded, inputs.dtype)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


def _of_all_replicas(values: Any) -> Any:
    """The least and the largest value of each replica, where there are several: means of them would be other ranges."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_gather(tf.stack([tf.reduce_min(values), tf.reduce_max(values)]), axis=0)


def fake_quantized(model: keras.Model, name: str) -> Any:
    """A model with the layers of a Functional or Sequential one that is called with its kernels on their grids.

    A class of the user's stays, with its own `train_step` for instance.
    """
    kind = type(model) if functional_like_constructor(type(model)) else keras.Model
    graph = functional_graph(model)
    return type("FakeQuantized", (FakeQuantized, kind), {})(graph.input, graph.output, name=name)


class FakeQuantized(keras.Model):
    """What `fake_quantized` adds to a class.

    Whatever layer reads a kernel, also one within another layer, gets the kernel on its grid; the variable stays in
    floating point, and has the gradient.
    """

    grids: Sequence[KernelGrid] = ()
    mode = Mode()

    def follow(self, grids: Sequence[KernelGrid], mode: Mode) -> None:
        """Says what to round; the logarithms of scales become weights of the model."""
        self.grids = tuple(grids)
        self.mode = mode
        self.logarithms = [grid.logarithm for grid in grids if grid.logarithm is not None]

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        # Private: a variable's public value is of the type in which a layer of half precision computes.
        kernels = [tf.convert_to_tensor(grid.variable._value) for grid in self.grids]
        mapping = [(grid.variable, grid.rounded(kernel)) for grid, kernel in zip(self.grids, kernels, strict=True)]
        self.mode.training = bool(training)
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            outputs = super().call(inputs, training=training, mask=mask)
        self.mode.training = False
        for loss in scope.losses:
            self.add_loss(loss)
        kernels_here = {id(grid.variable) for grid in self.grids}
        for variable in self.variables:  # states that layers have changed: moving means, ranges, random seeds
            value = None if id(variable) in kernels_here else scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)
        return outputs


def begin_ranges(model: FakeQuantized, batches: Iterable[Any], groups: Iterable[Group]) -> None:
    """Gives ranges of activations a beginning: means of the extremes of some batches, in training.

    Ranges are set one layer after the other within a call, so that each sees inputs that were rounded well. All other
    variables stay as they are.

    Args:
        model: that belongs to no strategy.
        batches: of inputs.
        groups: of the model's tensors.
    """
    own = {id(variable) for group in groups for each in group.members for variable in (each.low, each.high)}
    others = [(variable, np.asarray(variable)) for variable in model.variables if id(variable) not in own]
    decay = tf.Variable(0.0, trainable=False)

    @tf.function(autograph=False)
    def call(batch: Any) -> None:
        model.mode.decay = decay
        model(batch, training=True)

    for number, batch in enumerate(batches):
        decay.assign(number / (number + 1))
        call(batch)
    model.mode.decay = DECAY
    for variable, value in others:
        variable.assign(value)
