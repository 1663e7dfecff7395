"""Statistics are sums over rows: they add up, and features and centring can be had from the sums."""

import numpy as np
import pytest

from keras_compress.numerics.statistics import ArraySamples, LayerStatistics, Moments, mean_error, statistics_of
from tests.numerics import problems
from tests.reference import gpfq as reference

FIELDS = ("count", "sum_analog", "sum_compressed", "gram", "cross", "diagonal")


def assert_equal(first, second, atol=1e-9):
    for field in FIELDS:
        np.testing.assert_allclose(getattr(first, field), getattr(second, field), rtol=1e-12, atol=atol)


@pytest.fixture(params=[0.0, 0.3], ids=["same_inputs", "other_inputs"])
def rows(request, rng):
    return problems.inputs(rng, 50, 12, noise=request.param, dead=(3,))


def test_the_products_are_those_of_the_definition(rows):
    analog, compressed = rows
    statistics = statistics_of(analog, compressed)
    np.testing.assert_allclose(statistics.gram, reference.gram(compressed, compressed), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.cross, reference.gram(compressed, analog), rtol=1e-12, atol=1e-12)
    assert statistics.same_inputs == (analog is compressed)


def test_the_statistics_of_batches_add_up(rows):
    analog, compressed = rows
    parts = [statistics_of(analog[part], compressed[part]) for part in (slice(0, 7), slice(7, 48), slice(48, 50))]
    total = LayerStatistics(*(sum(getattr(part, field) for part in parts) for field in FIELDS[:-1]))
    assert_equal(total, statistics_of(analog, compressed))


def test_some_features(rows):
    analog, compressed = rows
    index = np.array([7, 1, 3])
    chosen = statistics_of(analog, compressed).features(index)
    part = analog[:, index]
    assert_equal(chosen, statistics_of(part, part if analog is compressed else compressed[:, index]))
    assert chosen.same_inputs == (analog is compressed)


def test_the_mean_error_is_that_of_the_outputs(rng, rows):
    analog, compressed = rows
    weights, decoded = rng.normal(size=(12, 4)), rng.normal(size=(12, 4)).astype(np.float32)
    expected = (analog.astype(np.float64) @ weights - compressed.astype(np.float64) @ decoded).mean(axis=0)
    whole = statistics_of(analog, compressed)
    moments = Moments(whole.count, whole.sum_analog, whole.sum_compressed, whole.diagonal)
    for statistics in (whole, moments, ArraySamples(analog, compressed)):
        np.testing.assert_allclose(mean_error(weights, decoded, statistics), expected, rtol=0, atol=1e-12)


def test_samples_in_memory_tell_the_same(rows):
    samples, statistics = ArraySamples(*rows, block_size=5), statistics_of(*rows)
    assert (samples.count, samples.num_features) == (50, 12)
    for field in ("sum_analog", "sum_compressed", "diagonal"):
        np.testing.assert_allclose(getattr(samples, field), getattr(statistics, field), rtol=1e-12)
    starts, analog, compressed = zip(*samples.blocks(), strict=True)
    assert starts == (0, 5, 10)
    np.testing.assert_array_equal(np.concatenate(analog, axis=1), rows[0])
    np.testing.assert_array_equal(np.concatenate(compressed, axis=1), rows[1])
