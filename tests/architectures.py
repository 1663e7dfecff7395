"""Small models with every way in which layers can be connected; weights are drawn, BatchNorm statistics too."""

import keras
import numpy as np

L = keras.layers


def mlp() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8,)), L.Dense(10, "relu", name="one"), L.Dense(6, "relu", name="two"), L.Dense(3, name="three")],
        name="mlp",
    )


def small() -> keras.Model:
    """Every kind of layer that is told apart, and nothing that takes time."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.Conv2D(4, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.GlobalAveragePooling2D(),
            L.Dense(3, name="logits"),
        ],
        name="small",
    )


def sequences() -> keras.Model:
    inputs = keras.Input((12, 4))
    hidden = L.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu", name="past")(inputs)
    hidden = L.Conv1D(6, 3, padding="same", name="around")(hidden) + hidden
    hidden = L.MaxPooling1D()(L.BatchNormalization()(hidden))
    hidden = L.Conv1D(4, 2, strides=2, groups=2, name="strided")(hidden)
    return keras.Model(inputs, L.Dense(3, name="logits")(L.Flatten()(hidden)), name="sequences")


def cnn() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((9, 8, 2)),
            L.Conv2D(4, 3, padding="same", activation="relu", name="conv1"),
            L.MaxPooling2D(),
            L.Conv2D(6, (2, 3), strides=(2, 1), groups=2, name="conv2"),
            L.ReLU(),
            L.Conv2D(4, 2, dilation_rate=2, padding="same", use_bias=False, name="conv3"),
            L.BatchNormalization(name="norm"),
            L.Dropout(0.5),
            L.Dense(5, "softplus", name="pixels"),
            L.Flatten(),
            L.Dense(3, name="logits"),
        ],
        name="cnn",
    )


def residual() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    trunk = L.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    inner = L.Conv2D(4, 3, padding="same", use_bias=False, name="inner")(trunk)
    inner = L.BatchNormalization(name="inner_norm")(inner)
    trunk = L.Add()([trunk, L.ReLU()(inner)])
    outer = L.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="outer")(trunk)
    shortcut = L.Conv2D(6, 1, strides=2, name="shortcut")(trunk)
    pooled = L.GlobalAveragePooling2D()(L.Concatenate()([outer, shortcut]))
    return keras.Model(inputs, L.Dense(3, name="logits")(pooled), name="residual")


def two_inputs_and_outputs() -> keras.Model:
    image, table = keras.Input((5, 5, 2), name="image"), keras.Input((4,), name="table")
    seen = L.Flatten()(L.Conv2D(3, 2, activation="relu", name="look")(image))
    read = L.Dense(5, "relu", name="read")(table)
    joined = L.Concatenate()([seen, read])
    return keras.Model(
        [image, table], [L.Dense(3, name="label")(joined), L.Dense(1, name="score")(read)], name="two_inputs"
    )


def operators() -> keras.Model:
    inputs = keras.Input((8,))
    hidden = L.Dense(8, name="one")(inputs)
    hidden = keras.ops.relu(hidden) * 0.5 + inputs
    hidden = keras.ops.concatenate([hidden[:, :4], hidden[:, 2:] - 0.1], axis=-1)
    return keras.Model(inputs, L.Dense(3, name="two")(hidden), name="operators")


def nested() -> keras.Model:
    encoder_inputs = keras.Input((8,))
    encoded = L.Dense(7, "relu", name="first")(encoder_inputs)
    encoder = keras.Model(encoder_inputs, L.Dense(5, "relu", name="second")(encoded), name="encoder")
    inputs = keras.Input((8,))
    head = keras.Sequential([keras.Input((5,)), L.Dense(4, "relu", name="first"), L.Dense(3, name="last")], name="head")
    return keras.Model(inputs, head(encoder(inputs)), name="nested")


def shared() -> keras.Model:
    """Two towers with the same weights: neither call of `tower` depends on the other."""
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    stem, tower = L.Dense(6, "relu", name="stem"), L.Dense(5, "relu", name="tower")
    joined = L.Concatenate()([tower(stem(left)), tower(right)])
    return keras.Model([left, right], L.Dense(3, name="logits")(joined), name="shared")


def recurrent() -> keras.Model:
    """The second call of `step` reads what the first one made, with another layer in between."""
    inputs = keras.Input((6,))
    step, between = L.Dense(6, "relu", name="step"), L.Dense(6, "relu", name="between")
    hidden = step(between(step(inputs)))
    return keras.Model(inputs, L.Dense(3, name="logits")(hidden), name="recurrent")


def shared_nested() -> keras.Model:
    block = keras.Sequential([keras.Input((6,)), L.Dense(6, "relu", name="inside")], name="block")
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(3, name="logits")(block(inputs) + block(L.ReLU()(inputs))), name="shared_nested")


MODELS = {
    build.__name__: build
    for build in (
        mlp,
        small,
        sequences,
        cnn,
        residual,
        two_inputs_and_outputs,
        operators,
        nested,
        shared,
        recurrent,
        shared_nested,
    )
}


def build(name: str, seed: int = 0) -> keras.Model:
    """One of `MODELS` with drawn weights."""
    model = MODELS[name]()
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 2, variable.shape))
        elif variable.name == "kernel":
            variable.assign(rng.normal(0, (2 / np.prod(variable.shape[:-1])) ** 0.5, variable.shape))
        elif np.issubdtype(np.dtype(variable.dtype), np.floating):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def samples(model: keras.Model, count: int, seed: int = 1):
    """Inputs: an array, or a list of them for a model with several inputs. The mean is not zero, as in images."""
    rng = np.random.default_rng(seed)
    arrays = [
        np.maximum(rng.normal(0.3, 1, (count, *tensor.shape[1:])), -0.5).astype(np.float32) for tensor in model.inputs
    ]
    return arrays if len(arrays) > 1 else arrays[0]
