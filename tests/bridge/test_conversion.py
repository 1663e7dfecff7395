"""The bridge is exact: a converted model computes the same, has the same weights, and comes back as it was."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.bridge import operations
from keras_compress.bridge.activations import FORMULAS
from keras_compress.bridge.counterparts import ACTIVATIONS, LAYERS, NoCounterpartError
from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.layers.paths import functional_graph

L = keras.layers
ops = keras.ops
WORDS = ["a", "b", "c"]


def merged(kind, **settings):
    return lambda: two_inputs(lambda x, y: kind(**settings)([x, y]))


def two_inputs(build, shapes=((4, 3), (4, 3))):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, build(*inputs))


def chain(shape, layers, dtype="float32"):
    return lambda: keras.Sequential([keras.Input(shape, dtype=dtype), *layers()], name="chain")


def one(shape, build, dtype="float32"):
    def make():
        inputs = keras.Input(shape, dtype=dtype)
        return keras.Model(inputs, build(inputs))

    return make


SEQUENCE, IMAGE, VOLUME = (6, 4), (8, 8, 3), (5, 6, 5, 2)


def by_dimensions(name, build):
    return {f"{name}{len(shape) - 1}D": one(shape, build(len(shape) - 1)) for shape in (SEQUENCE, IMAGE, VOLUME)}


def layer(name, *args, **settings):
    return lambda dimensions: lambda x: getattr(L, f"{name}{dimensions}D")(*args, **settings)(x)


def attention(x, y):
    return L.MultiHeadAttention(2, 3, value_dim=2, name="heads")(x, y, return_attention_scores=True)


def encoder(x):
    hidden, state, cell = L.LSTM(3, return_sequences=True, return_state=True)(x)
    return L.LSTM(3)(hidden, initial_state=[state, cell])


EXAMPLES = {  # a row of the table: a small model that has it
    "Activation": one((5,), lambda x: L.Activation("tanh")(x)),
    "ActivityRegularization": one((5,), lambda x: L.ActivityRegularization(0.1, 0.2)(x)),
    "Add": merged(L.Add),
    "AdditiveAttention": merged(L.AdditiveAttention),
    "AlphaDropout": one((5,), lambda x: L.AlphaDropout(0.2, seed=3)(x)),
    "Attention": merged(L.Attention, use_scale=True, score_mode="dot"),
    "Average": merged(L.Average),
    **by_dimensions("AveragePooling", layer("AveragePooling", 2, padding="same")),
    "BatchNormalization": one(IMAGE, lambda x: L.BatchNormalization(epsilon=0.01, scale=False)(x)),
    "Bidirectional": one(SEQUENCE, lambda x: L.Bidirectional(L.LSTM(3), merge_mode="sum")(x)),
    "CategoryEncoding": one((4,), lambda x: L.CategoryEncoding(5, output_mode="multi_hot")(x), "int32"),
    "CenterCrop": one(IMAGE, lambda x: L.CenterCrop(5, 6)(x)),
    "Concatenate": merged(L.Concatenate, axis=1),
    "Conv1D": one(SEQUENCE, lambda x: L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu")(x)),
    "Conv1DTranspose": one(SEQUENCE, lambda x: L.Conv1DTranspose(4, 3, strides=2, padding="same")(x)),
    "Conv2D": one((8, 8, 4), lambda x: L.Conv2D(6, (3, 2), strides=2, groups=2, use_bias=False)(x)),
    "Conv2DTranspose": one(IMAGE, lambda x: L.Conv2DTranspose(4, 3, strides=2)(x)),
    "Conv3D": one(VOLUME, lambda x: L.Conv3D(3, 2, padding="same")(x)),
    "Conv3DTranspose": one(VOLUME, lambda x: L.Conv3DTranspose(3, 2, strides=2)(x)),
    "ConvLSTM1D": one((4, 6, 2), lambda x: L.ConvLSTM1D(3, 3)(x)),
    "ConvLSTM2D": one((4, 6, 6, 2), lambda x: L.ConvLSTM2D(3, 3, return_sequences=True)(x)),
    "ConvLSTM3D": one((3, 5, 5, 5, 2), lambda x: L.ConvLSTM3D(2, 2)(x)),
    **by_dimensions("Cropping", layer("Cropping", 1)),
    "Dense": one(SEQUENCE, lambda x: L.Dense(3, "gelu", kernel_regularizer="l2", bias_constraint="non_neg")(x)),
    "DepthwiseConv1D": one(SEQUENCE, lambda x: L.DepthwiseConv1D(3, depth_multiplier=2)(x)),
    "DepthwiseConv2D": one(IMAGE, lambda x: L.DepthwiseConv2D(3, strides=2, depth_multiplier=2)(x)),
    "Discretization": one((4,), lambda x: L.Discretization([-0.5, 0.0, 0.5])(x)),
    "Dot": merged(L.Dot, axes=2, normalize=True),
    "Dropout": one((5,), lambda x: L.Dropout(0.4)(x)),
    "ELU": one((5,), lambda x: L.ELU(0.7)(x)),
    "EinsumDense": one(SEQUENCE, lambda x: L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")(x)),
    "Embedding": one((6,), lambda x: L.GlobalAveragePooling1D()(L.Embedding(4, 3, mask_zero=True)(x)), "int32"),
    "Flatten": one(IMAGE, lambda x: L.Flatten()(x)),
    "GRU": one(SEQUENCE, lambda x: L.GRU(3, return_sequences=True, reset_after=False)(x)),
    "GRUCell": one(SEQUENCE, lambda x: L.RNN(L.GRUCell(3))(x)),
    "GaussianDropout": one((5,), lambda x: L.GaussianDropout(0.2)(x)),
    "GaussianNoise": one((5,), lambda x: L.GaussianNoise(0.2)(x)),
    **by_dimensions("GlobalAveragePooling", layer("GlobalAveragePooling", keepdims=True)),
    **by_dimensions("GlobalMaxPooling", layer("GlobalMaxPooling")),
    "GroupNormalization": one((8, 8, 6), lambda x: L.GroupNormalization(3)(x)),
    "HashedCrossing": lambda: keras.Model(
        inputs := [keras.Input((1,), dtype="string"), keras.Input((1,), dtype="string")], L.HashedCrossing(7)(inputs)
    ),
    "Hashing": one((3,), lambda x: L.Hashing(11)(x), "string"),
    "Identity": one((5,), lambda x: L.Identity()(x)),
    "IntegerLookup": one((3,), lambda x: L.IntegerLookup(vocabulary=[0, 4, 1])(x), "int64"),
    "LSTM": one(SEQUENCE, encoder),
    "LSTMCell": one(SEQUENCE, lambda x: L.RNN([L.LSTMCell(3), L.LSTMCell(2)], return_sequences=True)(x)),
    "LayerNormalization": one(SEQUENCE, lambda x: L.LayerNormalization(axis=[1, 2], epsilon=0.01)(x)),
    "LeakyReLU": one((5,), lambda x: L.LeakyReLU(negative_slope=0.15)(x)),
    "Masking": one(SEQUENCE, lambda x: L.LSTM(3)(L.Masking()(x))),
    **by_dimensions("MaxPooling", layer("MaxPooling", 2)),
    "Maximum": merged(L.Maximum),
    "Minimum": merged(L.Minimum),
    "MultiHeadAttention": lambda: two_inputs(attention, ((4, 3), (5, 6))),
    "Multiply": lambda: two_inputs(lambda x, y: L.Multiply()([x, y]), ((4, 4, 3), (1, 1, 3))),
    "Normalization": chain((3,), lambda: [L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])]),
    "PReLU": one(IMAGE, lambda x: L.PReLU(shared_axes=[1, 2])(x)),
    "Permute": one(SEQUENCE, lambda x: L.Permute((2, 1))(x)),
    "RNN": one(SEQUENCE, lambda x: L.RNN(L.SimpleRNNCell(3), go_backwards=True)(x)),
    "RandomBrightness": one(IMAGE, lambda x: L.RandomBrightness(0.2, value_range=(0, 1), seed=1)(x)),
    "RandomContrast": one(IMAGE, lambda x: L.RandomContrast(0.2)(x)),
    "RandomFlip": one(IMAGE, lambda x: L.RandomFlip("horizontal")(x)),
    "RandomRotation": one(IMAGE, lambda x: L.RandomRotation(0.2)(x)),
    "RandomTranslation": one(IMAGE, lambda x: L.RandomTranslation(0.2, 0.1)(x)),
    "RandomZoom": one(IMAGE, lambda x: L.RandomZoom(0.2)(x)),
    "ReLU": one((5,), lambda x: L.ReLU(6.0, negative_slope=0.1, threshold=0.5)(x)),
    "RepeatVector": one((5,), lambda x: L.RepeatVector(3)(x)),
    "Rescaling": one(IMAGE, lambda x: L.Rescaling(1 / 127.5, offset=-1)(x)),
    "Reshape": one(SEQUENCE, lambda x: L.Reshape((-1, 2))(x)),
    "Resizing": one(IMAGE, lambda x: L.Resizing(5, 11, interpolation="nearest")(x)),
    "SeparableConv1D": one(SEQUENCE, lambda x: L.SeparableConv1D(4, 3, depth_multiplier=2)(x)),
    "SeparableConv2D": one(IMAGE, lambda x: L.SeparableConv2D(4, 3, padding="same", activation="swish")(x)),
    "SimpleRNN": one(SEQUENCE, lambda x: L.SimpleRNN(3, activation="relu")(x)),
    "SimpleRNNCell": one(SEQUENCE, lambda x: L.RNN(L.SimpleRNNCell(3))(x)),
    "Softmax": one(SEQUENCE, lambda x: L.Softmax(axis=1)(x)),
    **by_dimensions("SpatialDropout", layer("SpatialDropout", 0.3)),
    "StackedRNNCells": one(SEQUENCE, lambda x: L.RNN(L.StackedRNNCells([L.GRUCell(3), L.LSTMCell(2)]))(x)),
    "StringLookup": one((3,), lambda x: L.StringLookup(vocabulary=WORDS, output_mode="multi_hot")(x), "string"),
    "Subtract": merged(L.Subtract),
    "TextVectorization": one(
        (1,), lambda x: L.TextVectorization(vocabulary=WORDS, output_sequence_length=4)(x), "string"
    ),
    "TimeDistributed": one((4, *IMAGE), lambda x: L.TimeDistributed(L.Conv2D(3, 2, activation="relu"))(x)),
    "UnitNormalization": one((5,), lambda x: L.UnitNormalization()(x)),
    **by_dimensions("UpSampling", layer("UpSampling", 2)),
    **by_dimensions("ZeroPadding", layer("ZeroPadding", 1)),
}  # fmt: skip


def randomized(model, seed=0):
    """Random weights; variances and whatever else must be positive are."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.dtype in ("float32", "float16"):
            values = rng.normal(0, 0.5, variable.shape)
            variable.assign(np.abs(values) + 0.1 if "variance" in variable.name else values)
    return model


