"""Which width each layer gets: an exact choice under a budget."""

import itertools

import numpy as np

MOST_STATES = 200_000  # partial choices that are followed; more would be needed by hundreds of layers without a pattern


def choose_within_budget(errors: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray | None:
    """For each layer the index of its width, so that the sum of errors is least and the sum of costs within budget.

    A multiple-choice knapsack. Layer by layer, all partial choices are followed that no other one beats in both sums,
    and whose error, with what the layers to come need at least, is below that of a choice already known. That least
    error is the knapsack's where fractions of a width are allowed, a piecewise linear function of the budget left.

    Args:
        errors: (num_layers, num_widths), not negative.
        costs: (num_layers, num_widths), in the units of `budget`.
        budget: largest sum of costs.

    Returns:
        (num_layers,) indices, or None where even the cheapest widths exceed the budget.
    """
    num_layers = len(errors)
    costs = costs.astype(np.float64)
    cheapest = costs.min(axis=1)
    if cheapest.sum() > budget:
        return None
    order = np.argsort(-(costs.max(axis=1) - cheapest), kind="stable")  # what decides most comes first
    rest = [_Relaxed(errors[order[index:]], costs[order[index:]]) for index in range(num_layers + 1)]
    known = _greedy(errors, costs, budget)
    least = errors[np.arange(num_layers), known].sum()
    cost, error = np.zeros(1), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []  # of each layer: which partial choice is continued, by which width
    for place, layer in enumerate(order):
        new_cost = (cost[:, None] + costs[layer]).ravel()
        new_error = (error[:, None] + errors[layer]).ravel()
        bound = new_error + rest[place + 1].least_error(budget - new_cost)
        kept = np.flatnonzero(bound < least)  # what does not fit is bounded by infinity
        kept = kept[np.lexsort((new_error[kept], new_cost[kept]))]
        lowest = np.minimum.accumulate(new_error[kept])
        kept = kept[np.concatenate([[True], lowest[1:] < lowest[:-1]])[: len(kept)]]
        if len(kept) > MOST_STATES:
            kept = np.sort(kept[np.argpartition(bound[kept], MOST_STATES)[:MOST_STATES]])
        if not len(kept):
            return known
        trail.append(np.divmod(kept, costs.shape[1]))
        cost, error = new_cost[kept], new_error[kept]
    chosen, state = np.empty(num_layers, np.int64), int(np.argmin(error))
    for layer, (parents, widths) in zip(order[::-1], trail[::-1], strict=True):
        chosen[layer], state = widths[state], parents[state]
    return chosen


class _Relaxed:
    """The least error of some layers where fractions of a width are allowed."""

    def __init__(self, errors: np.ndarray, costs: np.ndarray):
        steps = [step for layer in zip(errors, costs, strict=True) for step in _hull(*layer)[1]]
        steps.sort(key=lambda step: -step[1] / step[0])
        self._first_cost = costs.min(axis=1).sum() if len(costs) else 0.0
        self._first_error = sum(_hull(*layer)[0] for layer in zip(errors, costs, strict=True))
        sums = np.cumsum([(0.0, 0.0), *((cost, gain) for cost, gain, _ in steps)], axis=0)
        self._costs, self._gains = sums.T

    def least_error(self, budget: np.ndarray) -> np.ndarray:
        """For each budget; infinite where the cheapest widths exceed it."""
        left = budget - self._first_cost
        errors = self._first_error - np.interp(left, self._costs, self._gains)
        return np.where(left >= 0, errors, np.inf)


def _hull(errors: np.ndarray, costs: np.ndarray) -> tuple[float, list[tuple[float, float, int]]]:
    """The error of a layer's cheapest width, and the steps (cost, gain, width) behind it, each with less for more."""
    order = np.lexsort((errors, costs))
    corners = [int(order[0])]
    for index in map(int, order[1:]):
        if errors[index] >= errors[corners[-1]]:
            continue
        while len(corners) > 1 and _slope(errors, costs, corners[-1], index) >= _slope(
            errors, costs, corners[-2], corners[-1]
        ):
            corners.pop()
        corners.append(index)
    steps = [
        (float(costs[after] - costs[before]), float(errors[before] - errors[after]), after)
        for before, after in itertools.pairwise(corners)
    ]
    return float(errors[corners[0]]), steps


def _slope(errors: np.ndarray, costs: np.ndarray, before: int, after: int) -> float:
    """Gain for each unit of cost."""
    return float((errors[before] - errors[after]) / (costs[after] - costs[before]))


def _greedy(errors: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray:
    """A choice within the budget: the steps that gain most for their cost, as long as they fit."""
    chosen = np.array([int(np.lexsort(layer)[0]) for layer in zip(errors, costs, strict=True)])
    left = budget - costs.min(axis=1).sum()
    steps = [(layer, *step) for layer in range(len(errors)) for step in _hull(errors[layer], costs[layer])[1]]
    stopped: set[int] = set()
    for layer, cost, _, width in sorted(steps, key=lambda step: -step[2] / step[1]):
        if layer in stopped or cost > left:
            stopped.add(layer)  # its steps follow one another
            continue
        chosen[layer], left = width, left - cost
    return chosen
