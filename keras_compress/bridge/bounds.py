"""What a model may take while it is built of a file: as many weights as the file has, and no endless loop."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_compress.bridge.hdf5 import Stored
from keras_compress.errors import InputError

SPARE = 1 << 20  # numbers that a file need not have: states of random generators, of recurrent layers
SPARE_ARRAYS = 64  # of floating point: states of recurrent layers
LONGEST_LOOP = 10_000  # turns over an axis that tf_keras writes out in Python


class TooLargeError(InputError):
    """A model that asks for more weights than its file has."""


@contextlib.contextmanager
def at_most(stored: Stored, path: str | os.PathLike[str]) -> Iterator[None]:
    """A block in which there may be no more weights than a file has, or twice as many and a few.

    Each variable is counted before its memory is asked for.

    Args:
        stored: in the file.
        path: of the file, for messages.

    Raises:
        TooLargeError: the model is larger than its weights; also where Keras made another error of it.
    """
    numbers = arrays = 0

    def count(next_creator: Callable[..., Any], **settings: Any) -> Any:
        nonlocal numbers, arrays
        numbers += _numbers(settings)
        arrays += tf.as_dtype(settings.get("dtype") or "float32").is_floating
        if is_too_large():
            raise TooLargeError("larger than its weights")
        return next_creator(**settings)

    def is_too_large() -> bool:
        return numbers > 2 * stored.numbers + SPARE or arrays > 2 * stored.arrays + SPARE_ARRAYS

    error: Exception | None = None
    try:
        with tf.variable_creator_scope(count):
            yield
    except Exception as caught:
        if not is_too_large():
            raise
        error = caught
    if error is not None:
        raise TooLargeError(
            f"The model in {str(path)!r} is refused: its configuration asks for at least {numbers:,} weights in "
            f"{arrays:,} arrays, and the file has {stored.numbers:,} in {stored.arrays:,}. Save it again together with "
            "its weights."
        ) from error


def _numbers(settings: dict[str, Any]) -> int:
    """How many a variable will have; Keras 3 hides its shape in the function that makes its first value."""
    shape, value = settings.get("shape"), settings.get("initial_value")
    if shape is None and callable(value):
        with tf.__internal__.FuncGraph("shape of a variable").as_default():  # makes a graph, and no number
            shape = tf.convert_to_tensor(value()).shape
    elif shape is None:
        shape = tf.convert_to_tensor(value).shape
    return math.prod(size or 1 for size in tf.TensorShape(shape))


@contextlib.contextmanager
def short_loops(backend: Any) -> Iterator[None]:
    """A block in which tf_keras writes out no loop over an axis that a file can make as long as it likes.

    Args:
        backend: the module `tf_keras.src.backend`.

    Raises:
        InputError: from within the block, for a loop of more turns.
    """
    originals = {"repeat_elements": backend.repeat_elements, "rnn": backend.rnn}

    def repeat_elements(x: Any, rep: int, axis: int) -> Any:
        _check_turns((x.shape[axis] or 0) * rep)
        return originals["repeat_elements"](x, rep, axis)

    def rnn(step_function: Any, inputs: Any, *args: Any, **settings: Any) -> Any:
        if settings.get("unroll"):
            axis = 0 if settings.get("time_major") else 1
            _check_turns(max(each.shape[axis] or 0 for each in tf.nest.flatten(inputs)))
        return originals["rnn"](step_function, inputs, *args, **settings)

    backend.repeat_elements, backend.rnn = repeat_elements, rnn
    try:
        yield
    finally:
        backend.repeat_elements, backend.rnn = originals["repeat_elements"], originals["rnn"]


def _check_turns(turns: int) -> None:
    if turns > LONGEST_LOOP:
        raise InputError(f"a loop of {turns:,} turns over an axis, and at most {LONGEST_LOOP:,} are written out")
