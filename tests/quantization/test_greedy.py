"""The greedy quantizers in whole networks: forms, seeds, orders, fitted scales, and matrices that do not fit."""

import tracemalloc

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.objective import GramObjective, excess
from keras_compress.numerics.statistics import ArraySamples, statistics_of
from tests import architectures
from tests.numerics import problems

REFINED = [kc.GPFQ, kc.SPFQ, kc.OPTQ, kc.Qronos]


def kernels(result):
    return {path: quantized.codes for path, quantized in result.kernels.items()}


def assert_same_codes(one, other):
    assert one.kernels.keys() == other.kernels.keys()
    for path, codes in kernels(one).items():
        np.testing.assert_array_equal(codes, kernels(other)[path], err_msg=path)


@pytest.fixture(scope="module")
def model():
    return architectures.build("small")


@pytest.fixture(scope="module")
def samples(model):
    return architectures.samples(model, 40)


BOTH_FORMS = [
    kc.SPFQ(3),
    kc.SPFQ(3, alignment=3),
    kc.SparseGPFQ(3, regularization=0.05),
    kc.SparseGPFQ(3, regularizer="l0", regularization=0.05),
    kc.GPFQ(3, refine=2),
    kc.GPFQ(alphabet=kc.Integer(levels=3), radius="search", refine=2),
    kc.GPFQ(alphabet=kc.Integer(3, symmetric=False), radius="alternating", centered=False),
]


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", BOTH_FORMS, ids=repr)
def test_both_forms_agree(model, samples, quantizer):
    gram, direct = (kc.quantize(model, quantizer, samples, form=form, seed=1) for form in ("gram", "direct"))
    assert_same_codes(gram, direct)
    for path, kernel in gram.kernels.items():
        np.testing.assert_allclose(kernel.scale, direct.kernels[path].scale, rtol=1e-5)


@pytest.mark.parametrize("quantizer", [kc.GPFQ(3), *BOTH_FORMS], ids=repr)
def test_the_direct_form_makes_no_matrix_of_features_by_features(rng, quantizer):
    num_features = 1500
    analog = rng.normal(size=(20, num_features)).astype(np.float32)
    compressed = analog + np.float32(0.1) * rng.normal(size=analog.shape).astype(np.float32)
    samples = ArraySamples(analog, compressed, block_size=num_features)  # all columns are read at once
    weights = rng.uniform(-1, 1, (num_features, 2))
    alphabet = quantizer.layer_alphabet(weights[None], [samples])
    tracemalloc.start()
    quantizer.solve(weights, samples, alphabet, centered=quantizer.centers, generator=rng)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * num_features**2 / 4


@pytest.mark.slow
def test_the_seed_is_that_of_the_rounding(model, samples):
    first, again, other = (kc.quantize(model, kc.SPFQ(3), samples, seed=seed) for seed in (1, 1, 2))
    assert_same_codes(first, again)
    assert any((codes != kernels(other)[path]).any() for path, codes in kernels(first).items())


@pytest.mark.slow
def test_a_higher_price_makes_more_zeros(model, samples):
    zeros = [
        np.mean(
            np.concatenate([codes.ravel() == 0 for codes in kernels(kc.quantize(model, quantizer, samples)).values()])
        )
        for quantizer in (kc.GPFQ(3), *(kc.SparseGPFQ(3, regularization=price) for price in (0.0, 0.05, 0.2)))
    ]
    assert zeros[0] == zeros[1] < zeros[2] < zeros[3]


def problem(rng):
    analog, compressed = problems.inputs(rng, 150, 30)
    matrix = rng.normal(size=(30, 12))
    statistics = statistics_of(analog, compressed)
    quantizer = kc.MSQ(alphabet=kc.Integer(levels=3), radius="mse")
    return matrix, statistics, quantizer.layer_alphabet(matrix[None], [statistics])


