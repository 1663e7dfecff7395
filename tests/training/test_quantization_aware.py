"""Quantization-aware training: codes are those that tfmot trained with, and the model is otherwise the same."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.paths import layers_by_path
from keras_compress.measurement import flatbuffer
from tests.pictures import Kill, Killed, Mirrored

pytestmark = pytest.mark.slow  # every test trains
L = keras.layers


def network(dropout=0.2):
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            L.DepthwiseConv2D(3, padding="same", name="depthwise"),
            L.ReLU(),
            L.Conv2D(4, 1, name="pointwise"),
        ],
        name="inner",
    )
    inputs = keras.Input((6, 6, 1), name="image")
    x = L.Conv2D(4, 3, padding="same", use_bias=False, name="first")(L.Rescaling(0.5, name="half")(inputs))
    x = L.ReLU()(L.BatchNormalization(name="norm")(x))
    x = L.Add()([x, inner(x)])
    x = L.LayerNormalization(name="layer_norm")(L.GlobalAveragePooling2D()(x))
    x = L.Dropout(dropout)(L.Dense(8, "relu", name="hidden")(x))
    return keras.Model(inputs, L.Dense(4, name="head")(x), name="network")


def plain(activation="relu", *behind):
    convolution = L.Conv2D(4, 3, activation=activation, name="conv")
    layers = [convolution, *behind, L.MaxPooling2D(), L.Flatten(), L.Dense(4, name="head")]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers], name="plain")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return network()


def train(model, data, **settings):
    return kc.quantization_aware_training(model, data, **({"epochs": 2, "batch_size": 25} | settings))


def tensors_of(path):
    content = flatbuffer.parse(path.read_bytes())
    return content, content.subgraphs[0].tensors


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kernels_lie_on_the_grid(model, data, bits):
    before = [weight.numpy() for weight in model.weights]
    result = train(model, data, bits=bits, validation=data)
    for weight, expected in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)
    assert type(result.model) is type(model) and result.model.output_names == model.output_names
    assert set(result.kernels) == {"first", "inner/depthwise", "inner/pointwise", "hidden", "head"}
    for path, kernel in result.kernels.items():
        assert kernel.levels.tolist() == kc.Integer(bits).levels_array.tolist()
        assert kernel.codes.min() == kernel.levels[0] or kernel.codes.max() == kernel.levels[-1], path
        layer = layers_by_path(result.model)[path]
        np.testing.assert_array_equal(np.asarray(layer.weights[0]), kernel.decode())
    assert "norm" not in layers_by_path(result.model)  # folded
    assert result.report.row("layer_norm").reason == "tfmot rounds nothing in LayerNormalization"
    figures = result.report.steps[-1].figures
    assert {"validation accuracy before", "validation accuracy after", "ideal bytes"} <= figures.keys()


def test_a_negative_gamma_behind_2_bits_is_not_folded(model, data):
    norm = layers_by_path(model)["norm"]
    norm.gamma.assign(-norm.gamma)
    kernel = layers_by_path(model)["first"].kernel
    kernel.assign(-abs(kernel.numpy()))  # codes of -2 in every channel
    result = train(model, data, bits=2, epochs=1)
    assert "norm" in layers_by_path(result.model)
    result.check()


@pytest.mark.parametrize(
    "bits, activations",
    [
        (4, ["relu"]),
        (8, ["relu"]),
        (8, [None, L.ReLU()]),
        (8, [None, L.ReLU(6.0)]),
        (8, [None, L.Activation("relu")]),
        (8, [None, L.ReLU(negative_slope=0.1)]),
        (8, [None, L.LeakyReLU()]),
        (8, ["gelu"]),
        (8, [None, L.BatchNormalization()]),
        (4, [None, L.BatchNormalization(), L.ReLU()]),
        (8, [None, L.BatchNormalization(), L.Activation("relu")]),
        (8, [None, L.BatchNormalization(), L.LeakyReLU()]),
        (8, [None, L.BatchNormalization(gamma_initializer=keras.initializers.Constant(-0.5)), L.ReLU()]),
    ],
    ids=str,
)
@pytest.mark.sampled(2)
def test_codes_are_those_of_the_converter(data, tmp_path, bits, activations):
    """TensorFlow's converter makes integers of the same graph on its own: those of convolutions, channel by channel."""
    keras.utils.set_random_seed(0)
    layers = [
        each if isinstance(each, str | None) else type(each).from_config(each.get_config()) for each in activations
    ]
    result = train(plain(*layers), data, bits=bits, tflite=tmp_path / "qat.tflite")
    normalized = any(isinstance(each, L.BatchNormalization) for each in activations)
    assert len(result.model.layers) == 3 + len(activations) - normalized  # all others are there
    content, tensors = tensors_of(tmp_path / "qat.tflite")
    for path, expected in (
        ("conv", np.moveaxis(result.kernels["conv"].codes, 3, 0)),
        ("head", result.kernels["head"].codes.T),
    ):
        matches = [
            flatbuffer.array_of(content, tensor)
            for tensor in tensors
            if list(tensor.shape) == list(expected.shape) and flatbuffer.TYPES[tensor.type] == f"INT{bits}"
        ]
        assert len(matches) == 1
        np.testing.assert_array_equal(matches[0], expected, err_msg=path)
    keras_top1, tflite_top1 = (
        kc.evaluate(result.model, *data).top1,
        kc.evaluate_tflite(tmp_path / "qat.tflite", *data).top1,
    )
    assert abs(keras_top1 - tflite_top1) <= 0.03  # activations are rounded in the file only
    assert result.report.steps[-1].figures["bytes of the file"] == (tmp_path / "qat.tflite").stat().st_size


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "behind", ["BatchNormalization", "LayerNormalization", "PReLU", "ELU", "Rescaling", "Activation", "Multiply"]
)
@pytest.mark.sampled(2)
def test_layers_behind_such_as_tfmot_cannot_round_are_of_integers_in_the_file(data, tmp_path, behind, bits):
    inputs = keras.Input((6, 6, 1))
    settings = {"Rescaling": {"scale": 2.0}, "Activation": {"activation": "hard_silu"}}
    layer = getattr(L, behind)(**settings.get(behind, {}))
    x = L.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layer([x, x] if behind == "Multiply" else x)
    model = keras.Model(
        inputs, L.Dense(4, name="head")(L.Flatten()(L.Conv2D(16, 3, activation="relu", name="next")(x)))
    )
    result = train(model, data, bits=bits, epochs=1, tflite=tmp_path / "qat.tflite")
    assert set(result.kernels) == {"conv", "next", "head"}
    _, tensors = tensors_of(tmp_path / "qat.tflite")
    types = {tuple(tensor.shape): flatbuffer.TYPES[tensor.type] for tensor in tensors if len(tensor.shape) == 4}
    assert types[16, 3, 3, 8] == f"INT{bits}"


