"""What it takes to run a model once, told from the shapes in its graph: a small file must not ask for large tensors."""

import math
from typing import Any

from keras_compress.bridge.libraries import Library, Node
from keras_compress.errors import InputError

FEW_NUMBERS = 1 << 23  # in all tensors for one sample: two samples are run
MOST_NUMBERS = 1 << 25  # and no more than these, or
NUMBERS_A_WEIGHT = 64  # times the weights of the model
MOST_PRODUCTS = 1 << 33  # multiplications for one sample, or
PRODUCTS_A_WEIGHT = 8192  # times the weights; of a U-Net for 512 x 512 pixels: 6,000
A_TURN = 1 << 18  # multiplications that take as long as one turn of a loop over time
LOOPS = (
    "Bidirectional",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "GRU",
    "LSTM",
    "RNN",
    "SimpleRNN",
    "TimeDistributed",
)
ATTENTION = ("AdditiveAttention", "Attention", "MultiHeadAttention")


def samples_to_run(model: Any, library: Library, open_size: int, most: int) -> int:
    """How many samples to run a model on: `most`, or one where its tensors are large.

    Args:
        model: a Functional or Sequential model of `library`.
        library: whose graph it is.
        open_size: of the axes that the model leaves open.
        most: samples.

    Raises:
        InputError: tensors or work out of all proportion to the weights.
    """
    weights = sum(math.prod(weight.shape) for weight in model.weights)
    numbers, products = _effort(model, library, open_size)
    if numbers > max(MOST_NUMBERS, NUMBERS_A_WEIGHT * weights) or products > max(
        MOST_PRODUCTS, PRODUCTS_A_WEIGHT * weights
    ):
        raise InputError(
            f"Model {model.name!r} has {weights:,} weights, and to run it once, as a check, takes {numbers:,} numbers "
            f"and {products:,} multiplications. Make its inputs smaller, or save it with Keras 3."
        )
    return most if numbers <= FEW_NUMBERS else 1


def _effort(model: Any, library: Library, open_size: int) -> tuple[int, int]:
    """Numbers in all tensors for one sample, and multiplications."""
    numbers = sum(_size(tensor, open_size) for tensor in library.tensors(library.inputs(model)))
    products = 0
    for node in library.nodes(model):
        inner = (0, 0)
        if library.is_graph(node.operation):
            inner = _effort(node.operation, library, open_size)
        elif hasattr(node.operation, "weights"):
            inner = _effort_of_layer(node, library, open_size)
        numbers += inner[0] + sum(_size(tensor, open_size) for tensor in library.tensors(node.outputs))
        products += inner[1]
    return numbers, products


def _effort_of_layer(node: Node, library: Library, open_size: int) -> tuple[int, int]:
    """Numbers within a layer that are no outputs, and multiplications."""
    kind = type(node.operation).__name__
    inputs = library.tensors((node.args, node.kwargs))
    places = [
        max(_size(tensor, open_size) // (tensor.shape[-1] or open_size) if len(tensor.shape) > 2 else 1, 1)
        for tensor in [*inputs, *library.tensors(node.outputs)]
        if len(tensor.shape)
    ]
    longest = max(places, default=1)
    weights = sum(math.prod(weight.shape) for weight in node.operation.weights)
    numbers = 0
    if kind in ATTENTION:
        heads = getattr(node.operation, "_num_heads", 1)
        width = max((tensor.shape[-1] or open_size for tensor in inputs), default=1)
        numbers = longest**2 * (width if kind == "AdditiveAttention" else heads)
    turns = longest * A_TURN if kind in LOOPS else 0
    return numbers, weights * longest + numbers + turns


def _size(tensor: Any, open_size: int) -> int:
    """Numbers of a tensor for one sample."""
    return math.prod(size or open_size for size in tuple(tensor.shape)[1:])
