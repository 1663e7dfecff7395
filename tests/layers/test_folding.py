"""Folding is a law: the folded model computes what the model computed, whatever the statistics are."""

import keras
import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.layers.folding import FOLDABLE, Factor, fold, move_offsets
from keras_compress.layers.paths import layers_by_path

L = keras.layers
BN = L.BatchNormalization


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random weights: gamma of both signs, variances over three decades."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name == "moving_variance":
            variable.assign(10 ** rng.uniform(-2, 1, variable.shape))
        elif np.issubdtype(variable.numpy().dtype, np.floating):
            variable.assign(rng.normal(0, 1, variable.shape))
    return model


def inputs_for(model: keras.Model):
    rng = np.random.default_rng(1)
    shapes = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
    arrays = [rng.normal(0, 1, (4, *shape[1:])).astype("float32") for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def assert_same_function(model: keras.Model, folded: keras.Model, tolerance: float = 1e-5) -> None:
    inputs = inputs_for(model)
    for before, after in zip(keras.tree.flatten(model(inputs)), keras.tree.flatten(folded(inputs)), strict=True):
        before, after = np.asarray(before), np.asarray(after)
        assert np.abs(after - before).max() <= tolerance * np.abs(before).max()


LAYERS = {
    "dense": ((6,), lambda **kw: L.Dense(5, **kw)),
    "dense_3d": ((3, 6), lambda **kw: L.Dense(5, **kw)),
    "conv1d": ((9, 4), lambda **kw: L.Conv1D(5, 3, padding="causal", dilation_rate=2, **kw)),
    "conv2d": ((8, 8, 4), lambda **kw: L.Conv2D(6, 3, strides=2, padding="same", **kw)),
    "conv2d_groups": ((8, 8, 4), lambda **kw: L.Conv2D(6, 3, groups=2, dilation_rate=2, **kw)),
    "transpose": ((5, 5, 4), lambda **kw: L.Conv2DTranspose(3, 3, strides=2, padding="same", **kw)),
    "depthwise": ((8, 8, 3), lambda **kw: L.DepthwiseConv2D(3, padding="same", **kw)),
    "depthwise_multiplied": ((8, 8, 3), lambda **kw: L.DepthwiseConv2D(3, depth_multiplier=2, **kw)),
    "separable": ((8, 8, 3), lambda **kw: L.SeparableConv2D(5, 3, depth_multiplier=2, **kw)),
}  # fmt: skip


def test_every_foldable_layer_has_an_example():
    assert {type(build()) for _, build in LAYERS.values()} == set(FOLDABLE)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("use_bias", "options"),
    [(True, {}), (False, {"scale": False}), (True, {"center": False}), (False, {"epsilon": 0.1})],
)
def test_a_layer_and_its_normalization(name, use_bias, options):
    shape, build = LAYERS[name]
    model = keras.Sequential(
        [keras.Input(shape), build(use_bias=use_bias, name="linear"), BN(name="norm", **options), L.ReLU()]
    )
    randomize(model)
    folded, folds, reasons = fold(model)
    assert (type(folded), reasons, [*folds]) == (keras.Sequential, {}, ["linear"])
    assert [layer.name for layer in folded.layers] == ["linear", model.layers[-1].name]
    assert folds["linear"].batch_normalization == "norm"
    norm = model.get_layer("norm")
    gamma = norm.gamma.numpy() if norm.scale else 1.0
    np.testing.assert_allclose(
        folds["linear"].factor, gamma / np.sqrt(norm.moving_variance.numpy() + norm.epsilon), 1e-6
    )
    assert_same_function(model, folded)


def test_a_zero_gamma_is_exact():
    model = randomize(keras.Sequential([keras.Input((4,)), L.Dense(3), BN()]))
    model.layers[-1].gamma.assign([0.0, 1.0, -1.0])
    folded, _, _ = fold(model)
    np.testing.assert_array_equal(folded.layers[0].kernel[:, 0], 0)
    assert_same_function(model, folded)


def resnet() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    trunk = L.ReLU()(BN(name="n1")(L.Conv2D(4, 3, padding="same", name="c1")(inputs)))
    branch = L.ReLU()(BN(name="n2")(L.Conv2D(4, 3, padding="same", use_bias=False, name="c2")(trunk)))
    branch = BN(name="n3")(L.Conv2D(4, 3, padding="same", name="c3")(branch))
    joined = L.ReLU()(branch + trunk)
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(joined)), name="resnet")


