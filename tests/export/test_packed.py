"""Packed files: bit-identical kernels in a plain model, as small as their bits, and no damage that goes unnoticed."""

import hashlib
import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_compress as kc
from keras_compress.export import packed
from tests.quantization.contracts import ALPHABETS

L = keras.layers


def network(width=16):
    inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization()(L.Conv2D(width, 3, activation="relu", name="conv")(inputs))
    x = L.SeparableConv2D(width, 3, activation="relu", name="separable")(x)
    x = L.Dropout(0.1, seed=3)(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(10, "softmax", name="head")(x), name="network")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(size=(30, 8, 8, 3)).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 65536), st.integers(0, 41), st.integers(0, 2**32 - 1))
def test_what_is_packed_is_unpacked(num_levels, count, seed):
    indices = np.random.default_rng(seed).integers(0, num_levels, count)
    content = packed.pack(indices, num_levels)
    assert content.dtype == np.uint8 and len(content) == packed.packed_bytes(num_levels, count)
    np.testing.assert_array_equal(packed.unpack(content, num_levels, count), indices)


@pytest.mark.parametrize("num_levels, bits", [(3, 1.6), (4, 2), (7, 3), (15, 4), (17, 5), (255, 8), (257, 9)])
def test_a_weight_takes_its_true_width(num_levels, bits):
    assert packed.packed_bytes(num_levels, 40_000) == bits * 40_000 / 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ALPHABETS)
def test_every_alphabet_comes_back_bit_for_bit(model, samples, tmp_path, name):
    quantizer = kc.MSQ(alphabet=ALPHABETS[name])
    layers = ["head"] if "groups" in name else None  # which only Dense layers have
    result = kc.quantize(model, quantizer, samples, layers=layers)
    kc.export_packed(result, tmp_path / "net.packed")
    again = kc.load_packed(tmp_path / "net.packed")
    loaded = again.model
    assert again.kernels.keys() == result.kernels.keys()
    for path, kernel in again.kernels.items():
        for part in ("codes", "levels", "scale", "zero_point", "gap"):
            np.testing.assert_array_equal(getattr(kernel, part), getattr(result.kernels[path], part), err_msg=path)
        assert kernel.codes.dtype == result.kernels[path].codes.dtype and kernel.axis == result.kernels[path].axis
        assert again.report.row(path).num_levels == len(kernel.levels)
    assert type(loaded) is type(model) and loaded.name == model.name
    for weight, original in zip(loaded.variables, result.model.variables, strict=True):
        assert np.asarray(weight).tobytes() == np.asarray(original).tobytes(), original.path
    np.testing.assert_array_equal(np.asarray(loaded(samples)), np.asarray(result.model(samples)))


def test_l0_levels_and_masked_zeros_come_back(samples, model, tmp_path):
    result = kc.quantize(model, kc.SparseGPFQ(3, regularizer="l0", regularization=0.05), samples)
    kc.export_packed(result, tmp_path / "net.packed")
    np.testing.assert_array_equal(
        np.asarray(kc.load_packed(tmp_path / "net.packed").model(samples)), np.asarray(result.model(samples))
    )


SERVE = "import sys, keras; print(keras.saving.load_model(sys.argv[1]).count_params()); "
SERVE += "assert 'keras_compress' not in sys.modules"


@pytest.mark.slow
def test_what_is_loaded_is_served_without_this_package(model, tmp_path):
    kc.export_packed(kc.quantize(model, kc.MSQ(4)), tmp_path / "net.packed")
    kc.load_packed(tmp_path / "net.packed").model.save(tmp_path / "net.keras")
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path / "net.keras")], check=True, capture_output=True, text=True
    )
    assert int(done.stdout.split()[-1]) == model.count_params()


