"""Windows and padding are those of TensorFlow, for every geometry."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress.layers.convolution import ConvolutionGeometry
from tests.layers.geometries import CONVOLUTIONS

SIZES = [(9, 7), (8, 8), (5, 6)]


@pytest.fixture
def images(request, rng):
    return rng.normal(size=(2, *request.param, 4)).astype(np.float32)


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("images", SIZES, ids=str, indirect=True)
def test_patches_are_those_of_tensorflow(settings, images):
    geometry = ConvolutionGeometry(*settings[:4])
    expected = tf.image.extract_patches(
        images,
        [1, *geometry.kernel_size, 1],
        [1, *geometry.strides, 1],
        [1, *geometry.dilation, 1],
        geometry.padding.upper(),
    )
    patches = geometry.patches(images)
    np.testing.assert_array_equal(tf.reshape(patches, expected.shape), expected)


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("images", SIZES, ids=str, indirect=True)
def test_output_sizes_are_those_of_keras(settings, images):
    size, strides, dilation, padding, groups = settings
    layer = keras.layers.Conv2D(4, size, strides, padding, dilation_rate=dilation, groups=groups)
    expected = layer.compute_output_shape(images.shape)[1:3]
    geometry = ConvolutionGeometry(*settings[:4])
    assert tuple(geometry.output_size(axis, images.shape[axis + 1]) for axis in (0, 1)) == expected


@pytest.mark.parametrize("images", SIZES[:1], indirect=True)
def test_a_window_is_one_of_the_windows(images):
    geometry = ConvolutionGeometry((3, 2), (2, 1), (1, 1), "same")
    for tap, window in enumerate(geometry.windows(images)):
        np.testing.assert_array_equal(geometry.window(images, tap), window)


def test_taps_are_in_the_order_of_the_kernel():
    geometry = ConvolutionGeometry((2, 3), (1, 1), (1, 1), "valid")
    assert geometry.taps == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
