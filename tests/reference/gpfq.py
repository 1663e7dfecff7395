"""GPFQ as the papers write it, in plain loops; imports nothing of keras_compress.

E. Lybrand and R. Saab, "A greedy algorithm for quantizing neural networks", JMLR 22(156), 2021, equations 2 and 3.
"""

import numpy as np


def gpfq(
    weights: np.ndarray, analog: np.ndarray, compressed: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """q_t = argmin_p ||u_{t-1} + w_t X_t - p X~_t||, u_t = u_{t-1} + w_t X_t - q_t X~_t, one neuron after the other.

    Args:
        weights: (N, n_out).
        analog: (m, N) X.
        compressed: (m, N) X~.
        values: (n_out, num_levels), increasing: what each neuron may take; (N, n_out, num_levels) where it depends on
            the feature.

    Returns:
        (N, n_out) chosen values; (m, n_out) residuals u_N; and the closest decision: the least difference of the
        distances to the best value and to the next one, in steps of the alphabet (0 is a tie).
    """
    num_features, num_units = weights.shape
    chosen = np.zeros((num_features, num_units))
    residuals = np.zeros((len(analog), num_units))
    every = np.broadcast_to(values, (num_features, num_units, values.shape[-1]))
    closest = np.inf
    for neuron in range(num_units):
        u = np.zeros(len(analog))
        for t in range(num_features):
            own = every[t, neuron]
            target = u + weights[t, neuron] * analog[:, t]
            column = compressed[:, t]
            if not column.any():  # every value is as good: the one nearest to zero, of two the positive one
                value = min(own, key=lambda p: (abs(p), -p))
            else:
                value = min(own, key=lambda p: np.sum((target - p * column) ** 2))
                argument = np.dot(column, target) / np.dot(column, column)
                best, second = sorted(abs(argument - own))[:2]
                closest = min(closest, (second - best) / (own[1] - own[0]))
            chosen[t, neuron] = value
            u = target - value * column
        residuals[:, neuron] = u
    return chosen, residuals, float(closest)


def gram(compressed: np.ndarray, analog: np.ndarray) -> np.ndarray:
    """H_ts = <X~_t, X_s>, (N, N), one entry after the other."""
    num_features = compressed.shape[1]
    products = np.zeros((num_features, num_features))
    for t in range(num_features):
        for s in range(num_features):
            products[t, s] = sum(float(a) * float(b) for a, b in zip(compressed[:, t], analog[:, s], strict=True))
    return products
