"""Every architecture here must come back equal, with nothing shared and nothing written to the original."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress.errors import InputError
from keras_compress.layers.paths import functional_graph, layers_by_path
from keras_compress.layers.rewrite import Change, clone_model, copy_layer, rebuild

L = keras.layers


def square(tensor):
    return tensor * tensor


def residual() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    hidden = L.Conv2D(3, 3, padding="same", use_bias=False)(inputs)
    hidden = L.BatchNormalization()(hidden, training=False)
    hidden = L.Add()([hidden, L.Conv2D(3, 1)(inputs)])
    hidden = L.Concatenate(name="join")([L.ReLU()(hidden), hidden])
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(hidden)), name="residual")


def dictionaries() -> keras.Model:
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second", dtype="float64")
    hidden = L.Dense(4)(first)
    return keras.Model(
        {"first": first, "second": second}, {"sum": hidden + L.Dense(4)(second), "list": [hidden, hidden]}
    )


def operations() -> keras.Model:
    inputs = keras.Input((4,))
    hidden = (inputs * 2.0 - 1.0)[:, 1:]
    hidden = keras.ops.concatenate([keras.ops.relu(hidden), L.Dense(3)(hidden)], axis=-1)
    hidden = keras.ops.vectorized_map(lambda row: row / 3.0, hidden)
    return keras.Model(inputs, keras.ops.where(hidden > 0.1, hidden, np.float32(0.5)))


def shared() -> keras.Model:
    dense = L.Dense(4)
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, dense(L.Dropout(0.5)(inner_inputs)), name="inner")
    tail = keras.Sequential([inner, dense], name="tail")
    inputs = keras.Input((4,))
    return keras.Model(inputs, [tail(inner(dense(inputs))), inner(inputs, training=True)])


def functions() -> keras.Model:
    inputs = keras.Input((3, 4))
    hidden = L.TimeDistributed(L.Lambda(lambda tensor: tensor + 1, output_shape=(4,)))(inputs)
    hidden = L.Lambda(lambda tensor, by: tensor * by, arguments={"by": 3.0}, output_shape=(3, 4))(hidden)
    hidden = L.Dense(4, activation=lambda tensor: -tensor)(hidden)
    hidden = L.Activation(square)(L.Dense(4, activation=L.PReLU())(hidden))
    return keras.Model(inputs, hidden)


def recurrent() -> keras.Model:
    inputs = keras.Input((5,))
    hidden = L.Embedding(10, 4, mask_zero=True)(inputs)
    hidden = L.MultiHeadAttention(2, 2)(hidden, hidden)
    return keras.Model(inputs, L.Bidirectional(L.LSTM(3))(hidden))


def masked() -> keras.Model:
    """A Masking layer's own arithmetic lies in the graph of a Sequential model."""
    return keras.Sequential([keras.Input((5, 3)), L.Masking(), L.LSTM(4), L.Dense(2)], name="masked")


def statistics() -> keras.Model:
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(1).normal(3, 2, (50, 4)).astype("float32"))
    return keras.Sequential([keras.Input((4,)), normalization, L.Dense(2)])


def mixed() -> keras.Model:
    layers = [L.Dense(4, dtype="mixed_float16"), L.BatchNormalization(dtype="mixed_float16"), L.Dense(2)]
    return keras.Sequential([keras.Input((4,)), *layers], name="mixed")


def deferred() -> keras.Model:
    model = keras.Sequential([L.Dense(4), keras.Sequential([L.Dense(3)]), L.Dropout(0.5)])
    model.build((None, 4))
    return model


def cut() -> keras.Model:
    model = residual()
    return keras.Model(model.get_layer("join").output, model.outputs)


EVERY = [
    residual, dictionaries, operations, shared, functions, recurrent, masked, statistics, mixed, deferred, cut,
]  # fmt: skip


def inputs_for(model: keras.Model):
    rng = np.random.default_rng(0)
    return keras.tree.map_structure(
        lambda tensor: rng.normal(0, 2, (3, *tensor.shape[1:])).clip(0).astype(tensor.dtype),
        functional_graph(model).input,
    )


def randomize(model: keras.Model) -> None:
    rng = np.random.default_rng(2)
    model.set_weights([rng.uniform(0.1, 1, weight.shape).astype(weight.dtype) for weight in model.get_weights()])


def number_of_nodes(layer) -> list[int]:
    inner = getattr(layer, "operations", None) or getattr(layer, "layers", [])
    counts = [len(layer._inbound_nodes), len(layer._outbound_nodes)]
    return counts + [count for operation in inner for count in number_of_nodes(operation)]


def assert_equal_outputs(first, second) -> None:
    keras.tree.assert_same_structure(first, second)
    for a, b in zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(params=EVERY, ids=lambda build: build.__name__)
def model(request) -> keras.Model:
    model = request.param()
    if request.param is not statistics:
        randomize(model)
    return model


