"""The choice is the best one of all, and within the budget."""

import itertools

import numpy as np
import pytest

from keras_compress.numerics.allocation import allocate


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_within_the_budget_is_better(seed):
    rng = np.random.default_rng(seed)
    errors = np.sort(rng.exponential(size=(5, 3)), axis=1)[:, ::-1] * 10.0 ** rng.integers(-6, 3)
    costs = np.sort(rng.integers(1, 1000, (5, 3)), axis=1)
    budget = float(rng.uniform(costs[:, 0].sum(), costs[:, -1].sum()))
    rows = np.arange(5)
    choices = [
        np.array(choice)
        for choice in itertools.product(range(3), repeat=5)
        if costs[rows, list(choice)].sum() <= budget
    ]
    best = min(errors[rows, choice].sum() for choice in choices)
    chosen = allocate(errors, costs, budget)
    assert costs[rows, chosen].sum() <= budget
    assert errors[rows, chosen].sum() == pytest.approx(best, rel=1e-9)


def test_a_budget_for_all_gives_the_least_errors_and_one_for_none_nothing():
    errors, costs = np.array([[3.0, 1.0], [5.0, 0.0]]), np.array([[2, 4], [2, 4]])
    np.testing.assert_array_equal(allocate(errors, costs, 8), [1, 1])
    np.testing.assert_array_equal(allocate(errors, costs, 6), [0, 1])
    np.testing.assert_array_equal(allocate(errors, costs, 4), [0, 0])
    assert allocate(errors, costs, 3.9) is None


def test_layers_without_error_are_no_obstacle():
    np.testing.assert_array_equal(allocate(np.zeros((2, 2)), np.array([[1, 2], [1, 2]]), 2), [0, 0])
