"""SPFQ: aligned weights, stochastic rounding, and the identity of order 1 with stochastic GPFQ."""

import itertools

import numpy as np
import pytest

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.feedback import Rounding
from keras_compress.numerics.gpfq import gpfq, gpfq_direct
from keras_compress.numerics.spfq import aligned_weights
from keras_compress.numerics.statistics import ArraySamples, LayerStatistics, statistics_of
from tests.numerics import problems


def aligned_statistics(statistics):
    """Those of the second phase, where the compressed network's inputs stand on both sides."""
    sums = statistics.sum_compressed
    return LayerStatistics(statistics.count, sums, sums, statistics.gram, statistics.gram)


def test_alignment_is_the_loop_of_the_paper(rng):
    analog, compressed = (rows.astype(np.float64) for rows in problems.inputs(rng, 40, 15, dead=(4,)))
    weights = rng.normal(size=(15, 3))
    aligned = np.zeros_like(weights)
    residual = np.zeros((40, 3))
    for t in range(15):
        column = compressed[:, t]
        target = residual + np.outer(analog[:, t], weights[t])
        aligned[t] = column @ target / (column @ column) if column.any() else 0
        residual = target - np.outer(column, aligned[t])
    forms = [statistics_of(analog, compressed), ArraySamples(analog, compressed, 4)]
    for statistics in forms:
        np.testing.assert_allclose(aligned_weights(weights, statistics, 1), aligned, atol=1e-10)
    for order in (2, 3):
        for t in range(15):
            column = compressed[:, t]
            target = residual + np.outer(column, aligned[t])
            aligned[t] = column @ target / (column @ column) if column.any() else 0
            residual = target - np.outer(column, aligned[t])
        for statistics in forms:
            np.testing.assert_allclose(aligned_weights(weights, statistics, order), aligned, atol=1e-10)


@pytest.mark.slow
def test_more_passes_never_raise_the_error_and_end_at_least_squares(rng):
    analog, compressed = (rows.astype(np.float64) for rows in problems.inputs(rng, 60, 15))
    weights = rng.normal(size=(15, 3))
    statistics = statistics_of(analog, compressed)

    def error(aligned):
        return np.square(analog @ weights - compressed @ aligned).sum(axis=0)

    errors = [error(aligned_weights(weights, statistics, order)) for order in (1, 2, 5, 20, 2000)]
    for before, after in itertools.pairwise(errors):
        assert (after <= before * (1 + 1e-12)).all()
    least = error(np.linalg.lstsq(compressed, analog @ weights, rcond=None)[0])
    np.testing.assert_allclose(errors[-1], least, rtol=1e-6)


def test_with_equal_inputs_nothing_needs_aligning(rng):
    analog, _ = problems.inputs(rng, 40, 9, noise=0, dead=(2,))
    weights = rng.normal(size=(9, 3))
    for statistics in (statistics_of(analog, analog), ArraySamples(analog, analog, 4)):
        aligned = aligned_weights(weights, statistics, 3)
        np.testing.assert_allclose(np.delete(aligned, 2, axis=0), np.delete(weights, 2, axis=0), rtol=1e-9)
        assert not aligned[2].any()


@pytest.mark.parametrize("levels", problems.LEVELS)
def test_order_one_is_gpfq_with_stochastic_rounding(rng, levels):
    analog, compressed = problems.inputs(rng, 60, 37, dead=(5,))
    weights = rng.uniform(-1, 1, (37, 4))
    alphabet = problems.alphabet(problems.LEVELS[levels], 4, rng)
    noise = rng.random(weights.shape)
    statistics = statistics_of(analog, compressed)
    together = gpfq(weights, statistics, alphabet, noise=noise)
    apart = gpfq(aligned_weights(weights, statistics, 1), aligned_statistics(statistics), alphabet, noise=noise)
    np.testing.assert_array_equal(together, apart)
    direct, _ = gpfq_direct(weights, ArraySamples(analog, compressed, 16), alphabet, noise=noise)
    np.testing.assert_array_equal(together, direct)


def test_stochastic_rounding_is_right_on_average(rng):
    alphabet = Alphabet(np.arange(-8, 9), np.ones(1))
    arguments = rng.uniform(-7, 7, 50)
    draws = 4000
    rounding = Rounding(alphabet, noise=rng.random((draws, 50)))
    values = np.empty((draws, 50))
    for draw in range(draws):
        rounding(arguments.copy(), draw, values[draw])
    assert (np.abs(values - arguments) < 1).all()
    # a mean of 4,000 values of variance at most 1/4: four standard deviations
    np.testing.assert_allclose(values.mean(axis=0), arguments, atol=4 * 0.5 / np.sqrt(draws))


def test_the_stochastic_error_keeps_its_bound(rng):
    """||Xw - Xq||_inf <= d sqrt(2 pi p ln N) max_j ||X_j||, with probability 1 - sqrt(2) m N^-p; here p = 2."""
    num_rows, num_features, step = 50, 500, 0.125
    rows = rng.normal(size=(num_rows, num_features))
    weights = rng.uniform(-1, 1, (num_features, 20))
    alphabet = Alphabet(np.arange(-4096, 4097), np.array([step]))
    codes = gpfq(weights, statistics_of(rows, rows), alphabet, noise=rng.random(weights.shape))
    error = np.abs(rows @ (weights - problems.decode(alphabet, codes))).max()
    assert error <= step * np.sqrt(4 * np.pi * np.log(num_features)) * np.linalg.norm(rows, axis=0).max()
    # twice the variance of a step's rounding to the nearest value
    growth = num_rows**2 * (1 - (1 - 1 / num_rows) ** num_features)
    squares = np.square(rows @ (weights - problems.decode(alphabet, codes))).sum(axis=0)
    assert squares.mean() == pytest.approx(step**2 / 6 * growth, rel=0.2)


@pytest.mark.parametrize("levels", ["ternary", "seventeen"])
def test_a_soft_threshold_solves_the_problem_with_a_price_on_values(rng, levels):
    """p = argmin 1/2 ||u + w X_t - p X~_t||^2 + lambda ||X~_t||^2 |p|, value by value (Zhang et al., 2023)."""
    analog, compressed = (rows.astype(np.float64) for rows in problems.inputs(rng, 50, 20, dead=(3,)))
    weights = rng.uniform(-1, 1, (20, 2))
    alphabet = problems.alphabet(problems.LEVELS[levels], 2, rng)
    price = 0.15
    expected = np.zeros_like(weights)
    for neuron, values in enumerate(problems.values(alphabet, 2)):
        residual = np.zeros(50)
        for t in range(20):
            target, column = residual + weights[t, neuron] * analog[:, t], compressed[:, t]
            costs = [np.sum((target - p * column) ** 2) / 2 + price * np.sum(column**2) * abs(p) for p in values]
            expected[t, neuron] = values[np.argmin(costs)] if column.any() else 0
            residual = target - expected[t, neuron] * column
    threshold = price
    codes = gpfq(weights, statistics_of(analog, compressed), alphabet, threshold=threshold)
    np.testing.assert_allclose(problems.decode(alphabet, codes), expected, atol=1e-12)
    direct, _ = gpfq_direct(weights, ArraySamples(analog, compressed, 7), alphabet, threshold=threshold)
    np.testing.assert_array_equal(codes, direct)
    assert np.mean(codes == 0) > np.mean(gpfq(weights, statistics_of(analog, compressed), alphabet) == 0)