@pytest.mark.slow
def test_clone_is_equal(model):
    clone = clone_model(model)
    assert (type(clone), clone.name, clone.dtype_policy) == (type(model), model.name, model.dtype_policy)
    assert [layer.name for layer in clone.layers] == [layer.name for layer in model.layers]
    assert [*layers_by_path(clone)] == [*layers_by_path(model)]
    old_inputs, new_inputs = functional_graph(model).input, functional_graph(clone).input
    keras.tree.assert_same_structure(old_inputs, new_inputs)
    for old, new in zip(keras.tree.flatten(old_inputs), keras.tree.flatten(new_inputs), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
    for old, new in zip(model.variables, clone.variables, strict=True):
        assert (old.name, old.dtype, old.trainable) == (new.name, new.dtype, new.trainable)
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    inputs = inputs_for(model)
    # Training, too: the random seeds are part of a model.
    assert_equal_outputs(model(inputs, training=True), clone(inputs, training=True))
    assert_equal_outputs(model(inputs), clone(inputs))


def test_clone_shares_nothing_and_leaves_the_model_alone(model):
    nodes, weights, config = number_of_nodes(model), model.get_weights(), str([layer.name for layer in model.layers])
    clone = clone_model(model)
    assert not {id(variable) for variable in model.variables} & {id(variable) for variable in clone.variables}
    assert not {id(layer) for layer in model.layers} & {id(layer) for layer in clone.layers}
    clone.set_weights([weight * 0 - 1 for weight in clone.get_weights()])
    clone(inputs_for(clone))
    assert number_of_nodes(model) == nodes
    assert str([layer.name for layer in model.layers]) == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [residual, dictionaries, recurrent, mixed, deferred, cut], ids=lambda build: build.__name__
)
def test_a_clone_of_a_clone_can_be_saved(build, tmp_path):
    model = build()
    randomize(model)
    clone_model(clone_model(model)).save(tmp_path / "clone.keras")
    loaded = keras.saving.load_model(tmp_path / "clone.keras")
    assert_equal_outputs(model(inputs_for(model)), loaded(inputs_for(model)))


def test_vocabularies_are_copied():
    lookup = L.StringLookup(output_mode="one_hot")
    lookup.adapt(np.array([["red"], ["blue"], ["red"]]))
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, L.Dense(3)(lookup(inputs)))
    words = tf.constant([["blue"], ["green"], ["red"]])
    assert_equal_outputs(model(words), clone_model(model)(words))


def test_lambda_has_the_same_function():
    def never_serialized(tensor):
        return tensor + 1

    model = keras.Sequential([keras.Input((4,)), L.Lambda(never_serialized), L.Dense(2, activation=never_serialized)])
    clone = clone_model(model)
    assert clone.layers[0].function is never_serialized
    assert clone.layers[1].activation is never_serialized


def test_trainable_flags_are_copied():
    model = shared()
    model.trainable = False
    model.layers[-1].trainable = True
    clone = clone_model(model)
    assert [weight.trainable for weight in clone.weights] == [weight.trainable for weight in model.weights]
    assert [layer.trainable for layer in clone.layers] == [layer.trainable for layer in model.layers]
    assert clone.trainable is False


@pytest.mark.slow
def test_compile_state_is_copied_and_the_clone_trains_alone():
    model = deferred()
    model.compile(keras.optimizers.SGD(0.25, momentum=0.5), "mse", metrics=["mae"])
    weights = model.get_weights()
    clone = clone_model(model)
    assert clone.loss == "mse"
    assert clone.optimizer is not model.optimizer
    assert clone.optimizer.get_config() == model.optimizer.get_config()
    clone.fit(np.ones((4, 4)), np.zeros((4, 3)), verbose=0)
    assert not np.array_equal(clone.get_weights()[0], weights[0])
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])


def test_a_loss_that_keras_cannot_serialize_leaves_the_clone_uncompiled():
    model = deferred()
    model.compile("sgd", lambda truth, prediction: truth - prediction)
    assert not clone_model(model).compiled


def test_rebuild_replaces_and_skips():
    model = residual()
    randomize(model)
    normalization = next(layer for layer in model.layers if isinstance(layer, L.BatchNormalization))
    wider = Change([copy_layer(model.layers[-1], units=7)])
    rebuilt = rebuild(model, {normalization.name: Change(), model.layers[-1].name: wider}).model
    assert rebuilt.output_shape == (None, 7)
    assert [layer.name for layer in rebuilt.layers] == [
        layer.name for layer in model.layers if layer is not normalization
    ]
    np.testing.assert_array_equal(rebuilt.layers[1].kernel, model.layers[1].kernel)


def halves():
    """A separable convolution as two layers, within a nested model that is called twice."""
    inner = keras.Sequential(
        [keras.Input((6, 6, 2)), L.SeparableConv2D(2, 3, padding="same", name="both")], name="inner"
    )
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, inner(inner(inputs)))
    randomize(model)
    layer = inner.get_layer("both")
    first = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="first")
    kernels = [np.asarray(layer.depthwise_kernel), np.asarray(layer.pointwise_kernel)]
    return model, Change([first, L.Conv2D(2, 1, name="both")], [{"kernel": kernel} for kernel in kernels])


