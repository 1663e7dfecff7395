"""Fewer rows than features leave directions free in which a fit costs nothing: it must not run off along them."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.numerics.statistics import mean_error, statistics_of
from tests.quantization.contracts import QUANTIZERS

L = keras.layers


def error_elsewhere(quantizer, rows, others, weights):
    """On other rows than those that calibrated; the bias takes the mean error."""
    statistics = statistics_of(rows, rows)
    alphabet = quantizer.layer_alphabet(weights[None], [statistics])
    codes, alphabet = quantizer.solve(weights, statistics, alphabet, centered=quantizer.centers)
    decoded = alphabet.decode(codes).astype(np.float64)
    return np.linalg.norm(others @ (weights - decoded) - mean_error(weights, decoded, statistics))


@pytest.mark.parametrize("count", [1, 2, 5, 20, 50, 200])
@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_beacon_is_about_as_good_as_rounding_however_few_rows(rng, kind, count):
    mix = np.eye(50) if kind == "independent" else rng.normal(size=(50, 50)) * np.exp(-np.arange(50) / 8)[:, None]
    rows, others = (np.maximum(rng.normal(size=(length, 50)) @ mix + 0.3, -0.2) for length in (count, 2000))
    weights = rng.normal(size=(50, 12))
    baseline = error_elsewhere(kc.MSQ(4, bias_correction=True), rows, others, weights)
    assert error_elsewhere(kc.Beacon(4), rows, others, weights) < 1.25 * baseline


def test_rows_that_are_many_outweigh_what_is_added(rng):
    rows = rng.normal(size=(20000, 10))
    statistics = statistics_of(rows, rows)
    np.testing.assert_allclose(statistics.held().gram, statistics.gram, rtol=0, atol=1e-3 * len(rows))
    assert statistics.held().same_inputs


def test_a_dead_feature_stays_dead(rng):
    rows = rng.normal(size=(5, 8))
    rows[:, 2] = 0
    assert statistics_of(rows, rows).held().diagonal[2] == 0


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dense(8, activation="relu")]
    return keras.Sequential([keras.Input((12, 12, 1)), *layers, L.Dense(3, activation="softmax")])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpfq", "gpfq_searched", "optq_corrected", "qronos", "spfq_aligned", "sparse_gpfq"])
def test_no_method_is_lost_on_two_samples(network, name):
    """Worse than on many, and never as wrong as no network at all."""
    x = np.random.default_rng(0).normal(size=(64, 12, 12, 1)).astype(np.float32)
    analog = network.predict(x, verbose=0)
    compressed = kc.quantize(network, QUANTIZERS[name], x[:2]).model.predict(x, verbose=0)
    assert np.linalg.norm(compressed - analog) < 0.6 * np.linalg.norm(analog)


@pytest.mark.slow
def test_beacon_on_two_samples_is_no_worse_than_rounding(network):
    x = np.random.default_rng(0).normal(size=(64, 12, 12, 1)).astype(np.float32)
    analog = network.predict(x, verbose=0)
    errors = [
        np.linalg.norm(kc.quantize(network, quantizer, x[:2]).model.predict(x, verbose=0) - analog)
        for quantizer in (kc.Beacon(4), kc.MSQ(4))
    ]
    assert errors[0] <= errors[1]