def test_every_row_has_an_example():
    assert set(EXAMPLES) == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_converts_both_ways(name):
    """The conversion itself compares the outputs; here that weights, names and settings are there again."""
    keras.utils.set_random_seed(0)
    model = randomized(EXAMPLES[name]())
    before = [weight.numpy() for weight in model.weights]
    there = kc.to_tf_keras(model)
    assert isinstance(there, import_tf_keras().Model)
    back = kc.from_tf_keras(there)
    assert type(back) is type(model) and back.name == model.name == there.name
    assert [each.name for each in back.layers] == [each.name for each in model.layers]
    for same in (there, back, model):
        assert len(same.weights) == len(before)
        for weight, expected in zip(same.weights, before, strict=True):
            np.testing.assert_array_equal(weight.numpy(), expected)


OFFSETS = np.array([1.0, 2.0, 4.0], "float32")
OPERATIONS = {  # x and y: (4, 3) each
    "Absolute": lambda x, y: abs(x) - y,
    "Add": lambda x, y: (x + y) + (x + 2.0) + ops.add(OFFSETS, y) + ops.sum(x, axis=2, keepdims=True),
    "Cast": lambda x, y: ops.cast(ops.cast(10 * x, "int32"), "float32"),
    "Ceil": lambda x, y: ops.ceil(x),
    "Clip": lambda x, y: ops.clip(x, -0.5, 0.7),
    "Concatenate": lambda x, y: ops.concatenate([x, y], axis=-1),
    "Cos": lambda x, y: ops.cos(x),
    "Divide": lambda x, y: ops.divide(x, OFFSETS),
    "Elu": lambda x, y: ops.elu(x),
    "Exp": lambda x, y: ops.exp(x),
    "ExpandDims": lambda x, y: ops.expand_dims(x, 1),
    "Floor": lambda x, y: ops.floor(x),
    "Gelu": lambda x, y: ops.gelu(x, approximate=False) + ops.gelu(y),
    "GetItem": lambda x, y: x[:, 1:, ::2] + y[:, :3, 0:1],
    "LeakyRelu": lambda x, y: ops.leaky_relu(x, 0.3),
    "Log": lambda x, y: ops.log(ops.square(x) + 1),
    "Log1p": lambda x, y: ops.log1p(ops.square(x)),
    "LogSoftmax": lambda x, y: ops.log_softmax(x, axis=1),
    "Matmul": lambda x, y: x @ ops.transpose(y, (0, 2, 1)),
    "Max": lambda x, y: ops.max(x, axis=(1, 2)),
    "Maximum": lambda x, y: ops.maximum(x, y) + ops.maximum(y, 0.1),
    "Mean": lambda x, y: ops.mean(x, axis=1, keepdims=True),
    "Min": lambda x, y: ops.min(x, axis=-1),
    "Minimum": lambda x, y: ops.minimum(x, y),
    "Multiply": lambda x, y: x * y + x * 2 + ops.multiply(OFFSETS, y),
    "Negative": lambda x, y: -x,
    "Power": lambda x, y: x**2,
    "Reciprocal": lambda x, y: ops.reciprocal(ops.square(x) + 1),
    "Relu": lambda x, y: ops.relu(x),
    "Relu6": lambda x, y: ops.relu6(10 * x),
    "Reshape": lambda x, y: ops.reshape(x, (-1, 2, 6)),
    "Selu": lambda x, y: ops.selu(x),
    "Sigmoid": lambda x, y: ops.sigmoid(x),
    "Sign": lambda x, y: ops.sign(x),
    "Silu": lambda x, y: ops.silu(x),
    "Sin": lambda x, y: ops.sin(x),
    "Softmax": lambda x, y: ops.softmax(x, axis=1),
    "Softplus": lambda x, y: ops.softplus(x),
    "Softsign": lambda x, y: ops.softsign(x),
    "Sqrt": lambda x, y: ops.sqrt(ops.square(x)),
    "Square": lambda x, y: ops.square(x),
    "Squeeze": lambda x, y: ops.squeeze(x[:, :1], axis=1),
    "Stack": lambda x, y: ops.stack([x, y], axis=2),
    "Subtract": lambda x, y: (x - y) + (x - 3.0) + (2.0 - y),
    "Sum": lambda x, y: ops.sum(x, axis=-1, keepdims=True),
    "Tanh": lambda x, y: ops.tanh(x),
    "Transpose": lambda x, y: ops.transpose(x, (0, 2, 1)),
    "TrueDivide": lambda x, y: x / 3.0 + 1.0 / (ops.square(y) + 1.0),
}  # fmt: skip


