"""Rounding of activations as TFLite's specification writes it, one number at a time; imports nothing of keras_compress.

B. Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR
2018, equations 1 and 12: r = S (q - Z), q = clamp(round(r / S) + Z).
"""

import math


def parameters(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero point of an asymmetric tensor whose range holds zero."""
    least, largest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (largest - least)
    zero_point = round(least - low / scale)
    return scale, max(least, min(largest, zero_point))


def symmetric_scale(low: float, high: float, bits: int) -> float:
    return max(abs(low), abs(high)) / (2 ** (bits - 1) - 1)


def code(value: float, scale: float, zero_point: int, bits: int, *, symmetric: bool = False) -> int:
    """The code of one value; Python's `round` takes a tie to the even number, as TFLite's vector units do."""
    least = -(2 ** (bits - 1)) + (1 if symmetric else 0)
    largest = 2 ** (bits - 1) - 1
    return max(least, min(largest, round(value / scale) + zero_point))


def rounded(values: list[float], scale: float, zero_point: int, bits: int, *, symmetric: bool = False) -> list[float]:
    """What each value becomes."""
    return [scale * (code(value, scale, zero_point, bits, symmetric=symmetric) - zero_point) for value in values]


def moving_average(extremes: list[float], decay: float) -> float:
    """sum_k decay^(t-k) x_k / sum_k decay^(t-k): the exponential moving average without its start at zero."""
    weights = [decay ** (len(extremes) - 1 - index) for index in range(len(extremes))]
    return math.fsum(weight * value for weight, value in zip(weights, extremes, strict=True)) / math.fsum(weights)


def mean_and_variance(column: list[float]) -> tuple[float, float]:
    mean = math.fsum(column) / len(column)
    return mean, math.fsum((value - mean) ** 2 for value in column) / len(column)
