"""TensorFlow's TFLite converter on Keras models: the one door to it."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_compress.errors import InputError
from keras_compress.layers.paths import ModelInputs, all_layers_by_path
from keras_compress.progress import quiet_stderr

KINDS = ("float", "sparse", "dynamic", "int8", "float16", "int16x8")
LOOPS = ("While", "StatelessWhile", "LoopCond")


class ConversionError(InputError):
    """TensorFlow's converter refuses a model."""


def convert(
    model: keras.Model,
    kind: str,
    *,
    batch: int | None,
    samples: Callable[[], Iterator[list[np.ndarray]]] | None = None,
    loops: bool = True,
) -> bytes:
    """A TFLite file of a model.

    Args:
        model: a built Keras model.
        kind: "float"; "sparse" (floats, kernels of many zeros without these); "dynamic" (8-bit weights, float inputs);
            "int8" (integers, also as inputs and outputs);
            "float16" weights; "int16x8" (16-bit activations, 8-bit weights).
        batch: size of the batch axis, or None to leave it open.
        samples: yields batches of the size `batch`, of one sample where it is open, for "int8" and "int16x8"; None for
            a model whose operations tell the ranges of all tensors.

        loops: whether the model may have some where no ranges are measured.

    Raises:
        ConversionError: the model has an operation that TFLite does not have, or the converter fails.
        InputError: the model has a loop, in which no ranges can be measured.
    """
    inputs = ModelInputs.of(model)
    specs = [
        tf.TensorSpec([batch, *tensor.shape[1:]], keras.backend.standardize_dtype(tensor.dtype), name=f"input_{index}")
        for index, tensor in enumerate(inputs.tensors)
    ]

    def run(*values: Any) -> Any:
        return keras.tree.flatten(inputs.call(model, list(values)))

    frozen = convert_variables_to_constants_v2(tf.function(run, autograph=False).get_concrete_function(*specs))
    if not loops or (kind in ("int8", "int16x8") and samples is not None):
        _check_loops(model, frozen)
    with _absl_errors_only():  # it asks for an object that would keep variables, and there are none
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if kind == "sparse":
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    elif kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind in ("int8", "int16x8"):
        converter.representative_dataset = samples
    if kind == "int8" and samples is not None:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if kind == "int8":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    elif kind == "int16x8":
        operators = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [operators, tf.lite.OpsSet.TFLITE_BUILTINS]
    elif kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with warnings.catch_warnings(), _absl_errors_only(), quiet_stderr():
        warnings.simplefilter("ignore")  # of statistics that are given by the samples
        try:
            return bytes(converter.convert())
        except ConverterError as error:
            text = " ".join(str(error).split())
            if "TensorListReserve" in text and batch is None:
                raise ConversionError(
                    f"Model {model.name!r} has a recurrent layer, which TensorFlow's converter takes with a fixed "
                    "batch axis only. Pass static_batch=1, or build the layer with unroll=True."
                ) from error
            raise ConversionError(
                f"Model {model.name!r} cannot be converted ({kind}): TensorFlow's converter says: "
                f"{text.partition('error: ')[2][:200] or text[:200]}"
            ) from error


def _check_loops(model: keras.Model, function: Any) -> None:
    """Raises InputError for a loop: the converter's measuring of ranges ends the process there (tensorflow#75140)."""
    loop = next((node.name for node in function.graph.as_graph_def().node if node.op in LOOPS), None)
    if loop is None:
        return
    names = {layer.name for layer in all_layers_by_path(model).values()}
    parts = [each for part in loop.split("/") for each in (part, part.rpartition("_")[0])]  # "_1": called again
    layer = next((part for part in reversed(parts) if part in names), loop)
    raise InputError(
        f"Layer {layer!r} of model {model.name!r} runs a loop, in which no ranges of integers can be measured. "
        "Build recurrent layers with unroll=True, choose the ranges with kc.quantize_activations (what the loop "
        'computes then stays in floating point), or export with activations="float" or "dynamic".'
    )


@contextlib.contextmanager
def _absl_errors_only() -> Iterator[None]:
    """The converter warns through absl's logger, which prints on its own."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
