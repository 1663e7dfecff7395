"""Models that Keras 2 wrote: read by tf_keras, and built again in Keras 3.

A SavedModel is a program; it is not run here. Its configuration and its variables are read, and nothing else.
"""

import json
import pathlib
import warnings
from typing import Any

import keras

from keras_compress.bridge.configuration import check_lambdas, one_line
from keras_compress.bridge.conversion import from_tf_keras
from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.errors import InputError
from keras_compress.progress import quiet_stderr

METADATA = "keras_metadata.pb"
VARIABLES = "variables/variables"
# Layers that Keras 3 takes from files of Keras 2, and computes otherwise.
CHANGED = ("hard_sigmoid",)


def is_of_keras_2(configuration: dict[str, Any], version: str) -> bool:
    """Whether Keras 2 or 1 wrote a configuration; a file without its version still names the modules of Keras 2."""
    module = str(configuration.get("module"))
    return version.startswith(("1.", "2.")) or "keras.src.engine" in module


def has_changed(configuration: dict[str, Any]) -> bool:
    """Whether Keras 3 would read a configuration of Keras 2 without an error, and compute something else."""
    text = json.dumps(configuration)
    return any(f'"{name}"' in text for name in CHANGED)


def load_keras_2(path: pathlib.Path, *, allow_lambda: bool) -> keras.Model:
    """The model in a `.h5` or `.keras` file of Keras 2, whose configuration is free of code.

    Raises:
        InputError: a file that tf_keras cannot read, or a model that has no counterpart in Keras 3.
    """
    tf_keras = import_tf_keras()
    settings = {"safe_mode": not allow_lambda} if path.suffix == ".keras" else {}
    try:
        with warnings.catch_warnings(), quiet_stderr():
            warnings.simplefilter("ignore")  # of old formats, which the reader of a file cannot mend
            model = tf_keras.models.load_model(path, compile=False, **settings)
    except Exception as error:  # tf_keras and the classes in the file raise every kind of exception
        raise _unreadable(path, error) from error
    return _crossed(path, model)


def load_saved_model(path: pathlib.Path, *, allow_lambda: bool) -> keras.Model:
    """The model in a SavedModel folder of Keras 2.

    Raises:
        InputError: a folder without Keras' own metadata, one with lambdas that are not allowed, or as `load_keras_2`.
    """
    tf_keras = import_tf_keras()
    from tf_keras.src.saving.serialization_lib import SafeModeScope  # tf_keras exports it only for files

    configuration = _configuration(path)
    check_lambdas(configuration, path, allow_lambda)
    try:
        with warnings.catch_warnings(), quiet_stderr(), SafeModeScope(not allow_lambda):
            warnings.simplefilter("ignore")
            model = tf_keras.models.model_from_config(configuration)
            model.load_weights(path / VARIABLES).assert_existing_objects_matched().expect_partial()
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    return _crossed(path, model)


def _configuration(path: pathlib.Path) -> dict[str, Any]:
    """That of the outermost model in a SavedModel."""
    if not (path / METADATA).is_file():
        raise InputError(
            f"{str(path)!r} is a SavedModel without {METADATA}: it holds functions, and no Keras model. Save the model "
            "itself: model.save('NAME.keras')."
        )
    # tf_keras exports no reader of this file.
    from tf_keras.protobuf.saved_metadata_pb2 import SavedMetadata
    from tf_keras.src.saving.legacy.saved_model import json_utils

    try:
        nodes = SavedMetadata.FromString((path / METADATA).read_bytes()).nodes
        (root,) = [json_utils.decode(node.metadata) for node in nodes if node.node_path == "root"]
        return {"class_name": root["class_name"], "config": root["config"]}
    except Exception as error:  # the generated reader raises errors of its own
        raise InputError(f"{str(path / METADATA)!r} is damaged ({one_line(error)}). Copy the folder again.") from error


def _crossed(path: pathlib.Path, model: Any) -> keras.Model:
    try:
        return from_tf_keras(model)
    except InputError as error:
        raise InputError(f"The model in {str(path)!r} was written by Keras 2. {error}") from error


def _unreadable(path: pathlib.Path, error: Exception) -> InputError:
    return InputError(
        f"The model in {str(path)!r} was written by Keras 2, and tf_keras cannot rebuild it ({one_line(error)}). Build "
        "the same architecture in Keras 3, call model.load_weights, and save it as NAME.keras."
    )