def test_every_operation_has_an_example():
    kinds = {kind for kind, *_ in operations.ELEMENTWISE} | set(operations.WITH_SETTINGS)
    assert set(OPERATIONS) == {kind.__name__ for kind in kinds}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_converts_both_ways(name):
    model = two_inputs(OPERATIONS[name])
    assert name in {type(node.operation).__name__ for nodes in model._nodes_by_depth.values() for node in nodes}
    back = kc.from_tf_keras(kc.to_tf_keras(model))
    x, y = np.random.default_rng(1).normal(size=(2, 5, 4, 3)).astype("float32")
    np.testing.assert_allclose(back([x, y]).numpy(), model([x, y]).numpy(), rtol=1e-5, atol=1e-6)


TENSORFLOW = {  # functions on tensors of tf_keras that Keras 3 does not make of its operations
    "math.add": lambda x, y: tf.add(x, y),
    "__operators__.add": lambda x, y: x + y,
    "math.divide": lambda x, y: tf.divide(x, 2.0),
    "math.multiply": lambda x, y: 2.0 * x * y,
    "math.negative": lambda x, y: -x,
    "math.subtract": lambda x, y: 1.0 - tf.subtract(x, y),
    "math.maximum": lambda x, y: tf.maximum(x, y),
    "math.minimum": lambda x, y: tf.minimum(x, y),
    "nn.swish": lambda x, y: tf.nn.swish(x),
    "nn.silu": lambda x, y: tf.nn.silu(x, beta=1.5),
    "nn.sigmoid": lambda x, y: tf.nn.sigmoid(x),
    "nn.tanh": lambda x, y: tf.nn.tanh(x),
    "nn.softplus": lambda x, y: tf.nn.softplus(x),
    "squeeze": lambda x, y: tf.squeeze(x[:, :1, 1:2]),
    "transpose": lambda x, y: tf.transpose(x, [0, 2, 1]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TENSORFLOW)
def test_functions_of_tensorflow_become_operations(name):
    tf_keras = import_tf_keras()
    inputs = [tf_keras.Input((4, 3)), tf_keras.Input((4, 3))]
    model = tf_keras.Model(inputs, TENSORFLOW[name](*inputs))
    arrays = [*np.random.default_rng(1).normal(size=(2, 5, 4, 3)).astype("float32")]
    np.testing.assert_allclose(kc.from_tf_keras(model)(arrays).numpy(), model(arrays).numpy(), rtol=1e-5, atol=1e-6)


# Architectures


def residual():
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="first")(inputs)
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), L.DepthwiseConv2D(3, padding="same"), L.BatchNormalization(), L.ReLU(6.0)],
        name="inner",
    )
    shared = L.Dense(4, name="shared")
    x = L.Add()([x, inner(x)]) + 0.5 * shared(inner(shared(x)))
    return keras.Model(inputs, {"logits": L.Dense(2, name="head")(L.GlobalAveragePooling2D()(x)), "map": x}, name="net")


