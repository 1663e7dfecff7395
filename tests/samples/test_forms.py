"""All forms of data are the same samples; what is none is one clear error."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.samples import forms
from keras_compress.samples.inputs import InputSpec, model_batches
from keras_compress.samples.samples import Batch, rebatched

ONE = [InputSpec("image", (None, 3, 2), "float32")]
TWO = [InputSpec("image", (None, 3, 2), "float32"), InputSpec("table", (None, 4), "float32")]

IMAGES = np.arange(60, dtype=np.float32).reshape(10, 3, 2)
TABLE = np.arange(40, dtype=np.float32).reshape(10, 4)
LABELS = np.arange(10)


class Sequence(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return tuple(array[3 * index : 3 * index + 3] for array in self.arrays)


def sliced(*arrays):
    return (tuple(array[start : start + 3] for array in arrays) for start in range(0, 10, 3))


ONE_INPUT = {
    "array": lambda: IMAGES,
    "integers": lambda: IMAGES.astype(np.uint8),
    "tensor": lambda: tf.constant(IMAGES),
    "array_and_labels": lambda: (IMAGES, LABELS),
    "list_of_one": lambda: [IMAGES],
    "dictionary": lambda: {"image": IMAGES},
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(3),
    "dataset_with_labels": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(3),
    "dataset_with_weights": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, LABELS)).batch(4),
    "py_dataset": lambda: Sequence(IMAGES, LABELS),
    "generator": lambda: (IMAGES[start : start + 3] for start in range(0, 10, 3)),
    "generator_with_labels": lambda: sliced(IMAGES, LABELS),
    "uneven_batches": lambda: iter([IMAGES[:1], IMAGES[1:1], IMAGES[1:8], IMAGES[8:]]),
}
TWO_INPUTS = {
    "list": lambda: [IMAGES, TABLE],
    "list_and_labels": lambda: ([IMAGES, TABLE], LABELS),
    "dictionary": lambda: {"table": TABLE, "image": IMAGES},
    "dataset": lambda: tf.data.Dataset.from_tensor_slices((({"image": IMAGES, "table": TABLE}), LABELS)).batch(3),
    "dataset_of_pairs": lambda: tf.data.Dataset.from_tensor_slices(((IMAGES, TABLE), LABELS)).batch(3),
    "generator": lambda: ([image, table] for image, table in sliced(IMAGES, TABLE)),
    "generator_with_labels": lambda: (({"image": i, "table": t}, y) for i, t, y in sliced(IMAGES, TABLE, LABELS)),
}


def batches(data, specs):
    return list(model_batches(data, specs, "calibration"))


def joined(data, specs):
    return [np.concatenate(parts) for parts in zip(*(each.inputs for each in batches(data, specs)), strict=True)]


@pytest.mark.parametrize("form", ONE_INPUT)
def test_every_form_gives_the_samples_of_one_input(form):
    (images,) = joined(ONE_INPUT[form](), ONE)
    np.testing.assert_array_equal(images, IMAGES)
    assert images.dtype == np.float32


@pytest.mark.parametrize("form", TWO_INPUTS)
def test_every_form_gives_the_samples_of_two_inputs(form):
    images, table = joined(TWO_INPUTS[form](), TWO)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(table, TABLE)


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 3, 3, 1], [7, 3], [1, 9]], ids=str)
@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 100])
def test_chunks_do_not_remember_the_batches(sizes, chunk):
    cut, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        cut.append(Batch([IMAGES[rows], {"table": TABLE[rows]}], LABELS[rows]))
        start += size
    together = list(rebatched(iter(cut), chunk))
    chunks = [(batch.inputs[0], batch.inputs[1]["table"]) for batch in together]
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in together]), LABELS)
    assert [len(images) for images, _ in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    assert 0 < len(chunks[-1][0]) <= chunk
    np.testing.assert_array_equal(np.concatenate([images for images, _ in chunks]), IMAGES)
    np.testing.assert_array_equal(np.concatenate([table for _, table in chunks]), TABLE)


def endless():
    class Endless(keras.utils.PyDataset):
        @property
        def num_batches(self):
            return None

    return Endless()


NAN, INF = IMAGES.copy(), IMAGES.copy()
NAN[3, 1, 1] = np.nan
INF[0, 0, :] = np.inf
BAD = {
    "wrong_shape": (IMAGES[:, :2], r"must have shape \(any, 3, 2\). Received: \(10, 2, 2\)"),
    "wrong_rank": (IMAGES[..., None], r"Received: \(10, 3, 2, 1\)"),
    "one_sample_without_a_batch": (IMAGES[0], r"Received: \(3, 2\)"),
    "text": (np.full((4, 3, 2), "a"), "must hold numbers"),
    "objects": (np.full((4, 3, 2), None), "must hold numbers"),
    "complex": (IMAGES.astype(complex), "must hold numbers"),
    "empty_array": (IMAGES[:0], "empty"),
    "empty_generator": (iter([]), "empty"),
    "empty_batches": (iter([IMAGES[:0], IMAGES[:0]]), "empty"),
    "nan": (NAN, "must be finite. Received: 1 entries"),
    "inf": (INF, "must be finite. Received: 2 entries"),
    "a_late_nan": (iter([IMAGES, NAN]), "must be finite"),
    "none_in_a_generator": (iter([None]), "must be arrays. Received: NoneType"),
    "number": (3, "Received: int"),
    "text_alone": ("images.npy", "Received: str"),
    "other_keys": ({"picture": IMAGES}, r"keys \['image'\]. Received: \['picture'\]"),
    "too_many_inputs": ([IMAGES, IMAGES], "1 inputs .image.. Received: a batch of 2 arrays"),
    "long_tuple": ((IMAGES,) * 4, "A tuple must be"),
    "nested_lists": ([[1.0, 2.0]], "Received: float in place of an array"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_calibration_data_is_one_clear_line(case):
    data, message = BAD[case]
    with pytest.raises(InputError, match=message) as raised:
        (batches(data, ONE))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", ["dataset", "py_dataset"])
def test_data_that_never_ends_is_an_error(case):
    data = tf.data.Dataset.from_tensors(IMAGES).repeat() if case == "dataset" else endless()
    with pytest.raises(InputError, match="never ends"):
        batches(data, ONE)


def without_end():
    while True:
        yield IMAGES


UNKNOWN = {  # data that do not say how long they are
    "generator": without_end,
    "dataset": lambda: tf.data.Dataset.from_generator(without_end, output_signature=tf.TensorSpec((None, 3, 2))),
}


@pytest.mark.parametrize("form", UNKNOWN)
def test_data_of_unknown_length_have_a_bound(form, monkeypatch):
    monkeypatch.setattr(forms, "MOST_BATCHES", 5)
    with pytest.raises(InputError, match=r"batches of calibration have not ended after 5. Bound them.*take"):
        (batches(UNKNOWN[form](), ONE))
    assert len(batches(itertools.islice(without_end(), 5), ONE)) == 5
    assert len(batches([IMAGES], ONE)) == 1
    assert len(batches(tf.data.Dataset.from_tensors(IMAGES).repeat(9), ONE)) == 9  # says its length


def test_inputs_of_other_lengths_are_an_error():
    with pytest.raises(InputError, match=r"as many samples. Received: \[5, 10\]"):
        (batches([IMAGES, TABLE[:5]], TWO))


def test_a_missing_input_is_an_error():
    with pytest.raises(InputError, match=r"2 inputs \(image, table\). Received: a batch of 1 arrays"):
        (batches(IMAGES, TWO))


def test_axes_of_any_size_take_any_size():
    specs = [InputSpec("sequence", (None, None, 2), "float32")]
    (images,) = joined(IMAGES, specs)
    np.testing.assert_array_equal(images, IMAGES)
