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
from keras_compress.layers.paths import ModelInputs
from keras_compress.progress import quiet_stderr

KINDS = ("float", "sparse", "dynamic", "int8", "float16", "int16x8")


def convert(
    model: keras.Model, kind: str, *, batch: int | None, samples: Callable[[], Iterator[list[np.ndarray]]] | None = None
) -> bytes:
    """A TFLite file of a model.

    Args:
        model: a built Keras model.
        kind: "float"; "sparse" (floats, kernels of many zeros without these); "dynamic" (8-bit weights, float inputs);
            "int8" (integers, also as inputs and outputs);
            "float16" weights; "int16x8" (16-bit activations, 8-bit weights).
        batch: size of the batch axis, or None to leave it open.
        samples: yields samples, one at a time, for "int8" and "int16x8"; None for a model whose operations tell the
            ranges of all tensors.

    Raises:
        InputError: the model has an operation that TFLite does not have.
    """
    inputs = ModelInputs.of(model)
    specs = [
        tf.TensorSpec([batch, *tensor.shape[1:]], keras.backend.standardize_dtype(tensor.dtype), name=f"input_{index}")
        for index, tensor in enumerate(inputs.tensors)
    ]

    def run(*values: Any) -> Any:
        return keras.tree.flatten(inputs.call(model, list(values)))

    frozen = convert_variables_to_constants_v2(tf.function(run, autograph=False).get_concrete_function(*specs))
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
            raise InputError(
                f"Model {model.name!r} cannot be converted ({kind}): TensorFlow's converter says: {text[:300]}"
            ) from error


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
