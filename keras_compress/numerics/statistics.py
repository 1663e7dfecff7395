"""What calibration data says about one matrix: sums over rows of a layer's inputs in both networks.

Letters as in docs/notation.md: rows of X (analog network) and X~ (compressed network), m rows, N features.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

# A feature whose variance is below this share of its second moment is constant within the rounding of float32 products.
CONSTANT = 1e-6


@dataclasses.dataclass(frozen=True)
class Moments:
    """First and second moments: all that memoryless quantization can use.

    Attributes:
        count: m.
        sum_analog: (N,) column sums of X.
        sum_compressed: (N,) column sums of X~.
        squares: (N,) column sums of X~ squared.
    """

    count: int
    sum_analog: np.ndarray
    sum_compressed: np.ndarray
    squares: np.ndarray

    @property
    def diagonal(self) -> np.ndarray:
        return self.squares


@dataclasses.dataclass(frozen=True)
class LayerStatistics:
    """Gram statistics (spec: Gram form of GPFQ).

    Attributes:
        count: m.
        sum_analog: (N,) column sums of X.
        sum_compressed: (N,) column sums of X~.
        gram: (N, N) G = X~^T X~.
        cross: (N, N) H = X~^T X; the same array as `gram` where both networks have the same inputs.
    """

    count: int
    sum_analog: np.ndarray
    sum_compressed: np.ndarray
    gram: np.ndarray
    cross: np.ndarray

    @property
    def diagonal(self) -> np.ndarray:
        """(N,) squared norms of the columns of X~."""
        return np.diagonal(self.gram)

    @property
    def same_inputs(self) -> bool:
        return self.cross is self.gram

    def centered(self) -> "LayerStatistics":
        """The statistics around the means: G - s~ s~^T / m and H - s~ s^T / m for the column sums s~, s of X~, X.

        A feature that did not vary among the samples says nothing of the path, and what its letter does to the outputs
        is constant, so that a bias can take it: it stands alone, and its letter is the one nearest to its weight.
        """
        gram = self.gram - np.outer(self.sum_compressed, self.sum_compressed / self.count)
        moments = self.diagonal
        constant = (np.diagonal(gram) <= CONSTANT * moments) & (moments > 0)
        cross = gram
        if not self.same_inputs:
            cross = self.cross - np.outer(self.sum_compressed, self.sum_analog / self.count)
        for products in (gram,) if self.same_inputs else (gram, cross):
            products[constant] = 0.0
            products[:, constant] = 0.0
            products[constant, constant] = 1.0
        zeros = np.zeros(len(gram))
        return LayerStatistics(self.count, zeros, zeros, gram, cross)

    def features(self, index: np.ndarray) -> "LayerStatistics":
        """The statistics of some of the features."""
        grid = np.ix_(index, index)
        gram = self.gram[grid]
        cross = gram if self.same_inputs else self.cross[grid]
        return LayerStatistics(self.count, self.sum_analog[index], self.sum_compressed[index], gram, cross)


class LayerSamples(Protocol):
    """Inputs of a layer, column block by column block, for the direct form."""

    count: int
    num_features: int
    sum_analog: np.ndarray
    sum_compressed: np.ndarray
    diagonal: np.ndarray

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields (first column, block of X, block of X~), blocks (m, at most a few hundred), in order of columns."""


@dataclasses.dataclass(frozen=True)
class ArraySamples:
    """`LayerSamples` in memory: X and X~, each (m, N)."""

    analog: np.ndarray
    compressed: np.ndarray
    block_size: int = 128

    @property
    def count(self) -> int:
        return len(self.compressed)

    @property
    def num_features(self) -> int:
        return self.compressed.shape[1]

    @property
    def sum_analog(self) -> np.ndarray:
        return self.analog.sum(axis=0, dtype=np.float64)

    @property
    def sum_compressed(self) -> np.ndarray:
        return self.compressed.sum(axis=0, dtype=np.float64)

    @property
    def diagonal(self) -> np.ndarray:
        return np.einsum("ij,ij->j", self.compressed, self.compressed, dtype=np.float64)

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for start in range(0, self.num_features, self.block_size):
            columns = slice(start, start + self.block_size)
            yield start, self.analog[:, columns], self.compressed[:, columns]


def statistics_of(analog: np.ndarray, compressed: np.ndarray) -> LayerStatistics:
    """Statistics of rows in memory: X and X~, each (m, N), in float64; pass the same array twice where they agree."""
    rows = compressed.astype(np.float64)
    gram = rows.T @ rows
    cross = gram if analog is compressed else rows.T @ analog.astype(np.float64)
    return LayerStatistics(
        len(rows), analog.sum(axis=0, dtype=np.float64), compressed.sum(axis=0, dtype=np.float64), gram, cross
    )


def mean_error(
    matrix: np.ndarray, decoded: np.ndarray, statistics: "Moments | LayerStatistics | LayerSamples"
) -> np.ndarray:
    """(n_out,) mean of XW - X~Q, which the layer's bias can take (bias correction)."""
    return (statistics.sum_analog @ matrix - statistics.sum_compressed @ decoded.astype(np.float64)) / statistics.count
