"""Accuracy-controlled quantization: the most sensitive layers get bits back, and no more than are needed."""

import itertools

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.quantization.accuracy import _upgrades, _wider
from tests import architectures

L = keras.layers


@pytest.fixture(scope="module")
def trained():
    """A classifier of three clusters, which is right on all of them."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 12))
    y = rng.integers(0, 3, 900)
    x = (centers[y] + 0.35 * rng.normal(size=(900, 12))).astype(np.float32)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            L.Dense(16, "relu", name="first"),
            L.Dense(16, "relu", name="second"),
            L.Dense(3, name="last"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:300], y[:300], epochs=15, verbose=0)
    return model, x[:300], (x[300:600], y[300:600])


COARSE = kc.GPFQ(alphabet=kc.Integer(levels=2))


def drop_of(model, result, validation):
    return kc.evaluate(model, *validation).top1 - kc.evaluate(result.model, *validation).top1


@pytest.mark.slow
@pytest.mark.parametrize("max_drop", [0.0, 0.01, 0.05])
def test_the_drop_is_within_bounds(trained, max_drop):
    model, samples, validation = trained
    plain = kc.quantize(model, COARSE, samples)
    assert drop_of(model, plain, validation) > 0.05
    result = kc.quantize_with_accuracy_control(model, COARSE, samples, validation, max_drop=max_drop)
    assert drop_of(model, result, validation) <= max_drop + 1e-9
    figures = result.report.steps[0].figures
    assert figures["score"] >= figures["score before"] - max_drop and figures["walks"] >= 2
    assert figures["given back"] and figures["given back"].split(":")[0] in ("first", "second", "last")
    assert len(result.report.steps) == 1
    result.check()


@pytest.mark.slow
def test_a_regression_keeps_what_it_explains(rng):
    x = rng.normal(size=(300, 6)).astype(np.float32)
    model = keras.Sequential([keras.Input((6,)), L.Dense(24, "relu", name="hidden"), L.Dense(1, name="last")])
    y = np.asarray(model(x)) + 0.01 * rng.normal(size=(300, 1))
    plain = kc.evaluate(kc.quantize(model, COARSE, x), x, y).score
    result = kc.quantize_with_accuracy_control(model, COARSE, x, (x, y), max_drop=0.02)
    kept, first = kc.evaluate(result, x, y), kc.evaluate(model, x, y)
    assert kept.task == "regression" and plain < first.score - 0.02 <= kept.score


@pytest.mark.slow
def test_nothing_is_given_back_where_nothing_is_lost(trained):
    model, samples, validation = trained
    result = kc.quantize_with_accuracy_control(model, kc.GPFQ(8), samples, validation, max_drop=0.01)
    assert result.report.steps[0].figures["given back"] == "" and result.report.steps[0].figures["walks"] == 1
    plain = kc.quantize(model, kc.GPFQ(8), samples)
    for path, kernel in plain.kernels.items():
        np.testing.assert_array_equal(result.kernels[path].codes, kernel.codes)


def test_bit_upgrades_go_to_the_most_sensitive_layer_first():
    plan = {"a": kc.GPFQ(2), "b": kc.GPFQ(2)}
    plans = _upgrades(plan, {"a": 100.0, "b": 1.0})
    assert plans[0] == {"a": kc.GPFQ(3), "b": kc.GPFQ(2)}
    sensitivity_of_a = 100.0 * (3 / 7) ** 2
    assert sensitivity_of_a > 1 and plans[1] == {"a": kc.GPFQ(4), "b": kc.GPFQ(2)}
    assert plans[-1] in ({"a": None, "b": kc.GPFQ(8)}, {"a": kc.GPFQ(8), "b": None})
    for before, after in itertools.pairwise(plans):
        assert sum(before[path] != after[path] for path in plan) == 1


def test_the_next_width_has_more_levels():
    assert _wider(kc.GPFQ(alphabet=kc.Ternary())) == kc.GPFQ(alphabet=kc.Integer(2))
    assert _wider(kc.GPFQ(alphabet=kc.Integer(levels=5))) == kc.GPFQ(alphabet=kc.Integer(3))
    assert _wider(kc.MSQ(8)) is None and _wider(kc.MSQ(6)) == kc.MSQ(8)


@pytest.mark.slow
def test_what_cannot_be_kept_is_an_error_that_says_how_far_it_came(trained):
    model, samples, _ = trained
    calls = iter(range(100))
    message = r"max_drop=0.1 cannot be kept.*at least -0.1. Received: -\d+ with \w+ alone quantized"
    with pytest.raises(kc.InputError, match=message):
        kc.quantize_with_accuracy_control(model, kc.GPFQ(2), samples, lambda network: -next(calls), max_drop=0.1)


BAD = {
    "no_validation": ({"validation": None}, r"validation must be \(inputs, labels\).*Received: NoneType"),
    "negative": ({"max_drop": -0.1}, "max_drop must be a number from 0 upwards"),
    "list": ({"validation": [1, 2]}, r"validation must be \(inputs, labels\), or a function"),
    "no_calibration": ({"calibration": None}, "measured on calibration data"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_clear_line(case):
    settings, message = BAD[case]
    model = architectures.build("small")
    with pytest.raises(kc.InputError, match=message) as raised:
        usual = {"calibration": architectures.samples(model, 4), "validation": lambda model: 1.0}
        kc.quantize_with_accuracy_control(model, kc.GPFQ(4), **(usual | settings))
    assert "\n" not in str(raised.value)
