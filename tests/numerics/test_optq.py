"""OPTQ, Qronos and OPTQ from corrected weights: their definitions, OPTQ's identity for the error, and the laws."""

import numpy as np
import pytest

from keras_compress.numerics.optq import damped_inverse_factor, inverse_factor, optq
from keras_compress.numerics.statistics import LayerStatistics, statistics_of
from tests.numerics import problems
from tests.reference.optq import greedy_least_squares

CLOSE = 1e-6  # a decision closer than this, in steps, could fall either way: both sides solve least squares
TARGETS = ("weights", "corrected", "qronos")
TINY = 1e-12  # damping that changes no digit, for comparisons with undamped definitions


def problem(rng, *, noise=0.2, num_rows=80, num_features=23, num_units=4, levels="sixteen"):
    analog, compressed = problems.inputs(rng, num_rows, num_features, noise=noise)
    weights = rng.uniform(-1, 1, (num_features, num_units))
    return analog, compressed, weights, problems.alphabet(problems.LEVELS[levels], num_units, rng)


def definition(target, analog, compressed, weights, alphabet):
    analog, compressed = analog.astype(np.float64), compressed.astype(np.float64)
    outputs, start = analog @ weights, weights
    if target == "weights":
        outputs = compressed @ weights
    elif target == "corrected":
        start = np.linalg.lstsq(compressed, outputs, rcond=None)[0]
    values = problems.values(alphabet, weights.shape[1])
    return greedy_least_squares(weights, outputs, compressed, values, start=start)


@pytest.mark.parametrize("levels", problems.LEVELS)
@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["same_inputs", "other_inputs"])
@pytest.mark.parametrize("target", TARGETS)
def test_codes_are_those_of_the_definition(rng, target, noise, levels):
    analog, compressed, weights, alphabet = problem(rng, noise=noise, levels=levels)
    expected, closest = definition(target, analog, compressed, weights, alphabet)
    assert closest > CLOSE, "choose another seed: a decision is too close to compare codes"
    statistics = statistics_of(analog, compressed)
    for block_size in (1, 5, 128):
        codes = optq(weights, statistics, alphabet, target=target, damping=TINY, block_size=block_size)
        np.testing.assert_allclose(problems.decode(alphabet, codes), expected, rtol=0, atol=1e-12)


def test_with_equal_inputs_all_targets_are_one(rng):
    analog, _, weights, alphabet = problem(rng, noise=0.0)
    statistics = statistics_of(analog, analog)
    first, *others = (optq(weights, statistics, alphabet, target=target) for target in TARGETS)
    for codes in others:
        np.testing.assert_array_equal(codes, first)
    # the same matrices as two arrays, so that nothing is taken for granted
    apart = LayerStatistics(
        statistics.count, statistics.sum_analog, statistics.sum_compressed, statistics.gram, statistics.gram.copy()
    )
    for target in TARGETS:
        np.testing.assert_array_equal(optq(weights, apart, alphabet, target=target), first)


def test_orthogonal_inputs_give_msq(rng):
    rows = np.linalg.qr(rng.normal(size=(40, 12)))[0] * rng.uniform(1, 3, 12)
    weights = rng.uniform(-1, 1, (12, 5))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 5, rng)
    for target in TARGETS:
        codes = optq(weights, statistics_of(rows, rows), alphabet, target=target)
        np.testing.assert_array_equal(codes, alphabet.nearest(weights))


def test_the_squared_error_is_the_sum_of_the_squared_steps(rng):
    """||X(w - q)||^2 = sum_t ((v_t - q_t) / U_tt)^2, at most step^2 / 4 * sum_t 1 / U_tt^2 where nothing saturates."""
    analog, _, weights, alphabet = problem(rng, noise=0.0, num_features=15)
    statistics = statistics_of(analog, analog)
    wide = type(alphabet)(np.arange(-4096, 4097), alphabet.scale)
    error = analog.astype(np.float64) @ (weights - problems.decode(wide, optq(weights, statistics, wide, damping=TINY)))
    factor = inverse_factor(statistics.gram, 0.0)
    bound = wide.unit**2 / 4 * np.sum(1 / np.diagonal(factor) ** 2)
    assert (np.square(error).sum(axis=0) <= bound).all()
    rows = analog.astype(np.float64)
    for t in range(15):
        others = rows[:, t + 1 :]
        rest = rows[:, t] - (others @ np.linalg.lstsq(others, rows[:, t], rcond=None)[0] if t < 14 else 0)
        assert 1 / factor[t, t] ** 2 == pytest.approx(rest @ rest, rel=1e-8)


def test_the_factor_is_that_of_the_damped_inverse(rng):
    rows = rng.normal(size=(30, 12))
    rows[:, [0, 7]] = 0
    gram = rows.T @ rows
    factor = inverse_factor(gram, 0.5)
    damped = gram + 0.5 * np.eye(12)
    damped[[0, 7], [0, 7]] = 1.0
    np.testing.assert_allclose(factor.T @ factor, np.linalg.inv(damped), atol=1e-12)
    np.testing.assert_array_equal(factor, np.triu(factor))