def several_inputs():
    inputs = {"words": keras.Input((5,), dtype="int32", name="words"), "image": keras.Input((8, 8, 1), name="image")}
    text = L.GRU(3)(L.Embedding(7, 4, mask_zero=True)(inputs["words"]))
    frozen = L.BatchNormalization(trainable=False, name="frozen")
    image = L.Flatten()(frozen(L.Conv2D(2, 3)(inputs["image"]), training=False))
    return keras.Model(inputs, [L.Dense(2)(L.Concatenate()([text, image])), text])


def transformer():
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(5, 8)(inputs)
    attended = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    x = L.LayerNormalization()(x + attended)
    return keras.Model(inputs, L.Dense(3, "softmax")(x + L.Dense(8)(L.Dense(16, "gelu")(x))))


def explicit_mask():
    inputs, mask = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    return keras.Model([inputs, mask], L.LSTM(3)(inputs, mask=mask))


def mixed():
    with_policy = {"dtype": "mixed_float16"}
    layers = [L.Conv2D(4, 3, **with_policy), L.BatchNormalization(**with_policy), L.Flatten(), L.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def any_size():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, L.GlobalMaxPooling2D()(L.Conv2D(4, 12)(inputs)))


ARCHITECTURES = [residual, several_inputs, transformer, explicit_mask, mixed, any_size]


