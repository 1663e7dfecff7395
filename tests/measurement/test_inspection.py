"""What the inspection says of a file is what was put into it; every byte is counted once."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.measurement.inspection import float_operators

L = keras.layers


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4), name="images")
    x = L.Flatten()(L.Conv2D(16, 3, activation="relu", name="conv")(inputs))
    model = keras.Model(inputs, L.Dense(10, name="head")(x))
    result = kc.quantize(model, kc.MSQ(bits=4))
    path = tmp_path_factory.mktemp("files") / "net.tflite"
    kc.export_tflite(result, path, storage="small", static_batch=1)
    return path, result


def test_tensors_are_those_of_the_result(file):
    path, result = file
    inspection = kc.inspect_tflite(path)
    rows = {row.name.removesuffix("/kernel"): row for row in inspection.tensors}
    for name, kernel in result.kernels.items():
        row = rows[name]
        assert (row.type, row.bits, row.bytes) == ("INT4", 4, kernel.codes.size // 2)
        assert row.num_scales == kernel.scale.size
        assert row.zeros == pytest.approx(np.mean(kernel.codes == 0))
        assert row.readers == ("DEQUANTIZE",)
    assert [row.bytes for row in inspection.tensors] == sorted((row.bytes for row in inspection.tensors), reverse=True)
    assert inspection.operators["DEQUANTIZE"] == 2 and inspection.operators["CONV_2D"] == 1
    assert inspection.inputs == ("images FLOAT32 (1, 8, 8, 4)",)


def test_every_byte_is_counted_once(file):
    inspection = kc.inspect_tflite(file[0])
    assert inspection.bytes == file[0].stat().st_size == sum(inspection.parts.values())
    # A scale for each of 16 and 10 channels, and a list of as many zero points for each layer.
    assert inspection.parts["scales"] == inspection.scale_bytes == (4 + 8) * 26
    assert all(size >= 0 for size in inspection.parts.values())


def test_the_table_names_what_is_there(file):
    text = str(kc.inspect_tflite(file[0]))
    assert "head" in text and "INT4" in text and "10x576" in text
    assert "where they are: INT4" in text and max(map(len, text.splitlines())) <= 120


@pytest.mark.slow
def test_operators_whose_outputs_are_floats_are_counted(tmp_path):
    """TFLite has neither an ELU nor a SELU of integers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(4, 3, activation="elu")(L.Conv2D(4, 3, activation="elu")(inputs))
    model = keras.Model(inputs, L.Dense(10)(L.Flatten()(L.Activation("relu")(x))))
    plain = keras.Model(inputs, L.Dense(10)(L.Flatten()(inputs)))
    samples, path = np.random.default_rng(0).normal(size=(20, 8, 8, 4)).astype(np.float32), tmp_path / "net.tflite"

    def counted(model: keras.Model, activations: str) -> str:
        kc.export_tflite(model, path, activations=activations, calibration=samples)
        return float_operators(path.read_bytes())

    assert counted(model, "int8") == "2 ELU"
    assert counted(plain, "int8") == "0"
    assert counted(plain, "float") == "all"


def test_damaged_and_missing_files_are_refused(file, tmp_path):
    (tmp_path / "cut.tflite").write_bytes(file[0].read_bytes()[:200])
    with pytest.raises(kc.InputError, match="is damaged"):
        kc.inspect_tflite(tmp_path / "cut.tflite")
    with pytest.raises(kc.StorageError, match="cannot be read"):
        kc.inspect_tflite(tmp_path / "none.tflite")


@pytest.mark.slow
def test_zero_points_of_equal_layers_are_stored_once(tmp_path):
    model = keras.Sequential([keras.Input((16,)), *(keras.layers.Dense(16, use_bias=False) for _ in range(3))])
    kc.export_tflite(kc.quantize(model, kc.MSQ(bits=4)), tmp_path / "net.tflite")
    inspection = kc.inspect_tflite(tmp_path / "net.tflite")
    assert inspection.scale_bytes == 3 * 16 * 4 + 16 * 8
    assert sum(inspection.parts.values()) == inspection.bytes


def test_what_is_no_path_is_refused():
    with pytest.raises(kc.InputError, match=r"The path of a .tflite file is expected. Received: keras_compress.rep"):
        kc.inspect_tflite(kc.Report(()))
