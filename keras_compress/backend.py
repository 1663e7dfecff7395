"""The one check that Keras runs on TensorFlow."""

import os
import sys

from keras_compress.errors import InputError


def check_backend() -> None:
    """Returns if Keras runs on TensorFlow, or is going to.

    Raises:
        InputError: Keras is loaded with another backend, or its settings name another one.
    """
    if "keras" not in sys.modules:
        # Keras fails inside its own import when the backend of its settings is not installed: ask before importing it.
        _check(os.environ.get("KERAS_BACKEND", "tensorflow"))
    try:
        import keras
    except ModuleNotFoundError as error:
        if error.name in ("jax", "openvino", "torch"):  # named by the file keras.json
            _check(error.name)
        raise
    _check(keras.config.backend())


def _check(backend: str) -> None:
    if backend != "tensorflow":
        raise InputError(
            f"keras_compress needs Keras on TensorFlow. Received: the Keras backend {backend!r}. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )
