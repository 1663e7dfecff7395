"""Biases as steps: nearest where they fit, and channels whose steps are raised until they do."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_compress.numerics.biases import LARGEST, bias_step, fit_biases


def drawn(seed, n_out, n_in, exponent):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (n_out, n_in))
    scale = (10.0 ** rng.uniform(exponent, 0, n_out)).astype(np.float32)
    return rng, codes, scale


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 20), st.sampled_from([-3, -15, -37, -44]))
def test_every_bias_fits_and_weights_lose_less_than_a_thousandth_of_it(seed, n_out, n_in, exponent):
    rng, codes, scale = drawn(seed, n_out, n_in, exponent)
    bias = rng.normal(size=n_out) * 10.0 ** rng.uniform(-3, 3, n_out)
    step = float(10.0 ** rng.uniform(-4, 1))
    fitted = fit_biases(codes, scale, bias, step)
    assert np.abs(fitted.steps).max() <= LARGEST
    assert (fitted.scale >= scale).all() and (fitted.scale >= np.finfo(np.float32).tiny).all()
    held = fitted.steps * bias_step(step, fitted.scale)
    assert (np.abs(held - bias) <= 0.5 * bias_step(step, fitted.scale) * (1 + 1e-9)).all()
    inputs = rng.integers(-128, 128, (n_in, 50)) * step
    weights, kept = codes * np.float64(scale)[:, None], fitted.codes * np.float64(fitted.scale)[:, None]
    raised = fitted.scale > scale
    np.testing.assert_array_equal(fitted.codes[~raised], codes[~raised])
    lost = np.abs((weights - kept) @ inputs).max(axis=1)
    # Half a raised step for each input of at most 128 steps; a channel without a usable scale has no weights at all.
    allowed = n_in * 128 * np.maximum(np.abs(bias) / LARGEST, step * 1e-9) * (1 + 1e-6)
    assert (lost <= allowed + 1e-12 * np.abs(weights @ inputs).max(axis=1))[raised].all()


def test_what_fits_stays_as_it_is():
    _, codes, scale = drawn(0, 4, 9, -3)
    fitted = fit_biases(codes, scale, np.array([0.0, 1.0, -2.0, 0.3]), 0.01)
    np.testing.assert_array_equal(fitted.codes, codes)
    np.testing.assert_array_equal(fitted.scale, scale)


def test_a_channel_without_weights_gets_a_scale():
    fitted = fit_biases(np.zeros((2, 3), int), np.zeros(2), np.array([0.0, 5.0]), 0.1)
    assert (fitted.scale > 0).all() and fitted.steps[0] == 0
    np.testing.assert_allclose(fitted.steps[1] * bias_step(0.1, fitted.scale)[1], 5.0, rtol=1e-6)
