"""The model card: NAME.json next to NAME.keras, which says how the network was made and how to feed it."""

import dataclasses
import json
import os
import pathlib
import platform
from importlib import metadata
from typing import Any

from keras_compress import foreign
from keras_compress.errors import InputError, StorageError
from keras_compress.files import replacing
from keras_compress.zoo.datasets import load_dataset
from keras_compress.zoo.encoding import TableEncoding
from keras_compress.zoo.preprocessing import Preprocessing
from keras_compress.zoo.samples import Dataset

FORMAT_VERSION = 1
PACKAGES = ("keras", "tensorflow", "numpy")


def installed_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in PACKAGES}}


def model_paths(folder: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Paths of a network and of its card.

    Raises:
        InputError: `name` is a path, not a name.
    """
    if not name or name.startswith(".") or pathlib.Path(name).name != name:
        raise InputError(f"A name of files must not be empty, start with a dot, or hold a slash. Received: {name!r}.")
    return folder / f"{name}.keras", folder / f"{name}.json"


@dataclasses.dataclass
class ModelCard:
    """How a network was trained, and what its inputs and outputs mean."""

    dataset: str  # name or path, as the user gave it
    architecture: str
    preprocessing: Preprocessing
    seed: int
    accuracy: dict[str, float] = dataclasses.field(default_factory=dict)  # "train", "validation", "test"
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # one number for each epoch
    command: str = ""
    class_names: list[str] = dataclasses.field(default_factory=list)
    dataset_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # keyword arguments of load_dataset
    table: TableEncoding | None = None  # how rows of a CSV file become samples
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the training
    versions: dict[str, str] = dataclasses.field(default_factory=installed_versions)
    format_version: int = FORMAT_VERSION

    def load_dataset(self) -> Dataset:
        """Loads the data set that the network was trained on, with the same split into training and test samples."""
        return load_dataset(self.dataset, seed=self.seed, **self.dataset_options)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the card as JSON; `path` holds the whole card or what it held before."""
        with replacing(path) as part:
            part.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "ModelCard":
        """Reads a card.

        Raises:
            InputError: there is no card at `path`, or it is not one.
        """
        try:
            fields = foreign.read_json(path, "model card")
            version = fields["format_version"]
            if version > FORMAT_VERSION:
                raise InputError(
                    f"The model card {str(path)!r} has format {version}; this keras_compress reads format "
                    f"{FORMAT_VERSION}. Install a newer one."
                )
            preprocessing = Preprocessing.from_dict(fields["preprocessing"])
            table = fields["table"] and TableEncoding.from_dict(fields["table"])
            return cls(**{**fields, "preprocessing": preprocessing, "table": table})
        except StorageError as error:
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else error
            raise InputError(f"The model card {str(path)!r} cannot be read ({reason}).") from error
        except InputError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(path)!r} is not a model card ({type(error).__name__}: {error}).") from error