def test_one_layer_becomes_a_chain_and_says_where_its_kernels_are():
    model, change = halves()
    rewritten = rebuild(model, {"inner/both": change})
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(rewritten.model(x)), np.asarray(model(x)), rtol=1e-5, atol=1e-6)
    names = [layer.name for layer in rewritten.model.get_layer("inner").layers]
    assert names == ["first", "both"]
    held = {"inner/both/depthwise_kernel": 1, "inner/both/pointwise_kernel": 2, "elsewhere": 3}
    assert rewritten.by_new_paths(held) == {"inner/first": 1, "inner/both": 2, "elsewhere": 3}


def test_what_is_known_of_kernels_that_are_gone_goes():
    model = keras.Sequential([keras.Input((3,)), L.Dense(3, name="one"), L.Dense(3, name="two")])
    rewritten = rebuild(model, {"one": Change()})
    assert rewritten.by_new_paths({"one": 1, "two": 2}) == {"two": 2}
    chain = Change([L.Dense(2, use_bias=False, name="thin"), L.Dense(3, name="one")])
    assert rebuild(model, {"one": chain}).by_new_paths({"one": 1, "two": 2}) == {"two": 2}


def test_weights_of_a_change_that_do_not_fit_are_refused():
    model = keras.Sequential([keras.Input((3,)), L.Dense(3, name="one")])
    for weights, message in (
        ({"kernel": np.zeros((3, 4), np.float32)}, r"Expected 'kernel' of layer 'one' of shape \(3, 3\).*\(3, 4\)"),
        ({"gamma": np.zeros(3, np.float32)}, r"'one' has no weights \['gamma'\]"),
    ):
        with pytest.raises(InputError, match=message):
            rebuild(model, {"one": Change([copy_layer(model.get_layer("one"))], [weights])})
    with pytest.raises(InputError, match=r"Expected paths of layers.*'three'"):
        rebuild(model, {"three": Change()})


def test_weights_that_a_change_does_not_name_are_the_old_ones_where_they_fit():
    model = keras.Sequential([keras.Input((3,)), L.Dense(3, name="one")])
    randomize(model)
    (kernel, bias) = model.get_weights()
    change = Change([copy_layer(model.get_layer("one"), activation="relu")], [{"bias": bias + 1}])
    new = rebuild(model, {"one": change}).model.get_layer("one")
    np.testing.assert_array_equal(new.kernel, kernel)
    np.testing.assert_array_equal(new.bias, bias + 1)
    kept = copy_layer(model.get_layer("one"))
    kept.build((None, 3))
    built = np.asarray(kept.kernel).copy()
    np.testing.assert_array_equal(rebuild(model, {"one": Change([kept])}).model.get_layer("one").kernel, built)


def test_a_derived_class_stays_when_it_is_built_alike():
    class Derived(type(residual())):
        pass

    class WithSetting(keras.Sequential):
        def __init__(self, layers, setting, name=None):
            super().__init__(layers, name=name)
            self.setting = setting

    source = residual()
    assert type(clone_model(Derived(source.input, source.output))) is Derived
    assert type(clone_model(WithSetting([keras.Input((2,)), L.Dense(1)], setting=3))) is keras.Sequential


def test_a_layer_without_a_full_configuration_is_named():
    class Scale(L.Layer):
        def __init__(self, factors, **kwargs):
            super().__init__(**kwargs)
            self.factors = factors

        def call(self, inputs):
            return inputs * self.factors[0]

    model = keras.Sequential([keras.Input((2,)), Scale(np.ones(3), name="scale")])
    with pytest.raises(InputError, match=r"'scale' \(Scale\) cannot be rebuilt.*get_config"):
        clone_model(model)


def test_weights_that_the_configuration_does_not_describe_are_named():
    class Two(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.number = 1

        def build(self, input_shape):
            for _ in range(self.number):
                self.add_weight(shape=(1,))

        def call(self, inputs):
            return inputs

    layer = Two(name="two")
    layer.number = 2
    with pytest.raises(InputError, match=r"'two' \(Two\) has other weights.*get_config"):
        clone_model(keras.Sequential([keras.Input((2,)), layer]))


def test_a_variable_of_another_layer_in_an_operation_is_refused():
    embedding = L.Embedding(5, 4)
    inputs = keras.Input((3,))
    hidden = embedding(inputs)
    model = keras.Model(inputs, keras.ops.multiply(hidden, embedding.embeddings[:1]))
    assert clone_model(model) is not None  # a constant by now, no variable
    model = keras.Model(inputs, keras.ops.matmul(hidden, L.Dense(4, name="tied").add_weight(shape=(4, 4), name="tied")))
    with pytest.raises(InputError, match=r"reads variable '.*tied' itself"):
        clone_model(model)
