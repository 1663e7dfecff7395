"""OPTQ and Qronos by their definition: a least-squares problem after every value; imports nothing of keras_compress.

E. Frantar et al., "OPTQ: Accurate quantization for generative pre-trained transformers", ICLR 2023; S. Zhang et al.,
"Qronos: correcting the past by shaping the future in post-training quantization", arXiv 2505.11695.
"""

import numpy as np


def greedy_least_squares(
    weights: np.ndarray, target: np.ndarray, compressed: np.ndarray, values: np.ndarray, *, start: np.ndarray
) -> tuple[np.ndarray, float]:
    """q_t = argmin_p ||y - X~_{<t} q - p X~_t - X~_{>t} v_{>t}||; v_{>t} = argmin_v ||y - X~_{<=t} q - X~_{>t} v||.

    Args:
        weights: (N, n_out), for the shape.
        target: (m, n_out) y.
        compressed: (m, N) X~.
        values: (n_out, num_levels), increasing; (N, n_out, num_levels) where they depend on the feature.
        start: (N, n_out) v before the first value.

    Returns:
        (N, n_out) chosen values, and the closest decision, in steps of the alphabet.
    """
    num_features, num_units = weights.shape
    chosen = np.zeros((num_features, num_units))
    every = np.broadcast_to(values, (num_features, num_units, values.shape[-1]))
    closest = np.inf
    for neuron in range(num_units):
        v = start[:, neuron].copy()
        for t in range(num_features):
            own = every[t, neuron]
            past, future = compressed[:, :t], compressed[:, t + 1 :]
            rest = target[:, neuron] - past @ chosen[:t, neuron] - future @ v[t + 1 :]
            column = compressed[:, t]
            argument = np.dot(column, rest) / np.dot(column, column)
            best, second = sorted(abs(argument - own))[:2]
            closest = min(closest, (second - best) / (own[1] - own[0]))
            chosen[t, neuron] = min(own, key=lambda p: abs(argument - p))
            if t + 1 < num_features:
                left = target[:, neuron] - compressed[:, : t + 1] @ chosen[: t + 1, neuron]
                v[t + 1 :] = np.linalg.lstsq(future, left, rcond=None)[0]
    return chosen, float(closest)
