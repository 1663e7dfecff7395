"""The door to tensorflow_model_optimization (tfmot), which is imported when a technique that needs it runs."""

import contextlib
import dataclasses
import functools
import os
import re
import unittest.mock
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import tensorflow as tf

RANGE = re.compile(r"_(min|max)(:\d+)?$")  # names of the variables that are ends of ranges


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


def rounding(bits: int, activation_bits: int, one_scale: Collection[str] = ()) -> Rounding:
    """tfmot's 8-bit scheme, or its experimental one for other widths; it does not export what they are made of.

    Args:
        bits, activation_bits: widths.
        one_scale: names of layers whose kernels have one scale, also where tfmot has one for each channel.
    """
    quantization = import_tfmot().quantization.keras
    if bits == 8:
        from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
            default_8bit_quantize_configs,
            default_8bit_quantize_registry,
        )

        registry = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
        return Rounding(
            registry,
            _with_own_ranges(quantization.default_8bit.Default8BitQuantizeScheme(), registry, bits, one_scale),
            default_8bit_quantize_configs.Default8BitOutputQuantizeConfig,
        )
    from tensorflow_model_optimization.python.core.quantization.keras.experimental.default_n_bit import (
        default_n_bit_quantize_configs,
        default_n_bit_quantize_registry,
    )

    settings = {"num_bits_weight": bits, "num_bits_activation": activation_bits}
    registry = default_n_bit_quantize_registry.DefaultNBitQuantizeRegistry(**settings)
    scheme = quantization.experimental.default_n_bit.DefaultNBitQuantizeScheme(**settings)
    return Rounding(
        registry,
        _with_own_ranges(scheme, registry, bits, one_scale),
        functools.partial(default_n_bit_quantize_configs.DefaultNBitOutputQuantizeConfig, **settings),
    )


def begin_ranges(model: Any, batches: Iterable[Any]) -> None:
    """Gives a model with fake quantization ranges of activations to begin with: means over some batches.

    tfmot begins with -6 to 6 and moves by a thousandth of the way a step, so that inputs of 0 to 255 are clipped for
    thousands of steps, and small activations are zero. Ranges are set one layer after the other within a call, so that
    each sees inputs that were rounded well. All other variables stay as they are.
    """
    others = [variable for variable in model.variables if not RANGE.search(variable.name)]
    values = [variable.numpy() for variable in others]
    for number, inputs in enumerate(batches):

        def towards_mean(variable: Any, value: Any, decay: float, count: int = number + 1, **settings: Any) -> Any:
            return variable.assign(variable + (value - variable) / count)

        with unittest.mock.patch.object(tf.__internal__.train, "assign_moving_average", towards_mean):
            model(inputs, training=True)
    for variable, value in zip(others, values, strict=True):
        variable.assign(value)


def restore_states(model: Any) -> None:
    """Lets layers compute again what they keep besides their weights.

    tfmot copies models by configuration and weights. Normalization computes with tensors that `finalize_state()` makes
    of its weights, and with those of its first weights until then.
    """
    for layer in model._flatten_layers():
        if layer.built:
            layer.finalize_state()


@contextlib.contextmanager
def without_rounding() -> Iterator[None]:
    """Within it, models with fake quantization that are called compute in floating point."""

    def same(inputs: Any, *ranges: Any, **settings: Any) -> Any:
        return inputs

    names = ("fake_quant_with_min_max_vars", "fake_quant_with_min_max_vars_per_channel")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(unittest.mock.patch.object(tf.quantization, name, same))
        yield


def _with_own_ranges(scheme: Any, registry: Any, bits: int, one_scale: Collection[str]) -> Any:
    """The scheme, with one scale for the kernels of some layers, and all four integers of 2 bits: tfmot has three."""
    quantizers = import_tfmot().quantization.keras.quantizers

    def configuration(layer: Any) -> Any:
        config = type(registry).get_quantize_config(registry, layer)
        if layer.name in one_scale:
            config.weight_quantizer = quantizers.LastValueQuantizer(
                bits, per_axis=False, symmetric=True, narrow_range=True
            )
        if hasattr(config, "weight_quantizer"):
            config.weight_quantizer.narrow_range = bits > 2
        return config

    registry.get_quantize_config = configuration
    scheme.get_quantize_registry = lambda: registry
    return scheme
