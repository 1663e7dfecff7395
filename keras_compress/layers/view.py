"""What a kernel view is: a kernel as matrices, and its layer's inputs as rows."""

import abc
import math
from typing import Any

import keras
import numpy as np


class KernelView(abc.ABC):
    """A kernel as one matrix (N, units) for each group; columns are neurons.

    Attributes:
        weight: name of the kernel among the layer's attributes; a layer with several kernels has a view of each.
        groups: matrices that see other inputs each.
        solved_together: whether groups are many and small, and go through a solver together.
        memoryless: why each weight is rounded alone: nothing is known of the inputs, or they do not act together.
            Empty where codes follow the inputs.
    """

    weight = "kernel"
    groups = 1
    solved_together = False
    memoryless = ""

    def __init__(self, layer: keras.Layer):
        self.layer = layer

    @property
    def variable(self) -> keras.Variable:
        return getattr(self.layer, self.weight)

    @property
    def kernel(self) -> np.ndarray:
        return np.asarray(self.variable)

    @property
    def bias_variable(self) -> keras.Variable | None:
        """What is added to the matrices' outputs, one number for each output channel in their order; or None."""
        return self.layer.bias if self.layer.use_bias else None

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of the kernel that run over output channels: in their order, units of one group after the other."""
        return (len(self.variable.shape) - 1,)

    @property
    def num_features(self) -> int:
        """N."""
        return math.prod(self.variable.shape) // self.num_channels

    @property
    def num_channels(self) -> int:
        """Output channels of all groups."""
        return math.prod(self.variable.shape[axis] for axis in self.axes)

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        """(groups, N, units) of an array of the kernel's shape."""
        flat = kernel.reshape(-1, self.groups, kernel.shape[-1] // self.groups)
        return np.ascontiguousarray(np.moveaxis(flat, 1, 0))

    def kernel_of(self, matrices: np.ndarray) -> np.ndarray:
        """The kernel-shaped array of (groups, N, units)."""
        return np.moveaxis(matrices, 0, 1).reshape(self.variable.shape)

    @abc.abstractmethod
    def rows(self, inputs: Any) -> Any:
        """(groups, m, N) tensor: what the neurons see."""

    @classmethod
    def refusal(cls, layer: keras.Layer) -> str | None:
        """Why this layer cannot be viewed, although its type is known; else None."""
        if getattr(layer, "quantization_mode", None):
            return f"Keras has quantized it already ({layer.quantization_mode})"
        if getattr(layer, "lora_enabled", False):
            return "it has LoRA weights"
        if not layer.built:
            return "it is not built"
        if cls(layer).variable.dtype != "float32":
            return f"its kernel is {cls(layer).variable.dtype}, and float32 is expected"
        return None


class LinearView(KernelView):
    """A kernel whose product with the inputs, and its bias, is a step of its own, before the layer's activation."""

    has_bias = True  # whether the bias comes with this product; not in the first step of a separable convolution

    @property
    def bias_variable(self) -> keras.Variable | None:
        return super().bias_variable if self.has_bias else None

    @property
    def bias(self) -> Any:
        """What is added to the product, in a shape that broadcasts to it; None for nothing."""
        return self.bias_variable

    def linear(self, inputs: Any) -> Any:
        """The product with the inputs, plus bias."""
        inputs = keras.ops.cast(inputs, self.layer.compute_dtype)
        outputs = self._product(inputs, keras.ops.cast(self.variable, self.layer.compute_dtype))
        return outputs if self.bias is None else outputs + keras.ops.cast(self.bias, outputs.dtype)

    def output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)

    def num_positions(self, input_shape: tuple[int | None, ...]) -> int:
        """Rows that one sample gives."""
        return math.prod(size or 1 for size in self.output_shape(input_shape)[1:-1])

    @abc.abstractmethod
    def _product(self, inputs: Any, kernel: Any) -> Any: ...
