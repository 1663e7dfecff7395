"""Schedules: settings that are written and read, and tfmot's own that end where they should."""

from itertools import pairwise

import keras
import pytest

import keras_compress as kc
from keras_compress.fitting.rates import constant_then_cosine

SCHEDULES = [
    kc.PolynomialDecay(),
    kc.PolynomialDecay(initial_sparsity=0.0, final_sparsity=0.9, begin_step=10, end_step=37, power=1, frequency=5),
    kc.ConstantSparsity(),
    kc.ConstantSparsity(0.25, begin_step=3, frequency=7),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_round_trip(schedule):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again == schedule and hash(again) == hash(schedule) and again is not schedule
    assert (
        eval(repr(schedule), {"PolynomialDecay": kc.PolynomialDecay, "ConstantSparsity": kc.ConstantSparsity})
        == schedule
    )
    assert schedule != kc.PolynomialDecay(0.1, 0.2) and schedule != 3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("steps", [41, 100, 101, 997, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.sampled(2)
def test_the_last_update_reaches_the_final_fraction(schedule, steps):
    """tfmot updates masks at whole multiples of the frequency: with an end between two of them it stops short."""
    tfmot_schedule = schedule.for_steps(steps)
    updates = [step for step in range(steps) if bool(tfmot_schedule(step)[0])]
    assert updates and updates[0] == schedule.begin_step
    assert schedule.last_step(steps) - (schedule.frequency or max(1, steps // 100)) < updates[-1]
    assert updates[-1] <= schedule.last_step(steps) <= steps
    assert float(tfmot_schedule(updates[-1])[1]) == pytest.approx(schedule.final, abs=1e-6)
    fractions = [float(tfmot_schedule(step)[1]) for step in updates]
    assert fractions == sorted(fractions)
    if schedule.end_step is None:
        assert updates[-1] <= 0.75 * steps + 1
        assert schedule.frequency is not None or len(updates) <= 203


def test_the_formula():
    tfmot_schedule = kc.PolynomialDecay(0.2, 0.9, begin_step=10, end_step=110, power=2, frequency=1).for_steps(200)
    for step in (10, 35, 60, 110, 150):
        done = min(1.0, (step - 10) / 100)
        assert float(tfmot_schedule(step)[1]) == pytest.approx(0.9 + (0.2 - 0.9) * (1 - done) ** 2, abs=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: kc.PolynomialDecay(0.5, 1.0), "final_sparsity must be a fraction of the weights"),
        (lambda: kc.PolynomialDecay(-0.1), "initial_sparsity must be a fraction"),
        (lambda: kc.PolynomialDecay(0.9, 0.8), "must not exceed final_sparsity. Received: 0.9 and 0.8"),
        (lambda: kc.PolynomialDecay(power=0), "power must be above 0"),
        (lambda: kc.PolynomialDecay(begin_step=-1), "begin_step must be an integer from 0"),
        (lambda: kc.ConstantSparsity(0.5, begin_step=5, end_step=5), "end_step must be an integer from 6"),
        (lambda: kc.ConstantSparsity("half"), "target_sparsity must be a fraction"),
        (lambda: kc.ConstantSparsity(frequency=0), "frequency must be an integer from 1"),
        (lambda: kc.ConstantSparsity(end_step=50).for_steps(49), "to step 50, and the training has 49 steps"),
        (lambda: kc.PolynomialDecay(begin_step=50).for_steps(50), "Train for more epochs"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(kc.InputError, match=message):
        build()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_learning_rate_falls_after_the_last_masks_only(schedule):
    steps = 200
    last = schedule.last_step(steps)
    rate = constant_then_cosine(0.01, last, steps)
    values = [float(rate(step)) for step in range(steps)]
    assert values[: last + 1] == pytest.approx([0.01] * (last + 1))
    assert all(before > after for before, after in pairwise(values[last:]))
    assert values[last + (steps - last) // 2] == pytest.approx(0.005, abs=2e-4)  # half of the cosine
    assert values[-1] < 1e-5


def test_learning_rates_without_masks_and_without_steps_after_them():
    cosine = constant_then_cosine(0.01, 0, 100)
    assert [float(cosine(step)) for step in (0, 50, 100)] == pytest.approx([0.01, 0.005, 0.0])
    assert constant_then_cosine(0.01, 100, 100) == 0.01
