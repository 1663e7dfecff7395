"""What Brevitas and PyTorch do in a comparison: one layer with given scales, and a whole network made from a Keras one.

Calls the public interface of Brevitas 0.13.4: `gpfq_mode`, `gptq_mode`, `bias_correction_mode`, and its quantizers.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import torch
from torch.nn import functional

from keras_compress.errors import InputError
from keras_compress.layers.convolution_views import Conv2DView
from keras_compress.layers.dense_views import DenseView
from keras_compress.layers.graph import ACTIVATION, LINEAR, Call, Graph

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Brevitas names optional packages that nothing here uses
    import brevitas.nn as qnn
    from brevitas.core.scaling import ConstScaling
    from brevitas.core.utils import SingleArgStatelessBuffer
    from brevitas.graph.calibrate import bias_correction_mode
    from brevitas.graph.gpfq import gpfq_mode
    from brevitas.graph.gptq import gptq_mode
    from brevitas.graph.qronos import Qronos
    from brevitas.quant.scaled_int import Int8WeightPerChannelFloat, Int8WeightPerChannelFloatMSE

ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "GPFQ": (gpfq_mode, {}),
    "Qronos": (gpfq_mode, {"algorithm_impl": Qronos}),
    "GPTQ": (gptq_mode, {}),
}
BATCH_SIZE = 50  # images that go through the network at a time: larger batches are slower


def weight_quantizer(num_levels: int, scale: np.ndarray | None, rank: int) -> Any:
    """Brevitas' quantizer of integers around zero.

    Args:
        num_levels: 2^b - 1 for a symmetric alphabet, 2^b for one that reaches one further below zero.
        scale: (n_out,) of each channel; None is Brevitas' own choice, the least squared error of the weights.
        rank: of the weights, whose first axis runs over output channels.
    """
    settings = {"bit_width": math.ceil(math.log2(num_levels)), "narrow_range": num_levels % 2 == 1}
    if scale is None:
        return Int8WeightPerChannelFloatMSE.let(**settings)
    scales = ConstScaling(torch.from_numpy(scale.reshape(-1, *[1] * (rank - 1))))
    # without the division by the largest level, which would round
    return Int8WeightPerChannelFloat.let(
        scaling_impl=scales, int_scaling_impl=SingleArgStatelessBuffer(1.0), **settings
    )


class _Pair(torch.nn.Module):
    """One layer that reads X where weights are not quantized and X~ where they are, as inside of a network."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, analog: torch.Tensor, compressed: torch.Tensor) -> torch.Tensor:
        return self.layer(compressed if self.layer.weight_quant.is_quant_enabled else analog)


class LayerJob:
    """A layer whose statistics Brevitas has gathered.

    Attributes:
        update: Brevitas' update of the layer, once.
    """

    def __init__(self, layer: Any, update: Callable[[], None]):
        self._layer = layer
        self.update = update

    def codes(self) -> np.ndarray:
        """(N, n_out) integers, after the update."""
        return self._layer.quant_weight().int().numpy().T


@contextlib.contextmanager
def layer_job(
    algorithm: str,
    matrix: np.ndarray,
    analog: np.ndarray,
    compressed: np.ndarray,
    num_levels: int,
    scale: np.ndarray,
    dtype: str = "float32",
) -> Iterator[LayerJob]:
    """One layer before its update, in the given order of features.

    Args:
        algorithm: of `ALGORITHMS`.
        matrix: (N, n_out) float32 weights.
        analog, compressed: X and X~, each (m, N).
        num_levels, scale: of the alphabet.
        dtype: in which Brevitas computes; "float32" is its default.
    """
    mode, settings = ALGORITHMS[algorithm]
    precision = getattr(torch, dtype)
    layer = qnn.QuantLinear(*matrix.shape, bias=False, weight_quant=weight_quantizer(num_levels, scale, 2))
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(matrix.T))
    pair = _Pair(layer).to(precision).eval()
    with torch.no_grad(), mode(pair, use_quant_activations=False, dtype=precision, **settings) as job:
        pair(torch.from_numpy(analog).to(precision), torch.from_numpy(compressed).to(precision))
        yield LayerJob(layer, job.update)


