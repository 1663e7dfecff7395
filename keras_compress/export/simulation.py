"""Networks run call by call, so that inputs and outputs of a call can be replaced; and how runtimes round."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import LINEAR, Graph

TIE = 2.0**-13  # steps: how far float32 may be from half a step
FINEST = 24  # from this k on the first rounding changes nothing in float32


def run_graph(
    graph: Graph,
    arrays: list[np.ndarray],
    *,
    before: Callable[[str, Any], Any] | None = None,
    after: Callable[[int, Any], Any] | None = None,
    nudge: float = 0.0,
) -> dict[int, Any]:
    """All tensors of a network for one batch.

    Args:
        graph: of the network.
        arrays: one for each input.
        before: gets the path of a kernel and its input; returns what replaces it.
        after: gets each tensor's number and value; returns what replaces it.
        nudge: steps by which every value is moved before it is rounded.
    """
    change = after or (lambda tensor, value: value)
    values: dict[int, Any] = {
        tensor: change(tensor, keras.ops.convert_to_tensor(array))
        for tensor, array in zip(graph.inputs, arrays, strict=True)
    }
    for call in graph.calls:
        read = values
        if before is not None and call.part == LINEAR:
            read = values | {tensor: before(call.path, values[tensor]) for tensor in call.inputs}
        if nudge and isinstance(call.operation, QuantizeActivation):
            read = values | {tensor: values[tensor] + nudge * call.operation.scale for tensor in call.inputs}
        for tensor, value in zip(call.outputs, call.run(read), strict=True):
            values[tensor] = change(tensor, value)
    return values


def rounded_at_each_call(inputs: Any, *, rows: bool) -> Any:
    """What an operator that quantizes its inputs on the fly multiplies: 8 bits for the range of each row or sample.

    LiteRT's and XNNPACK's scheme for hybrid operators: asymmetric, and zero in the range.
    """
    ops = keras.ops
    axes = -1 if rows else tuple(range(1, len(inputs.shape)))
    low = ops.minimum(ops.min(inputs, axis=axes, keepdims=True), 0.0)
    high = ops.maximum(ops.max(inputs, axis=axes, keepdims=True), 0.0)
    scale = ops.where(high > low, (high - low) / 255.0, 1.0)
    zero = ops.round(-128.0 - low / scale)
    return (ops.clip(ops.round(inputs / scale) + zero, -128.0, 127.0) - zero) * scale


class RoundInTwoSteps(QuantizeActivation):
    """`QuantizeActivation` of sums that a runtime's own kernels make, which round each sum twice.

    A sum times a multiplier of 31 bits is rounded to a multiple of 2^-k steps, where the ratio of the sum's step to the
    output's lies between 2^-(k+1) and 2^-k; then to steps, half a step going up, or away from zero (gemmlowp's
    `MultiplyByQuantizedMultiplier`, vectors of it and one by one). At k = 1 what is 0.25 to 0.5 steps too high becomes
    a whole step: sums of few small codes, as kernels of 2 to 4 bits make them, come out larger. XNNPACK rounds once.

    Args:
        fractions: (channels,) k, 0 for sums that are rounded once.
        upward: (channels,) whether half a step goes up, also below zero.
    """

    def __init__(self, bits: int, scale: float, zero_point: int, *, fractions: Any, upward: Any, **kwargs: Any):
        super().__init__(bits, scale, zero_point, **kwargs)
        self.fractions, self.upward = np.asarray(fractions, np.float32), np.asarray(upward, bool)

    @classmethod
    def of(cls, layer: QuantizeActivation, fractions: np.ndarray, upward: np.ndarray) -> "RoundInTwoSteps":
        """In place of a layer that rounds once."""
        return cls(
            layer.bits, layer.scale, layer.zero_point, fractions=fractions, upward=upward, name=layer.name,
            dtype="float32",
        )  # fmt: skip

    def call(self, inputs: Any) -> Any:
        steps = in_two_steps(inputs / self.scale, self.fractions, self.upward)
        clipped = keras.ops.clip(steps, self.lowest - self.zero_point, self.highest - self.zero_point)
        return clipped * self.scale

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"fractions": self.fractions.tolist(), "upward": self.upward.tolist()}


class RoundTies(QuantizeActivation):
    """`QuantizeActivation` of what TFLite computes with integers alone, so that half a step is a common result.

    The sum of two tensors whose scale is half that of the result, the mean of four pixels: Keras rounds half a step to
    the even number of steps, runtimes up (sums) or away from the code 0 (means).
    """

    def __init__(self, bits: int, scale: float, zero_point: int, *, away: bool, **kwargs: Any):
        super().__init__(bits, scale, zero_point, **kwargs)
        self.away = away

    @classmethod
    def of(cls, layer: QuantizeActivation, *, away: bool) -> "RoundTies":
        """In place of a layer that rounds them to even numbers."""
        return cls(layer.bits, layer.scale, layer.zero_point, away=away, name=layer.name, dtype="float32")

    def call(self, inputs: Any) -> Any:
        ops, codes = keras.ops, inputs / self.scale + self.zero_point
        up = ops.floor(codes + (0.5 + TIE))
        rounded = ops.sign(codes) * ops.floor(ops.abs(codes) + (0.5 + TIE)) if self.away else up
        return (ops.clip(rounded, self.lowest, self.highest) - self.zero_point) * self.scale

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"away": self.away}


def in_two_steps(steps: Any, fractions: np.ndarray, upward: np.ndarray) -> Any:
    """Numbers of steps as runtimes' own kernels round them: `RoundInTwoSteps`."""
    ops = keras.ops
    # Products: TensorFlow's graphs divide by a vector through an approximate reciprocal, 0.49999997 for 1 / 2.
    parts, part = (np.exp2(each).astype(np.float32) for each in (fractions, -fractions))
    # Where there are no parts the first rounding is the only one.
    once = ops.where(fractions > 0, ops.floor(steps * parts + 0.5) * part, ops.round(steps))
    up = ops.floor(once + 0.5)
    return ops.where(upward, up, ops.sign(once) * ops.floor(ops.abs(once) + 0.5))


def fractions_of(ratio: np.ndarray) -> np.ndarray:
    """k for each ratio of a sum's step to the output's."""
    _, exponents = np.frexp(np.asarray(ratio, np.float64))
    return np.where(exponents > -FINEST, np.maximum(-exponents, 0), 0)
