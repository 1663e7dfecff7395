"""What is known of a network's inputs once it has seen calibration data: the range of each, and a few samples."""

import dataclasses
from collections.abc import Sequence

import numpy as np

KEPT = 32  # samples that go with a result


@dataclasses.dataclass(frozen=True)
class InputSamples:
    """Inputs of a network, in their order.

    Attributes:
        low, high: (num_inputs,) float64: the least and the largest value of each input.
        samples: the first samples of the calibration data, at most 32, one array for each input; none where only the
            ranges were kept.
    """

    low: np.ndarray
    high: np.ndarray
    samples: tuple[np.ndarray, ...] = ()

    @classmethod
    def none(cls, num_inputs: int) -> "InputSamples":
        """Of no samples yet."""
        return cls(np.full(num_inputs, np.inf), np.full(num_inputs, -np.inf))

    def extended(self, arrays: Sequence[np.ndarray]) -> "InputSamples":
        """With more samples, one array (n, ...) for each input."""
        low = np.minimum(self.low, [float(array.min()) for array in arrays])
        high = np.maximum(self.high, [float(array.max()) for array in arrays])
        missing = KEPT - (len(self.samples[0]) if self.samples else 0)
        if missing <= 0:
            return dataclasses.replace(self, low=low, high=high)
        new = [array[:missing] for array in arrays]
        parts = zip(self.samples, new, strict=True) if self.samples else ((array,) for array in new)
        return InputSamples(low, high, tuple(np.concatenate(list(part)) for part in parts))

    def drawn(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], seed: int = 0) -> list[np.ndarray]:
        """Noise within the ranges, one array for each input: uniform numbers, integers where the input has these."""
        generator = np.random.default_rng(seed)
        arrays = []
        for shape, dtype, low, high in zip(shapes, dtypes, self.low, self.high, strict=True):
            whole = np.dtype(dtype).kind in "iub"
            values = (
                generator.integers(int(low), int(high) + 1, shape) if whole else generator.uniform(low, high, shape)
            )
            arrays.append(values.astype(dtype))
        return arrays