@pytest.mark.slow
@pytest.mark.parametrize("build", ARCHITECTURES)
def test_architectures_convert_both_ways(build):
    keras.utils.set_random_seed(0)
    model = randomized(build())
    there = kc.to_tf_keras(model)
    back = kc.from_tf_keras(there)
    assert back.count_params() == model.count_params() == there.count_params()
    structures = [keras.tree.map_structure(lambda each: None, functional_graph(each).output) for each in (back, model)]
    assert structures[0] == structures[1]
    for weight, original in zip(back.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), original.numpy())
        assert weight.trainable == original.trainable


def test_shared_layers_stay_shared():
    there = kc.to_tf_keras(residual())
    assert len(there.get_layer("shared").inbound_nodes) == 2
    assert len(kc.from_tf_keras(there).get_layer("shared")._inbound_nodes) == 2


@pytest.mark.slow
def test_a_frozen_layer_keeps_its_statistics_in_training():
    there = kc.to_tf_keras(several_inputs())
    arrays = {"words": np.ones((8, 5), "int32"), "image": np.random.default_rng(0).normal(size=(8, 8, 8, 1))}
    before = [weight.numpy() for weight in there.get_layer("frozen").weights]
    there(arrays, training=True)
    for weight, expected in zip(there.get_layer("frozen").weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)


