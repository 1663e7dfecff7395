"""The floors: products that give what they are named for, and as many as each method has."""

import numpy as np
import pytest
from harness import products

import keras_compress as kc
from keras_compress.numerics.beacon import STARTS
from keras_compress.numerics.statistics import ArraySamples, statistics_of
from keras_compress.quantization.quantizers import SEARCHED

FEATURES = products.BLOCK + 40  # a whole block and a part of one

PATH = ["tril(H) W", "tril(G) Q"]
FACTORS = ["chol(G)", "U", "U^T D"]
CORRECTED = ["chol(G)", "U", "U^T U R", "U^T D", "H W"]
MANY = len(SEARCHED)
GRAM = [
    (kc.MSQ(3, bias_correction=True), []),
    (kc.GPFQ(3), PATH),
    (kc.SPFQ(3), PATH),
    (kc.SparseGPFQ(3), PATH),
    (kc.SPFQ(3, alignment=3), ["H W", "3 tril(G)^-1 R", "2 triu(G) V", "tril(G) Q"]),
    (kc.OPTQ(3), FACTORS),
    (kc.Qronos(3), CORRECTED),
    (kc.OPTQ(3, target="corrected"), CORRECTED),
    (kc.GPFQ(3, refine=2), ["H W", "G Q", "2 G dQ"]),
    (kc.GPFQ(3, radius="alternating"), ["H W", "G Q", "1 G dQ"]),
    (kc.GPFQ(3, radius="search", refine=2), ["H W", f"G Q of {MANY} starts", f"2 G dQ of {MANY} starts"]),
    (kc.OPTQ(3, refine=2), [*FACTORS, "H W", "G Q", "2 G dQ"]),
    (kc.OPTQ(3, target="corrected", refine=2), [*CORRECTED, "G W", "G Q", "2 G dQ"]),
    (kc.Beacon(3, sweeps=4), ["H W", f"G Q of {len(STARTS)} starts", f"4 G dQ of {len(STARTS)} starts"]),
]
DIRECT = [
    (kc.MSQ(3), []),
    (kc.GPFQ(3), ["X W", "X~^T u", "X~ Q"]),
    (kc.SPFQ(3), ["X W", "X~^T u", "X~ Q"]),
    (kc.SPFQ(3, alignment=3), ["X W", "4 X~^T u", "4 X~ Q"]),
    (kc.GPFQ(3, refine=2), ["X W", "3 X~^T u", "3 X~ Q"]),
    (kc.GPFQ(3, radius="search", refine=2), ["X W", f"3 X~^T u of {MANY} starts", f"3 X~ Q of {MANY} starts"]),
]


@pytest.fixture
def layer(rng):
    analog = rng.normal(size=(2 * FEATURES, FEATURES))
    compressed = analog + 0.1 * rng.normal(size=analog.shape)
    weights = rng.normal(size=(FEATURES, 3))
    return analog, compressed, weights


@pytest.mark.parametrize(("quantizer", "names"), GRAM)
def test_the_gram_form_of_each_method(quantizer, names, layer):
    analog, compressed, weights = layer
    parts = products.gram_parts(quantizer, weights, statistics_of(analog, compressed), weights)
    assert list(parts) == names
    for function in parts.values():
        function()


@pytest.mark.parametrize(("quantizer", "names"), DIRECT)
def test_the_direct_form_of_each_method(quantizer, names, layer):
    analog, compressed, weights = layer
    parts = products.direct_parts(quantizer, weights, ArraySamples(analog, compressed), weights)
    assert list(parts) == names
    for function in parts.values():
        function()


def test_products_are_what_they_are_named_for(layer, rng):
    _, compressed, weights = layer
    gram = compressed.T @ compressed
    blocks = np.arange(FEATURES) // products.BLOCK
    below, above = blocks[:, None] >= blocks, blocks[:, None] <= blocks
    np.testing.assert_allclose(products.lower_product(gram, weights), (gram * below) @ weights)
    np.testing.assert_allclose(products.upper_product(gram, weights), (gram * above) @ weights)
    lower = np.asfortranarray(np.tril(gram))
    np.testing.assert_allclose(lower @ products.triangular_solution(lower, weights), weights, atol=1e-9)
    total = np.zeros_like(weights)
    products.sweep(gram, weights, total)
    np.testing.assert_allclose(total, gram @ weights)
    later = np.zeros_like(weights)
    products.updates(np.triu(gram), weights, later)
    np.testing.assert_allclose(later, (np.triu(gram) * (blocks[:, None] < blocks)).T @ weights)
    residual = np.zeros((len(compressed), 3))
    products.outputs(compressed, weights, residual)
    np.testing.assert_allclose(residual, compressed @ weights)
