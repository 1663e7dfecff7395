"""The door to tensorflow_model_optimization (tfmot), which is imported when a technique that needs it runs."""

import os
import warnings
from typing import Any

import tensorflow as tf


def import_tfmot() -> Any:
    """The module `tensorflow_model_optimization`, whose import would make tf_keras of the user's `tf.keras`."""
    tf.keras.__name__  # noqa: B018 - what it is, is decided when it is first used: now
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the way in which it compares versions
        import tensorflow_model_optimization

    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = before
    return tensorflow_model_optimization


def quantization_scheme(bits: int, activation_bits: int) -> tuple[Any, Any]:
    """tfmot's registry of the layers that it rounds, and its scheme: the 8-bit one, or the experimental one."""
    quantization = import_tfmot().quantization.keras
    if bits == 8:
        from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
            default_8bit_quantize_registry as registries,  # tfmot exports schemes, and not their registries
        )

        return registries.Default8BitQuantizeRegistry(), quantization.default_8bit.Default8BitQuantizeScheme()
    from tensorflow_model_optimization.python.core.quantization.keras.experimental.default_n_bit import (
        default_n_bit_quantize_registry as n_bit_registries,
    )

    settings = {"num_bits_weight": bits, "num_bits_activation": activation_bits}
    scheme = quantization.experimental.default_n_bit.DefaultNBitQuantizeScheme(**settings)
    return n_bit_registries.DefaultNBitQuantizeRegistry(**settings), scheme
