"""Rounding in training is tfmot's where tfmot has one, and that of numpy's alphabets elsewhere."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress.bridge.tfmot import import_tfmot
from keras_compress.fitting.fake_quantization import Group, KernelGrid, Mode, MovingRange
from keras_compress.numerics.alphabet import Alphabet, integer_levels

RNG = np.random.default_rng(0)


def quantizer(name, bits, **settings):
    """tfmot's, with variables of its own."""
    made = getattr(import_tfmot().quantization.keras.quantizers, name)(bits, **settings)

    class Owner:
        def add_weight(self, name, initializer=None, trainable=False, shape=(), **others):
            value = np.zeros(() if shape is None else shape, np.float32)
            return tf.Variable(value, trainable=trainable)

    return made, Owner()


@pytest.mark.parametrize("bits", range(3, 9))
@pytest.mark.parametrize("axes, per_axis", [((3,), True), ((), False)], ids=["channel", "layer"])
def test_kernels_are_rounded_as_by_tfmot(bits, axes, per_axis):
    """Before and after a step: equal weights have equal codes, but for ties, and equal gradients."""
    settings = {"per_axis": per_axis, "symmetric": True, "narrow_range": True}
    theirs, owner = quantizer("LastValueQuantizer", bits, **settings)
    kernel = RNG.normal(0, 0.1, (3, 3, 4, 8)).astype(np.float32)
    ranges = theirs.build(tf.TensorShape(kernel.shape), "kernel", owner)
    variable = keras.Variable(kernel)
    grid = KernelGrid(variable, integer_levels(bits), axes)
    for _ in range(2):
        value = tf.constant(np.asarray(variable))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(value)
            ours, expected = grid.rounded(value), theirs(value, True, ranges)
            losses = [tf.reduce_sum(each * tf.sin(100 * value)) for each in (ours, expected)]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
        steps = np.asarray(ours) / np.asarray(grid.scales(value))
        np.testing.assert_allclose(steps, np.asarray(grid.levels(value)), atol=1e-4)
        gradients = [np.asarray(tape.gradient(loss, value)) for loss in losses]
        within = abs(np.asarray(grid.levels(value))) < grid.ends[1]  # tfmot's last digit decides of the largest weights
        np.testing.assert_allclose(*(each[within] for each in gradients), rtol=1e-3, atol=1e-3)
        assert within.mean() > 0.5
        variable.assign(value - 0.001 * gradients[0])


@pytest.mark.parametrize("training", [True, False])
def test_ranges_move_as_in_tfmot(training):
    theirs, owner = quantizer("MovingAverageQuantizer", 8, per_axis=False, symmetric=False, narrow_range=False)
    ranges = theirs.build(tf.TensorShape([None, 5]), "x", owner)
    mode = Mode()
    layer = MovingRange(8, mode, Group())
    layer.low.assign(-1.0)
    layer.high.assign(2.0)
    ranges["min_var"].assign(-1.0)
    ranges["max_var"].assign(2.0)
    mode.training = training
    for scale in (1, 3, 0.1):
        x = tf.constant(RNG.normal(0, scale, (20, 5)), tf.float32)
        np.testing.assert_allclose(layer(x), theirs(x, training, ranges), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        [float(layer.low), float(layer.high)],
        [float(each) for each in (ranges["min_var"], ranges["max_var"])],
        rtol=1e-6,
    )


ALPHABETS = {
    "integers": {"levels": np.arange(-3, 4)},
    "odd": {"levels": np.arange(-3, 4, 2)},
    "two": {"levels": np.array([-1, 1])},
    "offset": {"levels": np.arange(-2, 2), "zero_point": np.array([-1, 0, 1, 0])},
    "gap": {"levels": np.arange(-3, 4), "gap": np.array([0.05, 0.2, 0.1, 0.0])},
}


@pytest.mark.parametrize("kind", ALPHABETS)
def test_levels_are_those_of_an_alphabet(kind):
    parts = ALPHABETS[kind]
    scale = np.array([0.1, 0.2, 0.05, 0.3], np.float32)
    kernel = RNG.normal(0, 0.3, (50, 4)).astype(np.float32)
    alphabet = Alphabet(parts["levels"], scale, parts.get("zero_point"), parts.get("gap"))
    values = np.stack([alphabet.decode(np.full(kernel.shape, level)) for level in parts["levels"]])
    codes = parts["levels"][abs(values - kernel).argmin(axis=0)]
    expected = alphabet.decode(codes)
    zero_point, gap = (None if parts.get(name) is None else parts[name][None] for name in ("zero_point", "gap"))
    grid = KernelGrid(
        keras.Variable(kernel), parts["levels"], scale=scale, entries=np.arange(4)[None], zero_point=zero_point, gap=gap
    )
    value = tf.constant(kernel)
    assert (np.asarray(grid.levels(value)) == codes).mean() > 0.995  # ties
    np.testing.assert_allclose(np.asarray(grid.rounded(tf.constant(expected))), expected, atol=1e-6)
    assert set(np.unique(grid.levels(value))) <= set(parts["levels"])


def test_the_gradient_of_a_scale_is_that_of_lsq():
    """Esser et al., 2020, equation 3: round(v) - v within, the outermost level beyond."""
    kernel = np.array([[0.234], [-0.71], [5.0], [-9.0]], np.float32)
    grid = KernelGrid(
        keras.Variable(kernel), np.arange(-3, 4), scale=np.array([0.5], np.float32), entries=np.array([[0]])
    )
    with tf.GradientTape() as tape:
        rounded = tf.reduce_sum(grid.rounded(tf.constant(kernel)) * [[1.0], [10.0], [100.0], [1000.0]])
    gradient = np.asarray(tape.gradient(rounded, grid.logarithm.value)) / 0.5  # of exp(t)
    steps = kernel[:2, 0] / 0.5
    expected = ((np.rint(steps) - steps) * [1, 10]).sum() + 3 * 100 - 3 * 1000
    assert gradient == pytest.approx(expected, rel=1e-4)
