"""Model files of Keras 3 and Keras 2, read with care: no code of the file runs unasked."""

import os
import pathlib
import warnings
from typing import Any

import keras

import keras_compress.layers.activation  # noqa: F401 - Keras then knows the layer in files of ours
from keras_compress.bridge import bounds, gate, legacy
from keras_compress.bridge.configuration import HOW_TO_SAVE, is_saved_model, one_line, read_contents
from keras_compress.bridge.hdf5 import Stored
from keras_compress.errors import InputError


def load_model(path: str | os.PathLike[str], *, allow_lambda: bool = False) -> keras.Model:
    """The model in a file or folder as a Keras 3 model, not compiled.

    Files of Keras 3 (`.keras`, `.h5`) are read by Keras; those of Keras 2 (`.h5`, `.keras`, SavedModel folders) by
    Keras too where it can, else by tf_keras, and built again (`from_tf_keras`). Nothing is built of a file before all
    that its configuration names was found on a list of what may be built, and before its sizes were held against those
    of the file. A SavedModel's functions are not run.

    Args:
        path: the file or folder.
        allow_lambda: build whatever the file names: Lambda layers and lambda functions, whose Python code is in the
            file and runs, and classes, functions, modules and paths of any kind. Only for files whose origin you trust.

    Raises:
        StorageError: no such file, or it cannot be read.
        InputError: no model, a damaged one, one that names what is not on the list, one with classes that Keras does
            not know, one that is larger than its weights, or one of Keras 2 that has no counterpart in Keras 3.
    """
    path = pathlib.Path(path)
    if is_saved_model(path):
        return legacy.load_saved_model(path, allow_lambda=allow_lambda)
    contents = read_contents(path)
    configuration = contents.configuration
    gate.check(configuration, path, allow_lambda=allow_lambda)
    of_keras_2 = legacy.is_of_keras_2(configuration, contents.version)
    if of_keras_2 and (legacy.has_changed(configuration) or legacy.has_old_groups(contents)):
        return legacy.load_keras_2(path, contents, allow_lambda=allow_lambda)
    try:
        with bounds.at_most(contents.stored, path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which the reader of a file cannot change
            model = keras.saving.load_model(path, compile=False, safe_mode=not allow_lambda)
    except bounds.TooLargeError:
        raise
    except Exception as error:  # Keras and the classes in the file raise every kind of exception
        if of_keras_2:
            return legacy.load_keras_2(path, contents, allow_lambda=allow_lambda)
        raise InputError(_why_not(path, configuration, error)) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{str(path)!r} holds a {type(model).__name__}, and a keras.Model is expected. {HOW_TO_SAVE}")
    return model


def configuration_of(model: keras.Model) -> dict[str, Any]:
    """What Keras writes into `config.json`, without the compile state: `model_of` makes the model again."""
    configuration = keras.saving.serialize_keras_object(model)
    configuration.pop("compile_config", None)
    return dict(configuration)


def model_of(
    configuration: dict[str, Any], stored: Stored, path: pathlib.Path, *, allow_lambda: bool = False
) -> keras.Model:
    """A model with new weights from its configuration, which was read from a file.

    Args:
        configuration: of the model.
        stored: what the file has of weights.
        path: of the file, for messages.
        allow_lambda: see `load_model`.

    Raises:
        InputError: what is not on the list, classes that Keras does not know, more weights than the file has, or no
            model.
    """
    gate.check(configuration, path, allow_lambda=allow_lambda)
    try:
        with bounds.at_most(stored, path):
            model = keras.saving.deserialize_keras_object(configuration, safe_mode=not allow_lambda)
    except bounds.TooLargeError:
        raise
    except Exception as error:  # Keras and the classes in the file raise every kind of exception
        raise InputError(_why_not(path, configuration, error)) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{str(path)!r} holds a {type(model).__name__}, and a keras.Model is expected.")
    return model


def _why_not(path: pathlib.Path, configuration: dict[str, Any], error: BaseException) -> str:
    unknown = ", ".join(dict.fromkeys(map(repr, gate.unknown_names(configuration))))
    if unknown:
        return gate.what_keras_does_not_know(path, unknown)
    return f"The model in {str(path)!r} cannot be loaded ({one_line(error)}). {HOW_TO_SAVE}"
