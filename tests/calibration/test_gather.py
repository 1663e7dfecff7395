"""Every way to a layer's statistics gives those of its patches, added up pixel by pixel."""

import keras
import numpy as np
import pytest

from keras_compress.calibration.correlation import CorrelationSum
from keras_compress.calibration.gather import Gatherer, StoredSamples, gram_method
from keras_compress.calibration.store import ActivationStore
from keras_compress.layers.convolution import ConvolutionGeometry
from keras_compress.layers.kernels import kernel_views
from keras_compress.numerics.statistics import statistics_of
from tests.layers.geometries import CONVOLUTIONS
from tests.reference import convolution as patch_reference
from tests.reference import gpfq as gram_reference

L = keras.layers
# Products run in float32 within a batch.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-4}


def convolution(settings, channels=4):
    size, strides, dilation, padding, groups = settings
    layer = L.Conv2D(2 * groups, size, strides, padding, dilation_rate=dilation, groups=groups)
    layer.build((None, None, None, channels))
    return kernel_views(layer)[0]


def images(rng, count, height, width, channels=4):
    analog = rng.normal(0.2, 1, (count, height, width, channels)).astype(np.float32)
    return analog, (analog + 0.3 * rng.normal(size=analog.shape)).astype(np.float32)


def gathered(view, analog, compressed, *, batches=(1, 2), **settings):
    gatherer = Gatherer(view, same=analog is compressed, **settings)
    start = 0
    for size in batches:
        part = slice(start, start + size)
        gatherer.add(keras.ops.convert_to_tensor(compressed[part]), keras.ops.convert_to_tensor(analog[part]))
        start += size
    assert start == len(analog)
    return gatherer.result()


def methods(settings):
    """The ways that apply: correlation needs stride 1 and no dilation."""
    _, strides, dilation, _, _ = settings
    correlation = max(strides) == 1 and max(dilation) == 1
    return [*(["correlation"] if correlation else []), "taps", "patches"]


# With the same inputs in both networks, only the correlation works otherwise: on half of the distances.
METHODS = [(settings, method, False) for settings in CONVOLUTIONS for method in methods(settings)]
METHODS += [(settings, method, True) for settings, method, _ in METHODS if method == "correlation"]
METHODS += [(CONVOLUTIONS[8], method, True) for method in ("taps", "patches")]


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "method", "same"), METHODS, ids=str)
def test_the_statistics_of_a_convolution_are_those_of_its_patches(rng, settings, method, same):
    analog, compressed = images(rng, 3, 9, 7)
    if same:
        compressed = analog
    groups = gathered(convolution(settings), analog, compressed, gram=True, method=method)
    analog_patches = patch_reference.patches(analog.astype(np.float64), *settings)
    patches = analog_patches if same else patch_reference.patches(compressed.astype(np.float64), *settings)
    for statistics, rows, analog_rows in zip(groups, patches, analog_patches, strict=True):
        assert statistics.count == len(rows)
        assert statistics.same_inputs == same
        np.testing.assert_allclose(statistics.gram, rows.T @ rows, **FLOAT32)
        np.testing.assert_allclose(statistics.cross, rows.T @ analog_rows, **FLOAT32)
        np.testing.assert_allclose(statistics.sum_compressed, rows.sum(axis=0), **FLOAT32)
        np.testing.assert_allclose(statistics.sum_analog, analog_rows.sum(axis=0), **FLOAT32)


@pytest.mark.parametrize("method", ["correlation", "taps", "patches"])
def test_the_products_are_those_of_the_definition(rng, method):
    """One geometry against loops alone, so that no product of NumPy's stands between."""
    settings = ((2, 2), (1, 1), (1, 1), "same", 1)
    analog, compressed = images(rng, 3, 3, 4, channels=2)
    (statistics,) = gathered(convolution(settings, 2), analog, compressed, gram=True, method=method)
    rows, analog_rows = (patch_reference.patches(array, *settings)[0] for array in (compressed, analog))
    np.testing.assert_allclose(statistics.gram, gram_reference.gram(rows, rows), **FLOAT32)
    np.testing.assert_allclose(statistics.cross, gram_reference.gram(rows, analog_rows), **FLOAT32)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel_size", [(3, 3), (2, 2), (4, 3)], ids=str)
@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("same", [True, False], ids=["same_inputs", "other_inputs"])
def test_correlation_on_images_barely_larger_than_the_kernel(rng, kernel_size, padding, extra, same):
    """Here every row of the image is a border, and strips of the border are as long as the image."""
    settings = (kernel_size, (1, 1), (1, 1), padding, 1)
    analog, compressed = images(rng, 3, kernel_size[0] + extra, kernel_size[1] + 1, channels=2)
    if same:
        compressed = analog
    (statistics,) = gathered(convolution(settings, 2), analog, compressed, gram=True, method="correlation")
    analog_rows = patch_reference.patches(analog.astype(np.float64), *settings)[0]
    rows = analog_rows if same else patch_reference.patches(compressed.astype(np.float64), *settings)[0]
    np.testing.assert_allclose(statistics.gram, rows.T @ rows, **FLOAT32)
    np.testing.assert_allclose(statistics.cross, rows.T @ analog_rows, **FLOAT32)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)], ids=str)