@pytest.mark.parametrize("build", REFINED)
def test_refinement_and_fitted_scales_lower_the_error_of_every_channel(rng, build):
    matrix, statistics, alphabet = problem(rng)

    def errors(**settings):
        quantizer = build(alphabet=kc.Integer(levels=3), **settings)
        codes, fitted = quantizer.solve(matrix, statistics, alphabet, generator=np.random.default_rng(0))
        return excess(GramObjective(matrix, statistics).place(fitted.decode(codes).astype(float)))

    plain, refined = errors(), errors(refine=3)
    once, thrice = errors(radius="alternating"), errors(radius="alternating", refine=3)
    room = 1e-6 * np.abs(plain)  # scales are float32
    for before, after in ((plain, refined), (plain, once), (once, thrice)):
        assert (after <= before + room).all()
        assert (after < before - room).any()


@pytest.mark.parametrize("build", [kc.GPFQ, kc.OPTQ, kc.Qronos])
def test_a_search_is_never_worse_than_its_first_radius(rng, build):
    matrix, statistics, alphabet = problem(rng)
    errors = []
    for radius in ("alternating", "search"):
        quantizer = build(alphabet=kc.Integer(levels=3), radius=radius, refine=2)
        codes, fitted = quantizer.solve(matrix, statistics, alphabet)
        assert isinstance(fitted, Alphabet) and fitted.scale.shape == (12,)
        errors.append(excess(GramObjective(matrix, statistics).place(fitted.decode(codes).astype(float))))
    assert (errors[1] <= errors[0] + 1e-9).all() and (errors[1] < errors[0]).any()


@pytest.mark.parametrize("build", [kc.GPFQ, kc.OPTQ, kc.Qronos])
def test_an_order_is_a_permutation_of_the_features(rng, build):
    matrix, statistics, alphabet = problem(rng)
    order = np.argsort(-statistics.diagonal)
    codes, _ = build(3, order="descending_diagonal").solve(matrix, statistics, alphabet)
    expected, _ = build(3).solve(matrix[order], statistics.features(order), alphabet)
    np.testing.assert_array_equal(codes[order], expected)


N_BY_N = [kc.OPTQ(3), kc.Qronos(3), kc.Beacon(3), kc.GPFQ(3, order="descending_diagonal")]


@pytest.mark.parametrize("quantizer", N_BY_N, ids=repr)
def test_matrices_that_do_not_fit_are_refused_before_any_work(quantizer):
    wide = keras.Sequential([keras.Input((4000,)), keras.layers.Dense(2)])

    def never():
        raise AssertionError("work has started")
        yield

    with pytest.raises(kc.InputError, match=r"needs [\d,]+ MB for matrices of 4,000 x 4,000 in layer 'dense"):
        kc.quantize(wide, quantizer, never(), memory_budget="100MB")
    with pytest.raises(kc.InputError, match="form='direct' leaves no room"):
        kc.quantize(wide, quantizer, never(), form="direct")
    assert kc.quantize(wide, kc.GPFQ(3), np.ones((4, 4000), "float32"), memory_budget="100MB").report


# Scales


@pytest.fixture(scope="module")
def dense():
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(24, "relu"), keras.layers.Dense(5)])
    return model, architectures.samples(model, 60)


GROUPED = [kc.MSQ, kc.GPFQ, kc.SPFQ, kc.OPTQ, kc.Qronos]


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("build", GROUPED)
def test_groups_of_features_have_scales_of_their_own(dense, build, symmetric, tmp_path):
    model, samples = dense
    result = kc.quantize(model, build(alphabet=kc.Integer(3, group_size=16, symmetric=symmetric)), samples)
    kernel = result.kernels[model.layers[0].name]
    assert kernel.scale.shape == (3, 24) and (kernel.zero_point is None) == symmetric
    assert len(np.unique(kernel.scale)) > 60
    assert result.report.row(model.layers[0].name).storage == "packed"
    np.testing.assert_array_equal(np.asarray(result.model.layers[0].kernel), kernel.decode())
    result.save(tmp_path / "grouped")
    back = kc.load_result(tmp_path / "grouped").kernels[model.layers[0].name]
    assert back.group_size == 16
    np.testing.assert_array_equal(back.decode(), kernel.decode())


