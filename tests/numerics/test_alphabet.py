"""Rounding to an alphabet is the search for the nearest value, for every alphabet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_compress.errors import InputError
from keras_compress.numerics.alphabet import Alphabet
from tests.numerics import problems


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    start=st.integers(-40, 3),
    step=st.integers(1, 3),
    num_levels=st.integers(2, 40),
    scale=st.floats(2**-10, 2**10, width=32),
    values=st.lists(st.floats(-50, 50), min_size=1, max_size=20),
)
def test_nearest_is_the_search_for_the_nearest_value(start, step, num_levels, scale, values):
    levels = start + step * np.arange(num_levels)
    alphabet = Alphabet(levels, np.array([scale]))
    alphabet_values = alphabet.scale.astype(np.float64) * levels
    values = np.array(values)[:, None] * alphabet.scale.astype(np.float64)
    distances = np.abs(values - alphabet_values)
    chosen = np.abs(values[:, 0] - alphabet.scale.astype(np.float64) * alphabet.nearest(values)[:, 0])
    # Between two values that are equally near up to rounding, either may be taken.
    largest = np.abs(alphabet_values).max()
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-12, atol=1e-12 * largest)


def test_a_tie_goes_to_the_even_index():
    alphabet = Alphabet(np.arange(-3, 4), np.ones(1))
    ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])[:, None]
    np.testing.assert_array_equal(alphabet.nearest(ties)[:, 0], [-2, -2, 0, 0, 2, 2])


def test_a_tie_goes_to_the_even_index_without_a_zero_too():
    """Indices of -3, -1, 1, 3 are -2, -1, 0, 1: zero lies between -1 and 0."""
    alphabet = Alphabet(np.array([-3, -1, 1, 3]), np.ones(1))
    np.testing.assert_array_equal(alphabet.nearest(np.array([-2.0, 0.0, 2.0])[:, None])[:, 0], [-3, 1, 1])


@pytest.mark.parametrize("levels", problems.LEVELS)
def test_values_are_their_own_nearest(rng, levels):
    alphabet = problems.alphabet(problems.LEVELS[levels], 5, rng)
    codes = rng.choice(alphabet.levels, (7, 5))
    np.testing.assert_array_equal(alphabet.nearest(alphabet.decode(codes).astype(np.float64)), codes)


@pytest.mark.parametrize("levels", problems.LEVELS)
def test_the_zero_code_is_the_level_nearest_to_zero(levels):
    levels = problems.LEVELS[levels]
    alphabet = Alphabet(levels, np.ones(1))
    assert abs(alphabet.zero_code) == np.abs(levels).min()
    assert alphabet.zero_code == alphabet.nearest(np.zeros((1, 1)))[0, 0]


def test_the_zero_code_of_levels_on_one_side_of_zero_is_their_end():
    assert Alphabet(np.array([2, 3, 4]), np.ones(1)).zero_code == 2
    assert Alphabet(np.array([-4, -3]), np.ones(1)).zero_code == -3


@pytest.mark.parametrize("largest", [127, 128, 40000])
def test_codes_fit_their_type(largest):
    alphabet = Alphabet(np.arange(-largest, largest + 1), np.ones(1))
    np.testing.assert_array_equal(alphabet.nearest(np.array([[-1e9], [1e9]]))[:, 0], [-largest, largest])


def test_decoding_is_one_product_in_float32(rng):
    alphabet = problems.alphabet(problems.LEVELS["seventeen"], 4, rng)
    codes = rng.choice(alphabet.levels, (6, 4))
    decoded = alphabet.decode(codes)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, codes.astype(np.float32) * alphabet.scale)


def test_the_radius_is_the_largest_value(rng):
    alphabet = problems.alphabet(problems.LEVELS["sixteen"], 4, rng)
    np.testing.assert_array_equal(alphabet.radius, np.abs(alphabet.decode(np.full((1, 4), -8)))[0])


def test_channels_have_their_own_scales_or_the_one_of_all(rng):
    own = problems.alphabet(problems.LEVELS["ternary"], 6, rng)
    np.testing.assert_array_equal(own.channels(slice(2, 5)).scale, own.scale[2:5])
    shared = problems.alphabet(problems.LEVELS["ternary"], 1, rng)
    assert shared.channels(slice(2, 5)) is shared


@pytest.mark.parametrize("levels", [[0], [1, 0], [0, 1, 3], [0, 0, 0], [[0, 1]]])
def test_levels_must_be_evenly_spaced_and_increasing(levels):
    with pytest.raises(InputError, match="evenly spaced"):
        Alphabet(np.array(levels), np.ones(1))


@pytest.mark.parametrize("scale", [[0.0], [-1.0], [np.nan], [np.inf], 1.0])
def test_scales_must_be_positive_and_finite(scale):
    with pytest.raises(InputError, match="positive and finite"):
        Alphabet(np.arange(3), np.array(scale))
