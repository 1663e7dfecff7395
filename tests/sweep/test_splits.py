import dataclasses

import keras
import numpy as np
import pytest

from keras_compress.errors import InputError


def rows_of(x):
    return {row.tobytes() for row in np.asarray(x, np.float32)}


def test_a_larger_choice_holds_the_smaller_one_and_comes_from_the_training_samples(samples):
    few, many = (samples.calibration(count, 0).read().inputs for count in (5, 20))
    assert few.dtype == np.float32 and len(few) == 5
    np.testing.assert_array_equal(many[:5], few)
    assert len(rows_of(many)) == 20 and rows_of(many) <= rows_of(samples.x_train)
    assert rows_of(samples.calibration(5, 1).read().inputs) != rows_of(few)


def test_settings_are_chosen_by_samples_that_do_not_calibrate(samples):
    x, y = samples.selection(20, 0).read().parts
    assert rows_of(x) | rows_of(samples.calibration(20, 0).read().inputs) == rows_of(samples.x_train)
    assert not rows_of(x) & rows_of(samples.calibration(20, 0).read().inputs)
    inputs = samples.x_train.astype(np.float32)
    labels = {row.tobytes(): label for row, label in zip(inputs, samples.y_train, strict=True)}
    assert [labels[row.tobytes()] for row in x] == y.tolist()


def test_no_samples_to_choose_by(samples):
    assert samples.selection(60, 0) is None
    assert dataclasses.replace(samples, y_train=None).selection(5, 0) is None


def test_samples_are_preprocessed(samples):
    doubled = dataclasses.replace(samples, preprocess=lambda x: np.asarray(2 * x, np.float32))
    for part in (lambda each: each.calibration(5, 0), lambda each: each.selection(5, 0), lambda each: each.test()):
        np.testing.assert_array_equal(part(doubled).read().inputs, 2 * part(samples).read().inputs)


def test_a_tenth_of_the_training_samples_is_looked_at(samples):
    train, validation = samples.training(seed=0)
    assert (train.num_samples, validation.num_samples) == (54, 6)
    both = rows_of(train.read().inputs) | rows_of(validation.read().inputs)
    assert both == rows_of(samples.x_train)


def test_samples_are_read_and_preprocessed_a_part_at_a_time(samples, monkeypatch):
    monkeypatch.setattr("keras_compress.samples.samples.SLICE_BYTES", 8 * 36 * 7)
    seen = []
    watched = dataclasses.replace(samples, preprocess=lambda x: seen.append(len(x)) or np.asarray(x, np.float32))
    assert [len(batch) for batch in watched.test().batches()] == [6] * 6 + [4]  # 8 bytes of the label
    assert max(seen) == 6


def test_the_fingerprint_changes_with_what_decides_the_numbers(model, samples):
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    fingerprint = samples.fingerprint(model, 5, 0)
    assert samples.fingerprint(other, 5, 0) == fingerprint
    other.get_layer("hidden").bias.assign_add([1e-7] * 10)
    x_test, y_test = samples.x_test.copy(), samples.y_test.copy()
    x_test[0, 0, 0, 0] += 1
    y_test[0] = 6 - y_test[0] + (y_test[0] == 3)
    others = {
        samples.fingerprint(other, 5, 0),
        samples.fingerprint(model, 6, 0),
        samples.fingerprint(model, 5, 1),
        dataclasses.replace(samples, x_test=x_test).fingerprint(model, 5, 0),
        dataclasses.replace(samples, y_test=y_test).fingerprint(model, 5, 0),
    }
    assert len(others - {fingerprint}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((60, 6, 6))}, "shape (6, 6, 1). Received: training samples of shape (6, 6)"),
        ({"x_test": np.zeros((40, 6, 5, 1))}, "Received: test samples of shape (6, 5, 1)"),
        ({"y_test": np.full(40, 7)}, "7 classes, labels 0 to 6. Received: test labels 7 to 7."),
        ({"y_train": np.full(60, -1)}, "Received: training labels -1 to -1."),
        ({"num_classes": 6}, "The model has 7 classes. Received: a data set with 6."),
        ({"x_train": np.zeros((9, 6, 6, 1))}, "at most 9, the number of training samples. Received: 10."),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_refused(model, samples, changes, message):
    with pytest.raises(InputError) as error:
        dataclasses.replace(samples, **changes).check(model, 10)
    assert message in str(error.value)


def test_a_model_with_two_outputs_is_refused(samples):
    inputs = keras.Input((6, 6, 1))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(7)(flat), keras.layers.Dense(7)(flat)])
    with pytest.raises(InputError, match="one input and one output"):
        samples.check(model, 5)
