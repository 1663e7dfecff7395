"""Inputs and weights on which the solvers are compared."""

import numpy as np

from keras_compress.numerics.alphabet import Alphabet

LEVELS = {
    "ternary": np.arange(-1, 2),
    "four_without_zero": np.arange(-3, 4, 2),
    "four": np.arange(-2, 2),
    "sixteen": np.arange(-8, 8),
    "seventeen": np.arange(-8, 9),
}


def inputs(rng, num_rows, num_features, *, noise=0.2, dead=()):
    """X and X~ as they come out of a ReLU, float32; the same array twice without noise."""
    analog = np.maximum(rng.normal(0.3, 1, (num_rows, num_features)), 0).astype(np.float32)
    analog[:, list(dead)] = 0
    if not noise:
        return analog, analog
    compressed = np.maximum(analog + noise * rng.normal(size=analog.shape), 0).astype(np.float32)
    compressed[:, list(dead)] = 0
    return analog, compressed


def alphabet(levels, num_scales, rng, radius=1.2):
    """Values up to about `radius`, with `num_scales` scales."""
    scale = radius / np.abs(levels).max() * rng.uniform(0.7, 1.3, num_scales)
    return Alphabet(levels, scale)


def values(chosen_alphabet, num_units):
    """(num_units, num_levels) float64: what each neuron may take."""
    scales = np.broadcast_to(chosen_alphabet.scale.astype(np.float64), num_units)
    return scales[:, None] * chosen_alphabet.levels


def decode(chosen_alphabet, codes):
    """Weights in float64, where `Alphabet.decode` rounds to float32."""
    return chosen_alphabet.scale.astype(np.float64) * codes
