"""Keras 3's own fit with our masks, and tfmot's graph: the same masks, zeros and weights for the same samples."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.pruning.masks import MaskUpdates
from tests.pictures import bright_quarters
from tests.trainings import fitted

pytestmark = pytest.mark.slow  # every test trains
L = keras.layers
SETTINGS = {
    "polynomial": {"schedule": kc.PolynomialDecay(0.2, 0.7, frequency=3)},
    "constant": {"schedule": kc.ConstantSparsity(0.6, begin_step=4)},
    "neighbours": {"m_by_n": (2, 4)},
    "blocks": {"block_size": (4, 1), "schedule": kc.ConstantSparsity(0.5)},
}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


@pytest.fixture(scope="module")
def data():
    x, y = bright_quarters(100, 6)
    return x[..., np.newaxis], y


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
    x = L.ReLU()(L.BatchNormalization()(L.SeparableConv2D(8, 3, name="separable")(x)))
    # No layer is called twice: tfmot counts each call as a step.
    x = L.Dense(8, "relu", name="hidden")(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(4, "softmax", name="head")(x))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.sampled(2)
def test_masks_and_weights_are_the_same(data, settings, optimizer):
    results = []
    for engine in ("keras", "tfmot"):
        model = network()
        model.compile(OPTIMIZERS[optimizer](), "sparse_categorical_crossentropy", metrics=["accuracy"])
        training = {"epochs": 3, "batch_size": 20, "validation": data}
        results.append(fitted(kc.prune_magnitude, model, data, engine=engine, **training, **SETTINGS[settings]))
    ours, theirs = results
    assert ours.masks.keys() == theirs.masks.keys()
    for path, mask in ours.masks.items():
        assert (mask != theirs.masks[path]).mean() <= 0.02, path  # weights differ in their last digits by then
        assert mask.mean() == pytest.approx(theirs.masks[path].mean(), abs=0.02)
    figures = [result.report.steps[-1].figures for result in results]
    for name in ("validation loss before", "validation loss after"):
        assert figures[0][name] == pytest.approx(figures[1][name], rel=0.02)


@pytest.mark.parametrize(
    "schedule", [kc.PolynomialDecay(0.1, 0.9, 3, 40), kc.ConstantSparsity(0.5, 5, 30, 7)], ids=repr
)
def test_sparsity_is_tfmots_at_every_step(schedule):
    """The steps at which masks change, and how far, are those of tfmot's schedule."""
    tfmot_schedule = schedule.for_steps(50)
    asked = []
    updates = MaskUpdates({}, {}, tfmot_schedule, lambda kernel, sparsity: kernel, 10)
    updates.update = asked.append
    expected = []
    for epoch in range(5):
        updates.on_epoch_begin(epoch)
        for batch in range(10):
            before = len(asked)
            updates.on_train_batch_begin(batch)
            changes, sparsity = tfmot_schedule(10 * epoch + batch + 1)
            assert (len(asked) > before) == bool(changes)
            expected += [float(sparsity)] if bool(changes) else []
    assert asked == pytest.approx(expected, rel=1e-6) and len(asked) > 2  # a graph rounds the power otherwise


@pytest.mark.sampled(1)
def test_a_checkpoint_of_one_engine_is_refused_by_the_other(data, tmp_path):
    from tests.pictures import Kill, Killed

    for first, second in (("keras", "tfmot"), ("tfmot", "keras")):
        folder = tmp_path / first
        with pytest.raises(Killed):
            settings = {"checkpoint": folder, "callbacks": [Kill(1, 1)], "epochs": 3, "batch_size": 20}
            fitted(kc.prune_magnitude, network(), data, engine=first, **settings)
        with pytest.raises(kc.InputError, match="is that of another run"):
            fitted(kc.prune_magnitude, network(), data, engine=second, checkpoint=folder, epochs=3, batch_size=20)


def test_an_unknown_engine_is_refused(data):
    with pytest.raises(kc.InputError, match=r"engine must be one of keras, tfmot. Received: 'torch'"):
        kc.prune_magnitude(network(), data, engine="torch")


@pytest.mark.parametrize("rate", [0.0, 0.05], ids=["before", "after one step"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.sampled(1)
def test_codes_of_quantization_aware_training_are_the_same(data, rate, bits):
    """Of one scale a channel and one a layer; far targets make gradients that do not depend on the last digits.

    tfmot's ranges are those of the weights before the last step, which here is one of nothing.
    """
    codes = []
    for engine in ("keras", "tfmot"):
        keras.utils.set_random_seed(0)
        layers = [L.Conv2D(8, 3, activation="relu", name="conv"), L.Flatten(), L.Dense(12, name="head")]
        model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
        once = keras.optimizers.schedules.PiecewiseConstantDecay([0], [rate, 0.0])
        model.compile(keras.optimizers.SGD(once), "mae")
        far = np.full((100, 12), 1000.0, "float32")
        settings = {"engine": engine, "bits": bits, "epochs": 2, "batch_size": 100}
        codes.append(fitted(kc.quantization_aware_training, model, (data[0], far), **settings).kernels)
    for path, ours in codes[0].items():
        theirs = codes[1][path]
        assert (ours.codes != theirs.codes).mean() <= 0.003, path  # ties
        assert abs(ours.codes - theirs.codes).max() <= 1
        np.testing.assert_allclose(ours.scale, theirs.scale, rtol=1e-4)
    assert codes[0].keys() == codes[1].keys() == {"conv", "head"}