def test_a_slash_in_a_name_becomes_an_underscore():
    tf_keras = import_tf_keras()
    inputs = tf_keras.Input((3,), name="in/put")
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(2, name="block/dense")(inputs), name="a/b")
    back = kc.from_tf_keras(model)
    assert back.name == "a_b" and [layer.name for layer in back.layers] == ["in_put", "block_dense"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_same(name):
    model = chain((5,), lambda: [L.Dense(4, activation=name), L.Activation(name)])()
    back = kc.from_tf_keras(kc.to_tf_keras(model))
    x = 3 * np.random.default_rng(0).normal(size=(9, 5)).astype("float32")
    np.testing.assert_allclose(back(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)


# How a model was compiled


def compiled(**settings):
    model = chain((5,), lambda: [L.Dense(3)])()
    model.compile(**settings)
    return model


@pytest.mark.slow
def test_the_compile_state_is_converted():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 100, 0.9)
    model = compiled(
        optimizer=keras.optimizers.Adam(schedule, beta_1=0.8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(k=2)],
    )
    there = kc.to_tf_keras(model)
    tf_keras = import_tf_keras()
    assert isinstance(there.optimizer, tf_keras.optimizers.Adam) and there.optimizer.get_config()["beta_1"] == 0.8
    assert (
        isinstance(there.loss, tf_keras.losses.SparseCategoricalCrossentropy) and there.loss.get_config()["from_logits"]
    )
    x, y = np.ones((4, 5), "float32"), np.zeros(4)
    assert len(there.evaluate(x, y, verbose=0)) == 3
    back = kc.from_tf_keras(there)
    assert isinstance(back.optimizer, keras.optimizers.Adam) and back.optimizer.beta_1 == 0.8
    np.testing.assert_allclose(back.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5)


def test_a_loss_of_ones_own_leaves_the_model_uncompiled():
    model = compiled(optimizer="sgd", loss=lambda expected, received: keras.ops.mean(received))
    assert not getattr(kc.to_tf_keras(model), "optimizer", None)


def test_an_uncompiled_model_stays_so():
    assert not kc.from_tf_keras(kc.to_tf_keras(chain((5,), lambda: [L.Dense(3)])())).compiled


# Refusals


class Own(L.Layer):
    def call(self, inputs):
        return inputs


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: L.Lambda(lambda x: x), r"Layer 'it' of type Lambda .* cannot be looked into"),
        (lambda: Own(), r"Layer 'it' of type Own \(Keras 3\) has no counterpart"),
        (
            lambda: L.Activation("soft_shrink"),
            r"Layer 'it' \(Activation\) has the activation 'soft_shrink'.*Both have",
        ),
        (lambda: L.Dense(2, "celu"), r"has the activation 'celu'"),
        (lambda: L.Dense(2, activation=L.LeakyReLU(0.1)), "has the activation"),
        (lambda: L.SpectralNormalization(L.Dense(2)), "does not run next to Keras 3"),
        (lambda: L.Reshape((4, 1)), None),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(build, message):
    layer = build()
    layer.name = "it"
    model = keras.Sequential([keras.Input((4,)), layer])
    if message is None:
        kc.to_tf_keras(model)
        return
    with pytest.raises(NoCounterpartError, match=message):
        kc.to_tf_keras(model)


def test_settings_that_tf_keras_does_not_have_are_refused():
    model = one(IMAGE, lambda x: L.Resizing(5, 6, antialias=True, name="smaller")(x))()
    with pytest.raises(NoCounterpartError, match=r"'smaller' \(Resizing\) has antialias=True, .* Set it to False"):
        kc.to_tf_keras(model)
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="dense")])
    model.layers[0].quantize("int8")
    with pytest.raises(NoCounterpartError, match="Layer 'dense' was quantized by Keras"):
        kc.to_tf_keras(model)


def test_operations_without_a_counterpart_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(NoCounterpartError, match=r"Operation 'cumsum.*' \(Cumsum\) has no counterpart in tf_keras"):
        kc.to_tf_keras(keras.Model(inputs, ops.cumsum(inputs, axis=1)))
    tf_keras = import_tf_keras()
    inputs = tf_keras.Input((4,))
    with pytest.raises(NoCounterpartError, match=r"calls tf.math.cumsum, which has no counterpart in Keras 3"):
        kc.from_tf_keras(tf_keras.Model(inputs, tf.cumsum(inputs, axis=1)))


def test_models_of_the_other_kind_and_subclassed_ones_are_refused():
    tf_keras = import_tf_keras()
    with pytest.raises(kc.InputError, match="is subclassed"):
        kc.to_tf_keras(Subclassed())
    with pytest.raises(kc.InputError, match=r"A keras.Model is expected. Received: tf_keras.*kc.from_tf_keras\("):
        kc.to_tf_keras(tf_keras.Sequential())
    with pytest.raises(kc.InputError, match=r"A tf_keras.Model is expected. Received: keras"):
        kc.from_tf_keras(keras.Sequential())
    with pytest.raises(kc.InputError, match="is subclassed or not built"):
        kc.from_tf_keras(tf_keras.Sequential([tf_keras.layers.Dense(2)]))


