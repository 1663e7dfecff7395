"""Training samples: what never ends is found."""

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.bridge import samples

X, Y = np.zeros((16, 8), np.float32), np.arange(16) % 3


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
    monkeypatch.setattr(samples, "MOST_BATCHES", 5)
    assert samples.Samples.of(dataset(5), "train_data", 16).steps == 5
    for endless in (dataset(6), dataset(None)):
        with pytest.raises(kc.InputError, match=r"train_data has not ended after 5 batches. Bound the dataset.*take"):
            samples.Samples.of(endless, "train_data", 16)
    with pytest.raises(kc.InputError, match="train_data must be a dataset with an end"):
        samples.Samples.of(dataset(5).repeat(), "train_data", 16)
    said = tf.data.Dataset.from_tensors((X, Y)).repeat(9)
    assert samples.Samples.of(said, "train_data", 16).steps == 9
