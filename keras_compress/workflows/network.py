"""The small network of both recipes, and what they do with it and with samples."""

from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError


def small_network(
    input_shape: tuple[int, ...],
    num_classes: int,
    filters: int = 12,
    kernel_size: int | tuple[int, int] = 3,
    pool_size: int | tuple[int, int] = 2,
) -> keras.Model:
    """Input, Reshape, Conv2D with ReLU, MaxPooling2D, Flatten, Dense: scores of classes, compiled with Adam."""
    if len(input_shape) not in (2, 3):
        raise InputError(f"input_shape must be (height, width) or (height, width, channels). Received: {input_shape}.")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Reshape((*input_shape[:2], input_shape[2] if len(input_shape) == 3 else 1)),
            layers.Conv2D(filters, kernel_size, activation="relu"),
            layers.MaxPooling2D(pool_size),
            layers.Flatten(),
            layers.Dense(num_classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def split(x: Any, y: Any, validation_split: float) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Training and validation samples: the last ones are for validation, as in `keras.Model.fit`."""
    x, y = np.asarray(x), np.asarray(y)
    if not 0 < validation_split < 1:
        raise InputError(f"validation_split must lie between 0 and 1. Received: {validation_split!r}.")
    at = int(len(x) * (1 - validation_split))
    return (x[:at], y[:at]), (x[at:], y[at:])


def required(value: Any, method: str) -> Any:
    """The value.

    Raises:
        InputError: it is not there yet, since a method was not called.
    """
    if value is None:
        raise InputError(f"Call {method}() first.")
    return value