def test_other_outputs_are_an_error(monkeypatch):
    """Here a row that lies: ReLU with another slope."""
    monkeypatch.setattr("keras_compress.bridge.counterparts.RENAMED", {"LeakyReLU": {"negative_slope": "name"}})
    monkeypatch.setattr("keras_compress.bridge.counterparts.OWN", ("trainable", "dtype", "name", "negative_slope"))
    with pytest.raises(NoCounterpartError, match="gives other outputs in tf_keras than in Keras 3"):
        kc.to_tf_keras(chain((5,), lambda: [L.LeakyReLU(0.9)])())


UNTOUCHED = """
import os, keras, keras_compress as kc, tensorflow as tf
before = dict(os.environ)
kc.to_tf_keras(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
from keras_compress.bridge.tfmot import import_tfmot
import_tfmot().sparsity.keras.PolynomialDecay
assert dict(os.environ) == before, set(os.environ) - set(before)
assert tf.keras.Sequential is keras.Sequential and tf.keras.version() == keras.version()
"""


@pytest.mark.slow
def test_the_users_tf_keras_and_environment_stay():
    subprocess.run([sys.executable, "-W", "ignore", "-c", UNTOUCHED], check=True, env=os.environ, timeout=120)


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_that_tf_keras_lacks_are_written_out(name, tmp_path):
    model = keras.Sequential([keras.Input((50,)), L.Dense(50, name), L.Activation(name)])
    converted = kc.to_tf_keras(model)
    x = np.random.default_rng(0).normal(scale=4, size=(20, 50)).astype("float32")
    np.testing.assert_allclose(converted(x).numpy(), model(x).numpy(), atol=1e-6)
    converted.save(tmp_path / "converted.keras")
    back = kc.from_tf_keras(import_tf_keras().models.load_model(tmp_path / "converted.keras"))
    assert [layer.activation for layer in back.layers] == [layer.activation for layer in model.layers]
    np.testing.assert_allclose(back(x).numpy(), model(x).numpy(), atol=1e-6)


def test_the_hard_sigmoid_of_tf_keras_is_another_one():
    model = import_tf_keras().Sequential(
        [import_tf_keras().Input((3,)), import_tf_keras().layers.Dense(2, "hard_sigmoid")]
    )
    with pytest.raises(kc.InputError, match="has the activation 'hard_sigmoid'"):
        kc.from_tf_keras(model)


APPLICATIONS = {
    "MobileNetV2": {"input_shape": (96, 96, 3)},
    "MobileNetV3Small": {"input_shape": (64, 64, 3)},
    "ResNet50": {"input_shape": (64, 64, 3)},
    "DenseNet121": {"input_shape": (64, 64, 3)},
    "EfficientNetB0": {"input_shape": (64, 64, 3)},
    "VGG16": {"input_shape": (48, 48, 3)},
    "Xception": {"input_shape": (96, 96, 3)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.sampled(2)
def test_applications_convert_both_ways(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, classes=10, **APPLICATIONS[name])
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, shape),
                    rng.normal(0, 0.1, shape),
                    rng.normal(0, 0.1, shape),
                    rng.uniform(0.5, 1.5, shape),
                ]
            )
    back = kc.from_tf_keras(kc.to_tf_keras(model))
    x = rng.normal(size=(2, *APPLICATIONS[name]["input_shape"])).astype("float32")
    expected = model(x, training=False).numpy()
    np.testing.assert_allclose(back(x, training=False).numpy(), expected, atol=1e-6)
    if name != "MobileNetV3Small":  # its x + 3 come back as layers
        assert [layer.name for layer in back.layers] == [layer.name for layer in model.layers]
    for weight, original in zip(back.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), original.numpy())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tf_keras adapts by a function that NumPy warns of
def test_bins_that_tf_keras_has_adapted_come_back():
    tf_keras = import_tf_keras()
    samples = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    layer = tf_keras.layers.Discretization(num_bins=4)
    layer.adapt(samples)
    model = tf_keras.Sequential([tf_keras.Input((2,)), layer])
    np.testing.assert_array_equal(kc.from_tf_keras(model)(samples), model(samples))
