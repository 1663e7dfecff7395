"""Groups of channels: taking out those that are zero changes nothing, in every kind of network."""

import os

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import keras_compress as kc
from keras_compress.errors import InputError
from keras_compress.layers.channels import KEEPS, MAKES, READS, channel_groups, shrink
from keras_compress.layers.paths import functional_graph, layers_by_path
from keras_compress.layers.rewrite import clone_model
from tests.hunt.networks import networks

EXAMPLES = 25 if "ALL_CASES" in os.environ else 8  # random networks
L = keras.layers
APPLICATIONS = ("ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0")
FILES = (
    "mlperf_ic_resnet8.h5", "mlperf_kws_dscnn.keras", "mlperf_vww_mobilenet025.h5", "onepixel_cifar10_lenet.keras",
    "onepixel_cifar10_lenet_keras2.h5", "deepxplore_mnist_lenet1.keras", "deepxplore_mnist_lenet4.keras",
    "deepxplore_mnist_lenet5.keras",
)  # fmt: skip


def randomize(model, rng):
    """Weights that keep values near one, and statistics of BatchNorm that are no longer 0 and 1."""
    for layer in layers_by_path(model).values():
        for variable in layer.weights:
            shape = tuple(variable.shape)
            if variable.name in ("gamma", "moving_variance"):
                variable.assign(rng.uniform(0.5, 1.5, shape))
            elif len(shape) > 1 and "int" not in variable.dtype:
                inputs = np.prod(shape[:-1]) if "depthwise" not in layer.name else np.prod(shape[:-2])
                variable.assign(rng.normal(size=shape) / np.sqrt(inputs))
            elif "int" not in variable.dtype:
                variable.assign(0.1 * rng.normal(size=shape))


def zeroed(model, rng):
    """A copy some of whose channels are zero in all weights, and these channels by group."""
    model = clone_model(model)
    gone = {}
    for group in channel_groups(model):
        if group.frozen or group.size == 1:
            continue
        gone[group] = rng.choice(group.size, rng.integers(1, group.size), replace=False).tolist()
        layers = layers_by_path(model)
        for member in group.members:
            if member.weight:
                (variable,) = (each for each in layers[member.path].variables if each.name == member.weight)
                values = np.moveaxis(np.asarray(variable).copy(), member.axis, 0)
                values[member.positions[gone[group]].ravel()] = 0
                variable.assign(np.moveaxis(values, 0, member.axis))
    return model, gone


def check(model, x, rng):
    """Takes zero channels out; how many numbers went."""
    sparse, gone = zeroed(model, rng)
    small = shrink(sparse, gone).model
    x = [x] if isinstance(functional_graph(model).input, list) and not isinstance(x, list) else x
    for before, after in zip(keras.tree.flatten(sparse(x)), keras.tree.flatten(small(x)), strict=True):
        before, after = np.asarray(before), np.asarray(after)
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * max(float(np.abs(before).max()), 1.0))
    assert [layer.name for layer in small.layers] == [layer.name for layer in sparse.layers]
    return sparse.count_params() - small.count_params()


def described(model):
    return [str(group) for group in channel_groups(model)]


def test_groups_are_printed():
    inputs = keras.Input((8, 8, 3))
    hidden = L.Conv2D(16, 3, padding="same", name="conv1")(inputs)
    shortcut = L.ReLU(name="relu1")(L.BatchNormalization(name="bn1")(hidden))
    hidden = L.Conv2D(4, 1, name="conv2")(shortcut)
    hidden = L.Conv2D(16, 1, name="conv3", use_bias=False)(hidden)
    hidden = L.Add(name="add")([shortcut, hidden])
    model = keras.Model(inputs, L.Dense(10, "softmax", name="classes")(L.Flatten(name="flat")(hidden)))
    assert described(model) == [
        "3 channels; read by conv1; frozen: an input of the model",
        "conv1 and conv3 make 16 channels; read by bn1, relu1, conv2, add, flat, classes",
        "conv2 makes 4 channels; read by conv3",
        "classes makes 10 channels; frozen: classes: its activation softmax may mix channels; an output of the model",
    ]
    group = channel_groups(model)[1]
    kernels = [member for member in group.members if member.weight == "kernel"]
    assert [(member.path, member.does, member.axis, member.positions.shape) for member in kernels] == [
        ("conv1", MAKES, -1, (16, 1)), ("conv2", READS, -2, (16, 1)), ("conv3", MAKES, -1, (16, 1)),
        ("classes", READS, -2, (16, 64)),
    ]  # fmt: skip
    assert group.paths(KEEPS) == ["bn1", "relu1", "add", "flat"]


