"""Masks are those of tfmot for the same weights, but for ties of last digits."""

import numpy as np
import pytest

from keras_compress.numerics.sparsity import block_mask, m_by_n_mask, magnitude_mask


def theirs(kernel, sparsity=0.0, **settings):
    """The mask that tfmot's own class computes."""
    tf = pytest.importorskip("tensorflow")
    from keras_compress.bridge.tfmot import import_tfmot

    import_tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning

    pruning = Pruning(
        lambda: 0,
        [],
        lambda step: (True, tf.constant(sparsity)),
        **{"block_size": (1, 1), "block_pooling_type": "AVG"} | settings,
    )
    return np.asarray(pruning._maybe_update_block_mask(tf.constant(kernel))[1]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7,), (5, 3), (3, 3, 4, 6), (64, 33)], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 1 / 3, 0.8, 0.99, 0.9999])
def test_a_fraction_of_a_kernel(rng, shape, sparsity):
    kernel = rng.normal(size=shape).astype(np.float32)
    mask = magnitude_mask(kernel, sparsity)
    np.testing.assert_array_equal(mask, theirs(kernel, sparsity))
    assert mask.any() and mask.sum() == max(1, np.rint(kernel.size * (1 - sparsity)))


def test_equal_weights_stay_together(rng):
    kernel = np.float32([[1, -1, 1], [0.5, 2, 0]])
    np.testing.assert_array_equal(magnitude_mask(kernel, 0.5), [[True, True, True], [False, True, False]])
    np.testing.assert_array_equal(magnitude_mask(np.zeros((2, 2), np.float32), 0.5), np.ones((2, 2), bool))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 6), (15, 7), (9, 4), (13, 11)], ids=str)
@pytest.mark.parametrize("block", [(4, 1), (2, 2), (1, 3), (5, 1)], ids=str)
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_blocks(rng, shape, block, pooling):
    kernel = rng.normal(size=shape).astype(np.float32)
    expected = theirs(kernel, 0.6, block_size=block, block_pooling_type=pooling)
    np.testing.assert_array_equal(block_mask(kernel, 0.6, block, pooling), expected)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 6), (13, 5), (3, 3, 8, 6), (1, 2, 7, 3)], ids=str)
@pytest.mark.parametrize("pattern", [(2, 4), (1, 2), (3, 4), (4, 8)], ids=str)
def test_some_of_each_group_of_neighbours(rng, shape, pattern):
    kernel = rng.normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(m_by_n_mask(kernel, *pattern), theirs(kernel, sparsity_m_by_n=pattern))
