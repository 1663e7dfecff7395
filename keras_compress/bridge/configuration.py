"""What a model file says of its model, read without building anything: configuration, version, size of its weights."""

import dataclasses
import io
import os
import pathlib
import zipfile
import zlib
from typing import IO, Any

import h5py

from keras_compress import foreign
from keras_compress.bridge.hdf5 import Stored, stored_in
from keras_compress.errors import InputError

ZIP_START = b"PK\x03\x04"
HDF5_START = b"\x89HDF\r\n\x1a\n"
CONFIGURATION, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
HOW_TO_SAVE = "Save the whole model with Keras 3: model.save('NAME.keras')."


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is known of a model file before anything is built.

    Attributes:
        configuration: of the model.
        version: of the Keras that wrote the file, as it says.
        stored: what it has of weights.
        layer_groups: names of the groups at the top of the weights in a `.keras` file; Keras 2 changed them twice.
    """

    configuration: dict[str, Any]
    version: str
    stored: Stored
    layer_groups: tuple[str, ...] = ()


def is_saved_model(path: pathlib.Path) -> bool:
    """Whether a path is a folder with a TensorFlow SavedModel."""
    return path.is_dir() and os.path.lexists(path / "saved_model.pb")


def read_contents(path: pathlib.Path) -> Contents:
    """What a model file holds, its sizes held against the file; nothing is deserialized.

    Raises:
        StorageError: no such file, one that cannot be read, or no regular one.
        InputError: no model file, a damaged one, or one that claims more than it can hold.
    """
    if path.is_dir():
        raise InputError(
            f"{str(path)!r} is a folder, and no SavedModel; a file NAME.keras or NAME.h5 is expected. {HOW_TO_SAVE}"
        )
    with foreign.open_regular(path, "model file") as file, foreign.reading(path, "model file"):
        start = file.read(8)
        zipped = start.startswith(ZIP_START)
        if not zipped and start != HDF5_START:
            raise InputError(f"{str(path)!r} is not a Keras model: {_what_it_is(start)}. {HOW_TO_SAVE}")
        suffixes = (".keras",) if zipped else (".h5", ".hdf5")
        if path.suffix not in suffixes:
            raise InputError(
                f"{str(path)!r} holds the format of {suffixes[0]} files, and Keras chooses the format by the name. "
                f"Rename it to {path.stem + suffixes[0]!r}."
            )
        try:
            contents = _read_zip(file) if zipped else _read_hdf5(file)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
            raise InputError(_damaged(path, error)) from error
        except (ValueError, KeyError, TypeError, RuntimeError) as error:  # what foreign bytes make of h5py and json
            raise InputError(_damaged(path, error)) from error
    if not isinstance(contents.configuration, dict) or "class_name" not in contents.configuration:
        raise InputError(f"{str(path)!r} holds no model, perhaps weights only. {HOW_TO_SAVE}")
    return contents


def _read_zip(file: IO[bytes]) -> Contents:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if CONFIGURATION not in names:
            return Contents({}, "", Stored())
        foreign.check_zip(archive)
        version: Any = ""
        if METADATA in names:
            metadata = foreign.parse_json(foreign.read_member(archive, METADATA, foreign.LARGEST_JSON))
            version = metadata.get("keras_version", "") if isinstance(metadata, dict) else ""
        configuration = foreign.parse_json(foreign.read_member(archive, CONFIGURATION, foreign.LARGEST_JSON))
        if WEIGHTS not in names:
            raise ValueError(f"it has no {WEIGHTS}")
        content = archive.read(WEIGHTS)
        with h5py.File(io.BytesIO(content), "r") as weights:
            stored = stored_in(weights, len(content))
            return Contents(configuration, str(version), stored, tuple(map(str, weights)))


def _read_hdf5(file: IO[bytes]) -> Contents:
    size = os.fstat(file.fileno()).st_size
    with h5py.File(file, "r") as weights:
        stored = stored_in(weights, size)
        texts = [weights.attrs.get(name, "") for name in ("model_config", "keras_version")]
    configuration, version = (text.decode() if isinstance(text, bytes) else str(text) for text in texts)
    return Contents(foreign.parse_json(configuration) if configuration else {}, version, stored)


def _damaged(path: pathlib.Path, error: Exception) -> str:
    return (
        f"The model file {str(path)!r} is damaged or cut off and cannot be loaded ({one_line(error)}). Copy "
        "or save it again."
    )


def _what_it_is(start: bytes) -> str:
    if not start:
        return "the file is empty"
    if start[4:8] == b"TFL3":
        return "it is a TFLite model, which cannot be turned back"
    return "it is neither a zip nor an HDF5 file"


def one_line(error: BaseException) -> str:
    innermost = str(error).rpartition("Exception encountered: ")[2]  # Keras puts whole configurations before it
    return " ".join(innermost.split()).split(". ")[0][:200] or type(error).__name__
