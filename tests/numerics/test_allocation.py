"""The choice is the best one of all, and within the budget."""

import itertools

import numpy as np
import pytest

from keras_compress.numerics.allocation import choose_within_budget


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
    chosen = choose_within_budget(errors, costs, budget)
    assert costs[rows, chosen].sum() <= budget
    assert errors[rows, chosen].sum() == pytest.approx(best, rel=1e-9)


def test_a_budget_for_all_gives_the_least_errors_and_one_for_none_nothing():
    errors, costs = np.array([[3.0, 1.0], [5.0, 0.0]]), np.array([[2, 4], [2, 4]])
    np.testing.assert_array_equal(choose_within_budget(errors, costs, 8), [1, 1])
    np.testing.assert_array_equal(choose_within_budget(errors, costs, 6), [0, 1])
    np.testing.assert_array_equal(choose_within_budget(errors, costs, 4), [0, 0])
    assert choose_within_budget(errors, costs, 3.9) is None


def test_layers_without_error_are_no_obstacle():
    np.testing.assert_array_equal(choose_within_budget(np.zeros((2, 2)), np.array([[1, 2], [1, 2]]), 2), [0, 0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_layers", [12, 50])
def test_the_choice_is_that_of_an_integer_program(seed, num_layers, capfd):
    import scipy.optimize

    rng = np.random.default_rng(seed)
    widths = np.array([2, 3, 4, 5, 6, 8])
    sizes = rng.choice([288, 1152, 9216, 36864], num_layers) if seed % 2 else rng.integers(9, 10**5, num_layers)
    errors = rng.lognormal(0, 2, num_layers)[:, None] * 4.0**-widths * rng.uniform(0.5, 1.5, (num_layers, 6))
    costs, budget = np.outer(sizes, widths), 3.5 * sizes.sum()
    chosen = choose_within_budget(errors, costs, budget)
    assert capfd.readouterr() == ("", "")
    rows = np.arange(num_layers)
    assert costs[rows, chosen].sum() <= budget
    program = scipy.optimize.milp(
        errors.ravel() / errors.max(),
        integrality=np.ones(errors.size),
        bounds=scipy.optimize.Bounds(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(np.kron(np.eye(num_layers), np.ones(6)), 1, 1),
            scipy.optimize.LinearConstraint(costs.ravel()[None].astype(float), ub=budget),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert errors[rows, chosen].sum() <= program.fun * errors.max() * (1 + 1e-4)
