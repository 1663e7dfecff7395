"""The protocol: choices by a seed, preprocessing by the batch, images on the disk; without Keras where it can."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.samples.forms import as_samples
from keras_compress.samples.samples import SLICE_BYTES

X = np.arange(300, dtype=np.uint8).reshape(100, 3)
Y = np.arange(100)


def dataset(batch):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch)


def generator(batch):
    return ((X[at : at + batch], Y[at : at + batch]) for at in range(0, len(X), batch))


@pytest.mark.parametrize("count", [1, 7, 100, 1000])
@pytest.mark.parametrize("source", [dataset, generator])
def test_a_choice_from_a_stream_does_not_depend_on_its_batches(source, count):
    chosen = [as_samples(source(batch)).take(count, seed=3).read() for batch in (1, 9, 100)]
    for each in chosen:
        assert len(each) == min(count, 100)
        np.testing.assert_array_equal(each.inputs, chosen[0].inputs)
        np.testing.assert_array_equal(each.inputs, X[each.labels])


@pytest.mark.parametrize("form", [lambda: (X, Y), lambda: dataset(9)], ids=["arrays", "dataset"])
def test_a_larger_choice_holds_the_smaller_one_and_another_seed_is_another(form):
    few, many, other = (
        set(as_samples(form()).take(count, seed).read().labels.tolist()) for count, seed in ((10, 0), (30, 0), (10, 1))
    )
    assert few < many and few != other and len(few) == 10


def test_every_sample_of_a_stream_is_chosen_as_often():
    counts = np.zeros(100)
    for seed in range(100):
        counts[as_samples(dataset(9)).take(25, seed).read().labels] += 1
    assert abs(counts.mean() - 25) < 1e-9 and counts.std() < 1.3 * np.sqrt(100 * 0.25 * 0.75)


def test_choices_are_preprocessed_once():
    for data in ((X, Y), dataset(9)):
        batch = kc.preprocess(data, lambda x: x / 2.0).take(5, 0).read()
        np.testing.assert_array_equal(batch.inputs, X[batch.labels] / 2.0)


def test_a_generator_is_read_once():
    samples = as_samples(generator(9), "calibration")
    samples.read()
    with pytest.raises(kc.InputError, match="generator of calibration has ended"):
        samples.read()


def test_digests_tell_arrays_choices_and_functions_apart():
    base = as_samples((X, Y))
    changed = X.copy()
    changed[3, 1] += 1
    others = [as_samples((changed, Y)), as_samples((X, Y + 1)), base.take(100, 0), base.preprocessed(abs)]
    digests = [each.digest() for each in (base, as_samples((X.copy(), Y)), *others)]
    assert digests[0] == digests[1] and len(set(digests)) == 5


def test_a_file_of_bytes_is_never_there_as_floats(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((40, 1024, 1024, 1), np.uint8))
    largest = []

    def halves(x):
        largest.append(x.nbytes)
        return x / np.float32(2)

    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = keras.Sequential([keras.Input((1024, 1024, 1)), keras.layers.GlobalAveragePooling2D()])
    kc.evaluate(model, kc.preprocess((mapped, np.zeros(40)), halves))
    assert max(largest) <= SLICE_BYTES and sum(largest) == mapped.nbytes


# Folders


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog", "owl")):
        (tmp_path / name).mkdir()
        for index in range(4):
            size = (12, 8) if index % 2 else (8, 8)
            pixels = rng.integers(40 * number, 40 * number + 40, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_a_folder_is_what_keras_reads_from_it(folder):
    images = kc.ImageFolder(folder, image_size=8)
    assert images.class_names == ["cat", "dog", "owl"] and images.num_samples == 12
    expected = keras.utils.image_dataset_from_directory(folder, image_size=(8, 8), shuffle=False, verbose=False)
    read = images.read()
    ((pixels, labels),) = expected.as_numpy_iterator()
    np.testing.assert_array_equal(read.labels, labels)
    exact = np.arange(12) % 2 == 0  # those of the right size; resized ones differ by the filter
    np.testing.assert_array_equal(read.inputs[exact], pixels[exact])
    assert read.inputs.dtype == np.float32 and np.abs(read.inputs - pixels).mean() < 12


def test_a_folder_calibrates_evaluates_and_trains(folder):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    images = kc.ImageFolder(folder, image_size=8, preprocess=lambda x: x / 255.0)
    x, y = images.read().parts
    assert kc.evaluate(model, images) == kc.evaluate(model, x, y)
    first, second = (kc.quantize(model, kc.GPFQ(4), data) for data in (images, x))
    for path, kernel in first.kernels.items():
        np.testing.assert_array_equal(kernel.codes, second.kernels[path].codes)
    chosen = images.take(6, seed=0)
    assert chosen.read().inputs.shape == (6, 8, 8, 3) and chosen.digest() != images.digest()


def test_images_without_classes_have_no_labels(folder):
    assert kc.ImageFolder(folder / "cat", image_size=(8, 6), channels=1).read().parts[0].shape == (4, 8, 6, 1)
    with pytest.raises(kc.InputError, match="There are no labels"):
        model = keras.Sequential([keras.Input((8, 6, 1)), keras.layers.Flatten()])
        kc.evaluate(model, kc.ImageFolder(folder / "cat", image_size=(8, 6), channels=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "nowhere", "image_size": 8}, "There is no folder 'nowhere'"),
        ({"path": "cat", "image_size": 0}, "image_size must be"),
        ({"path": "cat", "image_size": (8, 8, 3)}, "image_size takes one or two numbers"),
        ({"path": "cat", "image_size": 8, "channels": 2}, "channels 1 or 3"),
        ({"path": "empty", "image_size": 8}, "holds no images"),
    ],
)
def test_bad_folders_are_one_line(folder, arguments, message, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    with pytest.raises(kc.InputError, match=message):
        kc.ImageFolder(pathlib.Path(arguments.pop("path")), **arguments)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "cat" / "9.png").write_bytes(b"no picture")
    with pytest.raises(kc.InputError, match=r"9\.png' cannot be read"):
        kc.ImageFolder(folder, image_size=8).read()


def test_preprocess_takes_a_function():
    with pytest.raises(kc.InputError, match="function must be a function"):
        kc.preprocess((X, Y), 255)


def test_samples_and_files_need_neither_tensorflow_nor_keras():
    modules = "forms, inputs, images, splits, blocks, samples"
    code = f"import sys; from keras_compress.samples import {modules}; import keras_compress as kc; kc.ImageFolder; "
    code += "kc.evaluate_tflite; sys.exit(bool({'keras', 'tensorflow'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)
