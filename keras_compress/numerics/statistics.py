"""What calibration data says about one matrix: sums over rows of a layer's inputs in both networks.

Symbols as in docs/notation.md: rows of X (analog network) and X~ (compressed network), m rows, N features.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

# A feature whose variance is below this fraction of its second moment is constant, but for the rounding of float32.
CONSTANT = 1e-6


@dataclasses.dataclass(frozen=True)
class Moments:
    """First and second moments: all that memoryless quantization can use.

    Attributes:
        count: m.
        sum_analog: (..., N) column sums of X.
        sum_compressed: (..., N) column sums of X~.
        squares: (..., N) column sums of X~ squared.
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
    """Gram statistics; leading axes, if any, are those of a batch of matrices with as many rows each.

    Attributes:
        count: m.
        sum_analog: (..., N) column sums of X.
        sum_compressed: (..., N) column sums of X~.
        gram: (..., N, N) G = X~^T X~.
        cross: (..., N, N) H = X~^T X; the same array as `gram` where both networks have the same inputs.
        mismatch: (N, n_out) X~^T E and
        sum_mismatch: (n_out,) column sums of E, for rows E (m, n_out) that the outputs are to have besides XW: the
            residual mismatch, by which the skip inputs of an addition differ between the networks. None for nothing.
    """

    count: int
    sum_analog: np.ndarray
    sum_compressed: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    mismatch: np.ndarray | None = None
    sum_mismatch: np.ndarray | None = None

    @property
    def diagonal(self) -> np.ndarray:
        """(..., N) squared norms of the columns of X~."""
        return diagonal_of(self.gram)

    @property
    def same_inputs(self) -> bool:
        return self.cross is self.gram

    def centered(self) -> "LayerStatistics":
        """The statistics around the means: G - s~ s~^T / m and H - s~ s^T / m for the column sums s~, s of X~, X.

        A feature that did not vary among the samples says nothing of the path, and what its value does to the outputs
        is constant, so that a bias can take it: it stands alone, and its value is the one nearest to its weight.
        """
        sums = self.sum_compressed[..., None]
        gram = self.gram - sums * (self.sum_compressed[..., None, :] / self.count)
        cross = gram
        if not self.same_inputs:
            cross = self.cross - sums * (self.sum_analog[..., None, :] / self.count)
        constant = constant_features(diagonal_of(gram), self.diagonal)
        for products in (gram,) if self.same_inputs else (gram, cross):
            stand_alone(constant, products)
        zeros = np.zeros(self.sum_analog.shape)
        if self.mismatch is None or self.sum_mismatch is None:
            return LayerStatistics(self.count, zeros, zeros, gram, cross)
        mismatch = (self.mismatch - sums * (self.sum_mismatch / self.count)) * ~constant[..., None]
        return LayerStatistics(self.count, zeros, zeros, gram, cross, mismatch, np.zeros(self.sum_mismatch.shape))

    def target(self, matrix: np.ndarray) -> np.ndarray:
        """(..., N, n_out) X~^T (XW + E): what the compressed network's inputs say of the target outputs."""
        target = self.cross @ matrix
        return target if self.mismatch is None else target + _repeated(self.mismatch, matrix)

    def held(self) -> "LayerStatistics":
        """The statistics with the mean energy of a row, trace(G) / m, added to the diagonals of G and H.

        What is fitted to few rows alone is free in every direction that they do not span. This adds the rows of inputs
        without any direction, on which only the weights themselves are right; among many rows they are of no weight.
        """
        diagonal = self.diagonal
        energy = diagonal.sum(axis=-1, keepdims=True) / self.count
        ridge = np.where(diagonal > 0, energy, 0.0)[..., None] * np.eye(diagonal.shape[-1])
        gram = self.gram + ridge
        cross = gram if self.same_inputs else self.cross + ridge
        return dataclasses.replace(self, gram=gram, cross=cross)

    def of_compressed(self) -> "LayerStatistics":
        """The statistics of X~ in both networks' place."""
        return LayerStatistics(self.count, self.sum_compressed, self.sum_compressed, self.gram, self.gram)

    def features(self, index: np.ndarray) -> "LayerStatistics":
        """The statistics of some of the features, (..., number of them) indices, in their order."""

        def of(products: np.ndarray) -> np.ndarray:
            rows = np.take_along_axis(products, index[..., None], axis=-2)
            return np.take_along_axis(rows, index[..., None, :], axis=-1)

        gram = of(self.gram)
        cross = gram if self.same_inputs else of(self.cross)
        analog, compressed = (np.take_along_axis(part, index, -1) for part in (self.sum_analog, self.sum_compressed))
        mismatch = None if self.mismatch is None else np.take_along_axis(self.mismatch, index[..., None], -2)
        return LayerStatistics(self.count, analog, compressed, gram, cross, mismatch, self.sum_mismatch)


