"""Layers that a full-integer network computes in several rounded steps, as several layers."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import keras

from keras_compress.layers.clone import copy_layer, rebuild
from keras_compress.layers.graph import Graph, is_linear
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rounding import PRODUCTS, Names, maker_of

L = keras.layers
T = TypeVar("T")

# Separable convolution -> its two halves.
SEPARABLE: dict[type, tuple[type, type]] = {
    L.SeparableConv1D: (L.DepthwiseConv1D, L.Conv1D),
    L.SeparableConv2D: (L.DepthwiseConv2D, L.Conv2D),
}
DEPTHWISE = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "depth_multiplier")


class Split(NamedTuple):
    """A model whose layers are steps of an integer network, and where kernels have moved: old path -> new path."""

    model: keras.Model
    moved: dict[str, str]

    def by_new_paths(self, held: Mapping[str, T]) -> dict[str, T]:
        """What is known of kernels of the old model, by their paths in the new one."""
        return {self.moved.get(path, path): each for path, each in held.items()}


def split_layers(model: keras.Model) -> Split:
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
        self.first: dict[str, keras.Layer] = {}  # path -> what takes the layer's place
        self.pointwise: dict[str, keras.Layer] = {}  # path -> second half of a separable convolution
        self.moved: dict[str, str] = {}

    def run(self) -> Split:
        split = rebuild(self.model, self._first, insert=self._rest)
        for path, new in self.first.items():
            old = self.layers[path]
            if path in self.pointwise:
                new.kernel.assign(old.depthwise_kernel)
                old_weights, new = [old.pointwise_kernel, *([old.bias] if old.use_bias else [])], self.pointwise[path]
            else:
                old_weights = old.weights
            for variable, value in zip(new.weights, old_weights, strict=True):
                variable.assign(value)
        return Split(split, self.moved)

    def _first(self, path: str, layer: keras.Layer) -> keras.Layer | None:
        """What takes the place of a layer; None where it stays."""
        if type(layer) in SEPARABLE and layer.padding != "causal":  # depthwise layers have no such padding
            self.first[path], self.pointwise[path] = self._halves(path, layer)
        elif _has_function(layer):
            self.first[path] = copy_layer(layer, activation="linear")
        elif is_hard_sigmoid(layer):
            self.first[path] = _shifted(layer.name)
        elif type(layer) is L.Activation and layer.activation is keras.activations.silu:
            shapes = {node.input_tensors[0].shape for node in layer._inbound_nodes}  # private: a layer may have several
            if len(shapes) == 1:
                self.first[path] = _silu(layer.name, shapes.pop())
        return self.first.get(path)

    def _halves(self, path: str, layer: keras.Layer) -> tuple[keras.Layer, keras.Layer]:
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
        folder = path.removesuffix(layer.name)
        self.moved |= {f"{path}/depthwise_kernel": folder + first.name, f"{path}/pointwise_kernel": path}
        return first, second

    def _rest(self, tensor: keras.KerasTensor) -> list[keras.Layer]:
        """What comes behind the layer that makes a tensor."""
        layer = maker_of(tensor)
        path = self.paths.get(id(layer))
        if path is None:
            return []
        steps = [self.pointwise[path]] if path in self.pointwise else []
        if is_hard_sigmoid(layer):
            return _cut_and_scaled(*(self.names.new(path, ending) for ending in ("relu", "product")))
        if not _has_function(layer):
            return steps
        if layer.activation is keras.activations.hard_sigmoid:
            endings = ("hard_sigmoid", "hard_sigmoid_relu", "hard_sigmoid_product")
            first, *others = (self.names.new(path, ending) for ending in endings)
            return [*steps, _shifted(first), *_cut_and_scaled(*others)]
        if layer.activation is keras.activations.silu:
            return [*steps, _silu(self.names.new(path, "silu"), tensor.shape)]
        name = layer.activation.__name__
        ending = name if name.isidentifier() else "activation"  # a lambda
        return [*steps, L.Activation(layer.activation, name=self.names.new(path, ending))]


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
    if type(layer) not in PRODUCTS or is_linear(layer) or isinstance(layer.activation, keras.Layer):
        return False
    fused = layer.activation in (keras.activations.relu, keras.activations.relu6)
    return not fused and hasattr(layer.activation, "__name__")