@pytest.mark.slow
@pytest.mark.parametrize("build", GROUPED[:2])
def test_smaller_groups_leave_smaller_errors(dense, build):
    model, samples = dense
    errors = []
    for group_size in (None, 20, 5):
        result = kc.quantize(model, build(alphabet=kc.Integer(3, group_size=group_size)), samples)
        errors.append(result.report.row(model.layers[0].name).relative_error)
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.slow
@pytest.mark.parametrize("radius", ["alternating", "search"])
def test_the_scales_of_groups_are_fitted_too(dense, radius):
    model, samples = dense
    alphabet = kc.Integer(levels=3, group_size=10)
    plain, fitted = (
        kc.quantize(model, kc.GPFQ(alphabet=alphabet, radius=rule, refine=2), samples) for rule in ("mse", radius)
    )
    name = model.layers[0].name
    assert fitted.report.row(name).relative_error < plain.report.row(name).relative_error


@pytest.mark.slow
def test_zero_points_help_where_weights_lie_on_one_side(dense):
    model, samples = dense
    one_sided = keras.models.clone_model(model)
    for weight, original in zip(one_sided.weights, model.weights, strict=True):
        weight.assign(np.abs(original))
    name = one_sided.layers[0].name
    symmetric, shifted = (
        kc.quantize(one_sided, kc.GPFQ(alphabet=kc.Integer(3, symmetric=choice)), samples) for choice in (True, False)
    )
    assert shifted.report.row(name).relative_error < 0.7 * symmetric.report.row(name).relative_error
    assert symmetric.report.row(name).storage == "int4" and shifted.report.row(name).storage == "packed"


def test_zeros_stay_zeros_with_zero_points(dense):
    model, samples = dense
    pruned = keras.models.clone_model(model)
    kernel = np.asarray(model.layers[0].kernel).copy()
    kernel[::2] = 0
    pruned.layers[0].kernel.assign(kernel)
    alphabet = kc.Integer(3, symmetric=False)
    result = kc.quantize(pruned, kc.GPFQ(alphabet=alphabet), samples, keep_zeros=True)
    assert not np.asarray(result.model.layers[0].kernel)[::2].any()
    assert result.report.row(pruned.layers[0].name).zeros >= 0.5


def test_groups_are_for_dense_layers(model, samples):
    with pytest.raises(kc.InputError, match="group_size is for Dense layers, and 'conv' is a Conv2D layer"):
        kc.quantize(model, kc.GPFQ(alphabet=kc.Integer(4, group_size=8)), samples)


@pytest.mark.slow
def test_hard_thresholds_make_two_levels_more_and_the_report_says_so(model, samples):
    rows = [
        kc.quantize(model, kc.SparseGPFQ(3, regularizer="l0", regularization=price), samples).report.row("conv")
        for price in (0.02, 0.2)
    ]
    assert all(row.num_levels == 9 and row.storage == "packed" for row in rows)
    assert rows[0].zeros < rows[1].zeros


# Additions


@pytest.mark.slow
@pytest.mark.parametrize("build", [kc.GPFQ, kc.OPTQ, kc.Qronos])
def test_the_end_of_a_residual_block_makes_up_for_its_shortcut(build):
    """The sum comes nearer to the analog one than where each branch is quantized by itself."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 3))
    wide = keras.layers.Conv2D(12, 3, padding="same", activation="relu", name="first")(inputs)
    shortcut = keras.layers.Conv2D(8, 1, name="shortcut")(wide)
    main = keras.layers.Conv2D(8, 3, padding="same", name="main")(wide)
    model = keras.Model(inputs, keras.layers.Add()([shortcut, main]))
    samples = np.random.default_rng(0).normal(size=(60, 8, 8, 3)).astype(np.float32)
    settings = {"target": "corrected"} if build is kc.OPTQ else {}
    errors = []
    for compensate in (False, True):
        result = kc.quantize(model, build(2, compensate_skip=compensate, **settings), samples)
        errors.append(float(np.square(np.asarray(result.model(samples)) - np.asarray(model(samples))).sum()))
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.slow
def test_without_additions_nothing_changes(model, samples):
    plain, compensated = (kc.quantize(model, kc.GPFQ(3, compensate_skip=choice), samples) for choice in (False, True))
    assert_same_codes(plain, compensated)
