"""Our trainings take what `keras.Model.fit` takes, and go on after a kill with the state of Keras' callbacks too."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.fitting.checkpoint import without_saved_state
from keras_compress.layers.paths import layers_by_path
from tests.pictures import Kill, Killed
from tests.trainings import fitted

pytestmark = pytest.mark.slow  # every test trains
L, ops = keras.layers, keras.ops
TECHNIQUES = {
    "prune": (kc.prune_magnitude, {"schedule": kc.ConstantSparsity(0.5)}),
    "cluster": (kc.cluster_weights, {"number_of_clusters": 2}),
    "round": (kc.quantization_aware_training, {"bits": 4}),
}
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(48, 4)).astype("float32"), RNG.normal(size=(48, 6)).astype("float32")
KIND, SIZE = np.arange(48) % 3, RNG.normal(size=(48, 1)).astype("float32")


def trained(technique, model, data, **settings):
    function, own = TECHNIQUES[technique]
    return fitted(function, model, data, **{"epochs": 2, "batch_size": 16} | own | settings)


# Models


def one():
    inputs = keras.Input((4,), name="a")
    return keras.Model(inputs, L.Dense(3, "softmax", name="kind")(L.Dense(16, "relu", name="hidden")(inputs)))


def two():
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    x = L.Dense(16, "relu", name="hidden")(L.Concatenate()([a, b]))
    return keras.Model([a, b], [L.Dense(3, "softmax", name="kind")(x), L.Dense(1, name="size")(x)])


class Own(keras.layers.Layer):
    """A layer of the user's."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = L.Dense(units, name="dense")

    def call(self, inputs, training=None):
        return ops.tanh(self.dense(inputs)) * (2.0 if training else 1.0)

    def get_config(self):
        return super().get_config() | {"units": self.units}


def unusual(kind):
    inputs = keras.Input((4,), name="a")
    if kind == "frozen":  # called with training=False
        inner = keras.Sequential([keras.Input((4,)), L.Dense(16, "relu", name="hidden"), L.BatchNormalization()])
        x = inner(inputs, training=False)
    elif kind == "shared":
        layer = L.Dense(4, "relu", name="hidden")
        x = layer(layer(inputs))
    elif kind == "masked":
        x = L.Masking()(L.Reshape((2, 2))(inputs))
        x = L.Dense(16, name="hidden")(L.LSTM(4)(x))
    elif kind == "own":
        x = L.Dense(16, name="hidden")(Own(8)(inputs))
    elif kind == "float16":
        x = L.Dense(16, "relu", name="hidden", dtype="mixed_float16")(inputs)
    else:
        x = L.Dense(16, name="hidden", kernel_constraint="non_neg", kernel_regularizer="l2")(L.Dropout(0.3)(inputs))
    return keras.Model(inputs, L.Dense(3, "softmax", name="kind", dtype="float32")(x))


# Data: as many forms as there are, of one input and of several


class Sequence(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(16 * index, 16 * index + 16)
        return tuple(keras.tree.map_structure(lambda array: array[rows], part) for part in self.parts)


def as_dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


ONE = {
    "arrays": lambda: (A, KIND),
    "numbers in a list": lambda: (A, KIND.tolist()),
    "weights": lambda: (A, KIND, np.ones(48)),
    "dataset": lambda: as_dataset(A, KIND),
    "sequence": lambda: Sequence(A, KIND),
    "generator": lambda: (Sequence(A, KIND)[index] for index in range(3)),
    "preprocessed": lambda: kc.preprocess((2 * A, KIND), lambda a: a / 2),
}
TWO = {
    "lists": lambda: ([A, B], [KIND, SIZE]),
    "dictionaries": lambda: ({"b": B, "a": A}, {"size": SIZE, "kind": KIND}),
    "dataset of tuples": lambda: as_dataset((A, B), (KIND, SIZE)),
    "dataset of dictionaries": lambda: as_dataset({"a": A, "b": B}, {"kind": KIND, "size": SIZE}),
    "sequence": lambda: Sequence({"a": A, "b": B}, {"kind": KIND, "size": SIZE}),
    "generator": lambda: (Sequence((A, B), (KIND, SIZE))[index] for index in range(3)),
}


@pytest.mark.parametrize("technique, form", [*itertools.product(TECHNIQUES, ONE)])
@pytest.mark.sampled(6)
def test_one_input_in_every_form(technique, form):
    result = trained(technique, one(), ONE[form](), validation=ONE[form]())
    assert {"validation loss before", "validation accuracy after"} <= result.report.steps[-1].figures.keys()


@pytest.mark.parametrize("technique, form", [*itertools.product(TECHNIQUES, TWO)])
@pytest.mark.sampled(4)
def test_several_inputs_and_outputs_in_every_form(technique, form):
    model = two()
    model.compile("adam", {"kind": "sparse_categorical_crossentropy", "size": "mse"})
    result = trained(technique, model, TWO[form](), validation=TWO[form]())
    x = {"a": A, "b": B}
    expected = model.evaluate(x, {"kind": KIND, "size": SIZE}, verbose=0, return_dict=True)["loss"]
    assert result.report.steps[-1].figures["validation loss before"] == pytest.approx(expected, rel=1e-3)


def mean_score(expected, received):
    return ops.mean(received)


def own_loss(expected, received):
    return keras.losses.sparse_categorical_crossentropy(expected, received)


class OwnLoss(keras.losses.Loss):
    def call(self, expected, received):
        return own_loss(expected, received)


class OwnMetric(keras.metrics.Metric):
    def __init__(self, factor, name="own"):
        super().__init__(name=name)
        self.factor = factor
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, expected, received, sample_weight=None):
        self.total.assign_add(self.factor * ops.mean(received))

    def result(self):
        return self.total

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