def test_images_smaller_than_the_kernel(rng, size):
    settings = ((3, 3), (1, 1), (1, 1), "same", 1)
    analog, _ = images(rng, 3, *size)
    (statistics,) = gathered(convolution(settings), analog, analog, gram=True)
    rows = patch_reference.patches(analog.astype(np.float64), *settings)[0]
    np.testing.assert_allclose(statistics.gram, rows.T @ rows, **FLOAT32)


def test_a_symmetric_sum_is_what_the_other_would_be(rng):
    geometry = ConvolutionGeometry((3, 2), (1, 1), (1, 1), "same")
    analog, _ = images(rng, 3, 6, 5)
    matrices = []
    for symmetric in (True, False):
        total = CorrelationSum(geometry, analog.shape[1:], symmetric=symmetric)
        total.add(keras.ops.convert_to_tensor(analog), keras.ops.convert_to_tensor(analog))
        matrices.append(total.matrix())
    np.testing.assert_allclose(*matrices, **FLOAT32)
    np.testing.assert_array_equal(matrices[0], matrices[0].T)


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_the_fastest_method_is_one_that_applies(settings):
    geometry = ConvolutionGeometry(*settings[:4])
    for size in ((9, 7), (3, 3), (1, 1)):
        assert gram_method(geometry, *size) in methods(settings)


@pytest.mark.parametrize("settings", CONVOLUTIONS[1::3], ids=str)
def test_moments_are_those_of_the_statistics(rng, settings):
    analog, compressed = images(rng, 3, 9, 7)
    view = convolution(settings)
    moments = gathered(view, analog, compressed, gram=False)
    for part, whole in zip(moments, gathered(view, analog, compressed, gram=True), strict=True):
        assert part.count == whole.count
        for field in ("sum_analog", "sum_compressed", "diagonal"):
            np.testing.assert_allclose(getattr(part, field), getattr(whole, field), **FLOAT32)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (3, 2, 6)], ids=str)
