"""quantize/export_tflite.py as a user calls it."""

import re

import keras
import pytest

import keras_compress as kc
from keras_compress import zoo
from tests import wrong_data


@pytest.fixture(scope="module")
def command(load):
    return load("export_tflite")


@pytest.fixture
def result(networks, tmp_path):
    """A result in quantized_models, as the grid leaves it."""
    model = keras.saving.load_model(networks / "tiny.keras")
    result = kc.quantize(model, kc.MSQ(bits=4))
    (tmp_path / "quantized_models").mkdir()
    result.save(tmp_path / "quantized_models" / "tiny_w4")
    zoo.ModelCard.read(networks / "tiny.json").write(tmp_path / "quantized_models" / "tiny_w4.card.json")
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quantized_models/tiny_w4", "quantized_models/tiny_w4.keras"])
def test_a_result_keeps_its_codes(call, result, tmp_path, name):
    flags = ("--activations=int8", "--storage=small", "--static_batch=1", "--num_samples=50", "--c_array")
    done = call(name, *flags)
    assert done.code == 0, done.err
    file = tmp_path / "quantized_models" / "tiny_w4.tflite"
    assert {tensor.type for tensor in kc.inspect_tflite(file).tensors} >= {"INT4", "INT32"}
    assert file.with_suffix(".h").is_file()
    digits = zoo.load_dataset("digits")
    x = digits.x_test[..., None] / 16
    assert f"Keras:  {kc.evaluate(result.model, x, digits.y_test)}" in done.out
    assert f"TFLite: {kc.evaluate_tflite(file, x, digits.y_test)}" in done.out
    assert "file:   quantized_models/tiny_w4.tflite" in done.out.splitlines()
    assert re.search(r"^conv +Conv2D +static .*int4", done.out, re.MULTILINE)
    assert done.out.splitlines()[-1] == "operators in floating point: none"


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["mse", "converter"])
def test_the_last_line_names_operators_that_stay_in_floating_point(call, networks, tmp_path, ranges):
    """TFLite has no ELU of integers."""
    layers = [keras.layers.Conv2D(2, 3, strides=2, activation="elu"), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential([keras.Input((8, 8, 1)), *layers]).save(tmp_path / "elu.keras")
    zoo.ModelCard.read(networks / "tiny.json").write(tmp_path / "elu.json")
    done = call("./elu.keras", "--activations=int8", f"--ranges={ranges}", "--num_samples=40", "--c_array")
    assert done.code == 0, done.err
    last = done.out.splitlines()[-1]
    assert last.startswith("operators in floating point: 1 ELU; "), done.out


@pytest.mark.slow
def test_ranges_of_the_converter(call, result, tmp_path):
    done = call("quantized_models/tiny_w4", "--activations=int8", "--ranges=converter", "--num_samples=50")
    assert done.code == 0, done.err
    digits = zoo.load_dataset("digits")
    x = digits.x_test[..., None] / 16
    file = tmp_path / "quantized_models" / "tiny_w4.tflite"
    assert f"Keras:  {kc.evaluate(result.model, x, digits.y_test)}" in done.out
    assert f"TFLite: {kc.evaluate_tflite(file, x, digits.y_test)}" in done.out


@pytest.mark.slow
def test_a_plain_model_without_data_takes_the_converters_path(call, tmp_path):
    done = call("bare", "--activations=float16", "--output=here/net.tflite")
    assert done.code == 0, done.err
    assert "FLOAT16" in {tensor.type for tensor in kc.inspect_tflite(tmp_path / "here/net.tflite").tensors}
    assert "Keras:" not in done.out and "floating point" not in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Expected MODEL. Received: none."),
        (("bare", "--activations=int8"), "there is no model card 'serialized_models/bare.json'. Name the data set"),
        (("tiny", "--output=net.bin"), "The file's name must end in .tflite. Received: 'net.bin'."),
        (("tiny", "--num_samples=2000"), "num_samples must be at most 1,437"),
        (("three", "-ds", "digits"), "The model has 3 classes. Received: a data set with 10."),
        (("quantized_models/tiny_w4", "--activations=float16"), 'activations="float16" rounds all weights anew'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(call, result, tmp_path, arguments, message):
    before = sorted(tmp_path.rglob("*"))
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and message in done.err, done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_wrong_data_set_is_one_line(call, tmp_path):
    wrong_data.check(call, tmp_path)