@pytest.mark.parametrize("activation", ["elu", "silu", "selu", "sigmoid", "softplus"])
def test_kernels_with_other_activations_are_rounded_too(data, activation):
    """tfmot refuses some of them: they become layers of their own while it trains."""
    result = train(plain(activation), data, epochs=1)
    assert set(result.kernels) == {"conv", "head"}
    assert result.model.get_layer("conv").activation is keras.activations.get(activation)


@pytest.mark.parametrize("factor", [0.01, 255.0])
def test_ranges_suit_the_data_from_the_first_step_on(data, tmp_path, factor):
    """tfmot begins with -6 to 6 for every tensor: inputs up to 255 would be clipped, small ones all be zero."""
    keras.utils.set_random_seed(0)
    x, y = data[0] * factor, data[1]
    model = plain()
    model.get_layer("conv").kernel.assign(model.get_layer("conv").kernel / factor)
    slow = keras.optimizers.SGD(1e-9)
    result = train(model, (x, y), epochs=1, optimizer=slow, tflite=tmp_path / "qat.tflite")
    expected = result.model.predict(x, verbose=0)
    assert kc.evaluate_tflite(tmp_path / "qat.tflite", x, expected.argmax(axis=1)).top1 > 0.97
    for weight, before in zip(result.model.weights[1::2], model.weights[1::2], strict=True):
        np.testing.assert_allclose(weight.numpy(), before.numpy(), atol=1e-6)  # biases: only ranges were set


