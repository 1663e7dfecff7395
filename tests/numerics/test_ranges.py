"""Alphabets of tensors are TFLite's, and each rule for their range keeps what it promises."""

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.numerics.ranges import Histogram, MinMax, MovingAverage, TensorAlphabet, code_bounds, mse_range
from tests.reference import activations as reference

RANGES = [(-1.5, 3.0), (0.0, 6.0), (0.3, 2.0), (-4.0, -0.5), (-0.01, 12.0), (-2.0, 2.0)]
BITS = [2, 3, 4, 8, 16]


@pytest.fixture
def values(rng):
    return rng.normal(0.4, 2, 500)


# Alphabets


@pytest.mark.parametrize("ends", RANGES)
@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_values_are_those_of_the_specification(values, ends, bits):
    alphabet = TensorAlphabet.of_range(*ends, bits)
    scale, zero_point = reference.parameters(*ends, bits)
    assert alphabet.scale == pytest.approx(scale, rel=1e-6)
    assert alphabet.zero_point == zero_point
    expected = reference.rounded(values, alphabet.scale, zero_point, bits)
    np.testing.assert_allclose(alphabet.nearest(values), expected, rtol=1e-12)


@pytest.mark.parametrize("ends", RANGES)
@pytest.mark.parametrize("bits", BITS)
def test_symmetric_values_are_those_of_the_specification(values, ends, bits):
    alphabet = TensorAlphabet.of_range(*ends, bits, symmetric=True)
    assert (alphabet.zero_point, alphabet.low) == (0, -alphabet.high)
    assert alphabet.scale == pytest.approx(reference.symmetric_scale(*ends, bits), rel=1e-6)
    expected = reference.rounded(values, alphabet.scale, 0, bits, symmetric=True)
    np.testing.assert_allclose(alphabet.nearest(values), expected, rtol=1e-12)


