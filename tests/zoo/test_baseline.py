import csv
import math

import keras
import numpy as np
import pytest

from keras_compress.errors import InputError, UserError
from keras_compress.zoo.architectures import build_architecture
from keras_compress.zoo.baseline import OneCycle, Recipe, train
from keras_compress.zoo.batches import Batches, augment_images
from keras_compress.zoo.preprocessing import Preprocessing
from keras_compress.zoo.samples import Dataset, check_dataset

pytestmark = pytest.mark.slow  # it trains


@pytest.fixture
def table(rng) -> Dataset:
    """Two classes on both sides of a line, with some noise."""
    x = rng.normal(size=(300, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] + 0.3 * rng.normal(size=300) > 0).astype(np.int64)
    arrays = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    return check_dataset("line", arrays, "here")


def train_mlp(dataset: Dataset, folder, **settings):
    model = build_architecture("mlp", (4,), 2, width_multiplier=0.1)
    history, accuracy = train(
        model,
        dataset,
        Preprocessing(),
        Recipe(**{"epochs": 4, "batch_size": 32, "learning_rate": 0.05, **settings}),
        log_csv=folder / "log.csv",
        tensorboard=folder / "board",
        verbose=0,
    )
    return model, history, accuracy


def test_the_schedule_is_what_the_optimizer_gets(table, tmp_path, monkeypatch):
    rates = []
    adam = keras.optimizers.Adam
    monkeypatch.setattr(keras.optimizers, "Adam", lambda rate: rates.append(rate) or adam(rate))
    for schedule in ("constant", "one_cycle"):
        train_mlp(table, tmp_path, schedule=schedule, epochs=1)
    assert rates[0] == 0.05
    assert isinstance(rates[1], OneCycle) and rates[1].peak == 0.05


def test_the_learning_rate_rises_for_a_fifth_of_the_steps_and_falls_to_zero():
    schedule = OneCycle(peak=0.5, steps=1000)
    rates = np.array([float(schedule(step)) for step in range(0, 1001, 50)])
    np.testing.assert_allclose(rates[[0, 2, 4, 20]], [0.05, 0.275, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(rates[12], 0.25, atol=1e-6)  # half way down
    assert (np.diff(rates[:5]) > 0).all()
    assert (np.diff(rates[4:]) < 0).all()


def test_an_epoch_holds_each_sample_once_and_each_epoch_another_order():
    served = []

    class Recorded(Batches):
        def __getitem__(self, index: int):
            batch = super().__getitem__(index)
            served.append((self.epoch, index, batch[0][:, 0]))
            return batch

    x = np.arange(23, dtype=np.float32)[:, None]
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(Recorded(x, x[:, 0], Preprocessing(), 5), epochs=3, shuffle=False, verbose=0)
    orders = [np.concatenate([rows for at, _, rows in served if at == epoch]) for epoch in (1, 2, 3)]
    assert all(np.array_equal(np.sort(order), x[:, 0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_a_shifted_image_is_a_crop_of_the_padded_one(rng):
    images = rng.random((50, 16, 8, 3), np.float32)
    shifted = augment_images(images, "shift", np.random.default_rng(0))
    padded = np.pad(images, ((0, 0), (2, 2), (1, 1), (0, 0)), mode="edge")
    shifts = set()
    for image, candidate in zip(shifted, padded, strict=True):
        places = [
            (row, column)
            for row in range(5)
            for column in range(3)
            if np.array_equal(image, candidate[row : row + 16, column : column + 8])
        ]
        assert len(places) == 1
        shifts.update(places)
    assert len(shifts) > 10  # of the 15 shifts
    assert shifted.dtype == np.float32


def test_half_of_the_images_are_mirrored():
    images = np.broadcast_to(np.arange(16, dtype=np.float32)[None, None, :, None], (400, 8, 16, 1))
    result = augment_images(images, "flip_shift", np.random.default_rng(0))
    assert 160 < np.sum(result[:, 0, 0, 0] > result[:, 0, -1, 0]) < 240


def test_without_augmentation_images_stay(rng):
    images = rng.random((3, 4, 4, 1))
    assert augment_images(images, "none", np.random.default_rng(0)) is images


def test_the_epoch_of_best_validation_accuracy_is_kept(table, tmp_path):
    # The first epoch learns; the rest runs away, since nothing holds this learning rate.
    model, history, accuracy = train_mlp(table, tmp_path, learning_rate=2.0, epochs=6, validation_fraction=0.3)
    assert max(history["val_accuracy"]) > history["val_accuracy"][-1]
    np.testing.assert_allclose(accuracy["validation"], max(history["val_accuracy"]), atol=1e-6)
    outputs = model.predict(table.x_test, verbose=0)
    np.testing.assert_allclose(accuracy["test"], np.mean(outputs.argmax(axis=1) == table.y_test), atol=1e-6)


def test_a_training_learns_logs_and_repeats_itself(table, tmp_path):
    model, history, accuracy = train_mlp(table, tmp_path)
    assert accuracy["test"] > 0.85
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert len(rows) == 4
    assert list((tmp_path / "board").rglob("events*"))
    again, *results = train_mlp(table, tmp_path)
    assert results == [history, accuracy]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


def test_a_trained_network_is_an_ordinary_file(table, tmp_path):
    model, _, accuracy = train_mlp(table, tmp_path)
    model.save(tmp_path / "line.keras")
    loaded = keras.saving.load_model(tmp_path / "line.keras")  # warnings are errors here
    figures = loaded.evaluate(table.x_test, table.y_test, verbose=0, return_dict=True)
    np.testing.assert_allclose(figures["accuracy"], accuracy["test"], atol=1e-6)


def test_a_loss_that_is_no_number_is_the_users_to_fix(table, tmp_path):
    with pytest.raises(UserError, match=r"became NaN in epoch 1. Use a smaller --learning_rate"):
        train_mlp(table, tmp_path, learning_rate=1e38)


def test_a_table_cannot_be_mirrored(table, tmp_path):
    with pytest.raises(InputError, match=r"augment='flip_shift' needs images\. Received: 'line', a table"):
        train_mlp(table, tmp_path, augment="flip_shift")


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"validation_fraction": 1.0},
        {"augment": "rotate"},
        {"schedule": "cosine"},
    ],
)
def test_a_bad_setting_is_refused(settings):
    with pytest.raises(InputError, match=f"{next(iter(settings))}.*Received"):
        Recipe(**settings)
