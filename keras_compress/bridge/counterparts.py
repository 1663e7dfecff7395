"""Which layers of Keras 3 and tf_keras compute the same, and what becomes of their settings.

Layers have the same names in both libraries, and nearly all settings too. A layer is built anew from its settings; one
that the other library does not have must have no effect, or the layer is refused.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_compress.bridge.activations import FORMULAS, is_written_out, name_in_keras_3, written_out
from keras_compress.bridge.libraries import Library
from keras_compress.errors import InputError

LAYERS = (
    "Activation", "ActivityRegularization", "Add", "AdditiveAttention", "AlphaDropout", "Attention", "Average",
    "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "BatchNormalization", "Bidirectional",
    "CategoryEncoding", "CenterCrop", "Concatenate", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose",
    "Conv3D", "Conv3DTranspose", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Cropping1D", "Cropping2D", "Cropping3D",
    "Dense", "DepthwiseConv1D", "DepthwiseConv2D", "Discretization", "Dot", "Dropout", "ELU", "EinsumDense",
    "Embedding", "Flatten", "GRU", "GRUCell", "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "GlobalMaxPooling3D", "GroupNormalization", "HashedCrossing", "Hashing", "Identity", "IntegerLookup", "LSTM",
    "LSTMCell", "LayerNormalization", "LeakyReLU", "Masking", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "Maximum", "Minimum", "MultiHeadAttention", "Multiply", "Normalization", "PReLU", "Permute", "RNN",
    "RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation",
    "RandomZoom", "ReLU", "RepeatVector", "Rescaling", "Reshape", "Resizing", "SeparableConv1D", "SeparableConv2D",
    "SimpleRNN", "SimpleRNNCell", "Softmax", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "StackedRNNCells", "StringLookup", "Subtract", "TextVectorization", "TimeDistributed",
    "UnitNormalization", "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D",
)  # fmt: skip

# Those with the same mathematics; names that only one library has, and what they are called in the other.
ACTIVATIONS = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "mish", "sigmoid", "tanh",
    "softplus", "softsign", "softmax", "log_softmax", "exponential",
)  # fmt: skip
RENAMED_ACTIVATIONS = {"silu": "swish"}  # in tf_keras; Keras 3 knows both
# Name of the layer: name of a setting in Keras 3 -> in tf_keras.
RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# Setting: attribute that holds a layer, which gets a counterpart of its own; a setting without a value has none.
HELD = {"layer": "layer", "backward_layer": "backward_layer", "cell": "cell", "cells": "cells"}
HELD_BY = ("Bidirectional", "RNN", "StackedRNNCells", "TimeDistributed")
# Their type is that of what they give in one library, and of what they compute with in the other.
WITHOUT_DTYPE = ("CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup", "StringLookup",
                 "TextVectorization")  # fmt: skip
LOOKUPS = ("IntegerLookup", "StringLookup", "TextVectorization")
IN_SETTINGS = (*LOOKUPS, "Discretization")  # what they have learned from data becomes a setting of the counterpart

ANY = object()  # a setting that changes no output in inference: how to compute, or random numbers of training
# Settings that only one library has: the values with which a layer does what it does without them.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "activity_regularizer": (None,),
    "adjustment": (None,),
    "antialias": (False,),
    "autocast": (ANY,),
    "batch_input_shape": (ANY,),
    "bounding_box_format": (ANY,),
    "data_format": (None, "channels_last"),
    "dynamic": (False,),
    "encoding": (ANY,),
    "factor": (ANY,),
    "fill_mode": (ANY,),
    "fill_value": (ANY,),
    "filters": (None,),
    "flash_attention": (ANY,),
    "force_generator": (ANY,),
    "groups": (1,),
    "implementation": (ANY,),
    "input_length": (ANY,),
    "kernel_constraint": (None,),
    "kernel_initializer": (ANY,),
    "kernel_regularizer": (None,),
    "key_shape": (ANY,),
    "lora_alpha": (ANY,),
    "lora_rank": (None,),
    "noise_shape": (None,),
    "oov_method": ("floormod",),
    "pad_to_aspect_ratio": (False,),
    "quantization_config": (None,),
    "query_shape": (ANY,),
    "ragged": (False,),
    "rms_scaling": (False,),
    "rng_type": (ANY,),
    "robust_masking": (ANY,),
    "salt": (None,),
    "score_mode": (ANY,),
    "seed": (ANY,),
    "sliding_window": (None,),
    "softmax_robust_masking": (ANY,),
    "sparse": (False,),
    "time_major": (False,),
    "trainable": (ANY,),
    "use_cudnn": (ANY,),
    "use_gate": (False,),
    "value_range": (ANY,),
    "value_shape": (ANY,),
    "vocabulary_size": (ANY,),
    "zero_output_for_mask": (False,),
}
OWN = ("name", "trainable", "dtype")  # settings that every layer has


class NoCounterpartError(InputError):
    """A layer, setting or operation that the other library does not have."""


def name_of(layer: Any, library: Library) -> str:
    """The name of a layer's exact type in both libraries.

    Raises:
        NoCounterpartError: a type that is not in `LAYERS`.
    """
    name = _names(library.name, library.keras).get(type(layer))
    if name is None:
        raise NoCounterpartError(
            f"Layer {layer.name!r} of type {type(layer).__name__} ({library.name}) has no counterpart in the other "
            f"Keras. {_WHAT_TO_DO.get(type(layer).__name__, 'Replace it by layers that both have.')}"
        )
    return name


_WHAT_TO_DO = {
    "Lambda": "Its Python code cannot be looked into: replace it by a layer, or by an operation such as x * 2.",
    "RandomCrop": "In inference Keras 3 leaves images as they are, and tf_keras makes them smaller.",
    "SpectralNormalization": "That of tf_keras does not run next to Keras 3; after training, its layer is enough.",
    "ThresholdedReLU": "keras.layers.ReLU(threshold=...) is the same.",
}


def counterpart(layer: Any, source: Library, target: Library, new_name: str, converted: Callable[[Any], Any]) -> Any:
    """A new layer of `target` that computes what `layer` of `source` does, without its weights.

    Args:
        layer: of an exact type in `LAYERS`.
        source, target: the two libraries.
        new_name: of the new layer.
        converted: the counterpart of a layer that this one holds.

    Raises:
        NoCounterpartError: a type, setting or activation that `target` does not have.
    """
    name = name_of(layer, source)
    kind = getattr(target.keras.layers, name)
    renamed = RENAMED.get(name, {})
    if target.name == "Keras 3":
        renamed = {new: old for old, new in renamed.items()}
    accepted = _parameters(kind)
    settings: dict[str, Any] = {} if name in WITHOUT_DTYPE else {"dtype": policy_name(layer)}
    for setting, value in _settings(layer, name).items():
        if setting in OWN:
            continue
        argument = renamed.get(setting, setting)
        if argument in accepted:
            if name in HELD_BY and argument in HELD:
                settings[argument] = _held(layer, argument, converted)
            else:
                settings[argument] = _translated(value, f"Layer {layer.name!r} ({name})", setting, target)
        elif not _is_without_effect(setting, value):
            raise NoCounterpartError(
                f"Layer {layer.name!r} ({name}) has {setting}={value!r}, which {target.name} does not have. Set it to "
                f"{' or '.join(map(repr, WITHOUT_EFFECT.get(setting, ('its default',))))}."
            )
    new_layer = kind(name=new_name, **settings)
    new_layer.trainable = layer.trainable
    return new_layer


def policy_name(layer: Any) -> str:
    """Such as "float32" or "mixed_float16".

    Raises:
        NoCounterpartError: the layer's weights are quantized by Keras.
    """
    name = str(layer.dtype_policy.name)
    if "_from_" in name:
        raise NoCounterpartError(f"Layer {layer.name!r} was quantized by Keras ({name}), which Keras 2 cannot do.")
    return name


def objects(value: Any, target: Library, where: str) -> Any:
    """The same settings with objects of `target` in place of serialized ones: losses, optimizers, regularizers.

    Raises:
        NoCounterpartError: an object that is not Keras' own.
    """
    return _translated(value, where, "", target)


@functools.cache
def _names(library: str, keras: Any) -> dict[type, str]:
    return {getattr(keras.layers, name): name for name in LAYERS}


@functools.cache
def _parameters(kind: type) -> frozenset[str]:
    """Names of all arguments of a constructor, those that it hands on to its base classes too."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names.update(each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
        if not any(each.kind == each.VAR_KEYWORD for each in parameters):
            break
    return frozenset(names - {"self"})


