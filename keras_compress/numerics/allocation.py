"""Which width each layer gets: an exact choice under a budget."""

import numpy as np
import scipy.optimize


def allocate(errors: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray | None:
    """For each layer the index of its width, so that the sum of errors is least and the sum of costs within budget.

    A multiple-choice knapsack, solved to optimality by branch and bound (`scipy.optimize.milp`, HiGHS).

    Args:
        errors: (num_layers, num_widths), not negative.
        costs: (num_layers, num_widths), in the units of `budget`.
        budget: largest sum of costs.

    Returns:
        (num_layers,) indices, or None where even the cheapest widths exceed the budget.
    """
    num_layers, num_widths = errors.shape
    if costs.min(axis=1).sum() > budget:
        return None
    one_each = np.kron(np.eye(num_layers), np.ones(num_widths))
    largest = errors.max()
    found = scipy.optimize.milp(
        errors.ravel() / (largest if largest > 0 else 1.0),
        integrality=np.ones(errors.size),
        bounds=scipy.optimize.Bounds(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(one_each, 1, 1),
            scipy.optimize.LinearConstraint(costs.ravel()[None].astype(float), ub=budget),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert found.x is not None, found.message
    return np.argmax(found.x.reshape(errors.shape), axis=1)
