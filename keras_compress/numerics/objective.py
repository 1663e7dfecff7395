"""The error of a layer, ||XW - X~Q||^2, as a function of Q that changes piece by piece.

Refinement and the fit of scales ask the same few questions of it. Two forms answer: from G and H alone, with the
products G Q; or from the samples, with the residual XW - X~Q, where a layer has fewer rows than features.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import numpy as np

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.gpfq import sample_blocks
from keras_compress.numerics.statistics import LayerSamples, LayerStatistics

BLOCK_SIZE = 128
MARGIN = 1e-9  # of an error, below which another one is no better


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some features of an objective.

    Attributes:
        block: which ones.
        gram: (..., b, b) X~^T X~ of these features.
        slope: (..., b, n_out) X~^T (XW - X~Q) of these features, for Q as it is.
        move: adds (..., b, n_out) changes to Q.
    """

    block: slice
    gram: np.ndarray
    slope: np.ndarray
    move: Callable[[np.ndarray], None]


class Objective(Protocol):
    """||XW - X~Q||^2 for each unit, at a Q that `place` sets and `Piece.move` changes."""

    diagonal: np.ndarray  # (..., N) squared norms of the columns of X~

    def repeated(self, copies: int) -> "Objective":
        """The same for `copies` of all units, side by side, before Q is placed."""

    def place(self, values: np.ndarray) -> Self:
        """Sets Q to (..., N, n_out) float64 values."""

    def scale(self, factor: np.ndarray) -> None:
        """Multiplies each unit of Q by a factor, (..., n_out) or (1,)."""

    def agreement(self) -> np.ndarray:
        """(..., n_out) <Xw, X~q>."""

    def energy(self) -> np.ndarray:
        """(..., n_out) ||X~q||^2."""

    def pieces(self, alphabet: Alphabet, block_size: int = BLOCK_SIZE) -> Iterator[Piece]:
        """All features, in order, in blocks that cross no border of the alphabet's groups."""


def excess(objective: Objective) -> np.ndarray:
    """(..., n_out) ||Xw - X~q||^2 - ||Xw||^2 = q^T G q - 2 q^T H w: what codes can change of the error."""
    return objective.energy() - 2 * objective.agreement()


class GramObjective:
    """From G and H.

    Args:
        matrix: (..., N, n_out) weights; leading axes are those of a batch.
        statistics: of the layer's inputs.
    """

    def __init__(self, matrix: np.ndarray, statistics: LayerStatistics):
        self.gram, self.diagonal = statistics.gram, statistics.diagonal
        self._target = statistics.target(matrix)  # H W
        self._values = self._products = np.zeros(0)  # Q, G Q

    def repeated(self, copies: int) -> "GramObjective":
        other = object.__new__(GramObjective)
        other.gram, other.diagonal = self.gram, self.diagonal
        other._target = np.tile(self._target, copies)
        return other

    def place(self, values: np.ndarray) -> Self:
        self._values = values.copy()
        self._products = self.gram @ values
        return self

    def scale(self, factor: np.ndarray) -> None:
        self._values *= factor[..., None, :]
        self._products *= factor[..., None, :]

    def agreement(self) -> np.ndarray:
        return np.einsum("...ij,...ij->...j", self._values, self._target)

    def energy(self) -> np.ndarray:
        return np.einsum("...ij,...ij->...j", self._values, self._products)

    def pieces(self, alphabet: Alphabet, block_size: int = BLOCK_SIZE) -> Iterator[Piece]:
        for block in alphabet.blocks(0, self.gram.shape[-1], block_size):

            def move(change: np.ndarray, block: slice = block) -> None:
                self._values[..., block, :] += change
                self._products += self.gram[..., block] @ change

            slope = self._target[..., block, :] - self._products[..., block, :]
            yield Piece(block, self.gram[..., block, block], slope, move)


class DirectObjective:
    """From the samples; constant features stand alone, as in `LayerStatistics.centered`.

    Args:
        matrix: (N, n_out) weights.
        samples: X and X~ by blocks of columns.
    """

    def __init__(self, matrix: np.ndarray, samples: LayerSamples):
        self.samples, self.diagonal = samples, samples.diagonal
        self._target = np.zeros((samples.count, matrix.shape[1]))  # X W
        for block, analog, _ in sample_blocks(samples):
            self._target += analog @ matrix[block]
        alone = samples.constant
        self._alone = np.flatnonzero(alone) if alone is not None else np.zeros(0, int)
        self._alone_weights = matrix[self._alone]
        self._alone_values = self._products = np.zeros(0)  # Q of these features, and X~ Q

    def repeated(self, copies: int) -> "DirectObjective":
        other = object.__new__(DirectObjective)
        other.samples, other.diagonal, other._alone = self.samples, self.diagonal, self._alone
        other._target = np.tile(self._target, copies)
        other._alone_weights = np.tile(self._alone_weights, copies)
        return other

    def place(self, values: np.ndarray) -> Self:
        self._products = np.zeros(self._target.shape)
        for block, _, compressed in sample_blocks(self.samples):
            self._products += compressed @ values[block]
        self._alone_values = values[self._alone]
        return self

    def scale(self, factor: np.ndarray) -> None:
        self._products *= factor
        self._alone_values *= factor

    def agreement(self) -> np.ndarray:
        own = np.einsum("ij,ij->j", self._alone_values, self._alone_weights)
        return own + np.einsum("ij,ij->j", self._products, self._target)

    def energy(self) -> np.ndarray:
        own = np.einsum("ij,ij->j", self._alone_values, self._alone_values)
        return own + np.einsum("ij,ij->j", self._products, self._products)

    def pieces(self, alphabet: Alphabet, block_size: int = BLOCK_SIZE) -> Iterator[Piece]:
        for block, _, compressed in sample_blocks(self.samples, alphabet, block_size):
            gram = compressed.T @ compressed
            slope = compressed.T @ (self._target - self._products)
            inside = np.flatnonzero((self._alone >= block.start) & (self._alone < block.stop))
            alone = self._alone[inside] - block.start
            gram[alone, alone] = 1.0
            slope[alone] = self._alone_weights[inside] - self._alone_values[inside]

            def move(
                change: np.ndarray,
                compressed: np.ndarray = compressed,
                inside: np.ndarray = inside,
                alone: np.ndarray = alone,
            ) -> None:
                self._products += compressed @ change
                self._alone_values[inside] += change[alone]

            yield Piece(block, gram, slope, move)


def objective_of(matrix: np.ndarray, statistics: LayerStatistics | LayerSamples) -> Objective:
    """The form that the statistics allow."""
    if isinstance(statistics, LayerStatistics):
        return GramObjective(matrix, statistics)
    return DirectObjective(matrix, statistics)


def best_copy(errors: np.ndarray, copies: int) -> np.ndarray:
    """(..., n_out) index, among `copies` of n_out units side by side, of the copy of each with the least error.

    The first one of those that are equal but for rounding: two starts often end at the same codes, with scales that
    differ in the last digit, and the order in which BLAS sums must not choose between them.
    """
    units = errors.shape[-1] // copies
    errors = errors.reshape(*errors.shape[:-1], copies, units)
    least = errors.min(axis=-2, keepdims=True)
    chosen = np.argmax(errors <= least + MARGIN * np.abs(least), axis=-2)
    return chosen * units + np.arange(units)
