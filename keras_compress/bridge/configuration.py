"""What a model file says of its model, read without building anything: configuration, version, code within it."""

import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras

from keras_compress.errors import InputError, StorageError

ZIP_START = b"PK\x03\x04"
HDF5_START = b"\x89HDF\r\n\x1a\n"
LARGEST_CONFIGURATION = 1 << 28  # bytes; a small zip can claim to unpack to any size
FUNCTION_MODULES = (  # where Keras looks for a function that is saved by its name
    keras.activations, keras.constraints, keras.initializers, keras.losses, keras.metrics, keras.regularizers,
)  # fmt: skip
HOW_TO_SAVE = "Save the whole model with Keras 3: model.save('NAME.keras')."


def is_saved_model(path: pathlib.Path) -> bool:
    """Whether a path is a folder with a TensorFlow SavedModel."""
    return path.is_dir() and (path / "saved_model.pb").is_file()


def read_configuration(path: pathlib.Path) -> tuple[dict[str, Any], str]:
    """The configuration of the model in a file, and the version of the Keras that wrote it; nothing is deserialized."""
    if path.is_dir():
        raise InputError(
            f"{str(path)!r} is a folder, and no SavedModel; a file NAME.keras or NAME.h5 is wanted. {HOW_TO_SAVE}"
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
            f"The model file {str(path)!r} is damaged or cut off ({one_line(error)}). Copy or save it again."
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


def objects_in(configuration: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object in a configuration, from the outside in."""
    if isinstance(configuration, dict):
        if "class_name" in configuration:
            yield configuration
        for value in configuration.values():
            yield from objects_in(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from objects_in(value)


def _lambda_names(configuration: Any) -> Iterator[str]:
    for entry in objects_in(configuration):
        if entry["class_name"] == "Lambda":
            yield repr((entry.get("config") or {}).get("name", "Lambda"))
        elif entry["class_name"] == "__lambda__":
            yield "a lambda function"


def unknown_names(configuration: dict[str, Any]) -> Iterator[str]:
    """Classes and functions that are neither of Keras nor registered with it."""
    for entry in objects_in(configuration):
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


def check_lambdas(configuration: Any, path: pathlib.Path, allow_lambda: bool) -> None:
    """Raises InputError for Lambda layers and lambda functions that are not allowed."""
    lambdas = sorted(set(_lambda_names(configuration)))
    if lambdas and not allow_lambda:
        raise InputError(
            f"The model in {str(path)!r} has Lambda layers or lambda functions ({', '.join(lambdas)}), whose Python "
            "code would run here. If you trust its origin, use load_model(path, allow_lambda=True) or --allow_lambda."
        )


def _what_it_is(start: bytes) -> str:
    if not start:
        return "the file is empty"
    if start[4:8] == b"TFL3":
        return "it is a TFLite model, which cannot be turned back"
    return "it is neither a zip nor an HDF5 file"


def one_line(error: Exception) -> str:
    innermost = str(error).rpartition("Exception encountered: ")[2]  # Keras puts whole configurations before it
    return " ".join(innermost.split()).split(". ")[0][:200] or type(error).__name__