def _settings(layer: Any, name: str) -> dict[str, Any]:
    settings = dict(layer.get_config())
    if name == "Bidirectional":  # names of its parts are made from that of the one layer
        settings["layer"] = settings["backward_layer"] = True
    if name == "BatchNormalization" and isinstance(settings["axis"], list):
        (settings["axis"],) = settings["axis"]
    if name in LOOKUPS and not settings.get("vocabulary") and layer.vocabulary_size():
        settings["vocabulary"] = layer.get_vocabulary(include_special_tokens=False)
        if settings.get("output_mode") == "tf_idf":
            lookup = getattr(layer, "_lookup_layer", layer)  # private, as the next line: TextVectorization holds one
            start = lookup._token_start_index()
            settings["idf_weights"] = np.asarray(lookup.idf_weights)[start:][: len(settings["vocabulary"])].tolist()
    if name == "Discretization" and layer.bin_boundaries is not None and len(layer.bin_boundaries):
        settings |= {"bin_boundaries": [float(each) for each in layer.bin_boundaries], "num_bins": None}  # as adapted
    return settings


def _held(layer: Any, argument: str, converted: Callable[[Any], Any]) -> Any:
    attribute = "forward_layer" if argument == "layer" and hasattr(layer, "forward_layer") else HELD[argument]
    value = getattr(layer, attribute)
    return [converted(each) for each in value] if argument == "cells" else converted(value)


