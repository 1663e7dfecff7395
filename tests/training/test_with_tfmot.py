"""Quantization-aware training by tfmot's own graph: codes are its own, and the model is otherwise the same."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.paths import layers_by_path
from tests.pictures import Kill, Killed
from tests.trainings import fitted

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
    settings = {"epochs": 2, "batch_size": 25, "engine": "tfmot"} | settings
    return fitted(kc.quantization_aware_training, model, data, **settings)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.sampled(1)
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


@pytest.mark.parametrize("activation", ["elu", "silu", "selu", "sigmoid", "softplus"])
@pytest.mark.sampled(1)
def test_kernels_with_other_activations_are_rounded_too(data, activation):
    """tfmot refuses some of them: they become layers of their own while it trains."""
    result = train(plain(activation), data, epochs=1)
    assert set(result.kernels) == {"conv", "head"}
    assert result.model.get_layer("conv").activation is keras.activations.get(activation)


@pytest.mark.sampled(0)
def test_a_loss_that_becomes_nan_is_said(model, data, tmp_path):
    with pytest.raises(kc.UserError, match="became NaN or infinite, by epoch"):
        train(model, data, optimizer=keras.optimizers.SGD(1e20), checkpoint=tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.sampled(0)
def test_it_learns(data):
    keras.utils.set_random_seed(0)
    result = train(plain(), data, bits=3, epochs=20, optimizer=keras.optimizers.Adam(0.01))
    assert kc.evaluate(result.model, *data).top1 > 0.9  # chance is 0.25


def test_zeros_of_pruning_stay(model, data):
    pruned = fitted(kc.prune_magnitude, model, data, epochs=2, batch_size=25, schedule=kc.ConstantSparsity(0.6))
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
