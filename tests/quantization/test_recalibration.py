"""BatchNorm statistics are those of what the layers read in the network as it now is, exactly."""

import os

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import clone_model
from tests import architectures
from tests.calibration.test_calibration import Counting
from tests.reference import activations as reference

L = keras.layers
BN = L.BatchNormalization


def normalizations(model):
    return {path: layer for path, layer in layers_by_path(model).items() if type(layer) is BN}


def read_by(model, samples):
    """Path of each BatchNorm -> what its calls read, channels last and flat, in float64."""
    graph = Graph(model)
    values = dict(zip(graph.inputs, [np.asarray(array) for array in keras.tree.flatten(samples)], strict=True))
    read = {}
    for call in graph.calls:
        if type(call.operation) is BN:
            rows = np.moveaxis(np.asarray(values[call.inputs[0]], np.float64), call.operation.axis, -1)
            read.setdefault(call.path, []).append(rows.reshape(-1, rows.shape[-1]))
        values |= dict(zip(call.outputs, call.run(values), strict=True))
    return {path: np.concatenate(parts) for path, parts in read.items()}


def assert_exact(model, samples, paths=None):
    layers = normalizations(model)
    for path, rows in read_by(model, samples).items():
        if paths is not None and path not in paths:
            continue
        scale = rows.std(axis=0).max() + 1e-12
        np.testing.assert_allclose(layers[path].moving_mean, rows.mean(axis=0), atol=2e-5 * scale, err_msg=path)
        np.testing.assert_allclose(layers[path].moving_variance, rows.var(axis=0), rtol=1e-4, atol=1e-9, err_msg=path)


def deep():
    """Branches, BatchNorm before and after activations, on images and on vectors."""
    inputs = keras.Input((6, 6, 2))
    trunk = BN(name="norm0")(inputs)
    trunk = L.ReLU()(BN(name="norm1")(L.Conv2D(4, 3, padding="same", use_bias=False)(trunk)))
    inner = BN(name="norm2")(L.Conv2D(4, 3, padding="same", activation="relu")(trunk))
    trunk = L.Add()([trunk, BN(name="norm3", scale=False)(L.Conv2D(4, 1)(inner)), inner])
    pooled = BN(name="norm4", center=False)(L.GlobalAveragePooling2D()(trunk))
    return keras.Model(inputs, L.Dense(3, name="logits")(pooled), name="deep")


def axes():
    inputs = keras.Input((4, 5, 3))
    hidden = BN(axis=1, name="rows")(inputs)
    return keras.Model(inputs, BN(axis=2, name="columns")(BN(name="channels")(hidden)), name="axes")


def shared_normalization():
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    norm = BN(name="norm")
    joined = L.Concatenate()([norm(L.Dense(6)(left)), norm(BN(name="first")(right))])
    return keras.Model([left, right], BN(name="last")(joined), name="shared_normalization")


def nested():
    inner_inputs = keras.Input((6,))
    inner = keras.Model(inner_inputs, BN(name="norm")(L.Dense(6, "relu")(inner_inputs)), name="inner")
    inputs = keras.Input((6,))
    return keras.Model(inputs, BN(name="norm")(inner(L.Dense(6)(inputs))), name="outer")


MODELS = {build.__name__: build for build in (deep, axes, shared_normalization, nested)}


def drawn(build, seed=0):
    model = build()
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low, high = (0.5, 2.0) if variable.name in ("gamma", "moving_variance") else (-1.0, 1.0)
        variable.assign(rng.uniform(low, high, variable.shape))
    return model


@pytest.fixture
def model():
    return drawn(deep)


@pytest.fixture
def samples(model):
    return architectures.samples(model, 40)


# Statistics


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_has_the_statistics_of_what_it_reads(name):
    model = drawn(MODELS[name])
    samples = architectures.samples(model, 40)
    result = kc.recalibrate_batch_normalization(model, samples, batch_size=7)
    assert_exact(result.model, samples)
    assert {row.action for row in result.report.steps[0].rows} == {"recalibrated"}


def test_outputs_before_gamma_and_beta_have_no_mean_and_variance_one(model, samples):
    result = kc.recalibrate_batch_normalization(model, samples)
    layers = normalizations(result.model)
    for path, rows in read_by(result.model, samples).items():
        layer = layers[path]
        positions = rows.reshape(-1, *[1] * (layer.input_spec.ndim - 2), rows.shape[-1]).astype(np.float32)
        outputs = np.asarray(layer(positions), np.float64).reshape(rows.shape)
        outputs -= np.asarray(layer.beta) if layer.center else 0
        outputs /= np.asarray(layer.gamma) if layer.scale else 1
        np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-4)
        variance = rows.var(axis=0)
        np.testing.assert_allclose(outputs.var(axis=0), variance / (variance + layer.epsilon), rtol=1e-3)


