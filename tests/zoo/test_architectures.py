import keras
import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.zoo.architectures import ARCHITECTURES, build_architecture

CONVOLUTIONAL = sorted(set(ARCHITECTURES) - {"mlp"})


DEEP = ("resnet18", "vgg16", "vgg16_bn")  # a second and more to build
SMALL_AND_DEEP = [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in ARCHITECTURES]


def kernels(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel")]


@pytest.mark.parametrize("input_shape", [(8, 8, 1), (28, 28, 1), (20, 33, 3), (1, 1, 2)])
@pytest.mark.parametrize("name", SMALL_AND_DEEP)
def test_any_input_size_and_number_of_classes(name, input_shape, rng):
    model = build_architecture(name, input_shape, 7, width_multiplier=0.05)
    outputs = model(rng.random((2, *input_shape), np.float32)).numpy()
    assert outputs.shape == (2, 7)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)
    assert model.layers[-1].name == "predictions"


def test_a_table_goes_into_the_mlp():
    assert kernels(build_architecture("mlp", (12,), 3)) == [(12, 500), (500, 300), (300, 3)]


def test_mlp_is_the_papers():
    assert kernels(build_architecture("mlp", (28, 28, 1), 10)) == [(784, 500), (500, 300), (300, 10)]
    kinds = [type(layer).__name__ for layer in build_architecture("mlp", (28, 28, 1), 10).layers]
    assert kinds == ["InputLayer", "Flatten", *["Dense", "BatchNormalization"] * 2, "Dense"]


def test_cnn_is_the_papers():
    model = build_architecture("cnn", (32, 32, 3), 10)
    convolutions = [(3, 3, *pair) for pair in ((3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128))]
    assert kernels(model) == [*convolutions, (2048, 128), (128, 10)]
    block = ["Conv2D", "BatchNormalization"] * 2 + ["MaxPooling2D", "Dropout"]
    head = ["Flatten", "Dense", "BatchNormalization", "Dropout", "Dense"]
    assert [type(layer).__name__ for layer in model.layers] == ["InputLayer", *block * 3, *head]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.2, 0.3, 0.4, 0.5]
    assert model.get_layer("conv1_1").activation is keras.activations.relu


# Numbers of parameters as the literature gives them.
def test_lenet5_on_mnist_has_its_61706_parameters():
    assert build_architecture("lenet", (28, 28, 1), 10).count_params() == 61706


@pytest.mark.slow
def test_resnet18_on_cifar10_has_its_11173962_trainable_parameters():
    model = build_architecture("resnet18", (32, 32, 3), 10)
    assert sum(weight.shape.num_elements() for weight in model.trainable_weights) == 11173962


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vgg16_has_the_14714688_parameters_of_its_convolutions(name):
    model = build_architecture(name, (32, 32, 3), 10)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sum(layer.count_params() for layer in convolutions) == 14714688


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), [("resnet18", [33, 17, 9, 5, 3]), ("vgg16", [65, 32, 16, 8, 4])])
def test_images_above_64_pixels_get_the_imagenet_form(name, sizes):
    model = build_architecture(name, (65, 65, 3), 10, width_multiplier=0.02)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sorted({layer.output.shape[1] for layer in convolutions}, reverse=True) == sizes


def test_width_multiplier_leaves_inputs_and_classes():
    shapes = kernels(build_architecture("cnn", (32, 32, 3), 10, width_multiplier=0.25))
    assert shapes[:2] == [(3, 3, 3, 8), (3, 3, 8, 8)]
    assert shapes[-2:] == [(512, 32), (32, 10)]


def test_dropout_scale_scales_all_rates_and_zero_leaves_the_layers_out():
    halved = build_architecture("cnn", (8, 8, 1), 10, dropout_scale=0.5)
    assert [layer.rate for layer in halved.layers if isinstance(layer, keras.layers.Dropout)] == [0.1, 0.15, 0.2, 0.25]
    none = build_architecture("cnn", (8, 8, 1), 10, dropout_scale=0.0)
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in none.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_AND_DEEP)
def test_the_seed_alone_fixes_the_weights(name):
    def first_weights(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(len(name) + seed)  # the process's own state has no part in it
        return build_architecture(name, (8, 8, 1), 3, width_multiplier=0.05, seed=seed).get_weights()

    once, again, other = first_weights(1), first_weights(1), first_weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))


def test_no_two_layers_start_alike():
    model = build_architecture("vgg16", (32, 32, 3), 10, width_multiplier=0.1)
    starts = [np.ravel(layer.kernel)[:5] / np.std(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
    assert len({tuple(np.round(start, 3)) for start in starts}) == len(starts)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("alexnet", (8, 8, 1), 3), {}, "Unknown architecture 'alexnet'. Known: mlp, cnn, lenet, resnet18, vgg16"),
        (("mlp", (8, 8, 1), 1), {}, "at least 2 classes. Received: 1"),
        (("mlp", (8, 8, 1), 3), {"width_multiplier": 0.0}, "width_multiplier must be above 0"),
        (("mlp", (8, 8, 1), 3), {"width_multiplier": float("nan")}, "width_multiplier must be above 0"),
        (("mlp", (8, 8, 1), 3), {"dropout_scale": 1.5}, "dropout_scale must lie in 0 to 1"),
        *[((name, (12,), 3), {}, f"'{name}' expects images .* Use architecture 'mlp'") for name in CONVOLUTIONAL],
    ],
)
def test_what_cannot_be_built_is_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        build_architecture(*arguments, **options)
