"""Schedules: settings that are written and read, and tfmot's own that end where they should."""

import keras
import pytest

import keras_compress as kc

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
def test_the_last_update_reaches_the_final_share(schedule, steps):
    """tfmot updates masks at whole multiples of the frequency: with an end between two of them it stops short."""
    ours = schedule.for_steps(steps)
    updates = [step for step in range(steps) if bool(ours(step)[0])]
    assert updates and updates[0] == schedule.begin_step
    assert float(ours(updates[-1])[1]) == pytest.approx(schedule.final, abs=1e-6)
    shares = [float(ours(step)[1]) for step in updates]
    assert shares == sorted(shares)
    if schedule.end_step is None:
        assert updates[-1] <= 0.75 * steps + 1
        assert schedule.frequency is not None or len(updates) <= 203


def test_the_formula():
    ours = kc.PolynomialDecay(0.2, 0.9, begin_step=10, end_step=110, power=2, frequency=1).for_steps(200)
    for step in (10, 35, 60, 110, 150):
        done = min(1.0, (step - 10) / 100)
        assert float(ours(step)[1]) == pytest.approx(0.9 + (0.2 - 0.9) * (1 - done) ** 2, abs=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: kc.PolynomialDecay(0.5, 1.0), "final_sparsity must be a share of the weights"),
        (lambda: kc.PolynomialDecay(-0.1), "initial_sparsity must be a share"),
        (lambda: kc.PolynomialDecay(0.9, 0.8), "must not exceed final_sparsity. Received: 0.9 and 0.8"),
        (lambda: kc.PolynomialDecay(power=0), "power must be above 0"),
        (lambda: kc.PolynomialDecay(begin_step=-1), "begin_step must be an integer from 0"),
        (lambda: kc.ConstantSparsity(0.5, begin_step=5, end_step=5), "end_step must be an integer from 6"),
        (lambda: kc.ConstantSparsity("half"), "target_sparsity must be a share"),
        (lambda: kc.ConstantSparsity(frequency=0), "frequency must be an integer from 1"),
        (lambda: kc.ConstantSparsity(end_step=50).for_steps(49), "to step 50, and the training has 49 steps"),
        (lambda: kc.PolynomialDecay(begin_step=50).for_steps(50), "Train for more epochs"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(kc.InputError, match=message):
        build()