class LayerSamples(Protocol):
    """Inputs of a layer, column block by column block, for the direct form."""

    count: int
    num_features: int
    sum_analog: np.ndarray
    sum_compressed: np.ndarray
    diagonal: np.ndarray
    constant: np.ndarray | None  # (N,) features that stand alone, whose columns are zero; None for none

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields (first column, block of X, block of X~), blocks (m, at most a few hundred), in order of columns.

        Where both networks have the same inputs, both blocks are one array.
        """


@dataclasses.dataclass(frozen=True)
class ArraySamples:
    """`LayerSamples` in memory: X and X~, each (m, N)."""

    analog: np.ndarray
    compressed: np.ndarray
    block_size: int = 128
    constant: np.ndarray | None = None

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
        same = self.analog is self.compressed
        for start in range(0, self.num_features, self.block_size):
            columns = slice(start, start + self.block_size)
            compressed = self.compressed[:, columns]
            yield start, compressed if same else self.analog[:, columns], compressed


class CenteredSamples:
    """Samples with the mean of each column of X and X~ taken away, in float64; see `LayerStatistics.centered`."""

    def __init__(self, samples: LayerSamples):
        self.samples = samples
        self.count, self.num_features = samples.count, samples.num_features
        self.means = samples.sum_analog / samples.count, samples.sum_compressed / samples.count
        self.sum_analog = self.sum_compressed = np.zeros(samples.num_features)
        self.diagonal = np.maximum(samples.diagonal - samples.count * self.means[1] ** 2, 0.0)
        self.constant = constant_features(self.diagonal, samples.diagonal)
        self.diagonal[self.constant] = 1.0

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for start, analog, compressed in self.samples.blocks():
            columns = slice(start, start + compressed.shape[1])
            centered = compressed - self.means[1][columns]
            centered[:, self.constant[columns]] = 0.0
            if analog is compressed:
                yield start, centered, centered
            else:
                yield start, analog - self.means[0][columns], centered


class CompressedSamples:
    """Samples with X~ in both networks' place."""

    def __init__(self, samples: LayerSamples):
        self.samples = samples
        self.count, self.num_features = samples.count, samples.num_features
        self.sum_analog = self.sum_compressed = samples.sum_compressed
        self.diagonal, self.constant = samples.diagonal, samples.constant

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for start, _, compressed in self.samples.blocks():
            yield start, compressed, compressed


def _repeated(values: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Per-unit values for a matrix that may hold several copies of all units, side by side."""
    return np.tile(values, matrix.shape[-1] // values.shape[-1])


def centered_statistics(statistics: Any) -> Any:
    """Statistics or samples around the means of X and X~."""
    return statistics.centered() if isinstance(statistics, LayerStatistics) else CenteredSamples(statistics)


def constant_features(variances: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(N,) boolean: features that did not vary among the samples, given sums of squares around the mean and as is."""
    return (variances <= CONSTANT * moments) & (moments > 0)


def stand_alone(constant: np.ndarray, products: np.ndarray) -> None:
    """Changes (..., N, N) products of inputs so that constant features have nothing to do with any other."""
    if constant.any():
        products *= ~(constant[..., None] | constant[..., None, :])
        np.einsum("...ii->...i", products)[constant] = 1.0


def diagonal_of(products: np.ndarray) -> np.ndarray:
    """(..., N) diagonals of (..., N, N)."""
    return np.diagonal(products, axis1=-2, axis2=-1)


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
    """(..., n_out) mean of XW - X~Q, which the layer's bias can take (bias correction)."""
    analog, compressed = (sums[..., None, :] for sums in (statistics.sum_analog, statistics.sum_compressed))
    lacking = (analog @ matrix - compressed @ decoded.astype(np.float64))[..., 0, :]
    mismatch = getattr(statistics, "sum_mismatch", None)
    return (lacking if mismatch is None else lacking + mismatch) / statistics.count
