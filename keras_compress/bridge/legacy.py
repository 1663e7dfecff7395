"""Models that Keras 2 wrote: read by tf_keras, and built again in Keras 3.

A SavedModel is a program; it is not run here. Its configuration and its variables are read, and nothing else. tf_keras
itself is imported after the configuration went through the gate.
"""

import contextlib
import itertools
import json
import math
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_compress import foreign
from keras_compress.bridge import bounds, gate, groups
from keras_compress.bridge.configuration import Contents, one_line
from keras_compress.bridge.conversion import built_again
from keras_compress.bridge.hdf5 import Stored
from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.bridge.wire import messages
from keras_compress.errors import InputError
from keras_compress.progress import quiet_stderr

PROGRAM = "saved_model.pb"
METADATA = "keras_metadata.pb"
VARIABLES = "variables/variables"
# Where the texts lie, by the numbers of the fields: nodes of SavedMetadata and what they say, and, until TensorFlow
# 2.4, meta_graphs.object_graph_def.nodes of a SavedModel, of which the first is the whole, and user_object of a node.
NODES, NODE_PATH, NODE_METADATA = 1, 3, 5
OBJECTS, OBJECT, IDENTIFIER, METADATA_OF_OBJECT = (2, 7, 1), 4, 1, 3
KERAS_OBJECTS = b"_tf_keras_"  # begins the identifiers of what Keras wrote
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


def has_old_groups(contents: Contents) -> bool:
    """Whether an early Keras 2.12 to 2.15, or one on Windows, wrote the weights of a `.keras` file."""
    return groups.are_old(contents.layer_groups)


def load_keras_2(path: pathlib.Path, contents: Contents, *, allow_lambda: bool) -> keras.Model:
    """The model in a `.h5` or `.keras` file of Keras 2, whose configuration went through the gate.

    Raises:
        InputError: a file that tf_keras cannot read, more weights than the file has, or a model that has no
            counterpart in Keras 3.
    """
    tf_keras = import_tf_keras()
    settings = {"safe_mode": not allow_lambda} if path.suffix == ".keras" else {}
    numberings = groups.numberings(contents.layer_groups) if has_old_groups(contents) else [None]
    for numbering in numberings:
        try:
            with _careful(contents.stored, path), tempfile.TemporaryDirectory() as folder:
                source = path
                if numbering is not None:
                    source = pathlib.Path(folder, "renamed.keras")
                    groups.renamed(path, source, numbering)
                model = tf_keras.models.load_model(source, compile=False, **settings)
                break
        except bounds.TooLargeError:
            raise
        except Exception as error:  # tf_keras and the classes in the file raise every kind of exception
            if numbering is numberings[-1]:
                raise _unreadable(path, error) from error
    return _converted(path, model)


