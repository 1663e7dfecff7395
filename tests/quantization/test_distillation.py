"""Distilled scales: the codes stay, the gradient is that of the definition, and the outputs come nearer."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.calibration.calibration import Calibration
from keras_compress.layers.kernels import views_by_path
from keras_compress.quantization import distillation
from tests import architectures

L = keras.layers


def network(outputs="softmax"):
    """Convolutions, a residual block, a depthwise kernel and a BatchNorm that stays."""
    inputs = keras.Input((6, 6, 2))
    trunk = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", activation="relu")(inputs))
    branch = L.DepthwiseConv2D(3, padding="same", name="depthwise")(trunk)
    hidden = L.GlobalAveragePooling2D()(L.Add()([trunk, branch]))
    return keras.Model(inputs, L.Dense(5, outputs, name="head")(hidden), name="network")


def drawn(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low, high = (0.5, 2.0) if variable.name in ("gamma", "moving_variance") else (-1.0, 1.0)
        variable.assign(rng.uniform(low, high, variable.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return drawn(network())


@pytest.fixture(scope="module")
def samples(model):
    return architectures.samples(model, 40)


@pytest.fixture(scope="module")
def quantized(model, samples):
    return kc.quantize(model, kc.GPFQ(3), samples)


def divergence(model, teacher, samples, temperature=2):
    p, q = (np.asarray(each(samples), np.float64) ** (1 / temperature) for each in (teacher, model))
    p, q = (each / each.sum(axis=1, keepdims=True) for each in (p, q))
    return float(np.sum(p * np.log(p / q), axis=1).mean())


@pytest.mark.slow
def test_the_outputs_come_nearer_and_nothing_but_scales_changes(model, samples, quantized):
    result = kc.distill_scales(quantized, samples, teacher=model, epochs=8, learning_rate=0.01, batch_size=10)
    step = result.report.steps[-1]
    before, after = step.figures["loss before"], step.figures["loss"]
    assert before == pytest.approx(divergence(quantized.model, model, samples), rel=1e-3)
    assert after == pytest.approx(divergence(result.model, model, samples), rel=1e-3)
    assert after < 0.9 * before
    result.check()
    for path, kernel in result.kernels.items():
        old = quantized.kernels[path]
        np.testing.assert_array_equal(kernel.codes, old.codes)
        assert kernel.scale.shape == old.scale.shape and kernel.storage_bits == old.storage_bits
        moved = np.sqrt(np.mean((kernel.scale / old.scale - 1) ** 2))
        assert moved > 0
        assert result.report.row(path).scale_moved == pytest.approx(moved, rel=1e-3)
    kernels = {id(layer.kernel) for layer in result.model.layers if layer.name in result.kernels}
    for weight, original in zip(result.model.weights, quantized.model.weights, strict=True):
        assert np.array_equal(weight, original) != (id(weight) in kernels), weight.path
    assert divergence(quantized.model, model, samples) == pytest.approx(before, rel=1e-3), "written to"


def losses_at(quantized, model, samples, loss, moved=None):
    """The mean loss with the first scale of the head times exp(moved), and the gradient of that logarithm."""
    import tensorflow as tf

    student = distillation.clone_model(quantized.model)
    views = views_by_path(student)
    scales = [
        distillation._TrainedScale(path, views[path].variable, kernel) for path, kernel in quantized.kernels.items()
    ]
    with Calibration(model, samples, batch_size=17) as source:
        trainer = distillation._Trainer(source, student, scales, loss, 1.0)
        scale = next(scale for scale in scales if scale.path == "head")
        if moved is not None:
            scale.logarithm.assign(np.eye(1, scale.kernel.scale.size)[0] * moved)
        with tf.GradientTape() as tape:
            value = trainer._sum_of_losses([tf.constant(samples)], [tf.constant(np.asarray(model(samples)))])
        gradient = tape.gradient(value, scale.logarithm.value)
        return trainer.mean_loss(), float(gradient[0]) / len(samples)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kl_divergence", "mean_squared_error"])
def test_gradients_are_differences(model, samples, quantized, loss):
    step = 0.02
    _, slope = losses_at(quantized, model, samples, loss)
    ends = [losses_at(quantized, model, samples, loss, moved)[0] for moved in (-step, step)]
    assert slope == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=0.05, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "alphabet",
    [
        kc.Integer(3, per_channel=False),
        kc.Integer(3, symmetric=False),
        kc.Equispaced(3),
        kc.Midtread(2),
    ],
    ids=repr,
)
def test_every_kind_of_alphabet(model, samples, alphabet):
    quantized = kc.quantize(model, kc.GPFQ(alphabet=alphabet), samples)
    result = kc.distill_scales(quantized, samples, teacher=model, epochs=4, batch_size=10)
    assert result.report.steps[-1].figures["loss"] < result.report.steps[-1].figures["loss before"]
    assert all(np.array_equal(result.kernels[path].codes, kernel.codes) for path, kernel in quantized.kernels.items())


@pytest.mark.slow
def test_gaps_and_groups():
    model = drawn(keras.Sequential([keras.Input((6,)), L.Dense(8, "relu"), L.Dense(3)]))
    samples = architectures.samples(model, 40)
    sparse = kc.SparseGPFQ(3, regularizer="l0", regularization=0.05)
    for quantizer in (sparse, kc.GPFQ(alphabet=kc.Integer(3, group_size=4))):
        quantized = kc.quantize(model, quantizer, samples)
        result = kc.distill_scales(quantized, samples, teacher=model, epochs=4, batch_size=10)
        assert result.report.steps[-1].figures["loss"] < result.report.steps[-1].figures["loss before"]
        for path, kernel in result.kernels.items():
            old = quantized.kernels[path]
            assert kernel.scale.shape == old.scale.shape
            if old.gap is not None:
                np.testing.assert_allclose(kernel.gap / old.gap, kernel.scale / old.scale, rtol=1e-5)


@pytest.mark.slow
def test_the_seed_decides(model, samples, quantized):
    first, again, other = (
        kc.distill_scales(quantized, samples, teacher=model, epochs=2, batch_size=10, seed=seed) for seed in (0, 0, 1)
    )
    for path in first.kernels:
        np.testing.assert_allclose(first.kernels[path].scale, again.kernels[path].scale, rtol=1e-5)
    assert any(not np.allclose(first.kernels[path].scale, other.kernels[path].scale) for path in first.kernels)


@pytest.mark.slow
def test_samples_may_lie_on_disk_in_chunks(model, samples, quantized, tmp_path):
    """The loss does not depend on the chunks; nothing is left behind."""
    with Calibration(model, samples, batch_size=7, work_dir=tmp_path) as calibration:
        calibration.store.memory_budget = 0
        chunked = kc.distill_scales(quantized, calibration, teacher=model, epochs=3, batch_size=5)
        assert not any(key[0] == distillation.TEACHER for key in calibration.store)
    whole = kc.distill_scales(quantized, samples, teacher=model, epochs=3, batch_size=5)
    before = [result.report.steps[-1].figures["loss before"] for result in (chunked, whole)]
    assert before[0] == pytest.approx(before[1], rel=1e-4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_only_chosen_layers(model, samples, quantized):
    result = kc.distill_scales(quantized, samples, teacher=model, epochs=2, batch_size=10, layers="head")
    for path, kernel in result.kernels.items():
        assert np.array_equal(kernel.scale, quantized.kernels[path].scale) == (path != "head")
    assert [row.path for row in result.report.steps[-1].rows] == ["head"]


@pytest.mark.slow
def test_scales_stay_where_training_does_not_help(model, samples, quantized):
    def unlike(target, output):
        """Falls by nothing, so that training cannot lower it."""
        return 0 * distillation._per_sample(output) + 1

    result = kc.distill_scales(quantized, samples, teacher=model, loss=unlike, epochs=1)
    assert all(np.array_equal(result.kernels[path].scale, old.scale) for path, old in quantized.kernels.items())
    assert {row.action for row in result.report.steps[-1].rows} == {"kept"}
    assert result.report.steps[-1].settings["loss"] == "unlike"


@pytest.mark.slow
def test_several_outputs_are_added():
    inputs = keras.Input((6,))
    hidden = L.Dense(8, "relu")(inputs)
    model = drawn(keras.Model(inputs, [L.Dense(3, "softmax", name="a")(hidden), L.Dense(2, name="b")(hidden)]))
    samples = architectures.samples(model, 40)
    quantized = kc.quantize(model, kc.GPFQ(2), samples)
    result = kc.distill_scales(quantized, samples, teacher=model, epochs=6, batch_size=10, temperature=1)
    (p, v), (q, w) = ([np.asarray(out, np.float64) for out in each(samples)] for each in (model, quantized.model))
    expected = np.sum(p * np.log(p / q), axis=1).mean() + np.square(v - w).sum() / np.square(v).sum()
    figures = result.report.steps[-1].figures
    assert figures["loss before"] == pytest.approx(expected, rel=1e-3)
    assert figures["loss"] < figures["loss before"]


@keras.saving.register_keras_serializable("tests.distillation")
class Branches(keras.Model):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.left, self.right = L.Dense(4, "relu"), L.Dense(4)

    def call(self, x):
        return self.left(x) - self.right(x)


@pytest.mark.slow
def test_a_subclassed_model_learns_too():
    model = Branches()
    samples = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    model(samples)
    quantized = kc.quantize(model, kc.GPFQ(2), samples)
    result = kc.distill_scales(quantized, samples, teacher=model, epochs=6, batch_size=10)
    assert result.report.steps[-1].figures["loss"] < result.report.steps[-1].figures["loss before"]


@pytest.mark.slow
def test_rounded_activations_pass_gradients_on(model, samples, quantized):
    both = kc.quantize_activations(quantized, samples)
    result = kc.distill_scales(both, samples, teacher=model, epochs=6, batch_size=10)
    assert result.report.steps[-1].figures["loss"] < result.report.steps[-1].figures["loss before"]


@pytest.mark.slow
def test_it_comes_back_from_disk(model, samples, quantized, tmp_path):
    result = kc.distill_scales(quantized, samples, teacher=model, epochs=2, batch_size=10)
    result.save(tmp_path / "small")
    loaded = kc.load_result(tmp_path / "small")
    assert loaded.report == result.report
    np.testing.assert_array_equal(np.asarray(loaded.model(samples)), np.asarray(result.model(samples)))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"loss": "hinge"}, "loss must be"),
        ({"epochs": 0}, "epochs must be an integer from 1 upwards. Received: 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer from 1 upwards. Received: 2.5"),
        ({"learning_rate": 3}, "learning_rate must be a number between 0 and 1. Received: 3"),
        ({"temperature": 0}, "temperature must be a number between 0 and 1000. Received: 0"),
        ({"layers": "heads"}, "heads"),
        ({"calibration": None}, "Received: None"),
        (
            {"teacher": keras.Sequential([keras.Input((3,)), L.Dense(2)])},
            "The teacher must have the inputs of the model",
        ),
    ],
    ids=str,
)
def test_bad_settings_are_refused(model, samples, quantized, settings, message):
    arguments = {"teacher": model, "calibration": samples} | settings
    with pytest.raises(kc.InputError, match=message):
        kc.distill_scales(quantized, **arguments)


def test_models_without_codes_and_teachers_of_other_outputs_are_refused(model, samples, quantized):
    with pytest.raises(kc.InputError, match="has no codes"):
        kc.distill_scales(model, samples, teacher=model)
    other = keras.Sequential([keras.Input((6, 6, 2)), L.Flatten(), L.Dense(4)])
    with pytest.raises(kc.InputError, match="The teacher must have the outputs of the model"):
        kc.distill_scales(quantized, samples, teacher=other)


@pytest.mark.slow
def test_divergence_needs_probabilities(samples):
    logits = drawn(network(None))
    quantized = kc.quantize(logits, kc.GPFQ(3), samples)
    with pytest.raises(kc.InputError, match="probabilities along the last axis"):
        kc.distill_scales(quantized, samples, teacher=logits, loss="kl_divergence")


def test_outputs_that_are_not_finite_are_refused(samples):
    model = drawn(network(None))
    quantized = kc.quantize(model, kc.MSQ(3))
    model.get_layer("head").bias.assign(np.full(5, np.nan))
    with pytest.raises(kc.InputError, match="not finite before training"):
        kc.distill_scales(quantized, samples, teacher=model)
