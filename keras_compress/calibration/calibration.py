"""Calibration data of one model, and what the analog network makes of it, for one call of `quantize` or for a grid."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.gather import Gatherer
from keras_compress.calibration.store import ANALOG, ActivationStore
from keras_compress.errors import InputError
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import model_in
from keras_compress.numerics.inputs import InputSamples
from keras_compress.samples.blocks import block_length, slices
from keras_compress.samples.inputs import model_batches
from keras_compress.samples.model_inputs import input_specs
from keras_compress.samples.samples import Batch, rebatched

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(size: int | str, *, least: int = 10**6) -> int:
    """Bytes of a number, or of text such as "512MB" or "2 GiB".

    Raises:
        InputError: neither, or less than `least`.
    """
    value: float = -1
    if isinstance(size, str):
        number = size.strip().upper().rstrip("BGIKM ")
        unit = size.strip().upper()[len(number) :].strip() or "B"
        if unit in UNITS and number.replace(".", "", 1).isdigit():
            value = float(number) * UNITS[unit]
    elif isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        value = int(size)
    if value < least:
        raise InputError(
            f'memory_budget must be bytes, at least a million, or text such as "512MB". Received: {size!r}.'
        )
    return int(value)


class Calibration:
    """Calibration data, read once; a context manager.

    Pass it to `quantize` in place of the data when several quantizers are to be compared on one model: the analog
    network then runs once for all of them.

        with kc.Calibration(model, images) as calibration:
            results = [kc.quantize(model, quantizer, calibration) for quantizer in quantizers]

    Args:
        model: a built model, or the result of a step; it is not written to.
        data: an array, a list or dictionary of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a generator
            of batches; with or without labels; one pass is made.
        memory_budget: bytes, or text such as "512MB": activations beyond half of it go to disk, statistics beyond it
            make way for the direct form.
        batch_size: samples that are kept and read at a time, in whole blocks, of which there is one at least; None is
            one. The networks always run over the same blocks (`calibration.blocks`), so that no number depends on it.
        work_dir: where activations go that do not fit; default: the system's folder for temporary files.

    Attributes:
        block_size: samples of a block, which depends on the model alone.

    Raises:
        InputError: see `model_batches`; a subclassed model, or one that is not built.
        StorageError: `work_dir` cannot be written to, or its disk is full.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        *,
        memory_budget: int | str = "2GB",
        batch_size: int | None = None,
        work_dir: str | os.PathLike[str] | None = None,
    ):
        if batch_size is not None and (not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
            raise InputError(f"batch_size must be a positive integer or None. Received: {batch_size!r}.")
        self.model: keras.Model = model_in(model)
        self.data = data
        self.batch_size = batch_size
        self.memory_budget = parse_bytes(memory_budget)
        self.graph = Graph(self.model)
        self.store = ActivationStore(self.memory_budget // 2, work_dir)
        self.num_samples = 0
        self.inputs = InputSamples.none(len(self.graph.inputs))  # what a result keeps of the data
        self.block_size = 1
        self.keep = True  # the analog network's activations, for the next call of `quantize`
        self.shared_statistics: dict[Any, Gatherer] = {}

    def __enter__(self) -> "Calibration":
        self.store.__enter__()
        try:
            self._read()
        except BaseException:
            self.store.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.__exit__(kind, error, trace)
        self.store.num_chunks = None
        self.shared_statistics.clear()

    def check_open(self) -> None:
        """Raises InputError outside of the `with` block."""
        if self.store.num_chunks is None:
            raise InputError("A Calibration must be used inside of its `with` block. Received: one that is not open.")

    def release(self) -> None:
        """Forgets what a call of `quantize` left: the compressed network's tensors, and any that is not complete."""
        for key in self.store:
            if key[0] != ANALOG or not self.store.is_complete(key):
                self.store.discard(key)

    def _read(self) -> None:
        batches = model_batches(self.data, input_specs(self.model), "calibration")
        first = next(batches)  # refuses what is empty
        self.block_size = self._block_size(first.inputs)
        rows = max(1, (self.batch_size or 1) // self.block_size) * self.block_size
        chunk = -1
        unlabelled = (Batch(batch.inputs) for batch in itertools.chain([first], batches))
        for chunk, batch in enumerate(rebatched(unlabelled, rows)):
            for tensor, array in zip(self.graph.inputs, batch.inputs, strict=True):
                self.store.write((ANALOG, tensor), chunk, array)
            self.num_samples += len(batch)
            self.inputs = self.inputs.extended(batch.inputs)
        self.store.num_chunks = chunk + 1
        self.data = None  # a generator has ended; an array need not be held twice

    @property
    def num_blocks(self) -> int:
        return -(-self.num_samples // self.block_size)

    def input_blocks(self, size: int, last: int | None = None) -> Iterator[list[Any]]:
        """The model's inputs, `size` samples at a time from the first one on, at most `last` of them in all."""
        keys = [(ANALOG, tensor) for tensor in self.graph.inputs]
        for rows in slices(min(self.num_samples, last or self.num_samples), size):
            yield [self.store.read_rows(key, rows) for key in keys]

    def _block_size(self, batch: list[np.ndarray]) -> int:
        """By the widest tensor, whose open axes may be those of the data."""
        shapes = [shape[1:] for shape in self.graph.shapes] + [array.shape[1:] for array in batch]
        return block_length(max(int(np.prod([size or 1 for size in shape])) for shape in shapes))


@contextlib.contextmanager
def calibrating(
    model: keras.Model,
    data: Any,
    memory_budget: int | str,
    batch_size: int | None,
    work_dir: str | os.PathLike[str] | None,
) -> Iterator[Calibration | None]:
    """Yields calibration data of a model, open: the user's own `Calibration`, one of any other form, or None for None.

    Raises:
        InputError: a `Calibration` of another model, or one that is not open; see `Calibration`.
        StorageError: see `Calibration`.
    """
    if isinstance(data, Calibration):
        if data.model is not model:
            raise InputError(
                f"The Calibration was made for model {data.model.name!r}. Received: another model ({model.name!r}). "
                "Make a Calibration with the very model that is passed."
            )
        data.check_open()
        try:
            yield data
        finally:
            data.release()
    elif data is None:
        parse_bytes(memory_budget)
        yield None
    else:
        calibration = Calibration(model, data, memory_budget=memory_budget, batch_size=batch_size, work_dir=work_dir)
        calibration.keep = False
        with calibration:
            yield calibration
