"""The greedy family in whole networks: forms, seeds, orders, fitted scales, and matrices that do not fit."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.descent import excess
from keras_compress.numerics.statistics import statistics_of
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


@pytest.mark.parametrize("quantizer", [kc.SPFQ(3), kc.SparseGPFQ(3, regularization=0.05)], ids=["spfq", "sparse"])
def test_both_forms_agree(model, samples, quantizer):
    gram, direct = (kc.quantize(model, quantizer, samples, form=form, seed=1) for form in ("gram", "direct"))
    assert_same_codes(gram, direct)


def test_the_seed_is_that_of_the_rounding(model, samples):
    first, again, other = (kc.quantize(model, kc.SPFQ(3), samples, seed=seed) for seed in (1, 1, 2))
    assert_same_codes(first, again)
    assert any((codes != kernels(other)[path]).any() for path, codes in kernels(first).items())


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
        codes, letters = quantizer.solve(matrix, statistics, alphabet, generator=np.random.default_rng(0))
        return excess(matrix, statistics, letters.decode(codes))

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
        codes, letters = quantizer.solve(matrix, statistics, alphabet)
        assert isinstance(letters, Alphabet) and letters.scale.shape == (12,)
        errors.append(excess(matrix, statistics, letters.decode(codes)))
    assert (errors[1] <= errors[0] + 1e-9).all() and (errors[1] < errors[0]).any()


@pytest.mark.parametrize("build", [kc.GPFQ, kc.OPTQ, kc.Qronos])
def test_an_order_is_a_permutation_of_the_features(rng, build):
    matrix, statistics, alphabet = problem(rng)
    order = np.argsort(-statistics.diagonal)
    codes, _ = build(3, order="descending_diagonal").solve(matrix, statistics, alphabet)
    expected, _ = build(3).solve(matrix[order], statistics.features(order), alphabet)
    np.testing.assert_array_equal(codes[order], expected)


@pytest.mark.parametrize("quantizer", [kc.OPTQ(3), kc.Qronos(3), kc.Beacon(3), kc.GPFQ(3, refine=1)], ids=repr)
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
