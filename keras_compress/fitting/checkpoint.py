"""The state of a run on disk, so that one that was killed goes on to the same weights."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress import foreign
from keras_compress.errors import InputError
from keras_compress.files import remove_parts, replacing

STATE = "state.npz"
RUN = "run.json"  # what a checkpoint belongs to
ENGINE = "keras"
PLAIN = (bool, int, float, str, type(None), np.generic, np.ndarray)
NO_STATE = ("_model", "params", "model", "validation_data")  # attributes that Keras sets itself


class Checkpoint:
    """The state after the last finished epoch: variables, optimizer, callbacks.

    Args:
        folder: of the files.
        run: what tells this run from others; equal for the run that goes on.
        writes: whether this process is the one that writes.
    """

    def __init__(self, folder: Any, run: Mapping[str, str], *, writes: bool = True):
        self.folder = pathlib.Path(folder)
        self.run = {"engine": ENGINE, **run}
        self.writes = writes
        self.stored: Any = None

    def restore(self, variables: Sequence[Any]) -> int:
        """Gives the variables the values that are there; the number of epochs that are done.

        Raises:
            InputError: the checkpoint of another run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        known = json.loads((self.folder / RUN).read_text()) if (self.folder / RUN).is_file() else self.run
        if not (self.folder / STATE).is_file() and known.get("engine") == ENGINE:
            if self.writes:
                with replacing(self.folder / RUN) as part:
                    part.write_text(json.dumps(self.run))
            return 0
        if known != self.run:
            what = "engine" if known.get("engine") != ENGINE else "model, data and settings"
            raise InputError(
                f"The checkpoint in {str(self.folder)!r} is that of another run: expected the same {what}. Received: "
                "others. Name another folder, or remove this one."
            )
        self.stored = foreign.read_npz(self.folder / STATE, "checkpoint")
        for number, variable in enumerate(variables):
            variable.assign(self.stored[f"variable_{number}"])
        return int(self.stored["epochs"])

    def restore_callbacks(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Gives callbacks the state that is there, if any."""
        for number, callback in enumerate(callbacks if self.stored is not None else ()):
            _set_state(callback, json.loads(str(self.stored[f"callback_{number}"])), self.stored, number)

    def save(self, epochs: int, variables: Sequence[Any], callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Writes the state next to the old one, and puts it in its place."""
        if not self.writes:
            return
        content: dict[str, Any] = {"epochs": np.int64(epochs)}
        for number, variable in enumerate(variables):
            content[f"variable_{number}"] = np.asarray(keras.ops.convert_to_numpy(variable))
        for number, callback in enumerate(callbacks):
            state, arrays = _state_of(callback)
            content[f"callback_{number}"] = np.asarray(json.dumps(state))
            content |= {f"callback_{number}_{name}": value for name, value in arrays.items()}
        with replacing(self.folder / STATE) as part, part.open("wb") as file:
            np.savez(file, **content)

    def clear(self) -> None:
        """Removes what the run left in its folder, and the folder if nothing else is there."""
        if not self.writes:
            return
        for name in (STATE, RUN):
            (self.folder / name).unlink(missing_ok=True)
            remove_parts(self.folder / name)
        with contextlib.suppress(OSError):  # there is something else
            self.folder.rmdir()


def digest_of(variables: Iterable[Any]) -> str:
    """What tells the values of variables, of Keras or of TensorFlow, from others."""
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def without_saved_state(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """Names of callbacks of the user's own that hold what a checkpoint cannot: a run that goes on has them as new."""
    names = []
    for callback in callbacks:
        held = {name: value for name, value in vars(callback).items() if name not in NO_STATE and not callable(value)}
        if not type(callback).__module__.startswith("keras.") and not all(map(_is_saved, held.values())):
            names.append(type(callback).__name__)
    return names


def _is_saved(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_saved, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_saved, value.values()))
    return isinstance(value, PLAIN) or _is_operation(value)


def _is_operation(value: Any) -> bool:
    """Whether it is a function of `keras.ops`, such as the comparison that a callback has chosen."""
    return callable(value) and getattr(keras.ops, getattr(value, "__name__", ""), None) is value


def _state_of(callback: keras.callbacks.Callback) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The attributes of a callback: what JSON holds, with numbers in place of arrays, and these."""
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if _is_operation(value):
            return {"operation": value.__name__}
        if isinstance(value, np.ndarray):
            arrays[f"array_{len(arrays)}"] = value
            return {"array": len(arrays) - 1}
        if isinstance(value, dict):
            return {"dictionary": {key: plain(each) for key, each in value.items()}}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [plain(each) for each in value]}
        return value

    held = {name: value for name, value in vars(callback).items() if name not in NO_STATE and _is_saved(value)}
    return {name: plain(value) for name, value in held.items()}, arrays


def _set_state(callback: keras.callbacks.Callback, state: dict[str, Any], stored: Any, number: int) -> None:
    def restored(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "operation":
            return getattr(keras.ops, content)
        if kind == "array":
            return stored[f"callback_{number}_array_{content}"]
        if kind == "dictionary":
            return {key: restored(each) for key, each in content.items()}
        return {"list": list, "tuple": tuple}[kind](map(restored, content))

    for name, value in state.items():
        setattr(callback, name, restored(value))
