"""Model files of Keras 3 (`.keras`) and the legacy format (`.h5`), read with care: no code of the file runs unasked."""

import json
import os
import pathlib
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras

import keras_compress.layers.activation  # noqa: F401 - Keras then knows the layer in files of ours
from keras_compress.errors import InputError, StorageError

ZIP_START = b"PK\x03\x04"
HDF5_START = b"\x89HDF\r\n\x1a\n"
LARGEST_CONFIGURATION = 1 << 28  # bytes; a small zip can claim to unpack to any size
FUNCTION_MODULES = (  # where Keras looks for a function that is saved by its name
    keras.activations, keras.constraints, keras.initializers, keras.losses, keras.metrics, keras.regularizers,
)  # fmt: skip
HOW_TO_SAVE = "Save the whole model with Keras 3: model.save('NAME.keras')."


def load_model(path: str | os.PathLike[str], *, allow_lambda: bool = False) -> keras.Model:
    """The model in a `.keras` or `.h5` file, not compiled.

    Args:
        path: the file.
        allow_lambda: load Lambda layers and lambda functions too. Their Python code is in the file and runs: only for
            files whose origin you trust.

    Raises:
        StorageError: no such file, or it cannot be read.
        InputError: no model of Keras 3, a damaged one, one with lambdas that are not allowed, or one with classes that
            Keras does not know.
    """
    path = pathlib.Path(path)
    configuration, version = _read_configuration(path)
    _check_lambdas(configuration, path, allow_lambda)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which the reader of a file cannot mend
            model = keras.saving.load_model(path, compile=False, safe_mode=not allow_lambda)
    except Exception as error:  # Keras and the classes in the file raise every kind of exception
        raise InputError(_why_not(path, configuration, version, error)) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{str(path)!r} holds a {type(model).__name__}, and a keras.Model is wanted. {HOW_TO_SAVE}")
    return model


def configuration_of(model: keras.Model) -> dict[str, Any]:
    """What Keras writes into `config.json`, without the compile state: `model_of` makes the model again."""
    configuration = keras.saving.serialize_keras_object(model)
    configuration.pop("compile_config", None)
    return dict(configuration)


def model_of(configuration: dict[str, Any], path: pathlib.Path, *, allow_lambda: bool = False) -> keras.Model:
    """A model with new weights from its configuration, which was read from a file.

    Raises:
        InputError: lambdas that are not allowed, classes that Keras does not know, or no model.
    """
    _check_lambdas(configuration, path, allow_lambda)
    try:
        model = keras.saving.deserialize_keras_object(configuration, safe_mode=not allow_lambda)
    except Exception as error:  # Keras and the classes in the file raise every kind of exception
        raise InputError(_why_not(path, configuration, "", error)) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{str(path)!r} holds a {type(model).__name__}, and a keras.Model is wanted.")
    return model


def _check_lambdas(configuration: dict[str, Any], path: pathlib.Path, allow_lambda: bool) -> None:
    lambdas = sorted(set(_lambda_names(configuration)))
    if lambdas and not allow_lambda:
        raise InputError(
            f"The model in {str(path)!r} has Lambda layers or lambda functions ({', '.join(lambdas)}), whose Python "
            "code would run here. If you trust its origin, use load_model(path, allow_lambda=True) or --allow_lambda."
        )


def _read_configuration(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    """The configuration of the model in a file, and the version of the Keras that wrote it; nothing is deserialized."""
    if path.is_dir():
        raise InputError(
            f"{str(path)!r} is a folder{_of_saved_model(path)}; a file NAME.keras or NAME.h5 is wanted. {HOW_TO_SAVE}"
        )
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except FileNotFoundError as error:
        raise StorageError(f"There is no model file {str(path)!r}. Check the name and the folder.") from error
    except OSError as error:
        raise StorageError(f"The model file {str(path)!r} cannot be read ({error.strerror}).") from error
    zipped = start.startswith(ZIP_START)
    if not zipped and start != HDF5_START:
        raise InputError(f"{str(path)!r} is not a Keras model: {_what_it_is(start)}. {HOW_TO_SAVE}")
    wanted = (".keras",) if zipped else (".h5", ".hdf5")
    if path.suffix not in wanted:
        raise InputError(
            f"{str(path)!r} holds the format of {wanted[0]} files, and Keras chooses the format by the name. "
            f"Rename it to {path.stem + wanted[0]!r}."
        )
    try:
        text, version = _read_zip(path) if zipped else _read_hdf5(path)
        configuration = json.loads(text) if text else {}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"The model file {str(path)!r} is damaged or cut off ({_one_line(error)}). Copy or save it again."
        ) from error
    if not isinstance(configuration, dict) or "class_name" not in configuration:
        raise InputError(f"{str(path)!r} holds no model, perhaps weights only. {HOW_TO_SAVE}")
    return configuration, version


