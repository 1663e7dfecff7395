"""The floors: products that give what they are named for, and as many as each method has."""

import numpy as np
import pytest
from harness import products
from harness.variants import VARIANTS, quantizer

from keras_compress.numerics.statistics import ArraySamples, statistics_of

FEATURES = products.BLOCK + 40  # a whole block and a part of one

GRAM = {
    "msq": [],
    "msq_bias": [],
    "spfq_aligned": ["H W", "3 tril(G)^-1 R", "2 triu(G) V", "tril(G) Q"],
    "optq": ["chol(G)", "U", "U^T D"],
    "qronos": ["chol(G)", "U", "U^T U R", "U^T D", "H W"],
    "optq_corrected": ["chol(G)", "U", "U^T U R", "U^T D", "H W"],
    "gpfq_refined": ["H W", "G Q", "6 G dQ"],
    "optq_refined": ["chol(G)", "U", "U^T U R", "U^T D", "H W", "G W", "G Q", "6 G dQ"],
    "beacon_fitted": ["H W", "G Q of 5 starts", "6 G dQ of 5 starts"],
    "gpfq_refined_fitted": ["H W", "G Q of 8 starts", "6 G dQ of 8 starts"],
    "optq_refined_fitted": [
        "chol(G)", "U", "U^T U R", "U^T D", "H W", "G W", "G Q of 8 starts", "6 G dQ of 8 starts",
    ],
}  # fmt: skip
DIRECT = {
    "msq": [],
    "msq_bias": [],
    "spfq_aligned": ["X W", "4 X~^T u", "4 X~ Q"],
    "gpfq_refined": ["X W", "7 X~^T u", "7 X~ Q"],
    "gpfq_refined_fitted": ["X W", "7 X~^T u of 8 starts", "7 X~ Q of 8 starts"],
}


@pytest.fixture
def layer(rng):
    analog = rng.normal(size=(2 * FEATURES, FEATURES))
    compressed = analog + 0.1 * rng.normal(size=analog.shape)
    weights = rng.normal(size=(FEATURES, 3))
    return analog, compressed, weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gram_form_of_each_method(variant, layer):
    analog, compressed, weights = layer
    parts = products.gram_parts(quantizer(variant, 3), weights, statistics_of(analog, compressed), weights)
    assert list(parts) == GRAM.get(variant, ["tril(H) W", "tril(G) Q"])
    for function in parts.values():
        function()


@pytest.mark.parametrize(
    "variant", [name for name in VARIANTS if "optq" not in name and name[:6] not in ("qronos", "beacon")]
)
def test_the_direct_form_of_each_method(variant, layer):
    analog, compressed, weights = layer
    parts = products.direct_parts(quantizer(variant, 3), weights, ArraySamples(analog, compressed), weights)
    assert list(parts) == DIRECT.get(variant, ["X W", "X~^T u", "X~ Q"])
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
