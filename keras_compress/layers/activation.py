"""A layer that rounds a tensor to the alphabet of an integer tensor: simulated quantization of activations."""

from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError

MIN_BITS, MAX_BITS = 2, 16


@keras.saving.register_keras_serializable(package="keras_compress")
class QuantizeActivation(keras.layers.Layer):
    """Rounds its inputs to `scale * (code - zero_point)`, codes integers of `bits` bits; what lies beyond is clipped.

    Codes run from -2^(b-1) to 2^(b-1) - 1, as in an int8 tensor of TFLite; a symmetric layer leaves out the first. Ties
    go to the even number of steps from zero. The gradient is 1 where nothing is clipped and 0 elsewhere (straight
    through), so that a model with such layers can be trained.

    The arithmetic is float32 whatever the type of the inputs, whose type the outputs have.

    Args:
        bits: b, 2 to 16.
        scale: one step, positive; it is rounded to float32.
        zero_point: code of zero; 0 if symmetric.
        symmetric: whether there are as many codes below zero as above.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(self, bits: int, scale: float, zero_point: int = 0, *, symmetric: bool = False, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        check_bits(bits)
        self.bits = int(bits)
        self.symmetric = bool(symmetric)
        self.lowest, self.highest = -(2 ** (self.bits - 1)) + self.symmetric, 2 ** (self.bits - 1) - 1
        self.scale = float(np.float32(scale))
        if not 0 < self.scale < np.inf:
            raise InputError(f"scale must be a positive float32 number. Received: {scale!r}.")
        if not self.lowest <= zero_point <= self.highest or zero_point != int(zero_point):
            raise InputError(
                f"zero_point must be a code, an integer from {self.lowest} to {self.highest}. Received: {zero_point!r}."
            )
        if self.symmetric and zero_point:
            raise InputError(f"zero_point must be 0 in a symmetric layer. Received: {zero_point!r}.")
        self.zero_point = int(zero_point)

    def call(self, inputs: Any) -> Any:
        steps = keras.ops.cast(inputs, "float32") / self.scale
        clipped = keras.ops.clip(steps, self.lowest - self.zero_point, self.highest - self.zero_point)
        # The first difference is zero, but has the gradient of what is clipped; rounding has none.
        passed = clipped - keras.ops.stop_gradient(clipped)
        rounded = passed + keras.ops.stop_gradient(keras.ops.round(clipped))
        return keras.ops.cast(rounded * self.scale, keras.backend.standardize_dtype(inputs.dtype))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "bits": self.bits,
            "scale": self.scale,
            "zero_point": self.zero_point,
            "symmetric": self.symmetric,
        }


def check_bits(bits: Any) -> None:
    """Raises InputError for what is no number of bits of an activation."""
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"bits of an activation must be an integer from {MIN_BITS} to {MAX_BITS}. Received: {bits!r}.")
