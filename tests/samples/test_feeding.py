"""Samples of trainings: in an order that a seed gives, and what never ends is found."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.samples import forms
from keras_compress.samples.feeding import Feed

X, Y = np.arange(128, dtype=np.float32).reshape(16, 8), np.arange(16) % 3
BIG = np.zeros((16, 10_000), "float32")


def dataset(batches):
    """Batches of a generator; None for no end."""

    def generated():
        number = 0
        while number != batches:
            yield X, Y
            number += 1

    signature = tf.TensorSpec((None, 8)), tf.TensorSpec((None,), tf.int64)
    return tf.data.Dataset.from_generator(generated, output_signature=signature)


def test_a_dataset_of_unknown_length_has_a_bound(monkeypatch):
    monkeypatch.setattr(forms, "MOST_BATCHES", 5)
    assert Feed(dataset(5), "train_data", 16).steps == 5
    for endless in (dataset(6), dataset(None)):
        with pytest.raises(kc.InputError, match=r"batches of train_data have not ended after 5. Bound them.*take"):
            Feed(endless, "train_data", 16)
    with pytest.raises(kc.InputError, match="dataset of train_data never ends"):
        Feed(dataset(5).repeat(), "train_data", 16)
    said = tf.data.Dataset.from_tensors((X, Y)).repeat(9)
    assert Feed(said, "train_data", 16).steps == 9


class Batches(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.hooks = []

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[4 * index : 4 * index + 4], Y[4 * index : 4 * index + 4]

    def on_epoch_begin(self):
        self.hooks.append("begin")

    def on_epoch_end(self):
        self.hooks.append("end")


FORMS = {
    "arrays": lambda: (X, Y),
    "lists_of_labels": lambda: (X, Y.tolist()),
    "weights": lambda: (X, Y, np.ones(16)),
    "dictionary": lambda: ({"a": X, "b": X[:, :1]}, {"one": Y, "other": Y}),
    "list": lambda: ([X, X[:, :1]], Y),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
    "mapped_dataset": lambda: kc.preprocess(tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), lambda x: 2 * x),
    "py_dataset": Batches,
    "preprocessed": lambda: kc.preprocess((X, Y), lambda x: 2 * x),
}


def first_of(batches):
    return np.concatenate([np.asarray(tf.nest.flatten(batch)[0]) for batch in batches])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_all_samples_in_each_epoch(form):
    feed = Feed(FORMS[form](), "train_data", 4)
    assert feed.steps == 4
    factor = 2 if form in ("mapped_dataset", "preprocessed") else 1
    np.testing.assert_array_equal(first_of(feed.in_order()), factor * X)
    two = list(feed.shuffled(0, 0, 2).take(8))
    for epoch in (two[:4], two[4:]):
        np.testing.assert_array_equal(np.sort(first_of(epoch), axis=0), factor * X)
    later = list(feed.shuffled(0, 1, 2).take(4))
    np.testing.assert_array_equal(first_of(later), first_of(two[4:]))


def test_a_generator_is_held_for_all_epochs():
    feed = Feed(((X[at : at + 4], Y[at : at + 4]) for at in range(0, 16, 4)), "train_data", 9)
    assert feed.steps == 4
    np.testing.assert_array_equal(first_of(feed.shuffled(0, 0, 2)), np.concatenate([X, X]))
    assert feed.digest() != Feed(iter([(X, Y)]), "train_data", 9).digest()


def test_arrays_are_shuffled_by_seed_and_epoch():
    feed = Feed((X, Y), "train_data", 4)
    orders = [first_of(feed.shuffled(seed, 0, 2))[:, 0].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and orders[0][:16] != orders[0][16:]


def test_hooks_of_a_py_dataset_are_those_of_fit():
    batches = Batches()
    assert len(list(Feed(batches, "train_data", 4).shuffled(0, 1, 3))) == 8
    assert batches.hooks == ["begin", "end"] * 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X, "train_data must have labels"),
        ([X], "train_data must have labels"),
        (itertools.repeat((X, Y)), "train_data have not ended after 9"),
        ((each for each in [(BIG, Y)]), "Those of train_data are more than 4.77e-05 GB"),
        ((X, Y[:3]), r"All arrays of train_data must have as many samples.*\[3, 16\]"),
        ((X[:0], Y[:0]), "train_data is empty"),
        ((X, Y, Y, Y), "A tuple must be"),
        ("data", "train_data must be an array"),
        (None, "Received: NoneType"),
    ],
)
def test_what_cannot_train_is_one_line(data, message, monkeypatch):
    monkeypatch.setattr("keras_compress.samples.forms.MOST_BATCHES", 9)
    monkeypatch.setattr("keras_compress.samples.feeding.MOST_HELD", 100 * X.nbytes)
    with pytest.raises(kc.InputError, match=message) as caught:
        Feed(data, "train_data", 4)
    assert "\n" not in str(caught.value)