COMPILED = {
    "name": lambda: {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
    "function": lambda: {"loss": own_loss, "metrics": [mean_score]},
    "class": lambda: {"loss": OwnLoss(), "metrics": [OwnMetric(2.0)]},
    "by output": lambda: {"loss": {"kind": own_loss}, "metrics": {"kind": ["accuracy", mean_score]}},
    "weighted": lambda: {"loss": own_loss, "weighted_metrics": ["accuracy"], "loss_weights": [2.0]},
}


@pytest.mark.parametrize("technique, settings", [*itertools.product(TECHNIQUES, COMPILED)])
@pytest.mark.parametrize("optimizer", ["nadam", keras.optimizers.Lamb(0.01)], ids=["nadam", "lamb"])
@pytest.mark.sampled(5)
def test_the_model_is_fitted_as_it_was_compiled(technique, settings, optimizer):
    model = one()
    model.compile(optimizer, **COMPILED[settings]())
    before = [variable.numpy() for variable in model.optimizer.variables]
    expected = model.evaluate(A, KIND, batch_size=16, verbose=0, return_dict=True)
    result = trained(technique, model, (A, KIND), validation=(A, KIND))
    figures = result.report.steps[-1].figures
    for name, value in expected.items():
        assert figures[f"validation {name} before"] == pytest.approx(value, rel=1e-4)
    for variable, value in zip(model.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)  # the user's own has made no step


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("kind", ["frozen", "shared", "masked", "own", "float16", "constrained"])
@pytest.mark.sampled(6)
def test_models_that_are_out_of_the_ordinary(technique, kind):
    model = unusual(kind)
    result = trained(technique, model, (A, KIND))
    hidden = next(path for path in layers_by_path(result.model) if path.endswith("hidden"))
    kernel = np.asarray(layers_by_path(result.model)[hidden].kernel)
    if technique == "prune":
        assert (kernel == 0).mean() >= 0.5 and result.report.row(hidden).zeros >= 0.5
    elif technique == "cluster":
        assert len(np.unique(kernel)) <= 2
    else:
        assert result.kernels[hidden].levels.size == 15
    if kind == "constrained":
        assert (kernel >= 0).all()


# Callbacks


CALLBACKS = {
    "early stopping": lambda: keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=1, restore_best_weights=True, min_delta=0.01
    ),
    "plateau": lambda: keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=0.1),
}


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("moment", [(1, 0), (3, 2)], ids=str)
@pytest.mark.sampled(3)
def test_a_killed_run_goes_on_with_the_state_of_keras_callbacks(technique, callback, moment, tmp_path):
    def run(*more, **settings):
        model = unusual("constrained")
        model.set_weights([np.random.default_rng(1).normal(0, 0.4, each.shape) for each in model.get_weights()])
        model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
        own = CALLBACKS[callback]()
        settings = {"epochs": 6, "validation": (A + 0.1, KIND)} | settings
        result = trained(technique, model, (A, KIND), callbacks=[own, *more], **settings)
        return result, {name: value for name, value in vars(own).items() if isinstance(value, (int, float))}

    whole, state = run()
    with pytest.raises(Killed):
        run(Kill(*moment), checkpoint=tmp_path / "state")
        raise Killed  # it had stopped before
    if (tmp_path / "state").exists():
        (tmp_path / "state" / ".state-killed.npz").touch()  # while it was written
    resumed, again = run(checkpoint=tmp_path / "state")
    assert not (tmp_path / "state").exists()
    for weight, expected in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected, err_msg=weight.path)
    assert again == state


