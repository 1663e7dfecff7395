"""Small networks of depthwise layers, trained here for few epochs: honest accuracy, and all that MobileNets have."""

import pathlib
from typing import Any

import keras
import numpy as np

L = keras.layers

# name: data set, architecture, seed of weights and batches
NETWORKS: dict[str, tuple[str, str, int]] = {
    "cifar10_v1_0": ("cifar10", "v1", 0),
    "cifar10_v1_1": ("cifar10", "v1", 1),
    "cifar10_v2_0": ("cifar10", "v2", 0),
    "cifar10_v2_1": ("cifar10", "v2", 1),
    "fashion_v1_0": ("fashion_mnist", "v1", 0),
    "fashion_v1_1": ("fashion_mnist", "v1", 1),
}
V1 = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1))  # output channels and stride of each block
V2 = ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1), (40, 1))
EXPANSION = 4  # of a block of V2
EPOCHS = 8


def load(name: str, images: np.ndarray, labels: np.ndarray, folder: pathlib.Path) -> keras.Model:
    """One of `NETWORKS`, from its file in `folder`, or trained on uint8 images (n, height, width[, channels])."""
    path = folder / f"depthwise_{name}.keras"
    if path.is_file():
        return keras.saving.load_model(path, compile=False)
    model = trained(*NETWORKS[name][1:], images, labels)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def prepared(images: np.ndarray) -> np.ndarray:
    """(n, height, width, channels) float32 from -1 to 1."""
    images = images if images.ndim == 4 else images[..., None]
    return (images / np.float32(127.5) - np.float32(1)).astype(np.float32)


def trained(architecture: str, seed: int, images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS) -> keras.Model:
    """Trained by Adam on mirrored images; a rate that falls to zero along a cosine."""
    keras.utils.set_random_seed(seed)
    x, y = prepared(images), labels.reshape(-1)
    model = build(architecture, x.shape[1:])
    steps = epochs * -(-len(x) // 128)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        mirrored = np.where((rng.random(len(x)) < 0.5)[:, None, None, None], x[:, :, ::-1], x)
        model.fit(mirrored, y, batch_size=128, verbose=0)
    return model


def build(architecture: str, shape: tuple[int, ...]) -> keras.Model:
    """MobileNetV1 or MobileNetV2 in small, for ten classes."""
    inputs = keras.Input(shape)
    x = _normalized(L.Conv2D(16, 3, 2, "same", use_bias=False, name="stem")(inputs), "stem")
    for index, (channels, strides) in enumerate(V1 if architecture == "v1" else V2, start=1):
        block = _separable if architecture == "v1" else _inverted
        x = block(x, channels, strides, f"block{index}")
    if architecture == "v2":
        x = _normalized(L.Conv2D(160, 1, use_bias=False, name="last")(x), "last")
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(10, "softmax", name="predictions")(x), name=architecture)


def _separable(x: Any, channels: int, strides: int, name: str) -> Any:
    x = L.DepthwiseConv2D(3, strides, "same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _normalized(x, f"{name}_depthwise")
    return _normalized(L.Conv2D(channels, 1, use_bias=False, name=f"{name}_pointwise")(x), f"{name}_pointwise")


def _inverted(x: Any, channels: int, strides: int, name: str) -> Any:
    wide = L.Conv2D(EXPANSION * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")(x)
    wide = _normalized(wide, f"{name}_expand")
    wide = L.DepthwiseConv2D(3, strides, "same", use_bias=False, name=f"{name}_depthwise")(wide)
    wide = _normalized(wide, f"{name}_depthwise")
    narrow = L.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(wide)
    narrow = L.BatchNormalization(momentum=0.95, name=f"{name}_project_bn")(narrow)
    return L.Add(name=f"{name}_add")([x, narrow]) if strides == 1 and x.shape[-1] == channels else narrow


def _normalized(x: Any, name: str) -> Any:
    return L.ReLU(6.0, name=f"{name}_relu")(L.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x))
