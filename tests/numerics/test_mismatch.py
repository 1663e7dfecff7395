"""The residual mismatch, which outputs are to have besides XW, acts in each method as one more feature would."""

import numpy as np
import pytest

from keras_compress.numerics.beacon import beacon
from keras_compress.numerics.descent import descend, fit_scale
from keras_compress.numerics.gpfq import gpfq
from keras_compress.numerics.objective import GramObjective, excess
from keras_compress.numerics.optq import optq
from keras_compress.numerics.spfq import aligned_weights
from keras_compress.numerics.statistics import LayerStatistics, mean_error, statistics_of
from tests.numerics import problems

ROWS, FEATURES, UNITS = 80, 12, 3


@pytest.fixture
def problem(rng):
    analog, compressed = (rows.astype(np.float64) for rows in problems.inputs(rng, ROWS, FEATURES, dead=(4,)))
    return analog, compressed, rng.uniform(-1, 1, (FEATURES, UNITS)), 0.5 + rng.normal(size=(ROWS, UNITS))


def statistics_with(analog, compressed, mismatch):
    plain = statistics_of(analog, compressed)
    return LayerStatistics(
        ROWS,
        plain.sum_analog,
        plain.sum_compressed,
        plain.gram,
        plain.cross,
        compressed.T @ mismatch,
        mismatch.sum(axis=0),
    )


def squared_error(problem, decoded):
    analog, compressed, weights, mismatch = problem
    return np.square(analog @ weights + mismatch - compressed @ decoded).sum(axis=0)


def test_the_excess_is_the_error_but_for_a_constant(problem, rng):
    analog, compressed, weights, mismatch = problem
    objective = GramObjective(weights, statistics_with(analog, compressed, mismatch))
    pairs = [(excess(objective.place(q)), squared_error(problem, q)) for q in rng.normal(size=(2, FEATURES, UNITS))]
    np.testing.assert_allclose(pairs[0][0] - pairs[1][0], pairs[0][1] - pairs[1][1], rtol=1e-9)


@pytest.mark.parametrize("centered", [False, True])
def test_gpfq_starts_its_path_from_the_mismatch(problem, rng, centered):
    """u_0 = E in place of u_0 = 0."""
    analog, compressed, weights, mismatch = problem
    alphabet = problems.alphabet(problems.LEVELS["seventeen"], UNITS, rng)
    if centered:
        analog, compressed, mismatch = (part - part.mean(axis=0) for part in (analog, compressed, mismatch))
    values = problems.values(alphabet, UNITS)
    expected = np.zeros_like(weights)
    for neuron in range(UNITS):
        u = mismatch[:, neuron].copy()
        for t in range(FEATURES):
            target, column = u + weights[t, neuron] * analog[:, t], compressed[:, t]
            if column.any():
                expected[t, neuron] = min(values[neuron], key=lambda p: np.sum((target - p * column) ** 2))
            u = target - expected[t, neuron] * column
    analog, compressed, _, mismatch = problem
    codes = gpfq(weights, statistics_with(analog, compressed, mismatch), alphabet, centered=centered, block_size=5)
    np.testing.assert_allclose(problems.decode(alphabet, codes), expected, atol=1e-9)
    if centered:
        again = gpfq(weights, statistics_with(analog, compressed, mismatch).centered(), alphabet)
        np.testing.assert_array_equal(again, codes)


def test_fine_alphabets_reach_least_squares(problem):
    """What no grid hinders, the corrected weights and many passes of alignment both bring to the optimum."""
    analog, compressed, weights, mismatch = problem
    statistics = statistics_with(analog, compressed, mismatch)
    alphabet = problems.Alphabet(np.arange(-(2**14), 2**14 + 1), np.array([2.0**-10]))
    best = np.linalg.lstsq(compressed, analog @ weights + mismatch, rcond=None)[0]
    least = squared_error(problem, best)
    codes = optq(weights, statistics, alphabet, target="corrected", damping=1e-12)
    np.testing.assert_allclose(squared_error(problem, problems.decode(alphabet, codes)), least, rtol=1e-3)
    aligned = aligned_weights(weights, statistics, 3000)
    np.testing.assert_allclose(squared_error(problem, aligned), least, rtol=1e-6)


@pytest.mark.parametrize("method", ["gpfq", "corrected", "qronos", "beacon", "refined"])
def test_every_method_comes_nearer_to_the_target(problem, rng, method):
    analog, compressed, weights, mismatch = problem
    alphabet = problems.alphabet(problems.LEVELS["seventeen"], UNITS, rng)

    def error(statistics):
        if method == "gpfq":
            codes, fitted = gpfq(weights, statistics, alphabet), alphabet
        elif method == "beacon":
            codes, fitted = beacon(weights, statistics, alphabet.levels)
        elif method == "refined":
            codes = gpfq(weights, statistics, alphabet)
            objective = GramObjective(weights, statistics).place(problems.decode(alphabet, codes))
            fitted = fit_scale(objective, alphabet, codes)
            codes = descend(objective, fitted, codes, sweeps=3)
        else:
            codes, fitted = optq(weights, statistics, alphabet, target=method), alphabet
        return squared_error(problem, problems.decode(fitted, codes)).sum()

    assert error(statistics_with(analog, compressed, mismatch)) < 0.9 * error(statistics_of(analog, compressed))


def test_the_mean_error_has_the_mean_of_the_mismatch(problem):
    analog, compressed, weights, mismatch = problem
    decoded = np.round(weights, 1)
    mean = mean_error(weights, decoded, statistics_with(analog, compressed, mismatch))
    np.testing.assert_allclose(mean, (analog @ weights + mismatch - compressed @ decoded).mean(axis=0), rtol=1e-6)
