"""The matrix products that a solver cannot do without, at the sizes and in the type in which it has them: its floor.

Gram form, N features, n neurons, float64; a sequential method sees them in blocks of `BLOCK` features. Radii that are
searched and starts that compete are so many times more neurons.

    GPFQ, SPFQ, sparse GPFQ     tril(H) W and tril(G) Q: half of each product
    alignment, order r          H W; r triangular systems in tril(G); r - 1 times triu(G) V; then tril(G) (V - Q)
    OPTQ                        Cholesky factor of G, its inverse U, and half of U^T D for the deviations D
    corrected weights, Qronos   the same, (H - G) W or H W, and U^T (U R)
    refinement                  H W, G Q, and once more G dQ for each sweep; tril(H) W and tril(G) Q are among them
    Beacon                      H W, G Q, and once more G dQ for each sweep

Direct form, m rows: X W, X~^T u and X~ Q; once more X~^T u and X~ dQ for each sweep and for each pass of an alignment.
Products of a block with itself, which only blocked solvers have, are not counted, nor is what is no matrix product.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from keras_compress.numerics.beacon import STARTS
from keras_compress.numerics.statistics import ArraySamples, LayerStatistics
from keras_compress.quantization.alphabets import FITTED
from keras_compress.quantization.quantizers import SEARCHED

BLOCK = 128

Parts = dict[str, Callable[[], Any]]  # what it is: a function that does it


def gram_parts(quantizer: Any, weights: np.ndarray, statistics: LayerStatistics, values: np.ndarray) -> Parts:
    """The floor of a quantizer's Gram form; empty for a memoryless one.

    Args:
        quantizer: a `kc.Quantizer`.
        weights: (N, n) W.
        statistics: G and H, which differ.
        values: (N, n) Q, as float64.
    """
    gram, cross = statistics.gram, statistics.cross
    kind, sweeps, copies = _settings(quantizer)
    if kind == "MSQ":
        return {}
    many = np.tile(values, copies)
    residual = np.zeros(many.shape)
    passes = getattr(quantizer, "alignment", 1)
    starts = f" of {copies} starts" if copies > 1 else ""
    parts: Parts = {}
    if kind in ("OPTQ", "Qronos"):
        parts |= _factor_parts(quantizer, weights, statistics, many, residual)
        if kind == "Qronos" or quantizer.target == "corrected" or sweeps:
            parts["H W"] = lambda: cross @ weights
        if sweeps and kind == "OPTQ" and quantizer.target == "corrected":
            parts["G W"] = lambda: gram @ weights  # without sweeps one product with H - G does for both
    elif sweeps or passes > 1:
        parts["H W"] = lambda: cross @ weights
    else:
        parts["tril(H) W"] = lambda: lower_product(cross, weights)
    if passes > 1:
        lower = np.asfortranarray(np.tril(gram))
        parts[f"{passes} tril(G)^-1 R"] = lambda: [triangular_solution(lower, values) for _ in range(passes)]
        parts[f"{passes - 1} triu(G) V"] = lambda: [upper_product(gram, values) for _ in range(passes - 1)]
    if sweeps:
        parts[f"G Q{starts}"] = lambda: gram @ many
        parts[f"{sweeps} G dQ{starts}"] = lambda: _repeat(sweeps, sweep, gram, many, residual)
    elif kind not in ("OPTQ", "Qronos"):
        parts["tril(G) Q"] = lambda: lower_product(gram, many)
    return parts


def direct_parts(quantizer: Any, weights: np.ndarray, samples: ArraySamples, values: np.ndarray) -> Parts:
    """The floor of a quantizer's direct form; empty for a memoryless one.

    Args:
        quantizer: a `kc.Quantizer` with a direct form.
        weights: (N, n) W.
        samples: X and X~, which differ, in float64.
        values: (N, n) Q, as float64.
    """
    kind, sweeps, copies = _settings(quantizer)
    if kind == "MSQ":
        return {}
    many = np.tile(values, copies)
    residual = np.zeros((samples.count, many.shape[1]))
    passes = getattr(quantizer, "alignment", 1)
    times = 1 + sweeps + (passes if passes > 1 else 0)
    often = f"{times} " if times > 1 else ""
    starts = f" of {copies} starts" if copies > 1 else ""
    return {
        "X W": lambda: outputs(samples.analog, weights, np.zeros((samples.count, weights.shape[1]))),
        f"{often}X~^T u{starts}": lambda: _repeat(times, slopes, samples.compressed, residual),
        f"{often}X~ Q{starts}": lambda: _repeat(times, outputs, samples.compressed, many, residual),
    }


def _repeat(times: int, function: Callable[..., Any], *arguments: Any) -> None:
    for _ in range(times):
        function(*arguments)


def _settings(quantizer: Any) -> tuple[str, int, int]:
    """Name of the class, sweeps over all features, and how many times the neurons are there."""
    kind = type(quantizer).__name__
    if kind == "Beacon":
        return kind, quantizer.sweeps, len(STARTS)
    sweeps = getattr(quantizer, "refine", 0)
    if quantizer.radius in FITTED:
        sweeps = max(sweeps, 1)
    return kind, sweeps, len(SEARCHED) if quantizer.radius == "search" else 1


def _factor_parts(
    quantizer: Any, weights: np.ndarray, statistics: LayerStatistics, many: np.ndarray, residual: np.ndarray
) -> Parts:
    damped = np.asfortranarray(statistics.gram)
    damped[np.diag_indices(len(damped))] += quantizer.damping * statistics.diagonal.mean()
    factor = np.asfortranarray(scipy.linalg.cholesky(damped, lower=True, check_finite=False))
    upper = np.asfortranarray(factor.T)  # of the shape of U; its values do not matter here
    rows = np.ascontiguousarray(upper)
    right = np.asfortranarray(weights)
    parts: Parts = {
        "chol(G)": lambda: scipy.linalg.cholesky(damped, lower=True, check_finite=False),
        "U": lambda: scipy.linalg.lapack.dtrtri(factor, lower=1),
    }
    if type(quantizer).__name__ == "Qronos" or quantizer.target == "corrected":
        parts["U^T U R"] = lambda: scipy.linalg.blas.dtrmm(
            1.0, upper, scipy.linalg.blas.dtrmm(1.0, upper, right), trans_a=1, overwrite_b=1
        )
    return parts | {"U^T D": lambda: updates(rows, many, residual)}


def lower_product(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """tril(M) V, block by block, without the half that multiplies zeros."""
    result = np.empty(values.shape)
    for block in _blocks(len(matrix)):
        np.matmul(matrix[block, : block.stop], values[: block.stop], out=result[block])
    return result


def upper_product(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """triu(M) V, block by block, without the half that multiplies zeros."""
    result = np.empty(values.shape)
    for block in _blocks(len(matrix)):
        np.matmul(matrix[block, block.start :], values[block.start :], out=result[block])
    return result


def triangular_solution(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """L^-1 R for L in Fortran order."""
    return scipy.linalg.blas.dtrsm(1.0, lower, right, lower=1)


def sweep(gram: np.ndarray, changes: np.ndarray, products: np.ndarray) -> None:
    """Adds G dQ to `products`, block after block, as each block hears of the one before."""
    for block in _blocks(len(gram)):
        products += gram[:, block] @ changes[block]


def updates(factor: np.ndarray, deviations: np.ndarray, weights: np.ndarray) -> None:
    """Adds to the weights of later blocks what OPTQ takes from each block's deviations."""
    for block in _blocks(len(factor)):
        weights[block.stop :] += factor[block, block.stop :].T @ deviations[block]


def outputs(columns: np.ndarray, values: np.ndarray, residual: np.ndarray) -> None:
    """Adds X Q to `residual`, block after block."""
    for block in _blocks(columns.shape[1]):
        residual += columns[:, block] @ values[block]


def slopes(columns: np.ndarray, residual: np.ndarray) -> None:
    """X~^T u, block after block."""
    for block in _blocks(columns.shape[1]):
        columns[:, block].T @ residual


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
