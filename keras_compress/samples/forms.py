"""Whatever users pass as data, as `Samples`. Loads neither TensorFlow nor Keras: users of their objects have them."""

import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_compress.errors import InputError
from keras_compress.samples.nests import leaves, mapped
from keras_compress.samples.samples import ArraySamples, Batch, Function, Samples, batch_of

FORMS = (
    "an array, a list or dictionary of arrays, a tuple of these and their labels, a tf.data.Dataset, a "
    "keras.utils.PyDataset, a generator of batches, or a kc.ImageFolder"
)
MOST_BATCHES = 1 << 17  # of data that do not say how many they are; more are taken to have no end


def as_samples(data: Any, argument: str = "data") -> Samples:
    """The samples in one of the forms that Keras takes.

    A tuple is (inputs, labels[, sample weights]), as in `keras.Model.fit`; a list or a dictionary holds the inputs of a
    model that has several. Batches of a dataset or a generator are alike.

    Args:
        data: see above; `Samples` stay what they are.
        argument: name of the setting, for messages.

    Raises:
        InputError: another form; arrays of different lengths; data without an end or without a sample.
    """
    if isinstance(data, Samples):
        return data
    if _is_a("tensorflow", "data.Dataset", data):
        return DatasetSamples(data, argument)
    if _is_a("keras", "utils.PyDataset", data):
        return PyDatasetSamples(data, argument)
    if isinstance(data, (list, tuple, Mapping)) or is_array(data):
        return ArraySamples(_in_arrays(batch_of(data), argument), argument)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        return BatchSamples(data, argument)
    raise InputError(f"{argument} must be {FORMS}. Received: {type(data).__name__}.")


def preprocess(data: Any, function: Function) -> Samples:
    """Data in any form, with a function that is called for each batch of inputs when it is read.

        test = kc.preprocess((x_test, y_test), lambda images: images / 255.0)
        kc.evaluate(model, test)

    The data set is never there as a whole after preprocessing, and bytes on a disk (`numpy.load(..., mmap_mode="r")`)
    may be more than memory holds.

    Args:
        data: an array, a list or dictionary of arrays, a tuple of these and their labels, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a generator of batches, or a `kc.ImageFolder`.
        function: from the inputs of any number of samples to those that the model takes.

    Raises:
        InputError: data of another form.
    """
    if not callable(function):
        raise InputError(f"function must be a function of the inputs of a batch. Received: {function!r}.")
    return as_samples(data).preprocessed(function)


class DatasetSamples(Samples):
    """The batches of a `tf.data.Dataset`."""

    def __init__(self, dataset: Any, argument: str):
        if int(dataset.cardinality()) == -1:
            raise InputError(f"The dataset of {argument} never ends. Bound it, for instance with dataset.take(10).")
        self.dataset = dataset
        self.argument = argument
        self.num_batches = int(dataset.cardinality()) if int(dataset.cardinality()) >= 0 else None

    def digest(self) -> str:
        return f"{self.num_batches} x {self.dataset.element_spec}{self._functions_text()}"

    def _batches(self) -> Iterator[Batch]:
        elements = self.dataset.as_numpy_iterator()
        return map(batch_of, elements if self.num_batches is not None else with_an_end(elements, self.argument))


class PyDatasetSamples(Samples):
    """The batches of a `keras.utils.PyDataset`; its hooks are called in trainings, by epochs."""

    def __init__(self, dataset: Any, argument: str):
        if dataset.num_batches is None:
            raise InputError(f"The PyDataset of {argument} never ends (num_batches is None). Give it a length.")
        self.dataset = dataset
        self.argument = argument
        self.num_batches = int(dataset.num_batches)

    def digest(self) -> str:
        first = batch_of(self.dataset[0])
        sums = [zlib.crc32(np.ascontiguousarray(each).data) for part in first.parts for each in leaves(part)]
        return f"{self.num_batches} x {sums}{self._functions_text()}"

    def _batches(self) -> Iterator[Batch]:
        return (batch_of(self.dataset[step]) for step in range(self.num_batches))


class BatchSamples(Samples):
    """Batches that come one after the other: once from a generator, always from what can be begun anew."""

    def __init__(self, source: Iterable[Any], argument: str):
        self.source = source
        self.argument = argument
        self.ended = False

    def digest(self) -> str:
        return f"batches of a {type(self.source).__name__}{self._functions_text()}"

    def _batches(self) -> Iterator[Batch]:
        if self.ended:
            raise InputError(
                f"The generator of {self.argument} has ended: it was read before. Pass arrays, a list of batches that "
                "can be read again, or a tf.data.Dataset."
            )
        self.ended = isinstance(self.source, Iterator)
        bounded = self.source if hasattr(self.source, "__len__") else with_an_end(self.source, self.argument)
        return map(batch_of, bounded)


def with_an_end(batches: Iterable[Any], argument: str) -> Iterator[Any]:
    """The same batches.

    Raises:
        InputError: there are more than any data set has.
    """
    for number, batch in enumerate(batches):
        if number == MOST_BATCHES:
            raise InputError(
                f"The batches of {argument} have not ended after {MOST_BATCHES:,}. Bound them, for instance with "
                "dataset.take(10) or itertools.islice(batches, 10)."
            )
        yield batch


def is_array(value: Any) -> bool:
    """Whether it is an array or a tensor of any library."""
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _in_arrays(batch: Batch, argument: str) -> Batch:
    """With NumPy arrays; labels and weights may be lists of numbers."""

    def strict(value: Any) -> np.ndarray:
        if not is_array(value):
            raise InputError(f"{argument} must be {FORMS}. Received: {type(value).__name__} in place of an array.")
        return np.asarray(value)

    def lenient(nest: Any) -> Any:
        numbers = isinstance(nest, (list, tuple)) and not any(map(is_array, nest)) and not _holds_nests(nest)
        if numbers or not isinstance(nest, (list, tuple, Mapping)):
            return np.asarray(nest)
        parts = nest.items() if isinstance(nest, Mapping) else enumerate(nest)
        made = {key: lenient(part) for key, part in parts}
        return made if isinstance(nest, Mapping) else type(nest)(made.values())

    inputs, *others = batch.parts
    return Batch(mapped(strict, inputs), *map(lenient, others))


def _holds_nests(nest: Iterable[Any]) -> bool:
    dictionaries = any(isinstance(each, Mapping) for each in nest)
    return dictionaries or any(isinstance(each, (list, tuple)) and any(map(is_array, each)) for each in nest)


def _is_a(library: str, name: str, value: Any) -> bool:
    """Whether a value is an object of a library's class; nothing is where the library is not loaded."""
    found: Any = sys.modules.get(library)
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(value, found)
