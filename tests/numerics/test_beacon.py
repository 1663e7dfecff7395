"""Beacon never lowers a cosine, ends where no single level raises one, and is at least as good as GPFQ at its best."""

import itertools

import numpy as np
import pytest

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.beacon import beacon, cosine
from keras_compress.numerics.gpfq import gpfq
from keras_compress.numerics.statistics import statistics_of
from tests.numerics import problems


def problem(rng, num_features=24, units=5):
    analog, compressed = problems.inputs(rng, 120, num_features)
    return analog.astype(np.float64), compressed.astype(np.float64), rng.normal(size=(num_features, units))


def cosines(analog, compressed, weights, codes):
    target, outputs = analog @ weights, compressed @ codes.astype(np.float64)
    return np.einsum("ij,ij->j", target, outputs) / np.linalg.norm(target, axis=0) / np.linalg.norm(outputs, axis=0)


def test_the_cosine_is_that_of_the_outputs(rng):
    analog, compressed, weights = problem(rng)
    statistics = statistics_of(analog, compressed)
    codes = rng.integers(-3, 4, weights.shape).astype(float)
    quotient = cosine(statistics.cross @ weights, statistics.gram, codes) / np.linalg.norm(analog @ weights, axis=0)
    np.testing.assert_allclose(quotient, cosines(analog, compressed, weights, codes), rtol=1e-10)


@pytest.mark.parametrize("levels", problems.LEVELS)
def test_no_sweep_lowers_a_cosine(rng, levels):
    analog, compressed, weights = problem(rng)
    statistics = statistics_of(analog, compressed)
    levels = problems.LEVELS[levels]
    by_sweeps = [
        cosines(analog, compressed, weights, beacon(weights, statistics, levels, sweeps=sweeps, starts=(0.8,))[0])
        for sweeps in range(5)
    ]
    for before, after in itertools.pairwise(by_sweeps):
        assert (after >= before - 1e-12).all()
    assert (by_sweeps[-1] > by_sweeps[0]).any()


@pytest.mark.parametrize("levels", problems.LEVELS)
def test_it_ends_where_no_single_level_helps(rng, levels):
    """The neighbours of a parabola's vertex and the two ends stand for all levels."""
    analog, compressed, weights = problem(rng, num_features=12)
    statistics = statistics_of(analog, compressed)
    levels = problems.LEVELS[levels]
    codes, _ = beacon(weights, statistics, levels, sweeps=100)
    highest = cosines(analog, compressed, weights, codes)
    for feature, level in itertools.product(range(12), levels):
        other = codes.copy()
        other[feature] = level
        assert (cosines(analog, compressed, weights, other) <= highest + 1e-9).all()


def test_the_scale_is_that_of_least_squares(rng):
    analog, compressed, weights = problem(rng)
    codes, alphabet = beacon(weights, statistics_of(analog, compressed), problems.LEVELS["sixteen"])
    for channel in range(weights.shape[1]):
        column = compressed @ codes[:, channel].astype(np.float64)
        best = column @ (analog @ weights[:, channel]) / (column @ column)
        assert alphabet.scale[channel] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("block_size", [1, 7])
def test_blocks_of_any_size_give_the_same_codes(rng, block_size):
    analog, compressed, weights = problem(rng)
    statistics = statistics_of(analog, compressed)
    codes, _ = beacon(weights, statistics, problems.LEVELS["sixteen"])
    again, _ = beacon(weights, statistics, problems.LEVELS["sixteen"], block_size=block_size)
    np.testing.assert_array_equal(codes, again)


def test_more_starts_are_never_worse(rng):
    analog, compressed, weights = problem(rng)
    statistics = statistics_of(analog, compressed)
    one, many = (
        cosines(analog, compressed, weights, beacon(weights, statistics, np.arange(-1, 2), starts=starts)[0])
        for starts in ((1.0,), (1.0, 0.8, 0.65, 0.5, 0.35))
    )
    assert (many >= one - 1e-12).all()


def test_dead_features_and_zeros_stay(rng):
    analog, compressed = problems.inputs(rng, 50, 10, dead=(3,))
    weights = rng.normal(size=(10, 4))
    keep = rng.random(weights.shape) < 0.6
    codes, _ = beacon(weights, statistics_of(analog, compressed), np.arange(-7, 8), keep=keep)
    assert not codes[~keep].any()
    rows = np.zeros((5, 10))
    codes, alphabet = beacon(weights, statistics_of(rows, rows), np.arange(-7, 8))
    assert np.isfinite(alphabet.scale).all() and np.abs(codes).max() <= 7


@pytest.mark.parametrize("levels", ["ternary", "four", "sixteen"])
def test_its_error_is_below_that_of_gpfq_at_its_best_radius(levels):
    """Spec of the experiment: Gaussian inputs, GPFQ at five radii, each channel with its best one."""
    rng = np.random.default_rng(0)
    analog = rng.normal(size=(400, 80))
    compressed = analog + 0.1 * rng.normal(size=analog.shape)
    weights = rng.normal(size=(80, 24))
    statistics, levels = statistics_of(analog, compressed), problems.LEVELS[levels]
    codes, alphabet = beacon(weights, statistics, levels)

    def error(decoded):
        return np.linalg.norm(analog @ weights - compressed @ decoded, axis=0)

    radii = np.abs(weights).max(axis=0)
    greedy = [
        error(problems.decode(candidate, gpfq(weights, statistics, candidate)))
        for candidate in (
            Alphabet(levels, fraction * radii / np.abs(levels).max()) for fraction in (1, 0.8, 0.65, 0.5, 0.35)
        )
    ]
    assert np.mean(error(problems.decode(alphabet, codes))) < np.mean(np.min(greedy, axis=0))


def test_a_start_of_zeros_alone_goes_on(rng):
    """Few levels and one large weight leave all others zero, and where that one is kept at zero, nothing is left."""
    analog, compressed, weights = problem(rng)
    weights[0] = 100.0
    keep = np.ones(weights.shape, bool)
    keep[0] = False
    codes, alphabet = beacon(weights, statistics_of(analog, compressed), np.arange(-1, 2), keep=keep, starts=(1.0,))
    assert codes.any(axis=0).all() and np.isfinite(alphabet.scale).all()