def stacked(*layers, shape=(8, 8, 4)):
    return keras.Sequential([keras.Input(shape), *layers])


RESIZED = {
    "depthwise": lambda: stacked(L.Conv2D(6, 1), L.DepthwiseConv2D(3, depth_multiplier=2), L.Conv2D(5, 1), L.Flatten()),
    "separable": lambda: stacked(
        L.SeparableConv2D(6, 3), L.SeparableConv2D(8, 3, depth_multiplier=3, activation="relu"), L.Flatten(), L.Dense(2)
    ),
    "transposed": lambda: stacked(L.Conv2DTranspose(6, 3, strides=2), L.Conv2DTranspose(4, 2), L.Conv2D(2, 1)),
    "sequences": lambda: stacked(
        L.Conv1D(6, 3, padding="causal"), L.Conv1DTranspose(5, 2), L.SeparableConv1D(4, 2), L.GlobalMaxPooling1D(),
        L.Dense(2), shape=(9, 4),
    ),
    "embedding": lambda: stacked(L.Embedding(20, 6), L.PReLU(), L.GlobalAveragePooling1D(), L.Dense(3), shape=(7,)),
    "reshape": lambda: stacked(
        L.Conv2D(6, 3), L.Reshape((36, 6)), L.PReLU(shared_axes=[1]), L.Reshape((-1,)), L.Dense(8, "elu"),
        L.Reshape((1, 1, 8)), L.Conv2D(3, 1), L.Permute((2, 1, 3)),
    ),
    "to features": lambda: stacked(L.Conv2D(6, 3), L.Reshape((216,)), L.Dense(4), L.BatchNormalization(), L.Dense(2)),
    "unbiased": lambda: stacked(L.Conv2D(6, 3, use_bias=False), L.BatchNormalization(scale=False), L.Conv2D(2, 1)),
    "activations": lambda: stacked(
        L.Conv2D(6, 3, activation=L.LeakyReLU()), L.Conv2D(6, 3), L.Activation("sigmoid"), L.Dense(6, "gelu"),
        L.Dense(2),
    ),
}  # fmt: skip


def excited():
    """Squeeze and excitation, a concatenation, and a shared layer within a nested model that is called twice."""
    inputs = keras.Input((8, 8, 4))
    hidden = L.Conv2D(8, 3, padding="same", activation="silu")(inputs)
    inside = keras.Input((8, 8, 8))
    again = L.Conv2D(8, 1, name="again")
    nested = keras.Model(inside, again(L.ReLU()(again(inside))) + inside)
    gate = L.Dense(8, "sigmoid")(L.Dense(4, "relu")(L.GlobalAveragePooling2D(keepdims=True)(hidden)))
    hidden = nested(nested(hidden * gate))
    joined = L.Concatenate()([hidden, L.AveragePooling2D(3, 1, "same")(hidden), L.Conv2D(5, 1)(hidden)])
    return keras.Model(inputs, [L.Dense(3)(L.Flatten()(joined)), keras.ops.mean(joined, axis=(1, 2)) * 2.0])


