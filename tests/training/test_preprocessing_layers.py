"""What preprocessing layers have learned from data stays in every training, whose first loss is that of the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.bridge.tfmot import restore_states

L = keras.layers
GENERATOR = np.random.default_rng(0)
TABLE = (GENERATOR.normal(size=(40, 3)) * [1, 30, 5] + [0, 100, -20]).astype("float32")
IMAGES = (GENERATOR.normal(size=(40, 4, 5, 2)) * 20 + 100).astype("float32")
NUMBERS = GENERATOR.integers(0, 9, (40, 3))
WORDS = np.array(["red", "green", "blue", "grey"], object)[GENERATOR.integers(0, 4, (40, 3))]
TEXTS = np.array([" ".join(row) for row in WORDS], object)[:, np.newaxis]
LABELS = np.arange(40) % 3
TYPES = {"f": "float32", "i": "int64", "O": "string"}


def adapted(layer, samples):
    layer.adapt(samples)
    return layer


KINDS = {
    "each column": (TABLE, lambda: adapted(L.Normalization(), TABLE)),
    "one for all": (TABLE, lambda: adapted(L.Normalization(axis=None), TABLE)),
    "channels": (IMAGES, lambda: adapted(L.Normalization(), IMAGES)),
    "rows and channels": (IMAGES, lambda: adapted(L.Normalization(axis=(1, 3)), IMAGES)),
    "inverted": (TABLE, lambda: adapted(L.Normalization(invert=True), TABLE / 100)),
    "given numbers": (IMAGES, lambda: L.Normalization(mean=100.0, variance=400.0)),
    "given lists": (IMAGES, lambda: L.Normalization(mean=[100.0, 90.0], variance=[400.0, 100.0])),
    "given arrays": (TABLE, lambda: L.Normalization(mean=TABLE.mean(0), variance=TABLE.var(0))),
    "given, inverted": (TABLE / 100, lambda: L.Normalization(mean=3.0, variance=4.0, invert=True)),
    "bins": (TABLE, lambda: adapted(L.Discretization(num_bins=4, output_mode="multi_hot"), TABLE)),
    "integers": (NUMBERS, lambda: adapted(L.IntegerLookup(output_mode="count", max_tokens=6), NUMBERS)),
    "words": (WORDS, lambda: adapted(L.StringLookup(output_mode="multi_hot"), WORDS)),
    "weighted words": (WORDS, lambda: adapted(L.StringLookup(output_mode="tf_idf"), WORDS)),
    "texts": (TEXTS, lambda: adapted(L.TextVectorization(output_sequence_length=3), TEXTS)),
    "weighted texts": (TEXTS, lambda: adapted(L.TextVectorization(output_mode="tf_idf"), TEXTS)),
}


SETTINGS: dict[str, dict] = {"keras": {"activation_bits": None}, "tfmot": {}}


def network(kind, nested=False):
    samples, make = KINDS[kind]
    inputs = keras.Input(samples.shape[1:], dtype=TYPES[samples.dtype.kind])
    if nested:
        inside = keras.Input(samples.shape[1:], dtype=inputs.dtype)
        x = keras.Model(inside, make()(inside), name="front")(inputs)
    else:
        x = make()(inputs)
    x = L.Embedding(20, 4)(x) if "int" in x.dtype else x
    x = L.Dense(32, "relu", name="hidden")(L.Flatten()(x))
    model = keras.Model(inputs, L.Dense(3, "softmax", name="head")(x))
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    return model, samples


def loss_of(model, samples):
    return model.evaluate(tf.constant(samples), LABELS, verbose=0)


def check_training(technique, model, samples, **settings):
    """At a learning rate of zero the loss is that of before, in both libraries, and the layer computes the same."""
    loss = loss_of(model, samples)
    data = (samples, LABELS)
    result = technique(model, data, validation=data, **settings)
    figures = result.report.steps[-1].figures
    assert figures["validation loss before"] == pytest.approx(loss, rel=1e-4)
    assert figures["validation loss after"] == pytest.approx(loss, rel=0.05)
    assert loss_of(result.model, samples) == pytest.approx(loss, rel=0.05)
    learned, kept = (keras.Model(each.input, each.get_layer("hidden").input) for each in (model, result.model))
    for one, two in zip(*(each(tf.constant(samples)) for each in (learned, kept)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", SETTINGS)
@pytest.mark.sampled(3)
def test_quantization_aware_training_keeps_what_was_learned(kind, engine):
    check_training(kc.quantization_aware_training, *network(kind), engine=engine, **SETTINGS[engine])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows and channels", "weighted texts"])
def test_within_a_model_too(kind):
    check_training(kc.quantization_aware_training, *network(kind, nested=True), activation_bits=None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["each column", "bins", "weighted texts"])
@pytest.mark.parametrize("technique", [kc.prune_magnitude, kc.cluster_weights])
@pytest.mark.sampled(3)
def test_other_trainings_keep_it_too(technique, kind):
    settings = {"number_of_clusters": 12}
    if technique is kc.prune_magnitude:
        settings = {"schedule": kc.ConstantSparsity(0.01)}
    check_training(technique, *network(kind), **settings)


@pytest.mark.slow
def test_the_trained_file_has_the_normalization(tmp_path):
    model, samples = network("each column")
    result = kc.quantization_aware_training(model, (samples, LABELS))
    kc.export_tflite(result, tmp_path / "qat.tflite", activations="int8")
    top1 = kc.evaluate_tflite(tmp_path / "qat.tflite", samples, LABELS).top1
    assert top1 == pytest.approx(kc.evaluate(model, samples, LABELS).top1, abs=0.06)


@pytest.mark.slow
def test_a_copy_that_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setattr("keras_compress.training.with_tfmot.restore_states", lambda model: None)
    model, samples = network("each column")
    with pytest.raises(kc.InputError, match="gives other outputs, before anything is rounded"):
        kc.quantization_aware_training(model, (samples, LABELS), engine="tfmot")


def test_layers_compute_from_their_weights_again():
    tf_keras = import_tf_keras()
    layer = tf_keras.layers.Normalization()
    model = tf_keras.Sequential([tf_keras.Input((3,)), layer])
    layer.set_weights([np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, 4.0]), np.array(1)])
    restore_states(model)
    np.testing.assert_allclose(model(np.ones((1, 3), "float32")), [[0.0, -0.5, -1.0]])
