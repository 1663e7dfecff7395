"""Rules for the radius: what they promise, by definition or by a search without cleverness."""

import numpy as np
import pytest

from keras_compress.numerics import radius as rules
from keras_compress.numerics.alphabet import Alphabet
from tests.numerics import problems


@pytest.fixture
def matrix(rng):
    return rng.standard_t(4, (600, 5)) * rng.uniform(0.1, 3, 5)


def squared_error(matrix, levels, radius, weights):
    alphabet = Alphabet(levels, rules.scale_of(radius, levels))
    return (weights * (matrix - problems.decode(alphabet, alphabet.nearest(matrix))) ** 2).sum(axis=0)


@pytest.mark.parametrize("levels", problems.LEVELS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_no_radius_on_a_dense_grid_beats_the_mse_radius(rng, matrix, levels, weighted, per_channel):
    levels = problems.LEVELS[levels]
    weights = rng.uniform(0.01, 2, (600, 1)) if weighted else None
    chosen = rules.mse_radius(matrix, levels, weights, per_channel=per_channel)
    largest = rules.max_radius(matrix, per_channel=per_channel)

    def error(radius):
        errors = squared_error(matrix, levels, radius, 1.0 if weights is None else weights)
        return errors if per_channel else errors.sum(keepdims=True)

    best = np.min([error(largest * fraction) for fraction in np.linspace(1 / 400, 1, 400)], axis=0)
    # 1 %: the rule's own grid is three times coarser.
    assert (error(chosen) <= 1.01 * best).all()


def test_the_mse_radius_takes_other_weights_for_each_channel(rng, matrix):
    """A grouped convolution has other inputs, hence other weights, for the channels of each group."""
    weights = rng.uniform(0.01, 2, matrix.shape)
    together = rules.mse_radius(matrix, problems.LEVELS["ternary"], weights, per_channel=True)
    for channel in range(matrix.shape[1]):
        alone = rules.mse_radius(
            matrix[:, [channel]], problems.LEVELS["ternary"], weights[:, [channel]], per_channel=True
        )
        np.testing.assert_allclose(together[channel], alone[0], rtol=1e-6)


def test_the_mse_radius_depends_on_the_weights(matrix):
    """Where only the large weights count, the alphabet must reach them."""
    levels = problems.LEVELS["ternary"]
    large = np.abs(matrix[:, :1]) > np.quantile(np.abs(matrix[:, :1]), 0.95)
    plain = rules.mse_radius(matrix[:, :1], levels, None, per_channel=True)
    weighted = rules.mse_radius(matrix[:, :1], levels, large.astype(float), per_channel=True)
    assert weighted > 1.2 * plain


def test_dead_inputs_leave_the_mse_radius_unweighted(matrix):
    levels = problems.LEVELS["four"]
    np.testing.assert_array_equal(
        rules.mse_radius(matrix, levels, np.zeros((600, 1)), per_channel=True),
        rules.mse_radius(matrix, levels, None, per_channel=True),
    )


def test_median_and_maximum_are_those_of_the_magnitudes(matrix):
    magnitudes = np.abs(matrix)
    np.testing.assert_allclose(rules.median_radius(matrix, per_channel=True), np.median(magnitudes, axis=0))
    np.testing.assert_allclose(rules.median_radius(matrix, per_channel=False), [np.median(magnitudes)])
    np.testing.assert_array_equal(rules.max_radius(matrix, per_channel=True), magnitudes.max(axis=0))
    np.testing.assert_array_equal(rules.max_radius(matrix, per_channel=False), [magnitudes.max()])


def test_the_median_of_a_pruned_layer_is_that_of_its_other_weights(rng, matrix):
    pruned = np.where(rng.random(matrix.shape) < 0.7, 0, matrix)
    expected = [np.median(np.abs(column[column != 0])) for column in pruned.T]
    np.testing.assert_allclose(rules.median_radius(pruned, per_channel=True), expected)


def test_the_quantile_of_a_layer_is_the_mean_over_its_neurons(matrix):
    per_channel = rules.quantile_radius(matrix, 0.9, per_channel=True)
    assert ((np.abs(matrix) <= per_channel).mean(axis=0) == 0.9).all()
    np.testing.assert_allclose(rules.quantile_radius(matrix, 0.9, per_channel=False), [per_channel.mean()])
    np.testing.assert_array_equal(rules.quantile_radius(matrix, 1.0, per_channel=True), np.abs(matrix).max(axis=0))


@pytest.mark.parametrize("rule", ["median", "max", "mse"])
def test_a_channel_of_zeros_gets_a_scale_that_is_no_zero(matrix, rule):
    matrix = matrix.copy()
    matrix[:, 2] = 0
    levels = problems.LEVELS["ternary"]
    if rule == "mse":
        radius = rules.mse_radius(matrix, levels, per_channel=True)
    else:
        radius = {"median": rules.median_radius, "max": rules.max_radius}[rule](matrix, per_channel=True)
    alphabet = Alphabet(levels, rules.scale_of(radius, levels))
    assert not alphabet.decode(alphabet.nearest(matrix))[:, 2].any()
