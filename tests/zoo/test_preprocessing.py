import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.zoo.preprocessing import Preprocessing, fit_preprocessing


@pytest.fixture
def images(rng) -> np.ndarray:
    return rng.integers(0, 256, (1500, 4, 5, 3), np.uint8)


def test_the_formula(rng):
    x = rng.normal(size=(7, 6))
    prepare = Preprocessing(scale=0.5, mean=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], std=2.0, shape=(2, 3, 1))
    result = prepare(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, ((x * 0.5 - [1, 2, 3, 4, 5, 6]) / 2).reshape(7, 2, 3, 1), atol=1e-6)


def test_nothing_to_do_leaves_numbers_and_shape(images):
    assert np.array_equal(Preprocessing()(images), images)


def test_the_dictionary_gives_it_back(images):
    for kind in ("unit", "raw", "standardize"):
        prepare = fit_preprocessing(kind, images, max_value=255.0)
        assert Preprocessing.from_dict(prepare.to_dict()) == prepare


def test_unit_divides_by_the_largest_value(images):
    result = fit_preprocessing("unit", images[..., 0], max_value=255.0)(images[..., 0])
    assert result.shape == (1500, 4, 5, 1)
    np.testing.assert_allclose(result[..., 0], images[..., 0] / 255.0, rtol=1e-6)


def test_raw_only_adds_the_channel(images):
    assert np.array_equal(fit_preprocessing("raw", images[..., 0], max_value=255.0)(images[..., 0]), images[..., :1])


def test_standardize_gives_each_channel_mean_0_and_deviation_1(images):
    x = fit_preprocessing("standardize", images, max_value=255.0)(images)
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=1e-4)


def test_standardize_grey_images_uses_one_mean(images):
    prepare = fit_preprocessing("standardize", images[..., 0], max_value=255.0)
    np.testing.assert_allclose(prepare.mean, images[..., 0].mean())
    np.testing.assert_allclose(prepare.std, images[..., 0].std())


def test_standardize_makes_a_constant_column_zero(rng):
    table = np.column_stack([rng.normal(5, 3, 400), np.full(400, 7.0)])
    x = fit_preprocessing("standardize", table, max_value=7.0)(table)
    np.testing.assert_allclose(x[:, 0].std(), 1, atol=1e-5)
    assert not x[:, 1].any()


def test_an_unknown_kind_is_refused(images):
    with pytest.raises(InputError, match=r"one of unit, raw, standardize. Received: 'whiten'"):
        fit_preprocessing("whiten", images, max_value=255.0)


@pytest.mark.parametrize(
    ("shape", "received", "fits"),
    [
        ((8, 8, 1), (8, 8), True),
        ((8, 8), (8, 8, 1), True),
        ((64,), (8, 8), True),
        ((64,), (8, 8, 1), True),
        ((8, 8, 1), (64,), True),
        ((8, 8, 3), (8, 8, 3), True),
        ((4,), (4,), True),
        (None, (5, 7), True),
        ((8, 8, 1), (28, 28), False),
        ((28, 28, 1), (8, 8), False),
        ((8, 8, 1), (8, 8, 3), False),
        ((8, 8, 3), (8, 8), False),
        ((8, 8, 3), (3, 8, 8), False),
        ((8, 8, 1), (4, 16), False),
        ((8, 8, 1), (4, 4, 4), False),
        ((8, 8, 1), (65,), False),
        ((64,), (8, 9), False),
        ((4,), (5,), False),
        ((4,), (2, 2, 2), False),
    ],
)
def test_samples_of_another_shape_are_refused(rng, shape, received, fits):
    """Also those of another shape with as many entries, which a reshape would take."""
    prepare = Preprocessing(scale=0.5, shape=shape)
    samples = rng.normal(size=(3, *received))
    if fits:
        assert prepare(samples).shape == (3, *(shape or received))
        return
    with pytest.raises(InputError, match=r"Samples of shape .* are expected. Received: samples of shape"):
        prepare(samples)


@pytest.mark.parametrize("moments", [{"mean": [1.0, 2.0, 3.0]}, {"std": [1.0, 2.0, 3.0]}])
@pytest.mark.parametrize("channels", [1, 2])
def test_means_of_other_channels_are_refused(rng, moments, channels):
    """NumPy would make three channels of one."""
    with pytest.raises(InputError, match="Samples with 3 entries in their last axis are expected, one for each"):
        Preprocessing(**moments)(rng.normal(size=(2, 4, 4, channels)))
