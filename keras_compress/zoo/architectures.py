"""Architectures of the papers, for any input size and number of classes, with readable layer names.

A seed fixes the first weights and the dropout. The last layer is `predictions`, a softmax over the classes.
"""

import itertools
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_compress.errors import InputError

# Up to this height the ResNet starts with stride 1 and the VGG ends in 512 units, as usual on CIFAR-10.
SMALL_IMAGE = 64
# Keras' 0.99 lags behind for hundreds of steps, which are whole epochs of a small data set.
BATCH_NORMALIZATION_MOMENTUM = 0.95


class _Builder:
    """Adds layers to a tensor; holds the width and deals a seed to each layer."""

    def __init__(self, width_multiplier: float, dropout_scale: float, seed: int) -> None:
        self.width_multiplier = width_multiplier
        self.dropout_scale = dropout_scale
        self.seeds = itertools.count(1000 * seed)

    def width(self, units: int) -> int:
        return max(1, round(units * self.width_multiplier))

    def dense(self, x: keras.KerasTensor, units: int, name: str) -> keras.KerasTensor:
        initializer = keras.initializers.HeNormal(seed=next(self.seeds))
        return layers.Dense(self.width(units), activation="relu", kernel_initializer=initializer, name=name)(x)

    def conv(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int,
        name: str,
        *,
        activation: str | None = "relu",
        **settings: Any,
    ) -> keras.KerasTensor:
        settings = {"padding": "same", **settings}
        initializer = keras.initializers.HeNormal(seed=next(self.seeds))
        return layers.Conv2D(
            self.width(filters), size, activation=activation, kernel_initializer=initializer, name=name, **settings
        )(x)

    def normalize(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.BatchNormalization(momentum=BATCH_NORMALIZATION_MOMENTUM, name=name)(x)

    def pool(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Halves height and width; a side of 1 stays, so that small images fit every architecture."""
        size = tuple(min(2, side) for side in x.shape[1:3])
        return x if size == (1, 1) else layers.MaxPooling2D(size, name=name)(x)

    def dropout(self, x: keras.KerasTensor, rate: float, name: str) -> keras.KerasTensor:
        rate *= self.dropout_scale
        return x if rate == 0 else layers.Dropout(rate, seed=next(self.seeds), name=name)(x)

    def predictions(self, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        initializer = keras.initializers.GlorotUniform(seed=next(self.seeds))
        return layers.Dense(num_classes, activation="softmax", kernel_initializer=initializer, name="predictions")(x)


def _mlp(build: _Builder, x: keras.KerasTensor) -> keras.KerasTensor:
    """Dense-ReLU-BatchNorm, 500 and 300 units (Lybrand & Saab, 2021)."""
    if len(x.shape) > 2:
        x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate((500, 300), start=1):
        x = build.dense(x, units, f"dense{index}")
        x = build.normalize(x, f"dense{index}_bn")
    return x


def _cnn(build: _Builder, x: keras.KerasTensor) -> keras.KerasTensor:
    """2x32C3-MP2-2x64C3-MP2-2x128C3-MP2-128FC, ReLU then BatchNorm, dropout (Lybrand & Saab, 2021)."""
    for block, (filters, rate) in enumerate(((32, 0.2), (64, 0.3), (128, 0.4)), start=1):
        for index in (1, 2):
            x = build.conv(x, filters, 3, f"conv{block}_{index}")
            x = build.normalize(x, f"conv{block}_{index}_bn")
        x = build.pool(x, f"pool{block}")
        x = build.dropout(x, rate, f"dropout{block}")
    x = layers.Flatten(name="flatten")(x)
    x = build.dense(x, 128, "dense1")
    x = build.normalize(x, "dense1_bn")
    return build.dropout(x, 0.5, "dropout4")


def _lenet(build: _Builder, x: keras.KerasTensor) -> keras.KerasTensor:
    """6C5-MP2-16C5-MP2-120FC-84FC (LeCun et al., 1998), with ReLU and maxima."""
    x = build.pool(build.conv(x, 6, 5, "conv1"), "pool1")
    padding = "valid" if min(x.shape[1:3]) >= 5 else "same"
    x = build.pool(build.conv(x, 16, 5, "conv2", padding=padding), "pool2")
    x = layers.Flatten(name="flatten")(x)
    return build.dense(build.dense(x, 120, "dense1"), 84, "dense2")


def _resnet18(build: _Builder, x: keras.KerasTensor) -> keras.KerasTensor:
    """Four stages of two residual blocks (He et al., 2016); the first layer does not shrink images up to 64 pixels."""
    small = x.shape[1] <= SMALL_IMAGE

    def conv_bn(x: keras.KerasTensor, filters: int, size: int, name: str, **settings: Any) -> keras.KerasTensor:
        x = build.conv(x, filters, size, name, activation=None, use_bias=False, **settings)
        return build.normalize(x, f"{name}_bn")

    x = conv_bn(x, 64, 3 if small else 7, "conv1", strides=1 if small else 2)
    x = layers.ReLU(name="conv1_relu")(x)
    if not small:
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            shortcut = x
            x = conv_bn(x, filters, 3, f"{name}_conv1", strides=strides)
            x = layers.ReLU(name=f"{name}_relu1")(x)
            x = conv_bn(x, filters, 3, f"{name}_conv2")
            if strides > 1:
                shortcut = conv_bn(shortcut, filters, 1, f"{name}_shortcut", strides=strides)
            x = layers.Add(name=f"{name}_add")([x, shortcut])
            x = layers.ReLU(name=f"{name}_relu2")(x)
    return layers.GlobalAveragePooling2D(name="average")(x)


def _vgg16(build: _Builder, x: keras.KerasTensor, *, batch_normalization: bool = False) -> keras.KerasTensor:
    """Configuration D (Simonyan & Zisserman, 2015); up to 64 pixels with one layer of 512 units, not two of 4096."""
    small = x.shape[1] <= SMALL_IMAGE
    for block, (filters, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for index in range(1, depth + 1):
            name = f"conv{block}_{index}"
            x = build.conv(x, filters, 3, name, activation=None if batch_normalization else "relu")
            if batch_normalization:
                x = layers.ReLU(name=f"{name}_relu")(build.normalize(x, f"{name}_bn"))
        x = build.pool(x, f"pool{block}")
    x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate((512,) if small else (4096, 4096), start=1):
        x = build.dropout(build.dense(x, units, f"dense{index}"), 0.5, f"dropout{index}")
    return x


def _vgg16_bn(build: _Builder, x: keras.KerasTensor) -> keras.KerasTensor:
    return _vgg16(build, x, batch_normalization=True)


ARCHITECTURES: dict[str, Callable] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "lenet": _lenet,
    "resnet18": _resnet18,
    "vgg16": _vgg16,
    "vgg16_bn": _vgg16_bn,
}


def build_architecture(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width_multiplier: float = 1.0,
    dropout_scale: float = 1.0,
    seed: int = 0,
) -> keras.Model:
    """Builds a network that is not trained.

    Args:
        name: one of `ARCHITECTURES`.
        input_shape: shape of one sample, (height, width, channels), or (columns,) for `mlp`.
        num_classes: at least 2.
        width_multiplier: factor on all numbers of filters and units but the last layer's.
        dropout_scale: factor on the architecture's dropout rates, 0 to 1. Short trainings want less dropout.
        seed: of the first weights and the dropout.

    Raises:
        InputError: a name that is not known, or a shape or number that the architecture cannot have.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"Unknown architecture {name!r}. Known: {', '.join(ARCHITECTURES)}.")
    if name != "mlp" and len(input_shape) != 3:
        raise InputError(
            f"Architecture {name!r} expects images of shape (height, width, channels). Received samples of shape "
            f"{tuple(input_shape)}. Use architecture 'mlp'."
        )
    if num_classes < 2:
        raise InputError(f"A classifier needs at least 2 classes. Received: {num_classes}.")
    if not width_multiplier > 0:
        raise InputError(f"width_multiplier must be above 0. Received: {width_multiplier}.")
    if not 0 <= dropout_scale <= 1:
        raise InputError(f"dropout_scale must lie in 0 to 1. Received: {dropout_scale}.")
    build = _Builder(width_multiplier, dropout_scale, seed)
    inputs = keras.Input(tuple(input_shape), name="input")
    outputs = build.predictions(ARCHITECTURES[name](build, inputs), num_classes)
    return keras.Model(inputs, outputs, name=name)
