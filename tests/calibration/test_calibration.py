"""One pass over the data, one pass over each network, and the same statistics however the work is cut."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.calibration.calibration import parse_bytes
from keras_compress.calibration.gather import Gatherer
from keras_compress.calibration.walk import Walk
from tests import architectures
from tests.calibration.test_store import usage

L = keras.layers
QUANTIZER = kc.GPFQ(3)


def assert_same_codes(first, second):
    assert first.kernels.keys() == second.kernels.keys()
    for path, kernel in first.kernels.items():
        np.testing.assert_array_equal(kernel.codes, second.kernels[path].codes, err_msg=path)


@pytest.fixture
def model():
    return architectures.build("residual")


@pytest.fixture
def wide():
    """Activations of 600 samples are larger than half a megabyte, so that the smallest budget goes to disk."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(12, 3, padding="same", activation="relu", name="conv1"),
            L.Conv2D(8, 3, activation="relu", name="conv2"),
            L.GlobalAveragePooling2D(),
            L.Dense(3, name="logits"),
        ]
    )


# Forms of data


class Sequence(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 5

    def __getitem__(self, index):
        images = self.images[7 * index : 7 * index + 7]
        return images, np.zeros(len(images))


FORMS = {
    "dataset_with_labels": lambda x: tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(7),
    "py_dataset": Sequence,
    "generator": lambda x: (x[start : start + 7] for start in range(0, len(x), 7)),
    "batches_of_other_sizes": lambda x: iter([x[:1], x[1:20], x[20:]]),
}


@pytest.mark.slow
def test_every_form_of_data_gives_the_same_result():
    model = architectures.build("mlp")
    samples = architectures.samples(model, 33)
    from_array = kc.quantize(model, QUANTIZER, samples)
    for form in FORMS.values():
        result = kc.quantize(model, QUANTIZER, form(samples))
        assert_same_codes(from_array, result)
        assert result.report.steps[-1].figures["samples"] == 33


@pytest.mark.slow
def test_lists_and_dictionaries_of_inputs_give_the_same_result():
    model = architectures.build("two_inputs_and_outputs")
    image, table = architectures.samples(model, 20)
    from_list = kc.quantize(model, QUANTIZER, [image, table])
    assert_same_codes(from_list, kc.quantize(model, QUANTIZER, {"table": table, "image": image}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"), [pytest.param("residual", "gram", marks=pytest.mark.slow), ("mlp", "direct")]
)
def test_batches_of_any_size_give_the_same_result(name, form):
    model = architectures.build(name)
    samples = architectures.samples(model, 33)
    whole = kc.quantize(model, QUANTIZER, samples, form=form, batch_size=33)
    for batch_size in (1, 16):  # 16 leaves a last batch of one
        assert_same_codes(whole, kc.quantize(model, QUANTIZER, samples, form=form, batch_size=batch_size))


# Memory and disk


@pytest.mark.parametrize("form", [pytest.param("gram", marks=pytest.mark.slow), "direct"])
def test_disk_and_memory_give_the_same_result(wide, tmp_path, monkeypatch, form):
    samples = architectures.samples(wide, 600)
    settings = {"form": form, "batch_size": 64}
    in_memory = kc.quantize(wide, QUANTIZER, samples, **settings)
    written = []
    original = kc.Calibration.__exit__
    monkeypatch.setattr(
        kc.Calibration, "__exit__", lambda self, *args: (written.append(os.listdir(tmp_path)), original(self, *args))[1]
    )
    on_disk = kc.quantize(wide, QUANTIZER, samples, memory_budget="1MB", work_dir=tmp_path, **settings)
    assert written[0], "nothing went to disk: the test must use more samples"
    assert_same_codes(in_memory, on_disk)
    for weight, expected in zip(on_disk.model.weights, in_memory.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [pytest.param(RuntimeError, marks=pytest.mark.slow), KeyboardInterrupt])
def test_an_interrupted_walk_leaves_nothing_on_disk(wide, tmp_path, monkeypatch, error):
    def interrupt(self):
        assert os.listdir(tmp_path)
        raise error

    monkeypatch.setattr(Walk, "finish", interrupt)
    with pytest.raises(error):
        kc.quantize(
            wide, QUANTIZER, architectures.samples(wide, 600), memory_budget="1MB", work_dir=tmp_path, batch_size=64
        )
    assert os.listdir(tmp_path) == []


def test_data_that_turns_bad_leaves_nothing_on_disk(wide, tmp_path):
    samples = architectures.samples(wide, 600)

    def batches():
        yield samples
        yield np.full_like(samples, np.nan)

    with pytest.raises(kc.InputError, match="must be finite"):
        kc.quantize(wide, QUANTIZER, batches(), memory_budget="1MB", work_dir=tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(wide, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", usage(2**20))
    with pytest.raises(kc.StorageError, match="is full"):
        kc.quantize(wide, QUANTIZER, architectures.samples(wide, 600), memory_budget="1MB", work_dir=tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_work_dir_that_cannot_be_written_to(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(kc.StorageError, match="cannot be written to"):
        kc.quantize(model, QUANTIZER, architectures.samples(model, 4), work_dir=tmp_path / "file")


# How often things run


@keras.saving.register_keras_serializable(package="tests")
class Counting(L.Layer):
    """Counts the samples that pass, in each network (its clone counts under the same name)."""

    seen: dict[str, int] = {}  # noqa: RUF012

    def call(self, inputs):
        def count(value):
            Counting.seen[self.name] = Counting.seen.get(self.name, 0) + len(value)
            return value

        if isinstance(inputs, keras.KerasTensor):
            return inputs
        outputs = tf.numpy_function(count, [inputs], inputs.dtype)
        return tf.ensure_shape(outputs, inputs.shape)


def counted(depth):
    layers = [keras.Input((6,))]
    for index in range(depth):
        layers += [L.Dense(6, "relu", name=f"dense{index}"), Counting(name=f"count{index}")]
    return keras.Sequential([*layers, L.Dense(3, name="logits")])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gram", "direct"])
def test_each_call_runs_once_in_each_network_however_deep(form):
    Counting.seen = {}
    model = counted(4)
    kc.quantize(model, QUANTIZER, architectures.samples(model, 20), form=form, batch_size=7)
    assert Counting.seen == {f"count{index}": 2 * 20 for index in range(4)}


def test_before_the_first_quantized_layer_the_networks_are_one():
    Counting.seen = {}
    model = counted(4)
    kc.quantize(model, QUANTIZER, architectures.samples(model, 20), layers=["dense2", "logits"])
    assert Counting.seen == {"count0": 20, "count1": 20, "count2": 40, "count3": 40}


def test_what_no_quantized_layer_needs_does_not_run():
    Counting.seen = {}
    model = counted(4)
    kc.quantize(model, QUANTIZER, architectures.samples(model, 20), layers="dense1")
    assert Counting.seen == {"count0": 20}


@pytest.mark.slow
def test_a_shared_calibration_runs_the_analog_network_once():
    Counting.seen = {}
    model = counted(3)
    with kc.Calibration(model, architectures.samples(model, 20)) as calibration:
        for quantizer in (kc.GPFQ(2), kc.GPFQ(3), kc.MSQ(2, bias_correction=True)):
            kc.quantize(model, quantizer, calibration)
    assert Counting.seen == {f"count{index}": (1 + 3) * 20 for index in range(3)}


@pytest.mark.slow
def test_a_shared_calibration_gathers_the_first_layer_once(model, monkeypatch):
    samples = architectures.samples(model, 20)
    gathered = []
    original = Gatherer._statistics
    monkeypatch.setattr(
        Gatherer, "_statistics", lambda self, *sums: (gathered.append(self.same), original(self, *sums))[1]
    )
    with kc.Calibration(model, samples) as calibration:
        for bits in (2, 3):
            kc.quantize(model, kc.GPFQ(bits), calibration)
    assert gathered.count(True) == 1


# One calibration for several calls

GRID = [kc.GPFQ(2), kc.MSQ(2, bias_correction=True), kc.MSQ(3), kc.GPFQ(3, centered=False)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mlp", "gram"),
        pytest.param("residual", "gram", marks=pytest.mark.slow),
        pytest.param("recurrent", "direct", marks=pytest.mark.slow),
    ],
)
def test_a_shared_calibration_gives_what_separate_ones_give(name, form):
    model = architectures.build(name)
    samples = architectures.samples(model, 20)
    with kc.Calibration(model, samples) as calibration:
        together = [kc.quantize(model, quantizer, calibration, form=form) for quantizer in GRID]
    for quantizer, result in zip(GRID, together, strict=True):
        alone = kc.quantize(model, quantizer, samples, form=form)
        assert_same_codes(alone, result)
        for weight, counterpart in zip(result.model.weights, alone.model.weights, strict=True):
            np.testing.assert_array_equal(weight.numpy(), counterpart.numpy())
        for row, expected in zip(result.report.steps[-1].rows, alone.report.steps[-1].rows, strict=True):
            assert row.relative_error == expected.relative_error


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_call_that_failed_leaves_a_shared_calibration_usable(monkeypatch, error):
    """In a notebook, one configuration of a grid may be stopped, and the next one must not see its activations."""
    model = architectures.build("mlp")
    samples = architectures.samples(model, 20)
    with kc.Calibration(model, samples) as calibration:
        with monkeypatch.context() as patch, pytest.raises(error):
            original = Gatherer.result

            def stop(self):
                if not self.same:
                    raise error
                return original(self)

            patch.setattr(Gatherer, "result", stop)
            kc.quantize(model, kc.GPFQ(2), calibration)
        result = kc.quantize(model, kc.GPFQ(4), calibration)
    assert_same_codes(kc.quantize(model, kc.GPFQ(4), samples), result)


def test_a_calibration_belongs_to_its_model():
    model, other = architectures.build("mlp"), architectures.build("mlp")
    with (
        kc.Calibration(model, architectures.samples(model, 5)) as calibration,
        pytest.raises(kc.InputError, match="was made for model"),
    ):
        kc.quantize(other, QUANTIZER, calibration)


def test_a_calibration_is_used_inside_its_block():
    model = architectures.build("mlp")
    calibration = kc.Calibration(model, architectures.samples(model, 5))
    with pytest.raises(kc.InputError, match="inside of its `with` block"):
        kc.quantize(model, QUANTIZER, calibration)


# Settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [(10**6, 10**6), ("512MB", 512 * 10**6), ("2 GiB", 2 * 2**30), ("1.5gb", 1.5e9), ("3000000", 3 * 10**6)],
)
def test_memory_budgets_are_numbers_or_text(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", [0, -1, 999_999, "much", "", "MB", "1KB", None, True, 2.5e9, "1.2.3GB", "-2GB", "1 TB"]
)
def test_other_memory_budgets_are_errors(text):
    with pytest.raises(kc.InputError, match="memory_budget must be bytes"):
        parse_bytes(text)


@pytest.mark.parametrize("batch_size", [0, -3, 1.5, "8"])
def test_batch_sizes_are_positive_integers(batch_size):
    with pytest.raises(kc.InputError, match="batch_size"):
        kc.Calibration(architectures.build("mlp"), None, batch_size=batch_size)
