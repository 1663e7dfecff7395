"""Coordinate descent never raises the error and ends where no single value can lower it; scales are least squares."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.descent import descend, fit_scale
from keras_compress.numerics.gpfq import gpfq
from keras_compress.numerics.objective import DirectObjective, GramObjective, excess
from keras_compress.numerics.statistics import ArraySamples, CenteredSamples, statistics_of
from tests.numerics import problems


def errors(analog, compressed, weights, decoded):
    return np.square(analog.astype(np.float64) @ weights - compressed.astype(np.float64) @ decoded).sum(axis=0)


def gram(weights, analog, compressed):
    return GramObjective(weights, statistics_of(analog, compressed))


def direct(weights, analog, compressed):
    return DirectObjective(weights, ArraySamples(analog, compressed, block_size=7))


FORMS = [gram, direct]


def at(objective, alphabet, codes):
    return objective.place(problems.decode(alphabet, codes))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 30),
    num_features=st.integers(1, 40),
    levels=st.sampled_from(sorted(problems.LEVELS)),
    noise=st.sampled_from([0.0, 0.5]),
    block_size=st.sampled_from([1, 7, 128]),
    form=st.sampled_from(FORMS),
)
def test_no_sweep_raises_the_error_of_any_channel(seed, num_rows, num_features, levels, noise, block_size, form):
    rng = np.random.default_rng(seed)
    analog, compressed = problems.inputs(rng, num_rows, num_features, noise=noise)
    weights = rng.uniform(-1, 1, (num_features, 3))
    alphabet = problems.alphabet(problems.LEVELS[levels], 3, rng)
    statistics = statistics_of(analog, compressed)
    codes = gpfq(weights, statistics, alphabet)
    before = errors(analog, compressed, weights, problems.decode(alphabet, codes))
    objective = at(form(weights, analog, compressed), alphabet, codes)
    for _ in range(3):
        codes = descend(objective, alphabet, codes, sweeps=1, block_size=block_size)
        assert np.isin(codes, alphabet.levels).all()
        after = errors(analog, compressed, weights, problems.decode(alphabet, codes))
        assert (after <= before * (1 + 1e-9) + 1e-9).all()  # the two sides sum in different orders
        before = after


@pytest.mark.parametrize("form", FORMS)
def test_it_ends_where_no_single_value_helps(rng, form):
    analog, compressed = problems.inputs(rng, 60, 20)
    weights = rng.uniform(-1, 1, (20, 3))
    alphabet = problems.alphabet(problems.LEVELS["four"], 3, rng)
    objective = at(form(weights, analog, compressed), alphabet, alphabet.nearest(weights))
    codes = descend(objective, alphabet, alphabet.nearest(weights), sweeps=100)
    np.testing.assert_array_equal(codes, descend(objective, alphabet, codes, sweeps=1))
    least = errors(analog, compressed, weights, problems.decode(alphabet, codes))
    for feature, level in itertools.product(range(20), alphabet.levels):
        other = codes.copy()
        other[feature] = level
        assert (errors(analog, compressed, weights, problems.decode(alphabet, other)) >= least - 1e-9).all()


@pytest.mark.parametrize("sweeps", [1, 2, 5])
def test_blocks_of_any_size_and_both_forms_give_the_same_codes(rng, sweeps):
    analog, compressed = problems.inputs(rng, 60, 50)
    weights = rng.uniform(-1, 1, (50, 4))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 4, rng)
    start = alphabet.nearest(weights)

    def descended(form, size):
        return descend(
            at(form(weights, analog, compressed), alphabet, start), alphabet, start, sweeps=sweeps, block_size=size
        )

    first = descended(gram, 1)
    for codes in (descended(gram, 16), descended(gram, 17), descended(gram, 128), descended(direct, 128)):
        np.testing.assert_array_equal(codes, first)


@pytest.mark.parametrize("form", FORMS)
def test_dead_features_and_zeros_stay(rng, form):
    analog, compressed = problems.inputs(rng, 30, 12, dead=(2, 7))
    weights = rng.uniform(-1, 1, (12, 3))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 3, rng)
    keep = rng.random(weights.shape) < 0.6
    start = np.where(keep, alphabet.nearest(weights), 0)
    objective = at(form(weights, analog, compressed), alphabet, start)
    codes = descend(objective, alphabet, start, sweeps=3, keep=keep)
    np.testing.assert_array_equal(codes[[2, 7]], start[[2, 7]])
    assert not codes[~keep].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_scales", [1, 4])
def test_the_scale_is_that_of_least_squares(rng, num_scales, form):
    analog, compressed = problems.inputs(rng, 60, 20)
    weights = rng.uniform(-1, 1, (20, 4))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], num_scales, rng)
    codes = alphabet.nearest(weights)
    objective = at(form(weights, analog, compressed), alphabet, codes)
    best = fit_scale(objective, alphabet, codes)
    assert best.scale.shape == (num_scales,)

    def error(factor):
        by_channel = errors(analog, compressed, weights, codes * (best.scale.astype(np.float64) * factor))
        return by_channel if num_scales > 1 else by_channel.sum()

    assert (error(1.0) < error(1.01)).all() and (error(1.0) < error(0.99)).all()
    again = form(weights, analog, compressed).place(problems.decode(best, codes))
    np.testing.assert_allclose(excess(objective), excess(again), rtol=1e-9)  # it has moved along


@pytest.mark.parametrize("group_size", [4, 6, 20])
def test_the_scale_of_each_group_is_fitted_while_the_others_stay(rng, group_size):
    analog, compressed = problems.inputs(rng, 60, 20)
    weights = rng.uniform(-1, 1, (20, 4))
    scale = rng.uniform(0.08, 0.12, (-(-20 // group_size), 4))
    alphabet = Alphabet(problems.LEVELS["sixteen"], scale, group_size=group_size)
    codes = alphabet.nearest(weights)
    objective = gram(weights, analog, compressed).place(alphabet.decode(codes).astype(float))
    fitted = fit_scale(objective, alphabet, codes)
    expected = alphabet.decode(codes).astype(np.float64)
    for start in range(0, 20, group_size):
        part = slice(start, start + group_size)
        own = compressed[:, part].astype(np.float64) @ expected[part]
        residual = analog.astype(np.float64) @ weights - compressed.astype(np.float64) @ expected
        factor = 1 + np.einsum("ij,ij->j", own, residual) / np.square(own).sum(axis=0)
        expected[part] *= factor
    np.testing.assert_allclose(fitted.decode(codes), expected, rtol=1e-5)
    errors_then = errors(analog, compressed, weights, alphabet.decode(codes).astype(float))
    assert (errors(analog, compressed, weights, fitted.decode(codes).astype(float)) < errors_then).all()


def test_constant_features_stand_alone_in_both_forms(rng):
    analog, compressed = problems.inputs(rng, 60, 20)
    analog[:, 3] = compressed[:, 3] = 2.0
    weights = rng.uniform(-1, 1, (20, 4))
    alphabet = problems.alphabet(problems.LEVELS["four"], 4, rng)
    codes = alphabet.nearest(weights)
    forms = [
        GramObjective(weights, statistics_of(analog, compressed).centered()),
        DirectObjective(weights, CenteredSamples(ArraySamples(analog, compressed, block_size=6))),
    ]
    results = []
    for objective in forms:
        at(objective, alphabet, codes)
        fitted = fit_scale(objective, alphabet, codes)
        before = excess(objective)
        results.append((before, fitted.scale, descend(objective, fitted, codes, sweeps=2), excess(objective)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_channel_whose_codes_say_nothing_keeps_its_scale(rng):
    analog, compressed = problems.inputs(rng, 30, 6)
    alphabet = Alphabet(np.arange(-3, 4), np.array([0.5, 0.25]))
    codes = np.zeros((6, 2), np.int8)
    codes[:, 1] = 1
    best = fit_scale(at(gram(-np.ones((6, 2)), analog, compressed), alphabet, codes), alphabet, codes)
    np.testing.assert_array_equal(best.scale, alphabet.scale)


@pytest.mark.parametrize("form", FORMS)
def test_the_excess_is_the_error_without_the_part_that_no_code_changes(rng, form):
    analog, compressed = problems.inputs(rng, 30, 6)
    weights, decoded = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    norm = np.square(analog.astype(np.float64) @ weights).sum(axis=0)
    changing = excess(form(weights, analog, compressed).place(decoded))
    np.testing.assert_allclose(changing + norm, errors(analog, compressed, weights, decoded), rtol=1e-9)
