"""Inputs of one layer, made up: correlated features with positive means, as behind a ReLU."""

import numpy as np


def correlated_rows(num_features: int, *, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """X and X~, each (num_features + 64, num_features) float32; the same array twice with `same`."""
    rng = np.random.default_rng(0)
    rows = num_features + 64
    hidden = rng.standard_normal((rows, num_features // 4 + 1), dtype=np.float32)
    mixing = rng.standard_normal((num_features // 4 + 1, num_features), dtype=np.float32)
    analog = np.maximum(hidden @ mixing / np.float32(num_features) ** 0.5, 0)
    if same:
        return analog, analog
    return analog, np.maximum(analog + np.float32(0.1) * rng.standard_normal(analog.shape, dtype=np.float32), 0)