class Holding(keras.callbacks.Callback):
    def __init__(self, value):
        super().__init__()
        self.value = value


def test_callbacks_whose_state_cannot_be_kept_are_named(tmp_path, caplog):
    counted, with_file = Holding({"best": 1.0, "all": [np.ones(3)]}), Holding((tmp_path / "log").open("w"))
    keras_own = [keras.callbacks.CSVLogger(tmp_path / "log.csv"), keras.callbacks.LambdaCallback()]
    assert without_saved_state([counted, with_file, *keras_own]) == ["Holding"]
    trained("cluster", one(), (A, KIND), callbacks=[with_file], checkpoint=tmp_path / "state")
    assert "Holding: the checkpoint does not hold all that is in them" in caplog.text
    with_file.value.close()


def test_lines_are_keras_own(capsys):
    trained("prune", one(), (A, KIND), verbose=2)
    line = capsys.readouterr().out
    assert "Epoch 1/2" in line and "zeros: 0.5" in line
    trained("prune", one(), (A, KIND), verbose=0)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer from 1"),
        ({"batch_size": 0}, "batch_size must be an integer from 1"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"strategy": "mirrored"}, "strategy must be a tf.distribute.Strategy. Received: 'mirrored'"),
        ({"verbose": 3}, "verbose must be one of auto, 0, 1, 2. Received: 3"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(kc.InputError, match=message):
        kc.Training(**settings)


def test_a_training_is_written_and_read_by_keras():
    training = kc.Training(3, 8, 1, "folder", verbose=2)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(training)) == training


def test_what_is_no_training_is_refused():
    for function, own in TECHNIQUES.values():
        with pytest.raises(kc.InputError, match=r"training must be kc.Training\(...\). Received: 3"):
            function(one(), (A, KIND), training=3, **own)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    model = one()
    model.compile(keras.optimizers.SGD(1e30), "sparse_categorical_crossentropy")
    with pytest.raises(kc.UserError, match="became NaN or infinite"):
        trained("cluster", model, (1e6 * A, KIND), checkpoint=tmp_path / "state")
    assert not (tmp_path / "state").exists()


# All of it at once: what `keras.Model.fit` takes, and what it computes


def built(kind, several):
    """A model of this kind with one input and output, or with two."""
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    inner = unusual(kind)
    x = keras.Model(inner.input, inner.layers[-1].input, name="inside")(a) if kind != "plain" else L.Dense(16)(a)
    if not several:
        return keras.Model(a, L.Dense(3, "softmax", name="kind", dtype="float32")(x))
    x = L.Concatenate(dtype="float32")([x, L.Dense(4, "relu", name="other")(b)])
    return keras.Model([a, b], [L.Dense(3, "softmax", name="kind")(x), L.Dense(1, name="size")(x)])


def squared(expected, received):
    return ops.mean(ops.square(expected - received), axis=-1)


class Squared(keras.losses.Loss):
    def call(self, expected, received):
        return squared(expected, received)


LOSSES = {
    "name": ("sparse_categorical_crossentropy", "mse"),
    "function": (own_loss, squared),
    "class": (OwnLoss, Squared),
    "by output": ("sparse_categorical_crossentropy", squared),
}
METRICS = {"none": None, "name": "accuracy", "function": mean_score, "class": OwnMetric}


def compiled(model, losses, metric):
    """Compiled with a learning rate of zero, so that every number is that of the model that is given."""
    pair = [each() if isinstance(each, type) else each for each in LOSSES[losses]]
    several = len(model.outputs) > 1
    loss = dict(zip(("kind", "size"), pair, strict=True)) if losses == "by output" and several else pair
    each = OwnMetric(2.0) if metric == "class" else METRICS[metric]
    metrics = None if each is None else [[each], ["mae"]] if several else [each]
    model.compile(keras.optimizers.SGD(0.0), loss if several else pair[0], metrics=metrics)
    return model