def test_where_rounding_took_positive_definiteness_the_ridge_grows_until_it_is_back(rng):
    rows = rng.normal(size=(30, 11))
    values, vectors = np.linalg.eigh(rows.T @ rows)
    values[0] = -0.03
    gram = np.insert(np.insert((vectors * values) @ vectors.T, 4, 0.0, axis=0), 4, 0.0, axis=1)  # feature 4 is dead
    for shape in ((12, 12), (1, 12, 12)):
        factor, ridge = damped_inverse_factor(gram.reshape(shape), np.full((*shape[:-2], 1, 1), 0.001))
        np.testing.assert_allclose(ridge, 0.1)
        damped = gram + 0.1 * np.eye(12)
        damped[4, 4] = 1.0
        factor = factor.reshape(12, 12)
        np.testing.assert_allclose(factor @ damped @ factor.T, np.eye(12), atol=1e-12)
    with pytest.raises(np.linalg.LinAlgError):
        damped_inverse_factor(np.ones((2, 2)), np.zeros((1, 1)))


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_whose_means_dwarf_their_deviations_have_codes(rng, target):
    analog = (300 * rng.uniform(1, 2, 40) + rng.normal(size=(20, 40))).astype(np.float32)  # fewer rows than features
    compressed = (1.05 * analog).astype(np.float32)
    rounded = compressed.T @ compressed, compressed.T @ analog
    sums = (part.sum(axis=0, dtype=np.float64) for part in (analog, compressed))
    statistics = LayerStatistics(20, *sums, *(part.astype(np.float64) for part in rounded)).centered()
    assert np.linalg.eigvalsh(statistics.gram)[0] < -0.01 * statistics.diagonal.mean()
    weights = rng.uniform(-1, 1, (40, 3))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 3, rng)
    codes = optq(weights, statistics, alphabet, target=target)
    assert np.isin(codes, alphabet.levels).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("levels", problems.LEVELS)
def test_a_dead_feature_gets_the_value_nearest_to_zero(rng, target, levels):
    analog, compressed = problems.inputs(rng, 40, 9, dead=(0, 4, 8))
    alphabet = problems.alphabet(problems.LEVELS[levels], 3, rng)
    codes = optq(rng.uniform(-1, 1, (9, 3)), statistics_of(analog, compressed), alphabet, target=target)
    assert (np.abs(codes[[0, 4, 8]]) == np.abs(problems.LEVELS[levels]).min()).all()


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_are_all_zero_give_the_values_nearest_to_zero(rng, target):
    rows = np.zeros((5, 6))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 2, rng)
    assert not optq(rng.normal(size=(6, 2)), statistics_of(rows, rows.copy()), alphabet, target=target).any()


@pytest.mark.parametrize("target", ["corrected", "qronos"])
def test_a_feature_that_died_in_the_compressed_network_alone_is_made_up_for(rng, target):
    analog, compressed, weights, alphabet = problem(rng, num_features=12)
    compressed[:, 3] = 0
    rest = np.delete(np.arange(12), 3)
    codes = optq(weights, statistics_of(analog, compressed), alphabet, target=target, damping=TINY)
    analog, compressed = analog.astype(np.float64), compressed.astype(np.float64)
    outputs = analog @ weights
    start = weights[rest]
    if target == "corrected":
        start = np.linalg.lstsq(compressed[:, rest], outputs, rcond=None)[0]
    values = problems.values(alphabet, 4)
    expected, closest = greedy_least_squares(weights[rest], outputs, compressed[:, rest], values, start=start)
    assert closest > CLOSE
    np.testing.assert_allclose(problems.decode(alphabet, codes)[rest], expected, rtol=0, atol=1e-12)


def test_zeros_are_kept(rng):
    analog, compressed, weights, alphabet = problem(rng)
    keep = rng.random(weights.shape) < 0.5
    for target in TARGETS:
        assert not optq(weights, statistics_of(analog, compressed), alphabet, target=target, keep=keep)[~keep].any()


def test_fewer_rows_than_features_are_no_obstacle(rng):
    analog, compressed, weights, alphabet = problem(rng, num_rows=10)
    for target in TARGETS:
        codes = optq(weights, statistics_of(analog, compressed), alphabet, target=target)
        assert np.isin(codes, alphabet.levels).all()


def test_it_beats_memoryless_rounding(rng):
    analog, compressed, weights, alphabet = problem(rng, num_rows=200, num_features=60, num_units=20)
    statistics = statistics_of(analog, compressed)

    def error(codes):
        return np.linalg.norm(analog @ weights - compressed @ problems.decode(alphabet, codes))

    memoryless = error(alphabet.nearest(weights))
    plain, corrected, qronos = (error(optq(weights, statistics, alphabet, target=target)) for target in TARGETS)
    assert plain < memoryless
    assert max(corrected, qronos) < plain
