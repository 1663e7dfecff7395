"""Views of kernels that meet vectors: Dense, EinsumDense, Embedding, and the kernels of recurrent layers."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.layers.view import KernelView, LinearView


class DenseView(LinearView):
    """Dense on inputs of any rank: every vector along the last axis is a row."""

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return keras.ops.matmul(inputs, kernel)

    def rows(self, inputs: Any) -> Any:
        return tf.reshape(inputs, (1, -1, inputs.shape[-1]))


class EinsumDenseView(LinearView):
    """EinsumDense: letters of kernel and inputs alone are features, letters of kernel and outputs are units.

    Letters of inputs and outputs count rows. A letter of all three, which makes one matrix for each of its values, is
    refused.
    """

    def __init__(self, layer: keras.Layer):
        super().__init__(layer)
        source, self.kernel_letters, self.output_letters = _letters(layer.equation)
        self.has_ellipsis = source.startswith("...")
        self.input_letters = source.removeprefix("...")
        self.features = [letter for letter in self.kernel_letters if letter in self.input_letters]
        self.units = [letter for letter in self.kernel_letters if letter in self.output_letters]

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(self.kernel_letters.index(letter) for letter in self.units)

    @property
    def bias_variable(self) -> keras.Variable | None:
        bias = self.layer.bias
        in_order = [letter for letter in self.output_letters if letter in self.units] == self.units
        return bias if bias is not None and in_order and math.prod(bias.shape) == self.num_channels else None

    @property
    def bias(self) -> Any:
        return self.layer.bias

    def num_positions(self, input_shape: tuple[int | None, ...]) -> int:
        return math.prod(size or 1 for size in input_shape[1:]) // self.num_features

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        order = [self.kernel_letters.index(letter) for letter in (*self.features, *self.units)]
        return np.ascontiguousarray(kernel.transpose(order)).reshape(1, self.num_features, self.num_channels)

    def kernel_of(self, matrices: np.ndarray) -> np.ndarray:
        order = [self.kernel_letters.index(letter) for letter in (*self.features, *self.units)]
        shape = [self.variable.shape[axis] for axis in order]
        return np.ascontiguousarray(matrices.reshape(shape).transpose(np.argsort(order)))

    def rows(self, inputs: Any) -> Any:
        first = len(inputs.shape) - len(self.input_letters)  # axes that the ellipsis stands for
        at = {letter: first + index for index, letter in enumerate(self.input_letters)}
        features = [at[letter] for letter in self.features]
        others = [axis for axis in range(len(inputs.shape)) if axis not in features]
        return tf.reshape(tf.transpose(inputs, others + features), (1, -1, self.num_features))

    def _product(self, inputs: Any, kernel: Any) -> Any:
        return keras.ops.einsum(self.layer.equation, inputs, kernel)

    @classmethod
    def refusal(cls, layer: keras.Layer) -> str | None:
        source, kernel, target = _letters(layer.equation)
        of_both = [letter for letter in kernel if letter in source and letter in target]
        of_none = [letter for letter in kernel if letter not in source and letter not in target]
        summed = [letter for letter in source.removeprefix("...") if letter not in kernel and letter not in target]
        repeated = any(len(set(letters)) < len(letters) for letters in (source.removeprefix("..."), kernel))
        if of_both or of_none or summed or repeated or "..." in kernel:
            return f"its equation {layer.equation!r} is no product of one matrix with rows"
        return super().refusal(layer)


class EmbeddingView(KernelView):
    """Embedding: each output is one row of the table, so that no weight can make up for another."""

    weight = "embeddings"
    memoryless = "each output is one row of the table"

    @property
    def bias_variable(self) -> None:
        return None

    def rows(self, inputs: Any) -> Any:
        raise NotImplementedError("a lookup has no rows")


class RecurrentInputView(KernelView):
    """The kernel of SimpleRNN, GRU and LSTM that meets the inputs: every step of every sequence is a row."""

    @property
    def variable(self) -> keras.Variable:
        return getattr(self.layer.cell, self.weight)

    @property
    def bias_variable(self) -> keras.Variable | None:
        cell = self.layer.cell
        return cell.bias if cell.use_bias and len(cell.bias.shape) == 1 else None  # GRU's reset_after has two in one

    def rows(self, inputs: Any) -> Any:
        return tf.reshape(inputs, (1, -1, inputs.shape[-1]))


class RecurrentStateView(RecurrentInputView):
    """The kernel of SimpleRNN, GRU and LSTM that meets their state."""

    weight = "recurrent_kernel"
    memoryless = "it meets the layer's own state"

    @property
    def bias_variable(self) -> None:
        return None


def _letters(equation: str) -> tuple[str, str, str]:
    """Letters of inputs, kernel and outputs."""
    operands, _, target = equation.replace(" ", "").partition("->")
    source, _, kernel = operands.partition(",")
    return source, kernel, target
