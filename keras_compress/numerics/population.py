"""Mean and variance of columns over rows that come in parts."""

import numpy as np


class Population:
    """Mean and variance of each column over all rows, in float64 (Chan, Golub & LeVeque, 1979).

    The variance is that of the population, the sum of squares over m and not over m - 1. Parts may have any size.

    Attributes:
        count: m.
        mean: (N,).
    """

    def __init__(self, num_columns: int):
        self.count = 0
        self.mean = np.zeros(num_columns)
        self._squares = np.zeros(num_columns)  # sums of squared distances from the mean

    def add(self, rows: np.ndarray) -> None:
        """Rows (m, N), any m."""
        part = np.asarray(rows, np.float64)
        if not len(part):
            return
        mean = part.mean(axis=0)
        distance = mean - self.mean
        total = self.count + len(part)
        self._squares += ((part - mean) ** 2).sum(axis=0) + distance**2 * (self.count * len(part) / total)
        self.mean = self.mean + distance * (len(part) / total)
        self.count = total

    @property
    def variance(self) -> np.ndarray:
        """(N,)."""
        return self._squares / self.count
