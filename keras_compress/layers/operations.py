"""What each Keras layer and operation is: one row for each exact type, from which other modules derive what they ask.

To add a layer type, write a view of its kernels if it has any, give it a row here, and an example in
tests/layers/test_kernels.py. A type without a row is left as it is, and its channels are frozen.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import keras

# Keras exports no names for the operations of `x + y`, `x[1:]` or `keras.ops.relu(x)`.
from keras.src.ops import nn
from keras.src.ops import numpy as arithmetic

from keras_compress.layers import convolution_views as convolutions
from keras_compress.layers import dense_views as dense
from keras_compress.layers.activation import QuantizeActivation
from keras_compress.layers.view import KernelView

L = keras.layers


class Role(enum.Enum):
    """What an operation computes, as an integer network takes it."""

    PRODUCT = "a product with kernels of its own, a bias and an activation"
    LOOKUP = "rows of a table"
    RECURRENT = "a loop over time steps"
    NORMALIZATION = "a normalization by statistics of its own"
    SUM = "arithmetic that can end in a ReLU"
    MOVE = "moves or chooses values"
    POOL = "chooses values; a ReLU behind it may come before it"
    JOIN = "several tensors in one"
    MEAN = "averages neighbouring values"
    IDENTITY = "nothing in inference"
    FUNCTION = "an activation function"
    OTHER = "anything else"


class Channels(enum.Enum):
    """What becomes of the last axis of the inputs."""

    SAME = "each channel is made of that channel of every input"
    MADE = "each channel is made of all channels of the input"
    OWN = "each channel of the input makes channels of its own"
    JOINED = "those of the inputs, one behind the other"
    SHAPED = "as the shapes have it: the same, or each position of a channel becomes a feature"
    REDUCED = "the same, unless the operation goes along them"
    FROZEN = "not to be changed"


@dataclasses.dataclass(frozen=True)
class Axes:
    """Axes of a weight, counted from the last: those over the channels that it reads, and over those that it makes."""

    reads: tuple[int, ...] = ()
    makes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a layer or an operation is.

    Attributes:
        role: what it computes.
        channels: what it does to channels.
        reason: why its channels are frozen.
        views: of its kernels, in the order in which its inputs meet them.
        weights: name of a variable -> the axes over channels.
        size: setting that says how many channels it makes.
        folds: name of the kernel that a BatchNormalization behind it can be folded into; "" for none.
        positions: whether its kernels are applied at each position of its "outputs" or of its "inputs"; "" for neither.
        operator: of arithmetic: "+", "-" or "*".
        function: of an activation function: its name in `keras.activations`.
    """

    role: Role
    channels: Channels = Channels.FROZEN
    reason: str = ""
    views: tuple[type[KernelView], ...] = ()
    weights: Mapping[str, Axes] = dataclasses.field(default_factory=dict)
    size: str = ""
    folds: str = ""
    positions: str = ""
    operator: str = ""
    function: str = ""

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the weights that multiply inputs."""
        return tuple(name for name, axes in self.weights.items() if axes.reads and axes.reads != axes.makes)


KERNEL, TRANSPOSED, DEPTHWISE = Axes((-2,), (-1,)), Axes((-1,), (-2,)), Axes((-2,), (-2, -1))
BIAS, EACH = Axes(makes=(-1,)), Axes((-1,), (-1,))
RECURRENT = (dense.RecurrentInputView, dense.RecurrentStateView)
NORMALIZES = "it normalizes over channels"
ATTENDS = "attention mixes channels"
LOOPS = "the units of a recurrent layer depend on each other"


def _convolution(view: Any = None, *, kernel: Axes = KERNEL, folds: str = "", positions: str = "outputs") -> Kind:
    return Kind(
        Role.PRODUCT,
        Channels.MADE,
        views=() if view is None else (view,),
        weights={"kernel": kernel, "bias": BIAS},
        size="filters",
        folds=folds,
        positions=positions,
    )


def _depthwise(view: type[KernelView], folds: str = "") -> Kind:
    weights = {"kernel": DEPTHWISE, "bias": BIAS}
    return Kind(Role.PRODUCT, Channels.OWN, views=(view,), weights=weights, folds=folds, positions="outputs")


def _separable(*views: type[KernelView], folds: str = "") -> Kind:
    weights = {"depthwise_kernel": DEPTHWISE, "pointwise_kernel": KERNEL, "bias": BIAS}
    return Kind(
        Role.PRODUCT,
        Channels.MADE,
        views=views,
        weights=weights,
        size="filters",
        folds=folds,
        positions="outputs",
    )


def _same(role: Role = Role.OTHER, **columns: Any) -> Kind:
    return Kind(role, Channels.SAME, **columns)


def _frozen(reason: str, role: Role = Role.OTHER, **columns: Any) -> Kind:
    return Kind(role, Channels.FROZEN, reason, **columns)


KINDS: dict[type, Kind] = {
    L.Dense: Kind(
        Role.PRODUCT,
        Channels.MADE,
        views=(dense.DenseView,),
        weights={"kernel": KERNEL, "bias": BIAS},
        size="units",
        folds="kernel",
        positions="outputs",
    ),
    L.EinsumDense: _frozen("its equation names axes at will", Role.PRODUCT, views=(dense.EinsumDenseView,)),
    L.Conv1D: _convolution(convolutions.Conv1DView, folds="kernel"),
    L.Conv2D: _convolution(convolutions.Conv2DView, folds="kernel"),
    L.Conv3D: _convolution(),
    L.Conv1DTranspose: _convolution(convolutions.Conv1DTransposeView, kernel=TRANSPOSED, positions="inputs"),
    L.Conv2DTranspose: _convolution(
        convolutions.Conv2DTransposeView, kernel=TRANSPOSED, folds="kernel", positions="inputs"
    ),
    L.Conv3DTranspose: _convolution(kernel=TRANSPOSED, positions="inputs"),
    L.DepthwiseConv1D: _depthwise(convolutions.Depthwise1DView),
    L.DepthwiseConv2D: _depthwise(convolutions.Depthwise2DView, folds="kernel"),
    L.SeparableConv1D: _separable(convolutions.SeparableDepthwise1DView, convolutions.SeparablePointwise1DView),
    L.SeparableConv2D: _separable(
        convolutions.SeparableDepthwise2DView, convolutions.SeparablePointwise2DView, folds="pointwise_kernel"
    ),
    L.Embedding: Kind(
        Role.LOOKUP, Channels.MADE, views=(dense.EmbeddingView,), weights={"embeddings": BIAS}, size="output_dim"
    ),
    **dict.fromkeys((L.SimpleRNN, L.GRU, L.LSTM), _frozen(LOOPS, Role.RECURRENT, views=RECURRENT)),
    **dict.fromkeys((L.ConvLSTM1D, L.ConvLSTM2D, L.ConvLSTM3D, L.RNN, L.Bidirectional), _frozen(LOOPS, Role.RECURRENT)),
    **dict.fromkeys((L.Attention, L.AdditiveAttention, L.MultiHeadAttention, L.GroupQueryAttention), _frozen(ATTENDS)),
    L.BatchNormalization: _same(
        Role.NORMALIZATION, weights=dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), EACH)
    ),
    **dict.fromkeys(
        (L.LayerNormalization, L.GroupNormalization, L.RMSNormalization, L.UnitNormalization),
        _frozen(NORMALIZES, Role.NORMALIZATION),
    ),
    # Not there in inference.
    **dict.fromkeys(
        (
            L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D, L.GaussianDropout, L.GaussianNoise,
            L.AlphaDropout, L.ActivityRegularization, L.Identity,
        ),
        _same(Role.IDENTITY),
    ),
    # Arithmetic that can end in a ReLU.
    **dict.fromkeys((L.Add, arithmetic.Add), _same(Role.SUM, operator="+")),
    **dict.fromkeys((L.Subtract, arithmetic.Subtract), _same(Role.SUM, operator="-")),
    **dict.fromkeys((L.Multiply, arithmetic.Multiply), _same(Role.SUM, operator="*")),
    L.Rescaling: _same(Role.SUM),
    **dict.fromkeys((arithmetic.Divide, arithmetic.TrueDivide, L.Average), _same()),
    # What moves or chooses values: the outputs have the levels of the inputs, without another rounding.
    **dict.fromkeys((L.MaxPooling1D, L.MaxPooling2D, L.MaxPooling3D), _same(Role.POOL)),
    **dict.fromkeys(
        (
            L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D, L.RepeatVector, L.ZeroPadding1D,
            L.ZeroPadding2D, L.ZeroPadding3D, L.Cropping1D, L.Cropping2D, L.Cropping3D, L.UpSampling1D,
            L.UpSampling2D, L.UpSampling3D,
        ),
        _same(Role.MOVE),
    ),
    **dict.fromkeys((L.Flatten, L.Reshape, L.Permute, arithmetic.Reshape), Kind(Role.MOVE, Channels.SHAPED)),
    **dict.fromkeys(
        (arithmetic.GetItem, arithmetic.Transpose, arithmetic.Squeeze, arithmetic.ExpandDims),
        _frozen("it chooses or moves axes", Role.MOVE),
    ),
    **dict.fromkeys((L.Concatenate, arithmetic.Concatenate), Kind(Role.JOIN, Channels.JOINED)),
    **dict.fromkeys((L.Maximum, L.Minimum), _same(Role.JOIN)),
    **dict.fromkeys((arithmetic.Maximum, arithmetic.Minimum), _same()),
    # What averages: rounded again, to the levels of the inputs.
    **dict.fromkeys((L.AveragePooling1D, L.AveragePooling2D, L.AveragePooling3D), _same(Role.MEAN)),
    **dict.fromkeys(
        (L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D, L.Resizing), _same()
    ),
    **dict.fromkeys((arithmetic.Mean, arithmetic.Max, arithmetic.Sum), Kind(Role.OTHER, Channels.REDUCED)),
    # Activation functions that are no part of a product.
    **dict.fromkeys((L.Activation, L.LeakyReLU, L.ELU), _same(Role.FUNCTION)),
    L.PReLU: _same(Role.FUNCTION, weights={"alpha": EACH}),
    L.Softmax: _frozen(NORMALIZES, Role.FUNCTION, function="softmax"),
    nn.Softmax: _frozen(NORMALIZES, Role.FUNCTION, function="softmax"),
    nn.LogSoftmax: _frozen(NORMALIZES, Role.FUNCTION, function="log_softmax"),
    nn.Sigmoid: _same(Role.FUNCTION, function="sigmoid"),
    arithmetic.Tanh: _same(Role.FUNCTION, function="tanh"),
    **dict.fromkeys(
        (
            L.ReLU, nn.Relu, nn.Relu6, nn.Silu, nn.HardSilu, nn.HardSigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid,
            nn.LeakyRelu, nn.Elu, nn.Selu, nn.Celu, nn.Gelu, arithmetic.Absolute, arithmetic.Negative, arithmetic.Clip,
            arithmetic.Square, arithmetic.Sqrt, arithmetic.Exp, QuantizeActivation,
        ),
        _same(),
    ),
}  # fmt: skip


def kind_of(operation: Any) -> Kind:
    """The row of a layer or operation, by its exact type; one of its own for a type that has none."""
    if kind := KINDS.get(type(operation)):
        return kind
    return _frozen(f"what {type(operation).__name__} does to channels is not known")