@pytest.mark.parametrize("ends", [(-1.5, 3.0), (0.0, 6.0), (-0.01, 12.0), (-4.0, 0.0)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_are_those_of_tensorflow_s_fake_quantization(values, ends, bits):
    inputs = values.astype(np.float32)
    expected = np.asarray(tf.quantization.fake_quant_with_min_max_args(inputs, *ends, bits))
    alphabet = TensorAlphabet.of_range(*ends, bits)
    nearest = alphabet.nearest(inputs)
    tie = np.abs(np.abs(inputs / alphabet.scale - np.rint(inputs / alphabet.scale)) - 0.5) < 1e-3  # rounded otherwise
    np.testing.assert_allclose(nearest[~tie], expected[~tie], rtol=1e-5, atol=1e-5 * alphabet.scale)
    assert tie.mean() < 0.05


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_zero_is_a_value_and_the_alphabet_holds_the_range(bits, symmetric):
    for low, high in RANGES:
        alphabet = TensorAlphabet.of_range(low, high, bits, symmetric=symmetric)
        assert alphabet.nearest(np.zeros(1)) == 0
        assert alphabet.low <= min(low, 0) + alphabet.scale / 2
        assert alphabet.high >= max(high, 0) - 0.51 * alphabet.scale
        assert alphabet.num_levels == 2**bits - symmetric
        assert (alphabet.high - alphabet.low) / alphabet.scale == pytest.approx(alphabet.num_levels - 1)


@pytest.mark.parametrize("symmetric", [False, True])
def test_rounding_moves_nothing_by_more_than_half_a_step_and_twice_is_once(values, symmetric):
    alphabet = TensorAlphabet.of_range(values.min(), values.max(), 5, symmetric=symmetric)
    once = alphabet.nearest(values)
    inside = (values >= alphabet.low) & (values <= alphabet.high)
    assert (np.abs(once - values)[inside] <= alphabet.scale / 2 * (1 + 1e-6)).all()
    np.testing.assert_array_equal(alphabet.nearest(once), once)
    assert once.min() >= alphabet.low and once.max() <= alphabet.high


def test_values_grow_with_the_range(values):
    for symmetric in (False, True):
        alphabet = TensorAlphabet.of_range(-1.0, 3.0, 4, symmetric=symmetric)
        larger = TensorAlphabet.of_range(-4.0, 12.0, 4, symmetric=symmetric)  # 4 is exact in float32
        np.testing.assert_array_equal(larger.nearest(4 * values), 4 * alphabet.nearest(values))


@pytest.mark.parametrize(
    ("ends", "bits", "scale", "zero_point"),
    [
        ((0, 1), 8, 1 / 256, -128),  # softmax and sigmoid in TFLite
        ((-1, 1), 8, 1 / 128, 0),  # tanh
        ((-16, 0), 8, 16 / 256, 127),  # log softmax
        ((0, 1), 4, 1 / 16, -8),
    ],
)
def test_alphabets_of_functions_are_those_that_tflite_prescribes(ends, bits, scale, zero_point):
    alphabet = TensorAlphabet.of_function(*ends, bits)
    assert (alphabet.scale, alphabet.zero_point) == (scale, zero_point)


def test_symmetric_alphabets_of_functions_are_those_of_int16_files():
    assert TensorAlphabet.of_function(0, 1, 16, symmetric=True).scale == 1 / 32768
    assert TensorAlphabet.of_function(-1, 1, 16, symmetric=True).scale == 1 / 32768


def test_a_range_of_zero_has_values_around_zero():
    alphabet = TensorAlphabet.of_range(0.0, 0.0, 8)
    assert (alphabet.scale, alphabet.zero_point) == (1.0, 0)
    assert TensorAlphabet.of_range(0.0, 1e-45, 8).scale > 0


def test_codes_of_8_bits_are_those_of_int8():
    assert code_bounds(8, False) == (-128, 127)
    assert code_bounds(8, True) == (-127, 127)


# Extremes


def test_minmax_is_the_minimum_and_the_maximum(values):
    extremes = MinMax()
    for part in np.split(values, [3, 200, 201]):
        extremes.add(part, part + 1)
    assert extremes.range() == (values.min(), values.max() + 1)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_moving_averages_are_the_weighted_sums_of_the_groups(rng, count, decay):
    lows, highs = rng.normal(-2, 1, count), rng.normal(3, 1, count)
    average = MovingAverage(decay, group=8)
    average.add(lows, highs)
    groups = [slice(start, start + 8) for start in range(0, count, 8)]
    expected = (
        reference.moving_average([float(lows[group].min()) for group in groups], decay),
        reference.moving_average([float(highs[group].max()) for group in groups], decay),
    )
    assert average.range() == pytest.approx(expected, rel=1e-9)


def test_moving_averages_do_not_see_how_samples_come(rng):
    lows, highs = rng.normal(-2, 1, 100), rng.normal(3, 1, 100)
    whole, parts = MovingAverage(), MovingAverage()
    whole.add(lows, highs)
    for index in np.split(np.arange(100), [1, 2, 40, 99]):
        parts.add(lows[index], highs[index])
        parts.range()  # asking changes nothing
    assert parts.range() == whole.range()


def test_moving_averages_of_equal_groups_are_these():
    average = MovingAverage()
    average.add(np.full(50, -1.0), np.full(50, 2.0))
    assert average.range() == pytest.approx((-1.0, 2.0))


def test_moving_averages_reach_less_far_than_the_extremes(rng):
    samples = rng.standard_t(3, 4000)
    average, extremes = MovingAverage(), MinMax()
    for rule in (average, extremes):
        rule.add(samples, samples)
    assert extremes.range()[0] < average.range()[0] < 0 < average.range()[1] < extremes.range()[1]


# Histogram and the least squared error


def test_a_histogram_counts_all_values_and_keeps_their_sum(rng):
    values = rng.normal(size=(20, 5, 3)).astype(np.float32)
    histogram = Histogram(float(values.min()), float(values.max()), num_bins=50)
    for part in np.split(values, [1, 13]):
        histogram.add(part)
    means, counts = histogram.filled()
    assert counts.sum() == values.size
    assert means @ counts == pytest.approx(values.sum(dtype=np.float64), rel=1e-5)
    edges = np.linspace(values.min(), values.max(), 51)
    expected, _ = np.histogram(values, edges)
    assert np.abs(expected[expected > 0] - counts).sum() <= 4  # values at an edge: float32 here, float64 there
    assert (np.diff(means) > 0).all()


def test_a_histogram_keeps_few_values_as_they_are():
    histogram = Histogram(0.0, 255.0)
    histogram.add(np.arange(256))
    means, counts = histogram.filled()
    np.testing.assert_array_equal(means, np.arange(256))
    assert (counts == 1).all()


def test_a_histogram_of_one_value():
    histogram = Histogram(2.5, 2.5)
    histogram.add(np.full(7, 2.5))
    assert [part.tolist() for part in histogram.filled()] == [[2.5], [7]]


DISTRIBUTIONS = {
    "normal": lambda rng: rng.normal(0.5, 1, 20_000),
    "relu": lambda rng: np.maximum(rng.normal(0, 1, 20_000), 0),
    "heavy_tails": lambda rng: rng.standard_t(3, 20_000),
    "one_sided": lambda rng: np.concatenate([rng.gamma(0.5, 2, 20_000), -rng.gamma(0.5, 0.1, 5_000)]),
}


def squared_error(values, low, high, bits, symmetric):
    return ((values - TensorAlphabet.of_range(low, high, bits, symmetric=symmetric).nearest(values)) ** 2).sum()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_range_on_a_dense_grid_beats_the_mse_range(rng, name, bits, symmetric):
    values = DISTRIBUTIONS[name](rng).astype(np.float32)
    low, high = float(min(values.min(), 0)), float(max(values.max(), 0))
    histogram = Histogram(float(values.min()), float(values.max()))
    histogram.add(values)
    chosen = squared_error(values, *mse_range(histogram, bits, symmetric=symmetric), bits, symmetric)
    assert chosen <= squared_error(values, low, high, bits, symmetric) * (1 + 1e-6)
    fractions = np.linspace(1 / 40, 1, 40)
    lows = [low] if symmetric or low == 0 else low * fractions
    radius = max(-low, high)
    best = min(
        squared_error(values, -radius * f if symmetric else start, (radius if symmetric else high) * f, bits, symmetric)
        for f in fractions
        for start in lows
    )
    # 5 %: the error of few bits is jagged in the ends, and the coarse ends are a fifth apart
    assert chosen <= 1.05 * best


def test_the_mse_range_clips_outliers_and_only_these(rng):
    values = np.concatenate([rng.uniform(-1, 1, 100_000), [50.0]]).astype(np.float32)
    histogram = Histogram(float(values.min()), 50.0)
    histogram.add(values)
    low, high = mse_range(histogram, 4)
    assert high < 10
    assert low == pytest.approx(-1, abs=0.1)


def test_the_mse_range_of_few_values_spans_them():
    """Raw images hold the numbers 0 to 255, which 8 bits can hold without any error."""
    histogram = Histogram(0.0, 255.0)
    histogram.add(np.arange(256))
    alphabet = TensorAlphabet.of_range(*mse_range(histogram, 8), 8)
    np.testing.assert_array_equal(alphabet.nearest(np.arange(256)), np.arange(256))
