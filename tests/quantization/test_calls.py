"""Layers that are called several times, on maps of other sizes, or with one tensor that nobody else reads."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.calibration.gather import Gatherer
from keras_compress.layers.kernels import kernel_views

L = keras.layers

# A shared layer on maps of 8 x 8 and 4 x 4 pixels
SHARED = {
    "conv": lambda: L.Conv2D(4, 3, padding="same"),
    "strided": lambda: L.Conv2D(4, 3, strides=2, padding="same"),
    "grouped": lambda: L.Conv2D(4, 3, groups=2, padding="same"),
    "dilated": lambda: L.Conv2D(4, 2, dilation_rate=2, padding="same"),
    "pointwise": lambda: L.Conv2D(4, 1),
    "depthwise": lambda: L.DepthwiseConv2D(3, padding="same"),
    "separable": lambda: L.SeparableConv2D(4, 3, padding="same"),
    "transposed": lambda: L.Conv2DTranspose(4, 3, strides=2),
    "dense": lambda: L.Dense(4),
}


def detector(head):
    """A head on the levels of a pyramid, as detectors have them."""
    inputs = keras.Input((16, 16, 3))
    fine = L.Conv2D(4, 3, strides=2, padding="same", name="fine")(inputs)
    coarse = L.Conv2D(4, 3, strides=2, padding="same", name="coarse")(fine)
    outputs = [L.Reshape((-1, 4))(head(level)) for level in (fine, coarse)]
    return keras.Model(inputs, L.Concatenate(axis=1)(outputs))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0.2, 1, (24, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(kind, form, marks=[pytest.mark.slow] * ((kind, form) != ("conv", "gram")))
        for kind, form in [*((kind, "gram") for kind in SHARED if kind != "dense"), ("conv", "direct")]
    ],
)
@pytest.mark.sampled(3)
def test_a_shared_layer_on_maps_of_several_sizes(images, kind, form):
    model = detector(SHARED[kind]())
    result = kc.quantize(model, kc.GPFQ(8), images, form=form)
    analog, compressed = (each.predict(images, verbose=0) for each in (model, result.model))
    assert np.linalg.norm(compressed - analog) < 0.05 * np.linalg.norm(analog)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", [kc.MSQ(4), kc.OPTQ(4, target="corrected"), kc.Beacon(4)], ids=repr)
def test_other_methods_take_maps_of_several_sizes(images, quantizer):
    assert len(kc.quantize(detector(SHARED["conv"]()), quantizer, images).kernels) == 3


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("kind", ["conv", "strided", "dilated", "depthwise", "transposed"])
def test_the_statistics_are_the_sums_of_those_of_the_calls(rng, kind, gram):
    layer = SHARED[kind]()
    layer.build((None, None, None, 4))
    view = kernel_views(layer)[0]
    inputs = [rng.normal(size=(6, side, side, 4)).astype(np.float32) for side in (8, 4)]

    def of(*calls):
        gatherer = Gatherer(view, gram=gram, same=True)
        for call, part in enumerate(calls):
            gatherer.add(part, part, call=call)
        return gatherer.result()

    for both, first, second in zip(of(*inputs), of(inputs[0]), of(inputs[1]), strict=True):
        assert both.count == first.count + second.count
        np.testing.assert_array_equal(both.sum_compressed, first.sum_compressed + second.sum_compressed)
        np.testing.assert_array_equal(both.diagonal, first.diagonal + second.diagonal)
        if gram:
            np.testing.assert_array_equal(both.gram, first.gram + second.gram)


# Layers within which several kernels read one tensor
HOLDERS = {
    "attention": lambda x: L.MultiHeadAttention(2, 8, name="holder")(x, x),
    "group_query": lambda x: L.GroupQueryAttention(8, 4, 2, name="holder")(x, x),
    "bidirectional": lambda x: L.Bidirectional(L.LSTM(4, return_sequences=True), name="holder")(x),
}


def reader(holder, *, residual):
    inputs = keras.Input((5, 16))
    read = L.Dense(16, name="before")(inputs)
    outputs = HOLDERS[holder](read)
    if residual:
        outputs = L.Concatenate()([outputs, read])
    return keras.Model(inputs, L.Dense(3, name="after")(L.GlobalAveragePooling1D()(outputs)))


@pytest.mark.parametrize(
    "holder", [pytest.param(name, marks=[pytest.mark.slow] * (name != "attention")) for name in HOLDERS]
)
def test_a_tensor_that_one_call_alone_reads(rng, holder):
    """The codes of the holder's kernels are those that they get where somebody else reads the tensor too."""
    x = rng.normal(size=(40, 5, 16)).astype(np.float32)
    alone, read_twice = (reader(holder, residual=residual) for residual in (False, True))
    for layer in ("before", "holder"):
        read_twice.get_layer(layer).set_weights(alone.get_layer(layer).get_weights())
    first, second = (kc.quantize(model, kc.GPFQ(4), x) for model in (alone, read_twice))
    held = [path for path in first.kernels if path.startswith("holder")]
    assert held
    for path in held:
        np.testing.assert_array_equal(first.kernels[path].codes, second.kernels[path].codes)
        np.testing.assert_array_equal(first.kernels[path].scale, second.kernels[path].scale)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 3])
def test_an_addition_at_the_end_of_a_longer_branch(rng, depth):
    """What the branch began with is still there when its last layer makes up for it."""
    x = rng.normal(size=(40, 6)).astype(np.float32)
    inputs = keras.Input((6,))
    trunk = branch = L.Dense(6, name="trunk")(inputs)
    for index in range(depth):
        branch = L.Dense(6, name=f"branch{index}")(branch)
    model = keras.Model(inputs, L.Add()([trunk, branch]))
    errors = []
    for compensate in (True, False):
        result = kc.quantize(model, kc.GPFQ(3, compensate_skip=compensate), x)
        errors.append(np.linalg.norm(result.model.predict(x, verbose=0) - model.predict(x, verbose=0)))
    assert errors[0] < errors[1]
