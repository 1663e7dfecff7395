"""Alphabets with a scale for each group of features, with zero points, and with a gap around zero."""

import numpy as np
import pytest

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.descent import descend
from keras_compress.numerics.gpfq import gpfq, gpfq_direct
from keras_compress.numerics.objective import DirectObjective, GramObjective
from keras_compress.numerics.optq import optq
from keras_compress.numerics.radius import asymmetric, mse_radius
from keras_compress.numerics.statistics import ArraySamples, statistics_of
from tests.numerics import problems
from tests.reference import gpfq as reference
from tests.reference import optq as optq_reference

UNITS, FEATURES, GROUP = 4, 37, 8
NUM_GROUPS = -(-FEATURES // GROUP)


def grouped(rng):
    return Alphabet(np.arange(-4, 4), rng.uniform(0.1, 0.4, (NUM_GROUPS, UNITS)), group_size=GROUP)


def with_zero_points(rng):
    return Alphabet(np.arange(8), rng.uniform(0.1, 0.4, UNITS), rng.integers(0, 8, UNITS))


def with_both(rng):
    shape = (NUM_GROUPS, UNITS)
    return Alphabet(np.arange(8), rng.uniform(0.1, 0.4, shape), rng.integers(0, 8, shape), group_size=GROUP)


KINDS = [grouped, with_zero_points, with_both]


def values_of(alphabet):
    """(N, n_out, num_levels) float64, typed out."""
    values = np.empty((FEATURES, UNITS, len(alphabet.levels)))
    for feature in range(FEATURES):
        for unit in range(UNITS):
            where = unit if alphabet.group_size is None else (feature // GROUP, unit)
            zero = 0 if alphabet.zero_point is None else int(alphabet.zero_point[where])
            values[feature, unit] = float(alphabet.scale[where]) * (alphabet.levels - zero)
    return values


def chosen(values, levels, codes):
    index = np.searchsorted(levels, codes)
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


@pytest.fixture(params=KINDS)
def alphabet(request, rng):
    return request.param(rng)


@pytest.fixture
def problem(rng):
    analog, compressed = problems.inputs(rng, 60, FEATURES, dead=(9,))
    return rng.uniform(-1, 1, (FEATURES, UNITS)), analog, compressed


def test_nearest_is_the_search_for_the_nearest_value(problem, alphabet):
    weights, values = problem[0], values_of(alphabet)
    distances = np.abs(chosen(values, alphabet.levels, alphabet.nearest(weights)) - weights)
    np.testing.assert_allclose(distances, np.abs(values - weights[..., None]).min(axis=-1), atol=1e-12)


def test_decoding_gives_the_values(problem, alphabet):
    codes = alphabet.nearest(problem[0])
    np.testing.assert_allclose(alphabet.decode(codes), chosen(values_of(alphabet), alphabet.levels, codes), rtol=1e-6)


def test_the_radius_is_the_largest_value(alphabet):
    values = np.abs(values_of(alphabet)).max(axis=-1)
    expected = values[::GROUP] if alphabet.group_size else values[0]
    np.testing.assert_allclose(alphabet.radius, expected, rtol=1e-6)


def test_both_forms_of_gpfq_are_the_loop_of_the_paper(problem, alphabet):
    weights, analog, compressed = problem
    values = values_of(alphabet)
    expected, residual, closest = reference.gpfq(weights, analog.astype(float), compressed.astype(float), values)
    assert closest > 1e-9
    for size in (1, 5, 128):
        codes = gpfq(weights, statistics_of(analog, compressed), alphabet, block_size=size)
        np.testing.assert_allclose(chosen(values, alphabet.levels, codes), expected, atol=1e-12)
        direct, direct_residual = gpfq_direct(weights, ArraySamples(analog, compressed, size), alphabet)
        np.testing.assert_array_equal(direct, codes)
        np.testing.assert_allclose(direct_residual, residual, atol=1e-10)


@pytest.mark.parametrize("block_size", [3, 128])
def test_optq_is_its_least_squares_definition(rng, alphabet, block_size):
    _, compressed = problems.inputs(rng, 60, FEATURES)
    weights, values = rng.uniform(-1, 1, (FEATURES, UNITS)), values_of(alphabet)
    rows = compressed.astype(np.float64)
    expected, closest = optq_reference.greedy_least_squares(weights, rows @ weights, rows, values, start=weights)
    assert closest > 1e-6
    codes = optq(weights, statistics_of(compressed, compressed), alphabet, damping=1e-12, block_size=block_size)
    np.testing.assert_allclose(chosen(values, alphabet.levels, codes), expected, atol=1e-9)


@pytest.mark.parametrize("form", ["gram", "direct"])
def test_descent_ends_where_no_single_value_helps(problem, alphabet, form):
    weights, analog, compressed = problem
    objective = (
        GramObjective(weights, statistics_of(analog, compressed))
        if form == "gram"
        else DirectObjective(weights, ArraySamples(analog, compressed, 5))
    )
    start = alphabet.nearest(weights)
    codes = descend(objective.place(alphabet.decode(start).astype(float)), alphabet, start, sweeps=100)
    alphabet_values = values_of(alphabet)
    values = chosen(alphabet_values, alphabet.levels, codes)
    residual = analog.astype(float) @ weights - compressed.astype(float) @ values
    least = np.square(residual).sum(axis=0)
    for feature in range(FEATURES):
        for level in range(len(alphabet.levels)):
            change = np.outer(compressed[:, feature], alphabet_values[feature, :, level] - values[feature])
            assert (np.square(residual - change).sum(axis=0) >= least * (1 - 1e-9)).all()


def test_hard_thresholding_is_that_of_the_paper(rng):
    """Zero up to lambda; beyond it sign(z) (lambda + d' min(round((|z| - lambda) / d'), K)) (spec: sparse L0)."""
    largest, price, radius = 3, 0.15, 0.9
    step = (radius - price) / largest
    alphabet = Alphabet(np.arange(-largest - 1, largest + 2), np.array([step]), gap=np.array([price - step]))
    analog, compressed = (rows.astype(np.float64) for rows in problems.inputs(rng, 50, 20, dead=(3,)))
    weights = rng.uniform(-1.2, 1.2, (20, 2))
    expected = np.zeros_like(weights)
    for neuron in range(2):
        residual = np.zeros(50)
        for t in range(20):
            target, column = residual + weights[t, neuron] * analog[:, t], compressed[:, t]
            argument = column @ target / (column @ column) if column.any() else 0.0
            if abs(argument) > price:
                index = min(np.floor((abs(argument) - price) / step + 0.5), largest)
                expected[t, neuron] = np.sign(argument) * (price + step * index)
            residual = target - expected[t, neuron] * column
    codes = gpfq(weights, statistics_of(analog, compressed), alphabet)
    np.testing.assert_allclose(alphabet.decode(codes), expected, atol=1e-6)
    assert len(np.unique(codes)) > 5 and np.abs(alphabet.decode(codes)).max() == pytest.approx(radius)
    direct, _ = gpfq_direct(weights, ArraySamples(analog, compressed, 7), alphabet)
    np.testing.assert_array_equal(codes, direct)


def test_hard_thresholding_of_single_weights(rng):
    """Embeddings and states of recurrent layers are rounded weight by weight, by the same rule."""
    largest, price = 3, np.array([0.15, 0.3])
    step = (0.9 - price) / largest
    alphabet = Alphabet(np.arange(-largest - 1, largest + 2), step, gap=price - step)
    weights = rng.uniform(-1.2, 1.2, (200, 2))
    beyond = price + step * np.minimum(np.floor((np.abs(weights) - price) / step + 0.5), largest)
    expected = np.where(np.abs(weights) > price, np.sign(weights) * beyond, 0.0)
    np.testing.assert_allclose(alphabet.decode(alphabet.nearest(weights)), expected, atol=1e-6)


def test_asymmetric_values_reach_from_the_least_to_the_largest_weight(rng):
    weights = rng.uniform(-0.2, 1.0, (50, 6))
    scale, zero_point = asymmetric(weights, np.full(6, 10.0), np.arange(16), per_channel=True)
    low, high = -zero_point * scale, (15 - zero_point) * scale
    assert (np.abs(low - weights.min(axis=0)) <= scale / 2 + 1e-7).all()
    assert (np.abs(high - weights.max(axis=0)) <= scale / 2 + 1e-7).all()
    scale, zero_point = asymmetric(np.abs(weights), np.full(6, 10.0), np.arange(16), per_channel=True)
    assert not zero_point.any()  # zero is a value, and nothing lies below


def test_an_asymmetric_search_finds_a_smaller_error_than_the_whole_range(rng):
    weights = rng.normal(0.3, 1, (200, 5)) ** 3
    levels = np.arange(8)

    def error(radius):
        alphabet = Alphabet(levels, *asymmetric(weights, radius, levels, per_channel=True))
        return np.square(weights - alphabet.decode(alphabet.nearest(weights))).sum(axis=0)

    least = error(mse_radius(weights, levels, per_channel=True, symmetric=False))
    assert (least < error(np.abs(weights).max(axis=0))).all()
    symmetric = Alphabet(np.arange(-4, 4), mse_radius(weights, np.arange(-4, 4), per_channel=True) / 4)
    assert least.sum() < np.square(weights - symmetric.decode(symmetric.nearest(weights))).sum()