FROZEN = {  # what of a network cannot change, by words of the reason
    "groups": (lambda: stacked(L.Conv2D(4, 1), L.Conv2D(6, 3, groups=2)), "its groups must stay equal"),
    "LayerNormalization": (lambda: stacked(L.Conv2D(4, 1), L.LayerNormalization(), L.Dense(2)), "normalizes over"),
    "softmax": (lambda: stacked(L.Dense(4, "softmax"), L.Dense(2)), "softmax may mix"),
    "a function": (lambda: stacked(L.Dense(4, lambda x: x * 2), L.Dense(2)), "<lambda> may mix"),
    "Lambda": (lambda: stacked(L.Dense(4), L.Lambda(lambda x: x * 2), L.Dense(2)), "what Lambda does"),
    "LSTM": (lambda: stacked(L.Dense(4), L.LSTM(3), L.Dense(2), shape=(5, 3)), "recurrent"),
    "axis": (lambda: stacked(L.Conv2D(4, 1), L.BatchNormalization(axis=1), L.Dense(2)), "normalizes axis 1"),
    "Permute": (lambda: stacked(L.Conv2D(4, 1), L.Permute((3, 1, 2)), L.Dense(2)), "moves channels"),
    "Reshape": (lambda: stacked(L.Conv2D(4, 1), L.Reshape((16, 16)), L.Dense(2)), "moves channels"),
    "open": (lambda: stacked(L.Conv2D(4, 1), L.Flatten(), shape=(None, None, 3)), "has no size"),
    "no view": (lambda: stacked(L.Conv3D(4, 1, activation="softmax"), L.Flatten(), shape=(4, 4, 4, 2)), "are one step"),
    "no bias": (lambda: stacked(L.Conv3D(4, 1, use_bias=False), L.Flatten(), shape=(4, 4, 4, 2)), "are one step"),
    "a list": (lambda: stacked(L.Dense(3), L.Rescaling([1.0, 2.0, 3.0]), L.Dense(2)), "constant for each channel"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESIZED)
def test_layers_are_resized(name, rng):
    model = RESIZED[name]()
    randomize(model, rng)
    shape = (3, *model.input_shape[1:])
    x = rng.integers(0, 20, shape) if name == "embedding" else rng.normal(size=shape).astype(np.float32)
    assert check(model, x, rng) > 0


def test_channels_go_through_gates_joins_and_shared_layers(rng):
    model = excited()
    randomize(model, rng)
    assert check(model, rng.normal(size=(3, 8, 8, 4)).astype(np.float32), rng) > 0


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_channels_say_why(name):
    build, words = FROZEN[name]
    model = build()
    frozen = [group for group in channel_groups(model) if any(words in reason for reason in group.frozen)]
    with pytest.raises(InputError, match=r"These channels cannot be taken out: .*frozen: "):
        shrink(model, {frozen[0]: [0]})


def test_a_constant_for_each_channel_freezes():
    inputs = keras.Input((4,))
    outputs = L.Dense(2)(L.Dense(3)(inputs) * np.array([1.0, 2.0, 3.0], np.float32))
    assert any("constant for each channel" in text for text in described(keras.Model(inputs, outputs)))
    outputs = L.Dense(2)(L.Dense(3, name="made")(inputs) * 2.0)
    assert not any("made makes" in text and "frozen" in text for text in described(keras.Model(inputs, outputs)))


def test_channels_of_a_subclassed_model_are_frozen():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = L.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.zeros((1, 2), np.float32))
    assert all(group.frozen for group in channel_groups(model))


def test_channels_that_are_not_there_are_refused():
    model = stacked(L.Conv2D(4, 1), L.Conv2D(2, 1))
    group = next(group for group in channel_groups(model) if not group.frozen)
    for channels in ([4], [-1], range(4)):
        with pytest.raises(InputError, match="Expected some of channels 0 to 3, and not all"):
            shrink(model, {group: channels})
    same = shrink(model, {group: []}).model
    assert same.count_params() == model.count_params()


def test_what_is_known_of_kernels_can_follow():
    model = stacked(L.Conv2D(4, 1, name="one"), L.Conv2D(2, 1, name="two"))
    group = next(group for group in channel_groups(model) if not group.frozen)
    rewritten = shrink(model, {group: [1]})
    assert rewritten.by_new_paths({"one": 1, "two": 2}) == {"one": 1, "two": 2}
    np.testing.assert_array_equal(rewritten.model.get_layer("one").kernel, np.delete(model.layers[0].kernel, 1, -1))
    np.testing.assert_array_equal(rewritten.model.get_layer("two").kernel, np.delete(model.layers[1].kernel, 1, -2))


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks())
def test_zero_channels_of_any_network_go_without_a_trace(network):
    model = network.model()
    rng = np.random.default_rng(network.seed)
    check(model, network.samples(3), rng)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.sampled(0)
def test_zero_channels_of_large_networks_go_without_a_trace(name, rng):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
    randomize(model, rng)
    assert check(model, rng.normal(size=(2, 64, 64, 3)).astype(np.float32), rng) > model.count_params() / 4


@pytest.mark.parametrize("name", FILES)
def test_zero_channels_of_networks_that_others_made_go_without_a_trace(name, data_file, rng):
    model = kc.load_model(data_file(f"models/{name}"))
    assert check(model, rng.normal(size=(4, *model.input_shape[1:])).astype(np.float32), rng) > 0