def test_statistics_are_those_of_the_definition(model, samples):
    """The first layer reads the samples themselves."""
    layer = kc.recalibrate_batch_normalization(model, samples, batch_size=7).model.get_layer("norm0")
    for channel in range(2):
        mean, variance = reference.mean_and_variance(samples[..., channel].ravel().tolist())
        assert float(layer.moving_mean[channel]) == pytest.approx(mean, rel=1e-6)
        assert float(layer.moving_variance[channel]) == pytest.approx(variance, rel=1e-6)


@pytest.mark.slow
def test_damaged_statistics_are_repaired(model, samples):
    healthy = kc.recalibrate_batch_normalization(model, samples).model
    damaged = clone_model(healthy)
    for layer in normalizations(damaged).values():
        layer.moving_mean.assign(layer.moving_mean.numpy() + 3)
        layer.moving_variance.assign(layer.moving_variance.numpy() * 7)
    assert np.abs(np.asarray(damaged(samples)) - np.asarray(healthy(samples))).max() > 0.1
    repaired = kc.recalibrate_batch_normalization(damaged, samples).model
    np.testing.assert_allclose(np.asarray(repaired(samples)), np.asarray(healthy(samples)), atol=1e-4)


@pytest.mark.slow
def test_once_is_twice(model, samples):
    once = kc.recalibrate_batch_normalization(model, samples)
    twice = kc.recalibrate_batch_normalization(once, samples)
    for weight, before in zip(twice.model.weights, once.model.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), before.numpy(), rtol=1e-4, atol=1e-5)
    for row in twice.report.steps[-1].rows:
        assert row.mean_moved == pytest.approx(0, abs=1e-4)
        assert row.variance_ratio == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_each_call_runs_once_however_many_layers(samples):
    Counting.seen = {}
    layers = [keras.Input((6, 6, 2))]
    for index in range(4):
        layers += [L.Conv2D(3, 1), BN(), Counting(name=f"count{index}")]
    kc.recalibrate_batch_normalization(keras.Sequential([*layers, L.Dense(2)]), samples, batch_size=7)
    assert Counting.seen == {f"count{index}": 40 for index in range(3)}  # nothing runs behind the last one


def test_a_layer_that_reads_its_own_outputs_is_left_as_it_is():
    inputs = keras.Input((4,))
    norm = BN(name="loop")
    outputs = BN(name="behind")(norm(L.Dense(4)(norm(BN(name="before")(inputs)))))
    model = drawn(lambda: keras.Model(inputs, outputs))
    samples = architectures.samples(model, 40)
    result = kc.recalibrate_batch_normalization(model, samples)
    assert result.report.row("loop").action == "kept" and "its own output" in result.report.row("loop").reason
    np.testing.assert_array_equal(result.model.get_layer("loop").moving_mean, model.get_layer("loop").moving_mean)
    assert_exact(result.model, samples, paths=["before", "behind"])


# With other steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantizer", [kc.GPFQ(2), kc.GPFQ(2, centered=False), kc.MSQ(2, bias_correction=True)], ids=str
)
def test_after_quantization(model, samples, quantizer):
    """Centred and bias-corrected quantization has moved means; they are measured again, and the codes stay."""
    quantized = kc.quantize(model, quantizer, samples)
    result = kc.recalibrate_batch_normalization(quantized, samples)
    assert result.kernels == quantized.kernels
    result.check()
    assert_exact(result.model, samples)
    assert [step.technique for step in result.report.steps] == ["quantize", "recalibrate_batch_normalization"]


@pytest.mark.slow
def test_quantization_that_shifted_means_is_undone(model, samples):
    """What quantization did to the statistics of a layer is repaired to what the float network had."""
    healthy = kc.recalibrate_batch_normalization(model, samples).model
    quantized = kc.quantize(healthy, kc.MSQ(2), samples)
    healthy_outputs = np.asarray(healthy(samples))

    def error(network):
        return np.linalg.norm(np.asarray(network(samples)) - healthy_outputs)

    assert error(kc.recalibrate_batch_normalization(quantized, samples).model) < 0.8 * error(quantized.model)


@pytest.mark.slow
def test_after_and_before_the_rounding_of_activations(model, samples):
    activations = kc.quantize_activations(model, samples, bits=4)
    assert_exact(kc.recalibrate_batch_normalization(activations, samples).model, samples)
    recalibrated = kc.recalibrate_batch_normalization(model, samples)
    kc.quantize_activations(recalibrated, samples).check()


def test_layers_that_stay_after_folding(samples):
    model = drawn(deep)
    folded = kc.fold_batch_normalization(model)
    assert normalizations(folded.model).keys() == {"norm0", "norm2", "norm4"}
    assert_exact(kc.recalibrate_batch_normalization(folded, samples).model, samples)


# Contracts


def test_the_model_that_comes_in_is_untouched(model, samples):
    before = [weight.numpy().copy() for weight in model.weights]
    result = kc.recalibrate_batch_normalization(model, samples)
    assert type(result.model) is type(model)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    for weight, original in zip(result.model.weights, model.weights, strict=True):
        if not weight.name.startswith("moving"):
            np.testing.assert_array_equal(weight.numpy(), original.numpy())


