"""A batch of matrices, as depthwise convolutions have, goes through a solver at once, and comes out as one by one."""

import numpy as np
import pytest

from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.beacon import beacon
from keras_compress.numerics.descent import descend, fit_scale
from keras_compress.numerics.gpfq import gpfq
from keras_compress.numerics.objective import GramObjective, excess
from keras_compress.numerics.optq import optq
from keras_compress.numerics.spfq import aligned_weights
from keras_compress.numerics.statistics import LayerStatistics, mean_error, statistics_of
from tests.numerics import problems

BATCH, FEATURES, UNITS, ROWS = 7, 9, 3, 40
LEVELS = np.arange(-3, 4)


def with_fitted_scales(matrix, statistics, alphabet):
    codes = alphabet.nearest(matrix)
    objective = GramObjective(matrix, statistics).place(alphabet.decode(codes).astype(float))
    fitted = fit_scale(objective, alphabet, codes)
    return descend(objective, fitted, codes, sweeps=2), fitted.scale, excess(objective)


SOLVERS = {
    "gpfq": lambda w, s, a: gpfq(w, s, a),
    "gpfq_in_small_blocks": lambda w, s, a: gpfq(w, s, a, block_size=4),
    "gpfq_centered": lambda w, s, a: gpfq(w, s, a, centered=True),
    "gpfq_after_centering": lambda w, s, a: gpfq(w, s.centered(), a),
    "gpfq_sparse": lambda w, s, a: gpfq(w, s, a, threshold=0.1),
    "gpfq_stochastic": lambda w, s, a: gpfq(w, s, a, noise=np.random.default_rng(0).random((FEATURES, UNITS)) + 0 * w),
    "gpfq_keeping": lambda w, s, a: gpfq(w, s, a, keep=np.abs(w) > 0.3),
    "optq": lambda w, s, a: optq(w, s, a),
    "optq_corrected": lambda w, s, a: optq(w, s, a, target="corrected", block_size=4),
    "qronos": lambda w, s, a: optq(w, s, a, target="qronos"),
    "qronos_keeping": lambda w, s, a: optq(w, s, a, target="qronos", keep=np.abs(w) > 0.3),
    "alignment": lambda w, s, a: aligned_weights(w, s, 3),
    "beacon": lambda w, s, a: beacon(w, s, LEVELS)[0],
    "beacon_scales": lambda w, s, a: beacon(w, s, LEVELS)[1].scale,
    "nearest": lambda w, s, a: a.nearest(w),
    "decoded": lambda w, s, a: a.decode(a.nearest(w)),
    "descent": lambda w, s, a: with_fitted_scales(w, s, a)[0],
    "fitted_scales": lambda w, s, a: with_fitted_scales(w, s, a)[1],
    "excess": lambda w, s, a: with_fitted_scales(w, s, a)[2],
    "mean_error": lambda w, s, a: mean_error(w, a.decode(a.nearest(w)), s),
    "order": lambda w, s, a: s.features(np.argsort(s.diagonal)).cross,
}


FITTED = ("fitted_scales", "descent", "excess")  # to all matrices, where they share one scale


@pytest.mark.parametrize("noise", [0.0, 0.3], ids=["same_inputs", "other_inputs"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in SOLVERS
        for kind in ("symmetric", "zero_points", "per_layer")
        if not (kind == "per_layer" and name in FITTED)
    ],
)
def test_a_batch_is_its_matrices_one_by_one(rng, name, noise, kind):
    dead = [(), (0,), (4, 8), (0, 1), (), (2,), ()]
    pairs = [problems.inputs(rng, ROWS, FEATURES, noise=noise, dead=columns) for columns in dead]
    for analog, compressed in pairs:
        analog[:, 3] = compressed[:, 3] = 0.7  # constant
    each = [statistics_of(*pair) for pair in pairs]
    fields = {field: np.stack([getattr(s, field) for s in each]) for field in ("sum_analog", "sum_compressed", "gram")}
    cross = np.stack([statistics.cross for statistics in each]) if noise else fields["gram"]
    together = LayerStatistics(ROWS, cross=cross, **fields)
    matrices = rng.uniform(-1, 1, (BATCH, FEATURES, UNITS))
    scale = rng.uniform(0.2, 0.4, (BATCH, UNITS))
    zero_points = rng.integers(-3, 4, (BATCH, UNITS)) if kind == "zero_points" else None
    if kind == "per_layer":
        scale = np.array([0.3])
    alphabet = Alphabet(LEVELS, scale, zero_points)
    results = SOLVERS[name](matrices, together, alphabet)
    for index, statistics in enumerate(each):
        own = alphabet
        if kind != "per_layer":
            own = Alphabet(LEVELS, scale[index], None if zero_points is None else zero_points[index])
        expected = SOLVERS[name](matrices[index], statistics, own)
        np.testing.assert_allclose(results[index], expected, rtol=1e-6, atol=1e-9)