def test_a_loss_that_becomes_nan_is_said(model, data, tmp_path):
    with pytest.raises(kc.UserError, match="became NaN or infinite, by epoch"):
        train(model, data, optimizer=keras.optimizers.SGD(1e20), checkpoint=tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_it_learns(data):
    keras.utils.set_random_seed(0)
    result = train(plain(), data, bits=3, epochs=20, optimizer=keras.optimizers.Adam(0.01))
    assert kc.evaluate(result.model, *data).top1 > 0.9  # chance is 0.25


def test_export_writes_the_codes(model, data, tmp_path):
    result = train(model, data, bits=4)
    kc.export_tflite(result, tmp_path / "net.tflite", storage="small")
    content, tensors = tensors_of(tmp_path / "net.tflite")
    kernels = {tensor.name.decode(): flatbuffer.array_of(content, tensor) for tensor in tensors}
    np.testing.assert_array_equal(kernels["hidden/kernel"].T, result.kernels["hidden"].codes)
    np.testing.assert_array_equal(
        kernels["inner/pointwise/kernel"], np.moveaxis(result.kernels["inner/pointwise"].codes, 3, 0)
    )


def test_zeros_of_pruning_stay(model, data):
    pruned = kc.prune_magnitude(model, data, epochs=2, batch_size=25, schedule=kc.ConstantSparsity(0.6))
    result = train(pruned, data, bits=8)
    assert set(result.masks) == set(pruned.masks)
    for path, mask in pruned.masks.items():
        assert (result.kernels[path].codes[~mask] == 0).all(), path
        assert (layers_by_path(result.model)[path].kernel.numpy()[~mask] == 0).all()


def test_a_killed_run_goes_on_to_the_same_weights(model, data, tmp_path):
    whole = train(model, data, bits=4)
    with pytest.raises(Killed):
        train(model, data, bits=4, checkpoint=tmp_path / "state", callbacks=[Kill(1, 4)])
    resumed = train(model, data, bits=4, checkpoint=tmp_path / "state")
    for weight, expected in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy(), err_msg=weight.path)
    for path, kernel in whole.kernels.items():
        np.testing.assert_array_equal(resumed.kernels[path].codes, kernel.codes)
    assert not (tmp_path / "state").exists()


@pytest.mark.sampled(0)
def test_a_killed_run_on_batches_that_change_with_the_epoch_goes_on_too(model, data, tmp_path):
    """Ranges begin with a look at the batches, which counts as an epoch of theirs in every run."""
    whole = train(model, Mirrored(data), epochs=3)
    with pytest.raises(Killed):
        train(model, Mirrored(data), epochs=3, checkpoint=tmp_path / "state", callbacks=[Kill(1, 4)])
    resumed = train(model, Mirrored(data), epochs=3, checkpoint=tmp_path / "state")
    for weight, expected in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy(), err_msg=weight.path)


def test_chosen_layers_only(model, data):
    result = train(model, data, layers=["hidden", "pointwise"])
    assert set(result.kernels) == {"hidden", "inner/pointwise"}
    assert result.report.row("head").reason == "not chosen"


def test_layers_that_tfmot_does_not_round_stay_in_floating_point(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    x = L.PReLU(name="prelu")(L.SeparableConv2D(4, 3, name="separable")(inputs))
    x = L.Multiply()([x, L.Conv2DTranspose(4, 1, name="transposed")(x)]) - 0.5 * x
    x = L.Dense(4, name="head")(L.Reshape((64,))(x))
    model = keras.Model(inputs, x)
    result = train(model, data)
    assert set(result.kernels) == {"transposed", "head"}
    assert result.report.row("separable").reason == "tfmot rounds no kernel of SeparableConv2D"
    assert result.report.row("prelu").reason == "tfmot rounds nothing in PReLU"


def test_shared_layers_stay_in_floating_point(data):
    inputs = keras.Input((6, 6, 1))
    shared = L.Dense(36, "relu", name="shared")
    model = keras.Model(inputs, L.Dense(4, name="head")(shared(shared(L.Flatten()(inputs)))))
    result = train(model, data)
    assert set(result.kernels) == {"head"} and "called more than once" in result.report.row("shared").reason


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"bits": 1}, "bits must be an integer from 2 to 8. Received: 1"),
        ({"bits": 9}, "bits must be an integer from 2 to 8. Received: 9"),
        ({"epochs": 0}, "epochs must be an integer from 1"),
        ({"layers": "nowhere"}, "'nowhere' matches no layer that can be quantized"),
        ({"validation": 3}, r"validation must be an array"),
    ],
)
def test_bad_settings(model, data, settings, message):
    with pytest.raises(kc.InputError, match=message):
        train(model, data, **settings)


def test_a_model_without_such_kernels(data):
    model = keras.Sequential([keras.Input((6, 6, 1)), L.Flatten(), L.Softmax()])
    with pytest.raises(kc.InputError, match="has no kernel that tfmot rounds"):
        train(model, data)
