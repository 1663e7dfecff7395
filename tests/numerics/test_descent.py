"""Coordinate descent never raises the error and ends where no single letter can lower it; scales are least squares."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.descent import best_scale, descend, excess
from keras_compress.numerics.gpfq import gpfq
from keras_compress.numerics.statistics import statistics_of
from tests.numerics import problems


def errors(analog, compressed, weights, decoded):
    return np.square(analog.astype(np.float64) @ weights - compressed.astype(np.float64) @ decoded).sum(axis=0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 30),
    num_features=st.integers(1, 40),
    levels=st.sampled_from(sorted(problems.LEVELS)),
    noise=st.sampled_from([0.0, 0.5]),
    block_size=st.sampled_from([1, 7, 128]),
)
def test_no_sweep_raises_the_error_of_any_channel(seed, num_rows, num_features, levels, noise, block_size):
    rng = np.random.default_rng(seed)
    analog, compressed = problems.inputs(rng, num_rows, num_features, noise=noise)
    weights = rng.uniform(-1, 1, (num_features, 3))
    alphabet = problems.alphabet(problems.LEVELS[levels], 3, rng)
    statistics = statistics_of(analog, compressed)
    codes = gpfq(weights, statistics, alphabet)
    before = errors(analog, compressed, weights, problems.decode(alphabet, codes))
    for _ in range(3):
        codes = descend(weights, statistics, alphabet, codes, sweeps=1, block_size=block_size)
        assert np.isin(codes, alphabet.levels).all()
        after = errors(analog, compressed, weights, problems.decode(alphabet, codes))
        assert (after <= before * (1 + 1e-9) + 1e-9).all()  # the two sides sum in different orders
        before = after


def test_it_ends_where_no_single_letter_helps(rng):
    analog, compressed = problems.inputs(rng, 60, 20)
    weights = rng.uniform(-1, 1, (20, 3))
    alphabet = problems.alphabet(problems.LEVELS["four"], 3, rng)
    statistics = statistics_of(analog, compressed)
    codes = descend(weights, statistics, alphabet, alphabet.nearest(weights), sweeps=100)
    np.testing.assert_array_equal(codes, descend(weights, statistics, alphabet, codes, sweeps=1))
    least = errors(analog, compressed, weights, problems.decode(alphabet, codes))
    for feature, level in itertools.product(range(20), alphabet.levels):
        other = codes.copy()
        other[feature] = level
        assert (errors(analog, compressed, weights, problems.decode(alphabet, other)) >= least - 1e-9).all()


@pytest.mark.parametrize("sweeps", [1, 2, 5])
def test_blocks_of_any_size_give_the_same_codes(rng, sweeps):
    analog, compressed = problems.inputs(rng, 60, 50)
    weights = rng.uniform(-1, 1, (50, 4))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 4, rng)
    statistics = statistics_of(analog, compressed)
    start = alphabet.nearest(weights)
    first, *others = (
        descend(weights, statistics, alphabet, start, sweeps=sweeps, block_size=size) for size in (1, 16, 17, 128)
    )
    for codes in others:
        np.testing.assert_array_equal(codes, first)


def test_dead_features_and_zeros_stay(rng):
    analog, compressed = problems.inputs(rng, 30, 12, dead=(2, 7))
    weights = rng.uniform(-1, 1, (12, 3))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 3, rng)
    keep = rng.random(weights.shape) < 0.6
    start = np.where(keep, alphabet.nearest(weights), 0)
    codes = descend(weights, statistics_of(analog, compressed), alphabet, start, sweeps=3, keep=keep)
    np.testing.assert_array_equal(codes[[2, 7]], start[[2, 7]])
    assert not codes[~keep].any()


@pytest.mark.parametrize("num_scales", [1, 4])
def test_the_scale_is_that_of_least_squares(rng, num_scales):
    analog, compressed = problems.inputs(rng, 60, 20)
    weights = rng.uniform(-1, 1, (20, 4))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], num_scales, rng)
    codes = alphabet.nearest(weights)
    best = best_scale(weights, statistics_of(analog, compressed), alphabet, codes)
    assert best.scale.shape == (num_scales,)

    def error(factor):
        found = errors(analog, compressed, weights, codes * (best.scale.astype(np.float64) * factor))
        return found if num_scales > 1 else found.sum()

    assert (error(1.0) < error(1.01)).all() and (error(1.0) < error(0.99)).all()


def test_a_channel_whose_codes_say_nothing_keeps_its_scale(rng):
    analog, compressed = problems.inputs(rng, 30, 6)
    alphabet = Alphabet(np.arange(-3, 4), np.array([0.5, 0.25]))
    codes = np.zeros((6, 2), np.int8)
    codes[:, 1] = 1
    best = best_scale(-np.ones((6, 2)), statistics_of(analog, compressed), alphabet, codes)
    np.testing.assert_array_equal(best.scale, alphabet.scale)


def test_the_excess_is_the_error_without_the_part_that_no_code_changes(rng):
    analog, compressed = problems.inputs(rng, 30, 6)
    weights, decoded = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    norm = np.square(analog.astype(np.float64) @ weights).sum(axis=0)
    found = excess(weights, statistics_of(analog, compressed), decoded)
    np.testing.assert_allclose(found + norm, errors(analog, compressed, weights, decoded), rtol=1e-9)
