"""Accuracy, differences and times of TFLite files, without TensorFlow; damaged files."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.tflite import Comparison, Runner, Timing

L = keras.layers


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    inputs = keras.Input((6, 6, 2), name="images")
    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu", name="conv")(inputs))
    return keras.Model(inputs, L.Dense(7, "softmax", name="head")(x))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(70, 6, 6, 2)).astype(np.float32), rng.integers(0, 7, 70)


@pytest.fixture(scope="module")
def files(model, samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    result = kc.quantize(model, kc.MSQ(bits=4))
    for name, source, settings in (
        ("float", model, {}),
        ("one", model, {"static_batch": 1}),
        ("codes", result, {"storage": "small"}),
        ("int8", result, {"activations": "int8", "calibration": samples[0]}),
    ):
        kc.export_tflite(source, folder / f"{name}.tflite", **settings)
    return folder


@pytest.mark.parametrize("name", ["float", "one"])
def test_accuracy_is_that_of_the_keras_model(model, samples, files, name):
    x, y = samples
    in_file = kc.evaluate_tflite(files / f"{name}.tflite", x, y, batch_size=32)
    expected = kc.evaluate(model, x, y)
    assert (in_file.top1, in_file.top5, in_file.num_samples) == (expected.top1, expected.top5, expected.num_samples)
    assert in_file.loss == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "task"), [((1,), "binary"), ((2,), "regression"), ((3, 3, 2), "segmentation")], ids=str
)
def test_other_tasks_have_the_figures_of_the_keras_model(shape, task, rng, tmp_path):
    end = {"binary": L.Activation("sigmoid"), "regression": L.Identity(), "segmentation": L.Softmax()}[task]
    model = keras.Sequential([keras.Input(shape), L.Dense(shape[-1]), end])
    x = rng.normal(size=(20, *shape)).astype(np.float32)
    y = rng.normal(size=(20, 2)) if task == "regression" else rng.integers(0, 2, (20, *shape[:-1]))
    kc.export_tflite(model, tmp_path / "net.tflite")
    in_file, expected = kc.evaluate_tflite(tmp_path / "net.tflite", x, y), kc.evaluate(model, x, y)
    assert in_file.task == expected.task == task
    assert in_file.metrics == pytest.approx(expected.metrics, rel=1e-4)


def test_files_that_take_integers_get_floats(model, samples, files):
    runner = Runner((files / "int8.tflite").read_bytes())
    assert runner.inputs[0]["dtype"] == np.int8
    (output,) = runner.outputs([samples[0]])
    np.testing.assert_allclose(output, np.asarray(model(samples[0])), atol=0.2)
    assert kc.evaluate_tflite(files / "int8.tflite", {"images": samples[0]}, samples[1]).num_samples == 70


def test_a_file_is_as_near_to_itself_as_can_be(samples, files):
    same = kc.compare_tflite(files / "float.tflite", files / "one.tflite", samples[0])
    assert same.relative_difference < 1e-5 and same.agreement == 1 and same.num_samples == 70
    other = kc.compare_tflite(files / "float.tflite", files / "codes.tflite", samples[0])
    assert 1e-4 < other.relative_difference < 0.5
    assert other.largest_difference > same.largest_difference


def test_times_are_of_each_file_and_ratios_of_the_first(files):
    paths = [files / f"{name}.tflite" for name in ("float", "one", "codes")]
    timings = kc.benchmark_tflite(paths[0], against=paths[1:], rounds=5, threads=2)
    assert [timing.name for timing in timings] == list(map(str, paths))
    assert timings[0].ratio == 1
    for timing in timings:
        assert 0 < timing.spread[0] <= timing.milliseconds <= timing.spread[1]


def test_neither_tensorflow_nor_keras_is_loaded(files):
    code = (
        "import sys, numpy, keras_compress as kc; kc.benchmark_tflite(sys.argv[1], rounds=1); kc.compare_tflite; "
        "kc.evaluate_tflite(sys.argv[1], numpy.zeros((3, 6, 6, 2), 'float32'), [0, 1, 2]); "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(files / "float.tflite")], check=True)


# Bad input


def test_a_file_that_is_not_there(files):
    with pytest.raises(kc.StorageError, match="cannot be read: No such file"):
        kc.evaluate_tflite(files / "none.tflite", np.zeros((1, 6, 6, 2)), [0])


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "net.tflite").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(kc.InputError, match="is no TFLite file: it does not begin with TFL3"):
        kc.evaluate_tflite(tmp_path / "net.tflite", np.zeros((1, 2)), [0])


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short(files, tmp_path, fraction):
    content = (files / "codes.tflite").read_bytes()
    (tmp_path / "net.tflite").write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(kc.InputError, match=r"is damaged|refuses"):
        kc.evaluate_tflite(tmp_path / "net.tflite", np.zeros((1, 6, 6, 2), np.float32), [0])


def test_damaged_bytes_are_read_or_refused_in_one_line(files):
    content = bytearray((files / "codes.tflite").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.integers(8, len(content))] ^= int(rng.integers(1, 256))
        try:
            flatbuffer.parse(damaged)
        except kc.InputError as error:
            assert "is damaged" in str(error)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros((3, 6, 6, 1)), [0, 1, 2], r"must have shape \(any, 6, 6, 2\). Received: \(3, 6, 6, 1\)"),
        (np.zeros((3, 6, 6, 2)), [0, 1], "x and y must have as many samples"),
        (np.zeros((3, 6, 6, 2)), [0, 1, 7], "Labels must lie in 0 to 6"),
        ([np.zeros((3, 6, 6, 2))] * 2, [0, 1, 2], "has 1 inputs .images.. Received: a batch of 2 arrays"),
        ({"pictures": np.zeros((3, 6, 6, 2))}, [0, 1, 2], r"A dictionary of inputs must have the keys \['images'\]"),
        (np.zeros((0, 6, 6, 2)), [], "is empty"),
    ],
    ids=["shape", "number", "class", "inputs", "names", "empty"],
)
def test_data_that_does_not_fit_is_refused(files, x, y, message):
    with pytest.raises(kc.InputError, match=message):
        kc.evaluate_tflite(files / "float.tflite", x, y)


@pytest.mark.parametrize("name", ["float", "int8"])
def test_batches_and_threads_leave_no_trace(files, name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 6, 6, 2)).astype(np.float32), rng.integers(0, 7, 150)
    whole = kc.evaluate_tflite(files / f"{name}.tflite", x, y)
    stream = ((x[at : at + 7], y[at : at + 7]) for at in range(0, 150, 7))
    assert kc.evaluate_tflite(files / f"{name}.tflite", stream) == whole
    for batch_size in (1, 64, 100, 1000):
        assert kc.evaluate_tflite(files / f"{name}.tflite", x, y, batch_size=batch_size) == whole
    assert kc.evaluate_tflite(files / f"{name}.tflite", x, y, threads=2) == whole
    other = [kc.compare_tflite(files / "float.tflite", files / f"{name}.tflite", x, batch_size=n) for n in (1, 70, 999)]
    assert other[0] == other[1] == other[2]


def test_settings_out_of_range(files):
    with pytest.raises(kc.InputError, match="rounds must be an integer from 1 upwards"):
        kc.benchmark_tflite(files / "float.tflite", rounds=0)


def test_comparisons_and_times_print_in_a_line():
    comparison = Comparison(0.5, 0.01, 0.975, 200)
    assert str(comparison) == "largest difference 0.5, relative 0.01, same class 97.50% on 200 samples"
    assert str(Timing("a.tflite", 1.25, (1.0, 2.0), 0.5)) == "a.tflite: 1.25 ms (quartiles 1 to 2), 0.5 x the first"
