"""Alphabets of whole tensors, and ranges for them that calibration data gives.

An integer tensor of TFLite stands for `scale * (code - zero_point)`, with one scale and one zero point for all of it
(Jacob et al., 2018, equation 1), so that zero is a value whatever the range.
"""

import dataclasses

import numpy as np

BINS = 8192  # of a histogram: 32 for each of 256 levels
GROUP = 32  # samples whose extremes make one step of the moving average
DECAY = 0.99
# Ends of the range that the rule "mse" tries, as factors: on the extremes, then around the best ones.
COARSE = 2.0 ** (-np.arange(24) / 4)
FINER = (2.0 ** (np.arange(-4, 5) / 16), 2.0 ** (np.arange(-4, 5) / 64))


@dataclasses.dataclass(frozen=True)
class TensorAlphabet:
    """Values `scale * (code - zero_point)` for each integer `code` of `bits` bits.

    Codes run from -2^(b-1) to 2^(b-1) - 1; a symmetric alphabet leaves out the first, and its zero point is 0.

    Attributes:
        bits: b.
        scale: one step; a float32 number.
        zero_point: code of zero.
        symmetric: whether there are as many values below zero as above.
    """

    bits: int
    scale: float
    zero_point: int = 0
    symmetric: bool = False

    @classmethod
    def of_range(cls, low: float, high: float, bits: int, *, symmetric: bool = False) -> "TensorAlphabet":
        """Values that span `low` to `high` and zero, as TFLite spaces them.

        The zero point is rounded, so that both ends may move by half a step. A range that is zero tells nothing: its
        scale is 1.
        """
        lowest, highest = code_bounds(bits, symmetric)
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            return cls(bits, 1.0, 0, symmetric)
        if symmetric:
            return cls(bits, _float32(max(-low, high) / highest), 0, True)
        scale = (high - low) / (highest - lowest)
        return cls(bits, _float32(scale), int(np.clip(np.rint(lowest - low / scale), lowest, highest)), False)

    @classmethod
    def of_function(cls, low: float, high: float, bits: int, *, symmetric: bool = False) -> "TensorAlphabet":
        """The alphabet of a function from `low` to `high`, whatever the data: a power of two of values spans it.

        TFLite prescribes it: for 8 bits 1/256 and the zero point -128 for a softmax, 1/128 and 0 for tanh.
        """
        lowest, highest = code_bounds(bits, symmetric)
        if symmetric:
            return cls(bits, _float32(max(-low, high) / 2 ** (bits - 1)), 0, True)
        scale = (high - low) / 2**bits
        return cls(bits, _float32(scale), int(np.clip(np.rint(lowest - low / scale), lowest, highest)), False)

    def with_scale(self, scale: float) -> "TensorAlphabet":
        """Values with a larger step, which begin where these begin or, symmetric ones, around zero."""
        lowest, highest = code_bounds(self.bits, self.symmetric)
        low = self.low if not self.symmetric else -scale * highest
        return TensorAlphabet.of_range(low, low + scale * (highest - lowest), self.bits, symmetric=self.symmetric)

    @property
    def num_levels(self) -> int:
        lowest, highest = code_bounds(self.bits, self.symmetric)
        return highest - lowest + 1

    @property
    def steps(self) -> tuple[int, int]:
        """The least and the largest value, in steps from zero."""
        lowest, highest = code_bounds(self.bits, self.symmetric)
        return lowest - self.zero_point, highest - self.zero_point

    @property
    def low(self) -> float:
        return self.steps[0] * self.scale

    @property
    def high(self) -> float:
        return self.steps[1] * self.scale

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """The alphabet's value nearest to each of `values`, float64; ties go to the even number of steps from zero."""
        return np.clip(np.rint(np.asarray(values, np.float64) / self.scale), *self.steps) * self.scale


def code_bounds(bits: int, symmetric: bool) -> tuple[int, int]:
    """The least and the largest code of `bits` bits."""
    return -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1


def _float32(scale: float) -> float:
    return float(max(np.float32(scale), np.finfo(np.float32).tiny))