@pytest.mark.slow
def test_it_comes_back_from_disk(model, samples, tmp_path):
    result = kc.recalibrate_batch_normalization(kc.quantize(model, kc.MSQ(3)), samples)
    result.save(tmp_path / "small")
    back = kc.load_result(tmp_path / "small")
    assert back.report == result.report
    np.testing.assert_array_equal(np.asarray(back.model(samples)), np.asarray(result.model(samples)))


@pytest.mark.slow
def test_batches_and_disk_leave_no_trace(model, samples, tmp_path):
    whole = kc.recalibrate_batch_normalization(model, samples)
    with kc.Calibration(model, samples, batch_size=3, work_dir=tmp_path) as calibration:
        calibration.store.memory_budget = 0
        cut = kc.recalibrate_batch_normalization(model, calibration)
        again = kc.recalibrate_batch_normalization(model, calibration)
    assert os.listdir(tmp_path) == []
    for weight, other, third in zip(cut.model.weights, whole.model.weights, again.model.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(weight.numpy(), third.numpy())


def test_layers_chooses_and_the_report_says_what_changed(model, samples):
    result = kc.recalibrate_batch_normalization(model, samples, layers=["norm0", "norm4"])
    (step,) = result.report.steps
    rows = {row.path: row for row in step.rows}
    assert {path for path, row in rows.items() if row.action == "recalibrated"} == {"norm0", "norm4"}
    assert "layers=" in rows["norm1"].reason
    assert_exact(result.model, samples, paths=["norm0", "norm4"])
    old, new = model.get_layer("norm0"), result.model.get_layer("norm0")
    moved = (new.moving_mean.numpy() - old.moving_mean.numpy()) / np.sqrt(new.moving_variance.numpy() + new.epsilon)
    assert rows["norm0"].mean_moved == pytest.approx(np.sqrt((moved**2).mean()), rel=1e-5)
    ratio = (new.moving_variance.numpy() + new.epsilon) / (old.moving_variance.numpy() + old.epsilon)
    assert rows["norm0"].variance_ratio == pytest.approx(np.exp(np.log(ratio).mean()), rel=1e-5)
    assert rows["norm0"].rows == 40 * 36 and rows["norm4"].rows == 40
    assert step.figures["samples"] == 40
    text = str(result.report)
    assert "mean moved" in text and "variance" in text


def test_a_model_without_such_a_layer_is_refused(samples):
    model = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(3, 1), BN(), L.Flatten(), L.Dense(2)], name="folded")
    folded = kc.fold_batch_normalization(model)
    with pytest.raises(kc.InputError, match="'folded' calls no BatchNormalization layer"):
        kc.recalibrate_batch_normalization(folded, samples)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = BN()

    def call(self, inputs):
        return self.norm(inputs)


def test_a_model_whose_layers_cannot_be_followed_is_refused(samples):
    model = Subclassed(name="mine")
    model(samples)
    with pytest.raises(kc.InputError, match="cannot be seen: model 'mine' is subclassed"):
        kc.recalibrate_batch_normalization(model, samples)
    model = keras.Sequential([keras.Input((5, 2)), L.Masking(name="hide"), BN(), L.LSTM(2)])
    with pytest.raises(kc.InputError, match="layer 'hide' passes on a mask"):
        kc.recalibrate_batch_normalization(model, samples[:, :5, 0])


def test_a_layer_that_trains_is_refused(samples):
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, BN(name="learner")(inputs, training=True))
    with pytest.raises(kc.InputError, match="'learner' is called with training=True"):
        kc.recalibrate_batch_normalization(model, samples)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (None, {}, r"measured on calibration data\. Received: None"),
        (np.zeros((0, 6, 6, 2), np.float32), {}, "calibration is empty"),
        (np.full((2, 6, 6, 2), np.nan, np.float32), {}, "must be finite"),
        (np.zeros((2, 5, 6, 2), np.float32), {}, "must have shape"),
        (np.zeros((2, 6, 6, 2), np.float32), {"layers": "conv"}, "layers: the pattern 'conv' matches no layer"),
        (np.zeros((2, 6, 6, 2), np.float32), {"batch_size": -1}, "batch_size must be a positive integer"),
    ],
)
def test_bad_input_is_one_clear_line(model, data, settings, message):
    with pytest.raises(kc.InputError, match=message) as raised:
        kc.recalibrate_batch_normalization(model, data, **settings)
    assert "\n" not in str(raised.value)


def test_statistics_that_would_not_be_finite_are_refused(model, samples):
    model.layers[2].kernel.assign(np.full(model.layers[2].kernel.shape, np.inf))
    with pytest.raises(kc.InputError, match="What BatchNorm layer 'norm1' reads is not finite"):
        kc.recalibrate_batch_normalization(model, samples)