@pytest.mark.parametrize("gram", [True, False])
def test_the_rows_of_a_dense_layer_are_vectors_of_any_rank(rng, shape, gram):
    layer = L.Dense(2)
    layer.build((None, *shape))
    analog = rng.normal(size=(3, *shape)).astype(np.float32)
    compressed = analog + 1
    (statistics,) = gathered(kernel_views(layer)[0], analog, compressed, gram=gram)
    expected = statistics_of(analog.reshape(-1, 6), compressed.reshape(-1, 6))
    fields = ["count", "sum_analog", "sum_compressed", "diagonal", *(["gram", "cross"] if gram else [])]
    for field in fields:
        np.testing.assert_allclose(getattr(statistics, field), getattr(expected, field), **FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("settings", CONVOLUTIONS[2:10:3], ids=str)
@pytest.mark.parametrize("batches", [(1, 1, 1), (2, 1), (3,)], ids=str)
def test_batches_of_any_size_give_the_same_statistics(rng, settings, batches):
    analog, compressed = images(rng, 3, 9, 7)
    view = convolution(settings)
    first = gathered(view, analog, compressed, gram=True, batches=(1, 2))
    again = gathered(view, analog, compressed, gram=True, batches=batches)
    for statistics, expected in zip(again, first, strict=True):
        np.testing.assert_allclose(statistics.gram, expected.gram, **FLOAT32)
        np.testing.assert_allclose(statistics.cross, expected.cross, **FLOAT32)
        np.testing.assert_allclose(statistics.sum_compressed, expected.sum_compressed, **FLOAT32)


def test_a_fraction_of_the_patches_is_rows_of_both_networks_alike(rng):
    """With X~ = 2X, H = G / 2 whichever rows were drawn; the count says how many they were."""
    analog, _ = images(rng, 3, 9, 7)
    view = convolution(((3, 3), (1, 1), (1, 1), "same", 1))
    (statistics,) = gathered(view, analog, 2 * analog, gram=True, fraction=0.25)
    assert statistics.count == round(0.25 * 3 * 63)
    np.testing.assert_allclose(statistics.gram, 2 * statistics.cross, **FLOAT32)
    np.testing.assert_allclose(statistics.sum_compressed, 2 * statistics.sum_analog, **FLOAT32)


def test_the_draw_of_patches_depends_on_seed_and_layer_alone(rng):
    analog, _ = images(rng, 3, 9, 7)
    view = convolution(((3, 3), (1, 1), (1, 1), "same", 1))

    def gram(**settings):
        return gathered(view, analog, analog, gram=True, fraction=0.25, **settings)[0].gram

    np.testing.assert_array_equal(gram(seed=1, name="a"), gram(seed=1, name="a"))
    assert not np.array_equal(gram(seed=1, name="a"), gram(seed=2, name="a"))
    assert not np.array_equal(gram(seed=1, name="a"), gram(seed=1, name="b"))


@pytest.mark.parametrize("settings", CONVOLUTIONS[2:12:3], ids=str)
@pytest.mark.parametrize("index", [None, [0, 3, 5]], ids=["all", "some_features"])
def test_stored_columns_of_a_convolution_are_those_of_its_patches(rng, settings, index):
    analog, compressed = images(rng, 3, 9, 7)
    view = convolution(settings)
    moments = gathered(view, analog, compressed, gram=False)
    analog_patches, patches = (patch_reference.patches(array, *settings) for array in (analog, compressed))
    with ActivationStore(10**8) as store:
        fill(store, analog, compressed)
        for group in range(view.groups):
            samples = StoredSamples(view, group, moments[group], KEYS, store, 7)
            chosen = samples if index is None else samples.features(np.array(index))
            columns = index or slice(None)
            assert_columns(chosen, analog_patches[group][:, columns], patches[group][:, columns])


@pytest.mark.parametrize("budget", [0, 10**8], ids=["disk", "memory"])
def test_stored_columns_of_a_dense_layer_are_its_inputs(rng, budget):
    layer = L.Dense(2)
    layer.build((None, 4, 10))
    view = kernel_views(layer)[0]
    analog = rng.normal(size=(3, 4, 10)).astype(np.float32)
    compressed = analog + 1
    (moments,) = gathered(view, analog, compressed, gram=False)
    with ActivationStore(budget) as store:
        fill(store, analog, compressed)
        samples = StoredSamples(view, 0, moments, KEYS, store, 3)
        assert_columns(samples, analog.reshape(-1, 10), compressed.reshape(-1, 10))
        assert_columns(
            samples.features(np.array([1, 2, 8])),
            analog.reshape(-1, 10)[:, [1, 2, 8]],
            compressed.reshape(-1, 10)[:, [1, 2, 8]],
        )


KEYS = [(("analog", 0), ("compressed", 0))]


def fill(store, analog, compressed):
    for chunk, part in enumerate((slice(0, 2), slice(2, 3))):
        store.write(("analog", 0), chunk, analog[part])
        store.write(("compressed", 0), chunk, compressed[part])
    store.num_chunks = 2


def assert_columns(samples, analog, compressed):
    starts, analog_blocks, compressed_blocks = zip(*samples.blocks(), strict=True)
    widths = [part.shape[1] for part in compressed_blocks]
    assert list(starts) == [sum(widths[:index]) for index in range(len(widths))]
    np.testing.assert_array_equal(np.concatenate(analog_blocks, axis=1), analog)
    np.testing.assert_array_equal(np.concatenate(compressed_blocks, axis=1), compressed)
    assert (samples.count, samples.num_features) == analog.shape
    np.testing.assert_allclose(samples.sum_analog, analog.sum(axis=0), **FLOAT32)
    np.testing.assert_allclose(samples.diagonal, np.square(compressed).sum(axis=0), **FLOAT32)


@pytest.mark.parametrize("settings", [case for case in CONVOLUTIONS if case[-1] == 1], ids=str)
def test_the_residual_mismatch_is_met_by_the_patches(rng, settings):
    view = convolution(settings)
    compressed = rng.normal(size=(3, 9, 7, 4)).astype(np.float32)
    rows = patch_reference.patches(compressed, *settings)[0]
    shape = view.output_shape((None, 9, 7, 4))[1:]
    mismatch = rng.normal(size=(3, *shape)).astype(np.float32)
    gatherer = Gatherer(view, gram=True, same=True)
    for part in (slice(0, 2), slice(2, 3)):
        gatherer.add(compressed[part], compressed[part], mismatch[part])
    (statistics,) = gatherer.result()
    flat = mismatch.reshape(-1, shape[-1])
    np.testing.assert_allclose(statistics.mismatch, rows.T @ flat, **FLOAT32)
    np.testing.assert_allclose(statistics.sum_mismatch, flat.sum(axis=0), **FLOAT32)


def test_the_residual_mismatch_of_a_dense_layer_is_met_by_its_inputs(rng):
    layer = L.Dense(3)
    layer.build((None, 4, 6))
    inputs, mismatch = (rng.normal(size=(5, 4, size)).astype(np.float32) for size in (6, 3))
    gatherer = Gatherer(kernel_views(layer)[0], gram=True, same=True)
    gatherer.add(inputs, inputs, mismatch)
    (statistics,) = gatherer.result()
    np.testing.assert_allclose(statistics.mismatch, inputs.reshape(-1, 6).T @ mismatch.reshape(-1, 3), **FLOAT32)