def _read_zip(path: pathlib.Path) -> tuple[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            return "", ""
        if archive.getinfo("config.json").file_size > LARGEST_CONFIGURATION:
            raise ValueError(f"its config.json claims more than {LARGEST_CONFIGURATION:,} bytes")
        version = ""
        if "metadata.json" in names:
            version = json.loads(archive.read("metadata.json")).get("keras_version", "")
        return archive.read("config.json").decode(), version


def _read_hdf5(path: pathlib.Path) -> tuple[str, str]:
    with h5py.File(path, "r") as file:
        texts = [file.attrs.get(name, "") for name in ("model_config", "keras_version")]
    configuration, version = (text.decode() if isinstance(text, bytes) else str(text) for text in texts)
    return configuration, version


def _objects(configuration: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object in a configuration, from the outside in."""
    if isinstance(configuration, dict):
        if "class_name" in configuration:
            yield configuration
        for value in configuration.values():
            yield from _objects(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from _objects(value)


def _lambda_names(configuration: dict[str, Any]) -> Iterator[str]:
    for entry in _objects(configuration):
        if entry["class_name"] == "Lambda":
            yield repr((entry.get("config") or {}).get("name", "Lambda"))
        elif entry["class_name"] == "__lambda__":
            yield "a lambda function"


def _unknown_names(configuration: dict[str, Any]) -> Iterator[str]:
    """Classes and functions that are neither of Keras nor registered with it."""
    for entry in _objects(configuration):
        name, settings = entry["class_name"], entry.get("config")
        if name == "function":
            name, known = str(settings), any(hasattr(module, str(settings)) for module in FUNCTION_MODULES)
        elif "registered_name" in entry:  # Keras 3
            name, known = (
                entry["registered_name"] or name,
                str(entry.get("module")).split(".")[0] in ("keras", "tf_keras"),
            )
        elif isinstance(settings, dict) and "name" in settings:  # a layer or a model in the legacy format
            known = hasattr(keras.layers, name) or hasattr(keras.models, name) or name == "Functional"
        else:
            continue
        if not known and keras.saving.get_registered_object(name) is None:
            yield name.rpartition(">")[2]  # registered names are PACKAGE>NAME


def _why_not(path: pathlib.Path, configuration: dict[str, Any], version: str, error: Exception) -> str:
    unknown = ", ".join(dict.fromkeys(map(repr, _unknown_names(configuration))))
    # A tf_keras file without its version still names the modules of Keras 2.
    of_keras_2 = version.startswith(("1.", "2.")) or "keras.src.engine" in str(configuration.get("module"))
    if of_keras_2:
        reason = f"it does not know {unknown}" if unknown else _one_line(error)
        return (
            f"The model in {str(path)!r} was written by Keras {version or 2}; Keras 3 cannot rebuild it ({reason}). "
            "Build the same architecture in Keras 3, call model.load_weights, and save it as NAME.keras."
        )
    if unknown:
        return (
            f"The model in {str(path)!r} uses {unknown}, which Keras does not know. Import the module that defines it "
            "before loading, and decorate it with @keras.saving.register_keras_serializable()."
        )
    return f"The model in {str(path)!r} cannot be loaded ({_one_line(error)}). {HOW_TO_SAVE}"


def _of_saved_model(folder: pathlib.Path) -> str:
    return " with a TensorFlow SavedModel" if (folder / "saved_model.pb").exists() else ""


def _what_it_is(start: bytes) -> str:
    if not start:
        return "the file is empty"
    if start[4:8] == b"TFL3":
        return "it is a TFLite model, which cannot be turned back"
    return "it is neither a zip nor an HDF5 file"


def _one_line(error: Exception) -> str:
    innermost = str(error).rpartition("Exception encountered: ")[2]  # Keras puts whole configurations before it
    return " ".join(innermost.split()).split(". ")[0][:200] or type(error).__name__
