"""The door to tensorflow_model_optimization (tfmot), which is imported when a technique that needs it runs."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable
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


@dataclasses.dataclass(frozen=True)
class Rounding:
    """tfmot's way to round at some widths.

    Attributes:
        registry: which layers it rounds.
        scheme: for `quantize_apply`.
        outputs_only: makes a configuration that rounds the outputs of a layer, and nothing in it.
    """

    registry: Any
    scheme: Any
    outputs_only: Callable[[], Any]


def rounding(bits: int, activation_bits: int) -> Rounding:
    """tfmot's 8-bit scheme, or its experimental one for other widths; it does not export what they are made of."""
    quantization = import_tfmot().quantization.keras
    if bits == 8:
        from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
            default_8bit_quantize_configs,
            default_8bit_quantize_registry,
        )

        return Rounding(
            default_8bit_quantize_registry.Default8BitQuantizeRegistry(),
            quantization.default_8bit.Default8BitQuantizeScheme(),
            default_8bit_quantize_configs.Default8BitOutputQuantizeConfig,
        )
    from tensorflow_model_optimization.python.core.quantization.keras.experimental.default_n_bit import (
        default_n_bit_quantize_configs,
        default_n_bit_quantize_registry,
    )

    settings = {"num_bits_weight": bits, "num_bits_activation": activation_bits}
    return Rounding(
        default_n_bit_quantize_registry.DefaultNBitQuantizeRegistry(**settings),
        quantization.experimental.default_n_bit.DefaultNBitQuantizeScheme(**settings),
        functools.partial(default_n_bit_quantize_configs.DefaultNBitOutputQuantizeConfig, **settings),
    )