def _is_without_effect(setting: str, value: Any) -> bool:
    known = WITHOUT_EFFECT.get(setting, ())
    return ANY in known or value in known


def _translated(value: Any, where: str, setting: str, target: Library) -> Any:
    if "activation" in setting and not isinstance(value, dict):
        return _activation(value, where, target)
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        return _object(value, where, setting, target)
    if isinstance(value, dict):
        return {key: _translated(each, where, setting, target) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_translated(each, where, setting, target) for each in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def _activation(value: Any, where: str, target: Library) -> Any:
    if value is None:
        return None
    if target.name == "Keras 3" and is_written_out(value):
        return name_in_keras_3(value)
    if target.name != "Keras 3" and isinstance(value, str) and value in FORMULAS:
        return written_out(value)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise NoCounterpartError(
            f"{where} has the activation {value!r}, which the two Keras do not both have with the same mathematics. "
            f"Both have {', '.join(ACTIVATIONS)}; {', '.join(FORMULAS)} of Keras 3 are written out."
        )
    return value if target.name == "Keras 3" else RENAMED_ACTIVATIONS.get(value, value)


HOW_TO_STEP = ("gradient_accumulation_steps", "loss_scale_factor")  # of optimizers; without them the steps are others
MODULES = ("layers", "initializers", "regularizers", "constraints", "losses", "metrics", "optimizers", "activations")


def _object(value: dict[str, Any], where: str, setting: str, target: Library) -> Any:
    """An initializer, regularizer, loss and so on, by the name of its class."""
    name, config = value["class_name"], value["config"]
    if name in ("DTypePolicy", "Policy"):
        return config["name"]
    if value.get("registered_name") and ">" in str(value["registered_name"]):
        name = str(value["registered_name"])
    if "activation" in setting or name in ("function", "builtin_function"):
        return _activation(config, where, target) if "activation" in setting else config
    modules = [*MODULES[1:], "optimizers.schedules"]
    homes = [functools.reduce(getattr, module.split("."), target.keras) for module in modules]
    kind = next((getattr(home, name) for home in homes if inspect.isclass(getattr(home, name, None))), None)
    if kind is None:
        raise NoCounterpartError(f"{where} has {setting or 'an object'} {name!r}, which {target.name} does not have.")
    accepted = _parameters(kind)
    for key in HOW_TO_STEP:
        if key not in accepted and config.get(key) is not None:
            raise NoCounterpartError(f"{where} has {key}={config[key]!r}, which {target.name} does not have.")
    settings = {key: _translated(each, where, "", target) for key, each in config.items() if key in accepted}
    return kind(**settings)