COMBINATIONS = list(
    itertools.product(["plain", "frozen", "shared", "masked", "own", "float16", "constrained"], LOSSES, METRICS)
)


@pytest.mark.parametrize("number", range(40))
@pytest.mark.sampled(2)
def test_what_fit_takes_every_training_takes(number):
    """Figures before a training are those of `keras.Model.fit` on the same model, data, losses and metrics."""
    generator = np.random.default_rng(number)
    kind, losses, metric = COMBINATIONS[generator.integers(len(COMBINATIONS))]
    several = bool(generator.integers(2))
    forms = TWO if several else ONE
    form = sorted(forms)[generator.integers(len(forms))]
    model = compiled(built(kind, several), losses, metric)
    calls = []
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append(sorted(logs)))
    data = (A, KIND) if not several else ({"a": A, "b": B}, {"kind": KIND, "size": SIZE})
    weights = [weight.numpy() for weight in model.weights]
    history = model.fit(*data, batch_size=16, validation_data=data, verbose=0, callbacks=[seen]).history
    for weight, value in zip(model.weights, weights, strict=True):
        weight.assign(value)  # moving means of BatchNormalization
    expected = model.evaluate(*data, batch_size=16, verbose=0, return_dict=True)
    for technique in TECHNIQUES:
        result = trained(technique, model, forms[form](), validation=forms[form](), callbacks=[seen], epochs=1)
        figures = result.report.steps[-1].figures
        for name, value in expected.items():
            assert figures[f"validation {name} before"] == pytest.approx(value, rel=2e-3, abs=1e-5), (technique, name)
        assert set(calls[0]) <= set(calls[-1])  # logs of the same names
    assert len(calls) == 1 + len(TECHNIQUES) and "val_loss" in history


# Kinds of layers that once could not cross to Keras 2


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("wraps", ["model", "layer"])
@pytest.mark.sampled(2)
def test_what_time_distributed_holds_is_trained(technique, wraps):
    inner = L.Dense(16, name="inner")
    if wraps == "model":
        inner = keras.Sequential([keras.Input((2, 1)), L.Conv1D(16, 2, name="conv"), L.Flatten()])
    inputs = keras.Input((2, 2, 1))
    x = L.TimeDistributed(inner, name="each")(inputs if wraps == "model" else L.Reshape((2, 2))(inputs))
    model = keras.Model(inputs, L.Dense(3, "softmax", name="head")(L.Dense(16, name="hidden")(L.Flatten()(x))))
    before = model.get_weights()
    result = trained(technique, model, (A.reshape(48, 2, 2, 1), KIND), validation=(A.reshape(48, 2, 2, 1), KIND))
    for old, weight in zip(before, result.model.get_weights(), strict=True):
        assert not np.array_equal(old, weight)
    rows = {row.path: row for row in result.report.steps[-1].rows}
    assert any(path.startswith("each") for path in rows) or technique == "cluster"


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.sampled(2)
def test_an_embedding_that_passes_on_a_mask_is_trained_like_any_other(technique):
    words = np.random.default_rng(0).integers(0, 9, (48, 6))
    words[:, 4:] = 0
    inputs = keras.Input((6,), dtype="int32")
    x = L.GlobalAveragePooling1D()(L.Embedding(9, 4, mask_zero=True, name="words")(inputs))
    model = keras.Model(inputs, L.Dense(3, "softmax", name="head")(L.Dense(16, name="hidden")(x)))
    result = trained(technique, model, (words, KIND))
    table = np.asarray(result.model.get_layer("words").embeddings)
    if technique == "prune":
        assert (table == 0).mean() >= 0.5
    elif technique == "cluster":
        assert len(np.unique(table)) <= 2
    else:
        assert "words" in result.kernels
    outputs = [np.asarray(result.model(each)) for each in (words, np.roll(words, 2, axis=1))]
    np.testing.assert_allclose(*outputs, atol=1e-6)  # zeros are left out, wherever they are


@keras.saving.register_keras_serializable(package="tests")
class Stepping(keras.Model):
    """A model with a step of the user's own."""

    made = 0

    def train_step(self, data):
        Stepping.made += 1
        return super().train_step(data)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_step_of_the_users_own_is_made(technique):
    plain, before = one(), Stepping.made
    result = trained(technique, Stepping(plain.input, plain.output), (A, KIND))
    assert Stepping.made > before and isinstance(result.model, Stepping)
