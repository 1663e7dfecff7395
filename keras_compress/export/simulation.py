"""Networks run call by call, so that what goes into a call or comes out of it can be another value than its own."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.graph import LINEAR, Graph


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
        before: gets the path of a kernel and what it is multiplied with; returns what takes its place.
        after: gets each tensor's number and value; returns what takes its place.
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


def rounded_at_each_call(inputs: Any, kind: str) -> Any:
    """What an operator that quantizes its inputs on the fly multiplies: 8 bits for the range of each sample.

    LiteRT's and XNNPACK's scheme for hybrid operators: asymmetric, the range of each row of a FULLY_CONNECTED and of
    each sample of a CONV_2D, and zero in it.
    """
    ops = keras.ops
    axes = -1 if kind == "FULLY_CONNECTED" else tuple(range(1, len(inputs.shape)))
    low = ops.minimum(ops.min(inputs, axis=axes, keepdims=True), 0.0)
    high = ops.maximum(ops.max(inputs, axis=axes, keepdims=True), 0.0)
    scale = ops.where(high > low, (high - low) / 255.0, 1.0)
    zero = ops.round(-128.0 - low / scale)
    return (ops.clip(ops.round(inputs / scale) + zero, -128.0, 127.0) - zero) * scale