def test_a_residual_network():
    model = randomize(resnet())
    folded, folds, reasons = fold(model)
    assert ({path: taken.batch_normalization for path, taken in folds.items()}, reasons) == (
        {"c1": "n1", "c2": "n2", "c3": "n3"}, {},
    )  # fmt: skip
    assert not any(isinstance(layer, BN) for layer in folded.layers)
    assert_same_function(model, folded)


def test_nested_models_are_folded_within():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), L.Conv2D(3, 3, padding="same", name="conv"), BN(name="norm")], name="inner"
    )
    inputs = keras.Input((8, 8, 3))
    model = randomize(keras.Model(inputs, [inner(inner(inputs)), L.Flatten()(inputs)]))
    folded, folds, reasons = fold(model)
    assert ([*folds], reasons) == (["inner/conv"], {})
    assert [*layers_by_path(folded)][1:-1] == ["inner/conv"]
    assert_same_function(model, folded)


def test_the_model_is_not_written_to():
    model = randomize(resnet())
    weights = model.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    folded, _, _ = fold(model)
    folded.set_weights([weight + 1 for weight in folded.get_weights()])
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def sequence(*layers: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


def functional(connect) -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="image")
    return keras.Model(inputs, connect(inputs), name="outer")


def conv(**options) -> keras.Layer:
    return L.Conv2D(3, 3, padding="same", name="conv", **options)


def twice_read(inputs):
    hidden = conv()(inputs)
    return L.Add(name="sum")([BN(name="norm")(hidden), hidden])


def also_an_output(inputs):
    hidden = conv()(inputs)
    return [BN(name="norm")(hidden), hidden]


def shared_convolution(inputs):
    shared = conv()
    return BN(name="norm")(shared(L.ReLU()(shared(inputs))))


def shared_normalization(inputs):
    norm = BN(name="norm")
    return norm(conv()(norm(inputs)))


def across_models(inputs):
    inner_inputs = keras.Input((8, 8, 3))
    inner = keras.Model(inner_inputs, BN(name="norm")(inner_inputs), name="inner")
    return inner(conv()(inputs))


def in_training(inputs):
    return BN(name="norm")(conv()(inputs), training=True)


def in_a_model_in_training(inputs):
    middle = keras.Sequential([keras.Input((8, 8, 3)), sequence(conv(), BN(name="norm"))], name="middle")
    return middle(inputs, training=True)