class MinMax:
    """The least and the largest of all values."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def add(self, lows: np.ndarray, highs: np.ndarray) -> None:
        """Extremes (n,) of n samples."""
        self.low, self.high = min(self.low, float(lows.min())), max(self.high, float(highs.max()))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class MovingAverage:
    """Exponential moving averages of the least and the largest value of each group of samples.

    a_t = decay * a_(t-1) + (1 - decay) * x_t with a_0 = 0, divided by 1 - decay^t, so that the first groups weigh no
    more than the others (Kingma & Ba, 2015, section 3). Groups are cut from the samples in their order; how they are
    added does not matter.
    """

    def __init__(self, decay: float = DECAY, group: int = GROUP):
        self.decay = decay
        self.group = group
        self._averages = np.zeros(2)
        self._weight = 0.0
        self._pending = np.zeros((2, 0))

    def add(self, lows: np.ndarray, highs: np.ndarray) -> None:
        """Extremes (n,) of n samples."""
        self._pending = np.concatenate([self._pending, np.stack([lows, highs])], axis=1)
        while self._pending.shape[1] >= self.group:
            self._averages, self._weight = self._after(self._pending[:, : self.group])
            self._pending = self._pending[:, self.group :]

    def range(self) -> tuple[float, float]:
        averages, weight = self._after(self._pending) if self._pending.size else (self._averages, self._weight)
        low, high = averages / weight
        return float(low), float(high)

    def _after(self, extremes: np.ndarray) -> tuple[np.ndarray, float]:
        new = np.array([extremes[0].min(), extremes[1].max()])
        rest = 1 - self.decay
        return self.decay * self._averages + rest * new, self.decay * self._weight + rest


class Histogram:
    """Counts of values in bins of equal width, and the mean of each bin: few values in a bin stay what they are.

    Args:
        low, high: the least and the largest value that will be added.
    """

    def __init__(self, low: float, high: float, num_bins: int = BINS):
        self.low = low
        self.high = high
        self._per_unit = num_bins / (high - low) if high > low else 0.0
        self._counts = np.zeros(num_bins, np.int64)
        self._sums = np.zeros(num_bins)

    def add(self, values: np.ndarray) -> None:
        """Values of any shape."""
        flat = np.asarray(values, np.float32).ravel()
        num_bins = len(self._counts)
        index = ((flat - np.float32(self.low)) * np.float32(self._per_unit)).astype(np.intp)
        np.minimum(index, num_bins - 1, out=index)
        self._counts += np.bincount(index, minlength=num_bins)
        self._sums += np.bincount(index, weights=flat, minlength=num_bins)

    def filled(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and counts of the bins that are not empty."""
        used = self._counts > 0
        return self._sums[used] / self._counts[used], self._counts[used]


def mse_range(histogram: Histogram, bits: int, *, symmetric: bool = False) -> tuple[float, float]:
    """The range whose alphabet leaves the least sum of (x - q)^2, by search over clipped ranges.

    All pairs of coarsely spaced ends are tried, or all radii of a symmetric range; then both ends together and each end
    alone around the best ones.

    Returns:
        Low and high, between the histogram's own and zero.
    """
    values, counts = histogram.filled()
    ends = np.array([min(histogram.low, 0.0), max(histogram.high, 0.0)])
    best, least = np.ones(2), np.inf

    def attempt(factors: np.ndarray) -> None:
        nonlocal best, least
        factors = np.minimum(factors, 1.0)
        low, high = factors * ends
        alphabet = TensorAlphabet.of_range(float(low), float(high), bits, symmetric=symmetric)
        error = float(counts @ (values - alphabet.nearest(values)) ** 2)
        if error < least:
            best, least = factors, error

    together = symmetric or not ends.all()  # one end is all that there is
    for high in COARSE:
        for low in (high,) if together else COARSE:
            attempt(np.array([low, high]))
    for factors in FINER:
        for moved in ([1, 1],) if together else ([1, 1], [0, 1], [1, 0]):
            center = best
            for factor in factors:
                attempt(center * np.where(moved, factor, 1.0))
    low, high = best * ends
    return float(low), float(high)
