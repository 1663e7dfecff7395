"""Numbers as a few shared values: k-means on a line."""

import numpy as np

MAX_ROUNDS = 300


def k_means(values: np.ndarray, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm from evenly spaced centroids ("linear initialization"; Han et al., 2016, section 3.1).

    Spacing them evenly gives the few large weights centroids of their own, as that paper wants. On a line a cluster is
    an interval: with sorted values a round costs a binary search for each border, and no distance is computed.

    Args:
        values: (n,), n at least 1.
        num_clusters: at most so many; clusters without a value are left out.

    Returns:
        Centroids, increasing, the mean of their values; and for each value the number of its centroid.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], num_clusters)
    cuts = np.zeros(0, np.int64)
    for _ in range(MAX_ROUNDS):
        middles = (centroids[1:] + centroids[:-1]) / 2
        new_cuts = np.concatenate([[0], np.searchsorted(ordered, middles), [len(ordered)]])
        if np.array_equal(new_cuts, cuts):
            break
        cuts = new_cuts
        counts = np.diff(cuts)
        filled = counts > 0
        centroids[filled] = np.diff(sums[cuts])[filled] / counts[filled]
    centroids = centroids[np.diff(cuts) > 0]
    return centroids, np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="right")
