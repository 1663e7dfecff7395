"""k-means on a line, against SciPy's in any dimension."""

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from keras_compress.numerics.clusters import k_means


@pytest.mark.parametrize("num_clusters", [2, 5, 16])
@pytest.mark.parametrize("draw", ["normal", "uniform", "standard_t"])
def test_it_ends_where_scipy_ends(rng, num_clusters, draw):
    values = getattr(rng, draw)(**({"df": 3} if draw == "standard_t" else {}), size=2000)
    centroids, labels = k_means(values, num_clusters)
    assert (np.diff(centroids) > 0).all() and len(centroids) <= num_clusters
    np.testing.assert_array_equal(np.unique(labels), np.arange(len(centroids)))
    # One more round of SciPy's, from where `k_means` ended, changes nothing.
    expected, numbers = kmeans2(values[:, np.newaxis], centroids[:, np.newaxis], iter=1, minit="matrix")
    np.testing.assert_allclose(expected.ravel(), centroids, rtol=1e-10)
    np.testing.assert_array_equal(numbers, labels)


def test_from_evenly_spaced_centroids_it_goes_the_way_of_scipy(rng):
    values = rng.uniform(-1, 1, 3000)  # no cluster is ever empty
    start = np.linspace(values.min(), values.max(), 8)
    expected, numbers = kmeans2(values[:, np.newaxis], start[:, np.newaxis], iter=300, minit="matrix")
    centroids, labels = k_means(values, 8)
    np.testing.assert_allclose(centroids, expected.ravel(), rtol=1e-10)
    np.testing.assert_array_equal(labels, numbers)


def test_fewer_values_than_clusters_stay_as_they_are():
    values = np.array([3.0, -1.0, 3.0, 0.5])
    centroids, labels = k_means(values, 7)
    np.testing.assert_array_equal(centroids[labels], values)
    assert len(centroids) == 3


def test_equal_values_are_one_cluster():
    centroids, labels = k_means(np.full(5, 2.0), 4)
    assert centroids.tolist() == [2.0] and labels.tolist() == [0] * 5
