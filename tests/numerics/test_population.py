"""Mean and variance of all rows, however they come."""

import numpy as np
import pytest

from keras_compress.numerics.population import Population
from tests.reference import activations as reference


def population(rows, *cuts):
    total = Population(rows.shape[1])
    for part in np.split(rows, cuts):
        total.add(part)
    return total


@pytest.mark.parametrize("cuts", [(), (1,), (0, 5, 5, 30)])
def test_it_is_the_definition(rng, cuts):
    rows = rng.normal(3, 2, (40, 3))
    total = population(rows, *cuts)
    for column in range(3):
        mean, variance = reference.mean_and_variance(rows[:, column].tolist())
        assert total.mean[column] == pytest.approx(mean, rel=1e-12)
        assert total.variance[column] == pytest.approx(variance, rel=1e-12)
    assert total.count == 40


def test_a_large_mean_takes_no_digits_from_the_variance(rng):
    """The sum of squares minus the squared sum would lose all of them."""
    rows = (1e6 + rng.normal(size=(1000, 2))).astype(np.float32)
    expected = rows.astype(np.float64).var(axis=0)
    np.testing.assert_allclose(population(rows, 10, 500).variance, expected, rtol=1e-9)


def test_shifting_and_scaling_rows_shifts_and_scales_it(rng):
    rows = rng.normal(size=(50, 4))
    plain, moved = population(rows), population(3 * rows + 7, 20)
    np.testing.assert_allclose(moved.mean, 3 * plain.mean + 7)
    np.testing.assert_allclose(moved.variance, 9 * plain.variance)


def test_equal_rows_have_no_variance():
    total = population(np.full((9, 2), 0.1), 4)
    np.testing.assert_allclose(total.mean, 0.1)
    np.testing.assert_allclose(total.variance, 0, atol=1e-30)
