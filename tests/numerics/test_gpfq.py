"""GPFQ: both forms give what the papers' loop gives, within the bounds that theory gives, and obey its symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.gpfq import gpfq, gpfq_direct
from keras_compress.numerics.statistics import ArraySamples, CenteredSamples, statistics_of
from tests.numerics import problems
from tests.reference import gpfq as reference

# Decisions closer than this, in steps, could fall either way by rounding in float64.
CLOSE = 1e-9


def assert_all_forms_follow_the_reference(weights, analog, compressed, alphabet):
    values = problems.values(alphabet, weights.shape[1])
    expected, residual, closest = reference.gpfq(
        weights, analog.astype(np.float64), compressed.astype(np.float64), values
    )
    assert closest > CLOSE, "choose another seed: a decision is too close to compare codes"
    statistics = statistics_of(analog, compressed)
    for block_size in (1, 5, 128):
        codes = gpfq(weights, statistics, alphabet, block_size=block_size)
        np.testing.assert_allclose(problems.decode(alphabet, codes), expected, rtol=0, atol=1e-12)
    for block_size in (3, 128):
        codes, direct_residual = gpfq_direct(weights, ArraySamples(analog, compressed, block_size), alphabet)
        np.testing.assert_allclose(problems.decode(alphabet, codes), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(direct_residual, residual, rtol=0, atol=1e-10)


@pytest.mark.parametrize("levels", problems.LEVELS)
@pytest.mark.parametrize("num_rows", [15, 60], ids=["fewer_rows", "more_rows"])
@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["same_inputs", "other_inputs"])
@pytest.mark.parametrize("num_scales", [1, 3], ids=["per_layer", "per_channel"])
def test_every_form_and_block_size_gives_the_codes_of_the_paper(rng, levels, num_rows, noise, num_scales):
    analog, compressed = problems.inputs(rng, num_rows, 37, noise=noise, dead=(0, 9, 36))
    weights = rng.uniform(-1, 1, (37, 3))
    alphabet = problems.alphabet(problems.LEVELS[levels], num_scales, rng)
    assert_all_forms_follow_the_reference(weights, analog, compressed, alphabet)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 30),
    num_features=st.integers(1, 25),
    num_units=st.integers(1, 3),
    num_levels=st.integers(2, 9),
    noise=st.sampled_from([0.0, 0.5]),
)
def test_small_problems_of_every_shape(seed, num_rows, num_features, num_units, num_levels, noise):
    rng = np.random.default_rng(seed)
    analog, compressed = problems.inputs(rng, num_rows, num_features, noise=noise)
    alphabet = problems.alphabet(np.arange(num_levels) - num_levels // 2, num_units, rng)
    assert_all_forms_follow_the_reference(rng.uniform(-1, 1, (num_features, num_units)), analog, compressed, alphabet)


def test_a_feature_that_died_in_the_compressed_network_alone(rng):
    analog, compressed = problems.inputs(rng, 20, 12)
    compressed[:, [0, 5]] = 0
    alphabet = problems.alphabet(problems.LEVELS["seventeen"], 2, rng)
    assert_all_forms_follow_the_reference(rng.uniform(-1, 1, (12, 2)), analog, compressed, alphabet)


@pytest.mark.parametrize("levels", problems.LEVELS)
def test_a_dead_feature_gets_the_value_nearest_to_zero(rng, levels):
    levels = problems.LEVELS[levels]
    analog, compressed = problems.inputs(rng, 20, 8, dead=(2, 7))
    alphabet = problems.alphabet(levels, 4, rng)
    weights = rng.uniform(-1, 1, (8, 4))
    codes = gpfq(weights, statistics_of(analog, compressed), alphabet)
    direct, _ = gpfq_direct(weights, ArraySamples(analog, compressed), alphabet)
    assert (np.abs(codes[[2, 7]]) == np.abs(levels).min()).all()
    assert (np.abs(direct[[2, 7]]) == np.abs(levels).min()).all()


@pytest.mark.parametrize("centered", [False, True])
def test_the_residual_is_the_error_of_the_outputs(rng, centered):
    analog, compressed = problems.inputs(rng, 50, 70, dead=(3,))
    weights = rng.uniform(-1, 1, (70, 5))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 5, rng)
    samples = ArraySamples(analog, compressed, 16)
    codes, residual = gpfq_direct(weights, CenteredSamples(samples) if centered else samples, alphabet)
    analog, compressed = analog.astype(np.float64), compressed.astype(np.float64)
    if centered:
        analog, compressed = analog - analog.mean(axis=0), compressed - compressed.mean(axis=0)
    error = analog @ weights - compressed @ problems.decode(alphabet, codes)
    # The means are sums of float32 columns in float64, so 1e-10 leaves room for their order alone.
    np.testing.assert_allclose(residual, error, rtol=0, atol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_centered_direct_form_agrees_with_the_centered_gram_form(rng, noise):
    analog, compressed = problems.inputs(rng, 200, 40, noise=noise, dead=(4,))
    weights = rng.uniform(-1, 1, (40, 6))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 6, rng)
    direct, _ = gpfq_direct(weights, CenteredSamples(ArraySamples(analog, compressed, 11)), alphabet)
    means = compressed - compressed.mean(axis=0, dtype=np.float64), analog - analog.mean(axis=0, dtype=np.float64)
    expected, _, closest = reference.gpfq(weights, means[1], means[0], problems.values(alphabet, 6))
    assert closest > CLOSE
    statistics = statistics_of(analog, compressed)
    for block_size in (7, 128):
        np.testing.assert_array_equal(direct, gpfq(weights, statistics, alphabet, centered=True, block_size=block_size))
    np.testing.assert_allclose(problems.decode(alphabet, direct), expected, rtol=0, atol=1e-12)


# Bounds


def unsaturated(weights, statistics, step):
    """Codes over an alphabet that no argument leaves."""
    alphabet = Alphabet(np.arange(-(2**12), 2**12 + 1), np.array([step]))
    codes = gpfq(weights, statistics, alphabet)
    assert np.abs(codes).max() < 2**12
    return problems.decode(alphabet, codes)


@pytest.mark.parametrize("kind", ["gaussian", "relu", "low_rank"])
def test_the_error_is_at_most_half_a_step_times_each_column(rng, kind):
    rows = rng.normal(size=(40, 150))
    if kind == "relu":
        rows = np.maximum(rows, 0)
    elif kind == "low_rank":
        rows = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 150))
    weights = rng.uniform(-1, 1, (150, 30))
    step = 0.125
    error = rows @ (weights - unsaturated(weights, statistics_of(rows, rows), step))
    assert (np.square(error).sum(axis=0) <= step**2 / 4 * np.square(rows).sum()).all()


@pytest.mark.parametrize(("num_rows", "num_features"), [(20, 50), (50, 1000)])
def test_the_error_on_gaussian_inputs_is_what_theory_predicts(rng, num_rows, num_features):
    step = 0.125
    weights = rng.uniform(-1, 1, (num_features, 200))
    rows = rng.normal(size=(num_rows, num_features))
    error = rows @ (weights - unsaturated(weights, statistics_of(rows, rows), step))
    mean = np.square(error).sum(axis=0).mean()
    growth = num_rows**2 * (1 - (1 - 1 / num_rows) ** num_features)
    assert mean <= step**2 / 4 * growth
    # 15 %: one draw of the inputs for all neurons, and an error that is only nearly uniform within a step.
    assert mean == pytest.approx(step**2 / 12 * growth, rel=0.15)


def test_memoryless_error_grows_with_the_features_and_the_greedy_one_does_not(rng):
    step, num_rows = 0.125, 20
    rows = rng.normal(size=(num_rows, 1000))
    weights = rng.uniform(-1, 1, (1000, 100))
    memoryless = rows @ (weights - step * np.rint(weights / step))
    greedy = rows @ (weights - unsaturated(weights, statistics_of(rows, rows), step))
    assert np.square(memoryless).sum(axis=0).mean() == pytest.approx(step**2 / 12 * num_rows * 1000, rel=0.15)
    assert np.square(greedy).sum() < 2 * num_rows / 1000 * np.square(memoryless).sum()


def relu_inputs(kind, rng):
    if kind == "independent":
        hidden = rng.normal(size=(300, 60))
    elif kind == "correlated":
        hidden = rng.normal(size=(300, 60)) + rng.normal(size=(300, 1))
    else:
        hidden = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 60)) / np.sqrt(8)
    return np.maximum(hidden, 0)


@pytest.mark.parametrize("kind", ["independent", "correlated", "low_rank"])
@pytest.mark.parametrize("levels", ["ternary", "sixteen"])
def test_centering_before_quantizing_beats_correcting_the_bias_afterwards(kind, levels):
    """With the bias free, what remains is the error around its mean: the centred form minimises just that."""
    plain, centered = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        analog = relu_inputs(kind, rng)
        compressed = np.maximum(analog + 0.05 * rng.normal(size=analog.shape), 0)
        weights = rng.normal(size=(60, 32))
        alphabet = Alphabet(problems.LEVELS[levels], np.array([2.0 / problems.LEVELS[levels].max()]))
        statistics = statistics_of(analog, compressed)
        for errors, centers in ((plain, False), (centered, True)):
            codes = gpfq(weights, statistics, alphabet, centered=centers)
            error = analog @ weights - compressed @ problems.decode(alphabet, codes)
            errors.append(np.linalg.norm(error - error.mean(axis=0)))
    assert np.mean(centered) <= np.mean(plain)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_constant_feature_is_rounded_alone_when_centered(rng, noise):
    """0.7 has no finite binary expansion: what rounding leaves of its variance must not become a direction."""
    analog, compressed = problems.inputs(rng, 200, 12, noise=noise, dead=(3,))
    analog[:, 5] = compressed[:, 5] = 0.7
    weights = rng.uniform(-1, 1, (12, 6))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 6, rng)
    codes = gpfq(weights, statistics_of(analog, compressed), alphabet, centered=True)
    np.testing.assert_array_equal(codes[5], alphabet.nearest(weights)[5])
    assert (codes[3] == alphabet.zero_code).all()
    direct, _ = gpfq_direct(weights, CenteredSamples(ArraySamples(analog, compressed, 5)), alphabet)
    np.testing.assert_array_equal(codes, direct)


def test_one_sample_leaves_centered_gpfq_at_msq(rng):
    """Around its mean a single sample says nothing."""
    sample = rng.uniform(0.1, 1, (1, 12))
    weights = rng.uniform(-1, 1, (12, 6))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 6, rng)
    codes = gpfq(weights, statistics_of(sample, sample), alphabet, centered=True)
    np.testing.assert_array_equal(codes, alphabet.nearest(weights))


# Symmetries


@pytest.fixture
def problem(rng):
    analog, compressed = problems.inputs(rng, 60, 40)
    weights = rng.uniform(-1, 1, (40, 6))
    return weights, analog, compressed, problems.alphabet(problems.LEVELS["sixteen"], 6, rng)


@pytest.mark.parametrize("levels", problems.LEVELS)
def test_every_code_is_a_level(rng, levels):
    analog, compressed = problems.inputs(rng, 30, 40)
    alphabet = problems.alphabet(problems.LEVELS[levels], 1, rng)
    codes = gpfq(5 * rng.normal(size=(40, 6)), statistics_of(analog, compressed), alphabet)
    assert set(codes.ravel()) <= set(problems.LEVELS[levels])
    assert np.issubdtype(codes.dtype, np.integer)


def test_orthogonal_inputs_make_it_memoryless(rng):
    rows = np.linalg.qr(rng.normal(size=(50, 20)))[0] * rng.uniform(0.5, 2, 20)
    weights = rng.uniform(-1, 1, (20, 6))
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 6, rng)
    np.testing.assert_array_equal(gpfq(weights, statistics_of(rows, rows), alphabet), alphabet.nearest(weights))


def test_permuting_neurons_permutes_columns(rng, problem):
    weights, analog, compressed, alphabet = problem
    order = rng.permutation(6)
    statistics = statistics_of(analog, compressed)
    np.testing.assert_array_equal(
        gpfq(weights[:, order], statistics, Alphabet(alphabet.levels, alphabet.scale[order])),
        gpfq(weights, statistics, alphabet)[:, order],
    )


def test_a_neuron_does_not_see_the_others(problem):
    weights, analog, compressed, alphabet = problem
    statistics = statistics_of(analog, compressed)
    alone = gpfq(weights[:, 2:3], statistics, alphabet.channels(slice(2, 3)))
    np.testing.assert_array_equal(alone, gpfq(weights, statistics, alphabet)[:, 2:3])


def test_scaling_weights_and_alphabet_scales_the_result(problem):
    weights, analog, compressed, alphabet = problem
    statistics = statistics_of(analog, compressed)
    larger = Alphabet(alphabet.levels, 4 * alphabet.scale)  # a power of two, so that nothing rounds
    codes = gpfq(4 * weights, statistics, larger)
    np.testing.assert_array_equal(larger.decode(codes), 4 * alphabet.decode(gpfq(weights, statistics, alphabet)))


def test_scaling_inputs_changes_nothing(problem):
    weights, analog, compressed, alphabet = problem
    np.testing.assert_array_equal(
        gpfq(weights, statistics_of(8 * analog, 8 * compressed), alphabet),
        gpfq(weights, statistics_of(analog, compressed), alphabet),
    )


def test_the_order_of_rows_does_not_matter(rng, problem):
    weights, analog, compressed, alphabet = problem
    order = rng.permutation(len(analog))
    np.testing.assert_array_equal(
        gpfq(weights, statistics_of(analog[order], compressed[order]), alphabet),
        gpfq(weights, statistics_of(analog, compressed), alphabet),
    )


def test_weights_that_are_values_of_the_alphabet_stay_as_they_are(rng, problem):
    _, analog, _, alphabet = problem
    codes = rng.choice(alphabet.levels, (40, 6))
    weights = problems.decode(alphabet, codes)
    np.testing.assert_array_equal(gpfq(weights, statistics_of(analog, analog), alphabet), codes)


def test_weights_that_must_be_zero_are_zero_in_both_forms(rng, problem):
    weights, analog, compressed, alphabet = problem
    keep = rng.random(weights.shape) < 0.5
    codes = gpfq(weights, statistics_of(analog, compressed), alphabet, keep=keep, block_size=7)
    direct, residual = gpfq_direct(weights, ArraySamples(analog, compressed, 9), alphabet, keep=keep)
    assert not codes[~keep].any()
    np.testing.assert_array_equal(codes, direct)
    error = analog.astype(np.float64) @ weights - compressed.astype(np.float64) @ problems.decode(alphabet, codes)
    np.testing.assert_allclose(residual, error, rtol=0, atol=1e-10)


def test_a_kept_zero_costs_nothing_where_the_weight_was_zero_and_the_inputs_agree(rng, problem):
    """The first half of the features is zero and stays: the rest is quantized as if they were not there."""
    weights, analog, _, alphabet = problem
    weights = weights.copy()
    weights[:20] = 0
    statistics = statistics_of(analog, analog)
    codes = gpfq(weights, statistics, alphabet, keep=weights != 0)
    alone = gpfq(weights[20:], statistics.features(np.arange(20, 40)), alphabet)
    np.testing.assert_array_equal(codes[20:], alone)
