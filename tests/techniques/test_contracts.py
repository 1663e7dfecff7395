"""What holds for every technique, alone and behind every other one."""

import inspect
import warnings

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.paths import layers_by_path
from tests.techniques.contracts import NO_TECHNIQUE, TECHNIQUES, data, model

pytestmark = pytest.mark.slow


def weights_of(result_or_model):
    return [np.asarray(weight) for weight in getattr(result_or_model, "model", result_or_model).weights]


def applied(name, given):
    """The result of a technique; a few samples and one epoch may cost accuracy, of which it warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(lost|accuracy|loss).*")
        return TECHNIQUES[name].call(given)


@pytest.fixture(scope="module")
def results():
    """The result of each technique on the model, made when it is first asked for."""
    made = {}

    def result(name):
        if name not in made:
            made[name] = applied(name, model())
        return made[name]

    return result


@pytest.fixture(scope="module")
def known():
    """A result in which every kernel has codes, a mask and, where codes allow it, clusters."""
    pruned = applied("prune_magnitude", model())
    result = kc.quantize(pruned, kc.MSQ(alphabet=kc.Integer(3, per_channel=False)), data()[0])
    states = {
        path: state.updated(kc.VariableState(clusters=state.codes.codes.astype(int) + 8))
        for path, state in result.states.items()
        if state.codes is not None
    }
    return kc.Result(result.model, result.states | states, result.report, result.inputs)


def test_every_public_function_is_on_one_list():
    functions = {name for name in kc.__all__ if inspect.isfunction(getattr(kc, name))}
    assert functions == set(TECHNIQUES) | NO_TECHNIQUE


@pytest.mark.parametrize("name", TECHNIQUES)
def test_the_input_is_not_written_to(name, known):
    for given in (model(), known):
        before = weights_of(given)
        states = dict(known.states)
        outputs = np.asarray(getattr(given, "model", given)(data()[0]))
        applied(name, given)
        for old, new in zip(before, weights_of(given), strict=True):
            np.testing.assert_array_equal(old, new)
        np.testing.assert_array_equal(outputs, np.asarray(getattr(given, "model", given)(data()[0])))
        assert known.states == states


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_step_is_added_to_the_report_with_a_row_for_each_layer_that_it_knows(name, results, known):
    for given, result in ((model(), results(name)), (known, applied(name, known))):
        steps = result.report.steps
        before = known.report.steps if given is known else ()
        assert steps[: len(before)] == before and steps[-1].technique == name
        assert steps[-1].rows and all(row.action for row in steps[-1].rows)
        assert str(result.report) and kc.Report.from_dict(result.report.to_dict()) == result.report


@pytest.mark.parametrize("name", TECHNIQUES)
def test_it_makes_what_it_says(name, results):
    result = results(name)
    for part in TECHNIQUES[name].makes:
        assert any(getattr(state, part) is not None for state in result.states.values())


@pytest.mark.parametrize("name", TECHNIQUES)
def test_state_survives_or_the_step_says_why(name, known):
    result = applied(name, known)
    for path, state in known.states.items():
        for part in state.parts():
            kept = getattr(result.states.get(path, kc.VariableState()), part) is not None
            assert kept or part not in TECHNIQUES[name].keeps, f"{part} of {path} is gone"
            if not kept:
                assert part.removesuffix("s") in result.report.steps[-1].figures["dropped"]
    for path, state in result.states.items():  # what is there is true
        kernel = getattr(layers_by_path(result.model)[path], "kernel", None)
        assert not state.broken(np.asarray(kernel))


@pytest.mark.parametrize("name", TECHNIQUES)
def test_twice_is_the_same(name, results):
    again = applied(name, model())
    for first, second in zip(weights_of(results(name)), weights_of(again), strict=True):
        np.testing.assert_array_equal(first, second)
    assert again.states.keys() == results(name).states.keys()


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_result_comes_back_from_disk(name, results, tmp_path):
    result = results(name)
    result.save(tmp_path / "net")
    loaded = kc.load_result(tmp_path / "net")
    assert loaded.report.to_dict() == result.report.to_dict()
    assert {path: state.parts() for path, state in loaded.states.items()} == {
        path: state.parts() for path, state in result.states.items()
    }
    for path, state in loaded.states.items():
        for part in state.parts():
            one, other = (getattr(each, part) for each in (state, result.states[path]))
            if part == "codes":
                one, other = one.decode(), other.decode()
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.asarray(loaded.model(data()[0])), np.asarray(result.model(data()[0])))


PAIRS = [(first, second) for first in TECHNIQUES for second in TECHNIQUES if first != second]
REFUSED = {  # pairs that cannot be, by words of the message
    ("fold_batch_normalization", "recalibrate_batch_normalization"): "calls no BatchNormalization",
    ("quantization_aware_training", "recalibrate_batch_normalization"): "calls no BatchNormalization",
    ("quantization_aware_training", "quantize_activations"): "are quantized already",
}


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
@pytest.mark.sampled(14)
def test_any_two_follow_each_other(first, second, results):
    if (first, second) in REFUSED:
        with pytest.raises(kc.InputError, match=REFUSED[first, second]):
            applied(second, results(first))
        return
    result = applied(second, results(first))
    assert [step.technique for step in result.report.steps][:1] == [results(first).report.steps[0].technique]
    assert result.report.steps[-1].technique == second
    assert isinstance(result.model, keras.Model) and np.isfinite(np.asarray(result.model(data()[0]))).all()
    result.check()