def load_saved_model(path: pathlib.Path, *, allow_lambda: bool) -> keras.Model:
    """The model in a SavedModel folder of Keras 2.

    Raises:
        StorageError: files of the folder that cannot be read, or are no regular ones.
        InputError: a folder without Keras' own metadata, one that does not pass the gate, or as `load_keras_2`.
    """
    text = _metadata(path)
    try:
        root = foreign.parse_json(text)
        configuration = {"class_name": root["class_name"], "config": root["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} has damaged metadata ({one_line(error)}). Copy the folder again.") from error
    gate.check(configuration, path, allow_lambda=allow_lambda)
    stored = _variables(path)

    tf_keras = import_tf_keras()
    from tf_keras.src.saving.legacy.saved_model import json_utils  # tf_keras exports neither of these two
    from tf_keras.src.saving.serialization_lib import SafeModeScope

    try:
        with _careful(stored, path), SafeModeScope(not allow_lambda):
            root = json_utils.decode(text.decode())
            model = tf_keras.models.model_from_config({"class_name": root["class_name"], "config": root["config"]})
            model.load_weights(path / VARIABLES).assert_existing_objects_matched().expect_partial()
    except bounds.TooLargeError:
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    return _converted(path, model)


@contextlib.contextmanager
def _careful(stored: Stored, path: pathlib.Path) -> Iterator[None]:
    """A block in which tf_keras builds a model: in silence, no larger than its weights, without endless loops."""
    from tf_keras.src import backend

    with (
        warnings.catch_warnings(),
        quiet_stderr(),
        bounds.at_most(stored, path),
        bounds.short_loops(backend),
    ):
        warnings.simplefilter("ignore")  # of old formats, which the reader of a file cannot change
        yield


def _metadata(path: pathlib.Path) -> bytes:
    """The text about the outermost model in a SavedModel, read without tf_keras."""
    name = METADATA if os.path.lexists(path / METADATA) else PROGRAM
    with foreign.open_regular(_own_file(path / name), "part of a SavedModel") as file:
        content = memoryview(file.read())
    try:
        if name == METADATA:
            for node in messages(content, NODES):
                if _text(node, NODE_PATH) == b"root":
                    return _text(node, NODE_METADATA)
        else:
            for whole in itertools.islice(messages(content, *OBJECTS), 1):
                if _text(whole, OBJECT, IDENTIFIER).startswith(KERAS_OBJECTS):
                    return _text(whole, OBJECT, METADATA_OF_OBJECT)
    except ValueError as error:
        raise InputError(f"{str(path / name)!r} is damaged ({one_line(error)}). Copy the folder again.") from error
    if name == METADATA:
        raise InputError(f"{str(path / name)!r} is damaged (no outermost model). Copy the folder again.")
    raise InputError(
        f"{str(path)!r} is a SavedModel without {METADATA}: it holds functions, and no Keras model. Save the model "
        "itself: model.save('NAME.keras')."
    )


def _text(message: memoryview, *numbers: int) -> bytes:
    return b"".join(map(bytes, list(messages(message, *numbers))[-1:]))  # the last one counts, as everywhere


def _own_file(path: pathlib.Path) -> pathlib.Path:
    """The path, if it is no link: the weights of a folder from elsewhere must not be a file of the user's."""
    if path.is_symlink():
        raise InputError(f"{str(path)!r} is a symbolic link. Copy the SavedModel with the files themselves: cp -rL.")
    return path


def _variables(path: pathlib.Path) -> Stored:
    """What a SavedModel has of variables, held against the size of its files."""
    folder = (path / VARIABLES).parent
    size = 0
    if _own_file(folder).is_dir():
        for entry in foreign.entries(folder):
            with foreign.open_regular(_own_file(folder / entry.name), "part of a SavedModel") as file:
                size += os.fstat(file.fileno()).st_size
    try:
        reader = tf.train.load_checkpoint(str(path / VARIABLES))
        kinds = reader.get_variable_to_dtype_map()
        shapes = reader.get_variable_to_shape_map()
        numbers = {name: math.prod(shape) for name, shape in shapes.items()}
        claimed = sum(count * max(kinds[name].size or 1, 1) for name, count in numbers.items())
    except Exception as error:  # TensorFlow raises errors of its own
        raise _unreadable(path, error) from error
    if claimed > size:
        raise InputError(f"{str(path)!r} has variables that claim {claimed:,} bytes, and files of {size:,}.")
    return Stored(sum(numbers.values()), len(numbers))


def _converted(path: pathlib.Path, model: Any) -> keras.Model:
    try:
        return built_again(model, bounded=True)
    except InputError as error:
        raise InputError(f"The model in {str(path)!r} was written by Keras 2. {error}") from error
    except Exception as error:  # Keras, which builds the model again, raises every kind of exception
        raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, error: Exception) -> InputError:
    return InputError(
        f"The model in {str(path)!r} was written by Keras 2, and tf_keras cannot rebuild it ({one_line(error)}). Build "
        "the same architecture in Keras 3, call model.load_weights, and save it as NAME.keras."
    )
