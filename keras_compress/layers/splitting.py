"""Layers that a full-integer network computes in several rounded steps, as several layers."""

from typing import Any

import keras
import numpy as np

from keras_compress.layers.graph import Graph, is_linear
from keras_compress.layers.operations import Role, kind_of
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import Change, Rewrite, copy_layer, rebuild
from keras_compress.layers.rounding import Names, maker_of

L = keras.layers

# Separable convolution -> its two halves.
SEPARABLE: dict[type, tuple[type, type]] = {
    L.SeparableConv1D: (L.DepthwiseConv1D, L.Conv1D),
    L.SeparableConv2D: (L.DepthwiseConv2D, L.Conv2D),
}
DEPTHWISE = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "depth_multiplier")


def split_layers(model: keras.Model) -> Rewrite:
    """A new model equal to `model` in which layers that TFLite computes in several rounded steps are several layers.

    `Dense(10, "softmax", name="predictions")` becomes `Dense(10, name="predictions")` and
    `Activation("softmax", name="predictions_softmax")`, once for each call: TFLite rounds what lies between. A ReLU
    stays, since it belongs to the product. A separable convolution becomes a depthwise one and one of 1 x 1, which
    keeps the name; a hard sigmoid, relu6(x + 3) / 6, becomes a sum with its ReLU, and a product; SiLU, x sigmoid(x), a
    model of a sigmoid, which TFLite rounds to 1/256, and a product.

    Raises:
        InputError: see `rebuild`.
    """
    return _Splitter(model).run()


class _Splitter:
    def __init__(self, model: keras.Model):
        self.model = model
        self.names = Names(Graph(model))
        self.layers = layers_by_path(model)
        self.paths = {id(layer): path for path, layer in self.layers.items()}

    def run(self) -> Rewrite:
        changes = {path: change for path, layer in self.layers.items() if (change := self._change(path, layer))}
        return rebuild(self.model, changes, insert=self._function)

    def _change(self, path: str, layer: keras.Layer) -> Change | None:
        """What takes the place of a layer, without what `_function` puts behind it; None where it stays."""
        if _is_separable(layer):
            return self._halves(path, layer)
        if _has_function(layer):
            return Change([copy_layer(layer, activation="linear")])
        if is_hard_sigmoid(layer):
            return Change([_shifted(layer.name)])
        if type(layer) is L.Activation and layer.activation is keras.activations.silu:
            shapes = {node.input_tensors[0].shape for node in layer._inbound_nodes}  # private: a layer may have several
            if len(shapes) == 1:
                return Change([_silu(layer.name, shapes.pop())])
        return None

    def _halves(self, path: str, layer: keras.Layer) -> Change:
        depthwise, pointwise = SEPARABLE[type(layer)]
        settings = {name: getattr(layer, name) for name in DEPTHWISE}
        first = depthwise(use_bias=False, name=self.names.new(path, "depthwise"), dtype=layer.dtype_policy, **settings)
        second = pointwise(
            layer.filters,
            1,
            data_format=layer.data_format,
            activation=None if _has_function(layer) else layer.activation,
            use_bias=layer.use_bias,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
        kernels = [{"kernel": np.asarray(each)} for each in (layer.depthwise_kernel, layer.pointwise_kernel)]
        return Change([first, second], kernels)

    def _function(self, tensor: keras.KerasTensor) -> list[keras.Layer]:
        """The activation of the layer that makes a tensor, or the rest of it, as layers of their own."""
        layer = maker_of(tensor)
        path = self.paths.get(id(layer))
        if path is None:
            return []
        if is_hard_sigmoid(layer):
            return _cut_and_scaled(*(self.names.new(path, ending) for ending in ("relu", "product")))
        if not _has_function(layer):
            return []
        if layer.activation is keras.activations.hard_sigmoid:
            endings = ("hard_sigmoid", "hard_sigmoid_relu", "hard_sigmoid_product")
            first, *others = (self.names.new(path, ending) for ending in endings)
            return [_shifted(first), *_cut_and_scaled(*others)]
        if layer.activation is keras.activations.silu:
            return [_silu(self.names.new(path, "silu"), tensor.shape)]
        name = layer.activation.__name__
        ending = name if name.isidentifier() else "activation"  # a lambda
        return [L.Activation(layer.activation, name=self.names.new(path, ending))]


def _is_separable(layer: Any) -> bool:
    return type(layer) in SEPARABLE and layer.padding != "causal"  # depthwise layers have no such padding


def is_hard_sigmoid(layer: Any) -> bool:
    """Whether a layer is a hard sigmoid and nothing else."""
    return type(layer) is L.Activation and layer.activation is keras.activations.hard_sigmoid


def _shifted(name: str) -> keras.Layer:
    """x + 3, the first step of a hard sigmoid, relu6(x + 3) / 6."""
    return L.Rescaling(1.0, 3.0, name=name)


def _cut_and_scaled(relu: str, product: str) -> list[keras.Layer]:
    """Its other steps, as layers of these names."""
    return [L.ReLU(6.0, name=relu), L.Rescaling(1 / 6, name=product)]


def _silu(name: str, shape: tuple[int | None, ...]) -> keras.Model:
    """x * sigmoid(x)."""
    inputs = keras.Input(shape[1:])
    outputs = L.Multiply(name="product")([inputs, L.Activation("sigmoid", name="sigmoid")(inputs)])
    return keras.Model(inputs, outputs, name=name)


def _has_function(layer: Any) -> bool:
    """Whether a product has an activation that can be a layer of its own and is no ReLU."""
    if kind_of(layer).role is not Role.PRODUCT or is_linear(layer) or isinstance(layer.activation, keras.Layer):
        return False
    fused = layer.activation in (keras.activations.relu, keras.activations.relu6)
    return not fused and hasattr(layer.activation, "__name__")