@pytest.mark.parametrize(
    "alphabet",
    [kc.Integer(levels=3), kc.Integer(2, narrow_range=False), kc.Integer(3), kc.Integer(4), kc.Integer(8)],
    ids=repr,
)
def test_the_file_is_as_small_as_its_bits(tmp_path, alphabet):
    """Within 5 % of bits * weights / 8 + what else there is, for more than 100,000 weights: here, just so many."""
    layers = [L.Conv2D(8, 5, activation="relu"), L.MaxPooling2D(), L.Conv2D(20, 5, activation="relu"), L.MaxPooling2D()]
    dense = [L.Flatten(), L.Dense(240, "relu"), L.Dropout(0.3), L.Dense(84, "relu"), L.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((28, 28, 1)), *layers, *dense])
    result = kc.quantize(model, kc.MSQ(alphabet=alphabet))
    kc.export_packed(result, tmp_path / "net.packed")
    weights = sum(kernel.codes.size for kernel in result.kernels.values())
    scales = sum(kernel.scale.size for kernel in result.kernels.values())
    bits = {3: 1.6, 4: 2, 7: 3, 15: 4, 255: 8}[len(next(iter(result.kernels.values())).levels)]
    ideal = bits * weights / 8 + 4 * (model.count_params() - weights + scales)
    assert 100_000 < weights < 105_000
    assert os.path.getsize(tmp_path / "net.packed") <= 1.05 * ideal


# Damage


@pytest.fixture
def file(model, tmp_path):
    kc.export_packed(kc.quantize(model, kc.MSQ(4)), tmp_path / "net.packed")
    return tmp_path / "net.packed"


@pytest.mark.parametrize("fraction", [0, 0.2, 0.6, 0.999])
def test_a_file_that_is_cut_short(file, fraction):
    content = file.read_bytes()
    file.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(kc.InputError, match="is damaged or cut off, or no file of export_packed"):
        kc.load_packed(file)


@pytest.mark.slow
def test_no_flipped_bit_goes_unnoticed(file, model, samples):
    content = file.read_bytes()
    expected = np.asarray(kc.load_packed(file).model(samples))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(
                np.asarray(kc.load_packed(file).model(samples)), expected
            )  # a byte nobody reads
        except kc.InputError:
            refused += 1
    assert refused > 20


def changed(file, change):
    """The file with another header and the checksum that belongs to it."""
    with h5py.File(file) as opened:
        header, weights = packed.decompressed(opened[packed.CONTENT][()].tobytes())
    change(header)
    packed.write(file, packed.compressed(header) + weights)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["weights"].pop(),
        lambda header: header["weights"][0].update(shape=[3, 3, 3, 17]),
        lambda header: header["weights"][-1].update(dtype="O"),
        lambda header: header["weights"][-1].update(dtype="float64"),
        lambda header: header.pop("configuration"),
        lambda header: header["weights"][0]["kernel"].update(levels=[4]),
        lambda header: header["weights"][1].update(kernel=header["weights"][0]["kernel"]),
    ],
)
def test_headers_that_do_not_fit_are_refused(file, change):
    changed(file, change)
    with pytest.raises(kc.InputError, match=r"net.packed' "):
        kc.load_packed(file)


def test_the_dictionary_is_that_of_the_version():
    """Another one cannot read the files that are there: whoever changes it changes VERSION, and keeps the old one."""
    digests = {1: "cc450da3cb7a45dafec130062c1c2d2a0e27ec5ad8f28f06e25943ec5959aca2"}
    assert hashlib.sha256(packed._dictionary()).hexdigest() == digests[packed.VERSION]


def test_a_newer_version_is_refused(file):
    with h5py.File(file, "r+") as opened:
        opened[packed.CONTENT].attrs["version"] = packed.VERSION + 1
    with pytest.raises(kc.InputError, match="has version 2; this program reads up to 1"):
        kc.load_packed(file)


def test_lambdas_do_not_run_unasked(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: x + 1, output_shape=(4,)), L.Dense(3)])
    kc.export_packed(kc.quantize(model, kc.MSQ(4)), tmp_path / "net.packed")
    with pytest.raises(kc.InputError, match="has Lambda layers or lambda functions"):
        kc.load_packed(tmp_path / "net.packed")
    assert kc.load_packed(tmp_path / "net.packed", allow_lambda=True).model.count_params() == 15


def test_other_files_are_refused(model, tmp_path):
    with pytest.raises(kc.StorageError, match="There is no packed file"):
        kc.load_packed(tmp_path / "none.packed")
    with h5py.File(tmp_path / "other.h5", "w") as opened:
        opened.attrs["format"] = "other"
    with pytest.raises(kc.InputError, match="is no file of export_packed"):
        kc.load_packed(tmp_path / "other.h5")
    with pytest.raises(kc.InputError, match="has no codes to pack"):
        kc.export_packed(model, tmp_path / "net.packed")