class Network(torch.nn.Module):
    """A Keras model in PyTorch, from its graph: NHWC images in, the model's outputs out.

    Args:
        graph: of a model of Conv2D, Dense, Add, Flatten, AveragePooling2D and Activation layers.
        num_levels: of the weights' alphabet; None leaves them in floating point.
        scales: (n_out,) scale of each layer by path; None is Brevitas' own choice.

    Raises:
        InputError: a layer of another type.
    """

    def __init__(self, graph: Graph, num_levels: int | None = None, scales: Mapping[str, np.ndarray] | None = None):
        super().__init__()
        self.graph = graph
        self.layers = torch.nn.ModuleDict()
        for path, view in graph.views.items():
            self.layers[path] = _layer(view, num_levels, None if scales is None else scales[path])
        self.steps = [(call.inputs, call.outputs[0], self._function(call)) for call in graph.calls]
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = {self.graph.inputs[0]: images.movedim(-1, 1)}
        for inputs, output, function in self.steps:
            values[output] = function(*(values[tensor] for tensor in inputs))
        return values[self.graph.outputs[0]]

    def _function(self, call: Call) -> Callable[..., torch.Tensor]:
        layer = call.operation
        if call.part == LINEAR:
            return self._linear(call)
        if call.part == ACTIVATION or type(layer) is keras.layers.Activation:
            name = layer.activation.__name__
            functions = {"linear": lambda x: x, "relu": torch.relu, "softmax": lambda x: torch.softmax(x, -1)}
            if name in functions:
                return functions[name]
        if type(layer) is keras.layers.Add:
            return lambda *tensors: sum(tensors[1:], tensors[0])
        if type(layer) is keras.layers.Flatten:
            return lambda x: x.movedim(1, -1).flatten(1)
        if type(layer) is keras.layers.AveragePooling2D and layer.padding == "valid":
            return lambda x: functional.avg_pool2d(x, layer.pool_size, layer.strides)
        raise InputError(f"Layer {call.path!r} has no counterpart here. Received: {type(layer).__name__}.")

    def _linear(self, call: Call) -> Callable[[torch.Tensor], torch.Tensor]:
        view, layer = self.graph.views[call.path], self.layers[call.path]
        if not isinstance(view, Conv2DView):
            return layer
        zeros: list[int] = []  # before and after, last axis first; TensorFlow's rule, which has no symmetry
        geometry = view.geometry
        for axis, size in reversed(list(enumerate(self.graph.shapes[call.inputs[0]][1:3]))):
            assert size is not None
            before = geometry.pad_before(axis, size)
            reach = (geometry.kernel_size[axis] - 1) * geometry.dilation[axis] + 1
            read = (geometry.output_size(axis, size) - 1) * geometry.strides[axis] + reach
            zeros += [before, max(read - size - before, 0)]
        return lambda images: layer(functional.pad(images, zeros))


def _layer(view: Any, num_levels: int | None, scale: np.ndarray | None) -> Any:
    kernel, bias = view.kernel, view.bias
    quantizer = None if num_levels is None else weight_quantizer(num_levels, scale, kernel.ndim)
    if type(view) is Conv2DView:
        layer = qnn.QuantConv2d(
            kernel.shape[2] * view.groups,
            kernel.shape[3],
            kernel.shape[:2],
            stride=view.geometry.strides,
            dilation=view.geometry.dilation,
            groups=view.groups,
            bias=bias is not None,
            weight_quant=quantizer,
        )
        weights = kernel.transpose(3, 2, 0, 1)
    elif type(view) is DenseView:
        layer = qnn.QuantLinear(*kernel.shape, bias=bias is not None, weight_quant=quantizer)
        weights = kernel.T
    else:
        raise InputError(f"Expected: a Conv2D or Dense layer. Received: {type(view.layer).__name__}.")
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(weights))
    if bias is not None:
        layer.bias.data = torch.from_numpy(np.array(bias))
    return layer


def quantize(network: Network, algorithm: str, images: np.ndarray, *, act_order: bool) -> None:
    """Updates all layers of a network, one after the other, in the order in which it calls them."""
    mode, settings = ALGORITHMS[algorithm]
    with torch.no_grad():
        network(torch.from_numpy(images[:1]))  # scales that are taken from the weights are taken now
        with mode(network, act_order=act_order, use_quant_activations=False, **settings) as job:
            for _ in range(job.num_layers):
                for batch in torch.from_numpy(images).split(BATCH_SIZE):
                    job.model(batch)
                job.update()


def correct_biases(network: Network, images: np.ndarray) -> None:
    """Brevitas' bias correction, afterwards."""
    with torch.no_grad(), bias_correction_mode(network):
        for batch in torch.from_numpy(images).split(BATCH_SIZE):
            network(batch)


def outputs(network: Network, images: np.ndarray) -> np.ndarray:
    """(n, classes)."""
    with torch.no_grad():
        return np.concatenate([network(batch).numpy() for batch in torch.from_numpy(images).split(BATCH_SIZE)])
