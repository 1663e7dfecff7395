"""GPFQ of a whole network, the slow way: a whole pass for each layer; imports nothing of keras_compress."""

import keras
import numpy as np

from tests.reference import convolution
from tests.reference.gpfq import gpfq

KNOWN = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D)


def layers(model: keras.Model, prefix: str = "") -> dict[str, keras.Layer]:
    """Layers of `KNOWN` by path."""
    by_path: dict[str, keras.Layer] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            by_path |= layers(layer, f"{prefix}{layer.name}/")
        elif isinstance(layer, KNOWN) and layer not in by_path.values():
            by_path[prefix + layer.name] = layer
    return by_path


def record(model: keras.Model, inputs) -> dict[str, list[np.ndarray]]:
    """What each layer gets in each of its calls, in the order of the first calls."""
    calls: dict[str, list[np.ndarray]] = {}
    by_path = layers(model)
    for path, layer in by_path.items():

        def call(tensor, *args, path=path, original=layer.call, **kwargs):
            calls.setdefault(path, []).append(np.asarray(tensor))
            return original(tensor, *args, **kwargs)

        layer.call = call
    try:
        model(inputs, training=False)
    finally:
        for layer in by_path.values():
            del layer.call
    return calls


def matrices(layer: keras.Layer) -> np.ndarray:
    """(groups, N, units) weights."""
    kernel = np.asarray(layer.kernel, np.float64)
    groups = getattr(layer, "groups", 1)
    return np.stack(np.split(kernel.reshape(-1, kernel.shape[-1]), groups, axis=1))


def rows(layer: keras.Layer, calls: list[np.ndarray]) -> np.ndarray:
    """(groups, m, N) what the neurons see in all calls together."""
    if isinstance(layer, keras.layers.Dense):
        return np.concatenate([call.reshape(-1, call.shape[-1]) for call in calls])[None].astype(np.float64)
    if isinstance(layer, keras.layers.Conv1D):
        size, stride, dilation = ((1, *numbers) for numbers in (layer.kernel_size, layer.strides, layer.dilation_rate))
        causal = layer.padding == "causal"
        zeros = (layer.kernel_size[0] - 1) * layer.dilation_rate[0] if causal else 0
        images = [np.pad(call, ((0, 0), (zeros, 0), (0, 0)))[:, None].astype(np.float64) for call in calls]
        geometry = size, stride, dilation, "valid" if causal else layer.padding, layer.groups
        return np.concatenate([convolution.patches(image, *geometry) for image in images], axis=1)
    geometry = layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding, layer.groups
    return np.concatenate([convolution.patches(call.astype(np.float64), *geometry) for call in calls], axis=1)


def outputs(layer: keras.Layer, calls: list[np.ndarray]) -> np.ndarray:
    """(m, n_out) outputs before the activation, without the bias."""
    return np.concatenate([part @ matrix for part, matrix in zip(rows(layer, calls), matrices(layer), strict=True)], 1)


def quantize(
    model: keras.Model,
    copy: keras.Model,
    inputs,
    values: dict[str, np.ndarray],
    *,
    centered: bool = False,
    absorbers: dict[str, str] | None = None,
    per_channel: bool = False,
) -> tuple[dict[str, np.ndarray], float]:
    """Quantizes `copy`, a copy of `model`, layer by layer.

    Args:
        values: path -> (n_out, num_levels); only these layers are quantized.
        centered: whether each layer works on inputs without their means, and its bias takes the mean error.
        absorbers: path of a layer without a bias -> name of the BatchNormalization that takes its mean error.
        per_channel: whether each input channel of a convolution is quantized alone.

    Returns:
        Path -> (N, n_out) chosen values, and the closest decision (see `gpfq`).
    """
    absorbers = absorbers or {}
    analog_layers, copied_layers = layers(model), layers(copy)
    chosen: dict[str, np.ndarray] = {}
    closest = np.inf
    for path, calls in record(model, inputs).items():
        if path not in values:
            continue
        layer = copied_layers[path]
        analog = rows(analog_layers[path], calls)
        compressed = rows(layer, record(copy, inputs)[path])
        weights = matrices(layer)
        center = centered and (layer.use_bias or path in absorbers)
        parts, shifts = [], []
        for group, matrix in enumerate(weights):
            x, x_tilde = analog[group], compressed[group]
            if center:
                x, x_tilde = x - x.mean(axis=0), x_tilde - x_tilde.mean(axis=0)
            units = matrix.shape[1]
            own = values[path][group * units : (group + 1) * units]
            quantized = np.zeros_like(matrix)
            channels = layer.kernel.shape[-2] if per_channel and isinstance(layer, keras.layers.Conv2D) else 1
            for channel in range(channels):  # features lie channel by channel within each tap
                index = slice(channel, None, channels)
                quantized[index], _, margin = gpfq(matrix[index], x[:, index], x_tilde[:, index], own)
                closest = min(closest, margin)
            parts.append(quantized)
            shifts.append((analog[group] @ matrix - compressed[group] @ quantized).mean(axis=0))
        chosen[path] = np.concatenate(parts, axis=1)
        layer.kernel.assign(chosen[path].reshape(layer.kernel.shape))
        if center and layer.use_bias:
            layer.bias.assign_add(np.concatenate(shifts).astype(np.float32))
        elif center:
            copy.get_layer(absorbers[path]).moving_mean.assign_sub(np.concatenate(shifts).astype(np.float32))
    return chosen, closest