STAYING = {
    "after_activation": (sequence(conv(), L.ReLU(name="a"), BN(name="norm")), "after ReLU 'a', which has no kernel"),
    "own_activation": (sequence(conv(activation="relu"), BN(name="norm")), "'conv', whose activation lies between"),
    "padding": (sequence(conv(), L.ZeroPadding2D(name="pad"), BN(name="norm")), "'pad', which has no kernel"),
    "input": (sequence(BN(name="norm"), conv()), "reads an input of model"),
    "axis": (sequence(conv(), BN(axis=1, name="norm")), "normalizes axis 1"),
    "unknown_layer": (sequence(L.TimeDistributed(L.Dense(3)), BN(name="norm")), "after TimeDistributed"),
    "dtype": (sequence(conv(dtype="mixed_float16"), BN(name="norm")), "computes in float16 and not in float32"),
    "twice_read": (functional(twice_read), "Conv2D 'conv', whose output also goes to Add 'sum'"),
    "also_an_output": (functional(also_an_output), "also goes to the outputs of model 'outer'"),
    "shared_convolution": (functional(shared_convolution), "Conv2D 'conv', which is called more than once"),
    "shared_normalization": (functional(shared_normalization), "it is called more than once"),
    "across_models": (functional(across_models), "an input of model 'inner'"),
    "in_training": (functional(in_training), "called with training=True"),
    "in_a_model_in_training": (functional(in_a_model_in_training), "called with training=True"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYING)
def test_what_is_not_exact_stays_and_says_why(name):
    model, message = STAYING[name]
    randomize(model)
    folded, folds, reasons = fold(model)
    assert folds == {}
    (reason,) = reasons.values()
    assert message in reason
    assert [*layers_by_path(folded)] == [*layers_by_path(model)]
    assert_same_function(model, folded, tolerance=0)


def test_statistics_that_are_not_finite_stay():
    model = sequence(conv(), BN(name="norm"))
    model.get_layer("norm").moving_variance.assign([1.0, np.nan, 1.0])
    _, folds, reasons = fold(model)
    assert folds == {}
    assert "cannot be folded (NaN" in reasons["norm"]


@pytest.mark.parametrize("seed", range(6))
def test_random_chains(seed):
    rng = np.random.default_rng(seed)
    choices = [
        lambda: L.Conv2D(
            int(rng.integers(2, 6)), int(rng.integers(1, 4)), padding="same", use_bias=bool(rng.integers(2))
        ),
        lambda: L.DepthwiseConv2D(3, padding="same", depth_multiplier=int(rng.integers(1, 3))),
        lambda: L.SeparableConv2D(4, 3, padding="same"),
        lambda: L.Conv2DTranspose(3, 2, padding="same"),
        lambda: BN(scale=bool(rng.integers(2)), center=bool(rng.integers(2))),
        BN,
        L.ReLU,
        lambda: L.ZeroPadding2D(1),
    ]
    model = randomize(sequence(*[choices[rng.integers(len(choices))]() for _ in range(12)]), seed)
    folded, folds, reasons = fold(model)
    number = sum(isinstance(layer, BN) for layer in model.layers)
    assert len(folds) + len(reasons) == number
    assert sum(isinstance(layer, BN) for layer in folded.layers) == len(reasons)
    assert_same_function(model, folded)


def test_a_folded_model_has_nothing_more_to_fold_and_is_saved(tmp_path):
    model = randomize(resnet())
    folded, _, _ = fold(model)
    again, folds, _ = fold(folded)
    assert folds == {}
    again.save(tmp_path / "folded.keras")
    assert_same_function(folded, keras.saving.load_model(tmp_path / "folded.keras"), tolerance=0)


def two_readers():
    inputs = keras.Input((6,))
    x = BN(name="norm")(L.ReLU()(inputs))
    outputs = [L.Dense(4, name="one")(x), L.Dense(3, use_bias=False, name="two")(x)]
    return keras.Model(inputs, outputs)


def within(training=None):
    inner = keras.Sequential([keras.Input((3, 6)), BN(name="norm"), L.Dense(5, "relu", name="one")], name="inner")
    inputs = keras.Input((3, 6))
    return keras.Model(inputs, L.Dense(2, name="two")(L.Flatten()(inner(inputs))))


def another_reader(reader):
    inputs = keras.Input((6,))
    x = BN(name="norm", center=False)(inputs)
    return keras.Model(inputs, [L.Dense(4, name="one")(x), reader(x)])


def shared_dense():
    inputs = keras.Input((6,))
    dense = L.Dense(6, name="one")
    return keras.Model(inputs, dense(BN(name="norm")(dense(inputs))))


def shared_norm():
    inputs = keras.Input((6,))
    norm = BN(name="norm")
    return keras.Model(inputs, L.Dense(6, name="two")(norm(L.Dense(6, "relu", name="one")(norm(inputs)))))


OFFSETS = {
    "two readers": (two_readers, ["one", "two"], True),
    "of two readers one stays": (two_readers, ["one"], False),
    "in a nested model": (within, ["inner/one", "two"], True),
    "an addition too": (lambda: another_reader(lambda x: x + 1), ["one"], False),
    "an output too": (lambda: another_reader(lambda x: x), ["one"], False),
    "a convolution": (
        lambda: keras.Sequential([keras.Input((5, 5, 2)), BN(name="norm"), L.Conv2D(3, 3, name="one")]),
        ["one"],
        False,
    ),
    "a shared Dense": (shared_dense, ["one"], False),
    "a shared norm": (shared_norm, ["one", "two"], False),
}


@pytest.mark.parametrize("name", OFFSETS)
def test_offsets_move_into_the_biases_behind_them(name):
    build, paths, moves = OFFSETS[name]
    model = randomize(build())
    weights = model.get_weights()
    moved = move_offsets(model, paths)
    assert_same_function(model, moved)
    kinds = [type(layer) for layer in layers_by_path(moved).values()]
    assert (Factor in kinds, BN in kinds) == (moves, not moves)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(InputError, match="is not built"):
        fold(keras.Sequential([conv(), BN()]))


def test_a_network_of_others_keeps_its_answers(data_file):
    model = keras.saving.load_model(data_file("models/mlperf_ic_resnet8.h5"), compile=False)
    with np.load(data_file("cifar10.npz")) as arrays:
        images = arrays["x_test"].astype("float32")[:2000]
    folded, folds, reasons = fold(model)
    assert (len(folds), reasons) == (7, {})
    before, after = (network.predict(images, verbose=0) for network in (model, folded))
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
    np.testing.assert_allclose(after, before, atol=1e-5)
