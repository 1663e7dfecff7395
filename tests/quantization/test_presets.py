"""The methods by name: one table, which `quantize`, grids, flags, tables and pictures read."""

import subprocess
import sys

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.errors import InputError
from keras_compress.quantization.presets import ALIASES, PRESETS, preset_of
from tests.architectures import build, samples


@pytest.mark.parametrize("name", PRESETS)
def test_no_two_methods_do_the_same_or_look_alike(name):
    done = {other: (preset.build(), preset.distilled) for other, preset in PRESETS.items()}
    assert list(done.values()).count(done[name]) == 1
    for look in ("label", "color", "marker"):
        looks = [getattr(preset, look) for preset in PRESETS.values()]
        assert looks.count(getattr(PRESETS[name], look)) == 1


def test_a_preset_takes_bits_or_an_alphabet():
    assert PRESETS["gpfq_refined"].build(bits=2) == kc.GPFQ(2, radius="search", refine=6, compensate_skip=True)
    assert PRESETS["msq"].build(alphabet=kc.Ternary()) == kc.MSQ(alphabet=kc.Ternary())


def test_aliases_are_methods_and_no_names_of_their_own():
    assert set(ALIASES.values()) <= set(PRESETS) and not set(ALIASES) & set(PRESETS)
    assert preset_of("best") is PRESETS["optq_distilled"]


def test_the_table_loads_no_keras():
    code = "import sys, keras_compress.quantization.presets; sys.exit('keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def same(first, second):
    for path, kernel in second.kernels.items():
        np.testing.assert_array_equal(first.kernels[path].codes, kernel.codes)
        np.testing.assert_array_equal(first.kernels[path].scale, kernel.scale)
    for one, other in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "quantizer"), [("fast", kc.GPFQ(3)), ("msq", kc.MSQ(3)), ("beacon", kc.Beacon(3))])
def test_a_name_is_its_quantizer(name, quantizer):
    model = build("small")
    data = samples(model, 20)
    same(kc.quantize(model, name, data, bits=3), kc.quantize(model, quantizer, data))


@pytest.mark.parametrize("given", ["array", "generator", "calibration"])
def test_the_best_method_distills_its_scales_on_the_same_samples(given):
    model = build("small")
    data = samples(model, 20)
    expected = kc.quantize(model, PRESETS["optq_distilled"].build(bits=2), data)
    expected = kc.distill_scales(expected, data, teacher=model)
    if given == "calibration":
        with kc.Calibration(model, data) as calibration:
            result = kc.quantize(model, "best", calibration, bits=2)
    else:
        result = kc.quantize(model, "best", iter([data[:7], data[7:]]) if given == "generator" else data, bits=2)
    same(result, expected)
    assert [step.technique for step in result.report.steps] == ["quantize", "distill_scales"]
    assert [len(kernel.levels) for kernel in result.kernels.values()] == [4] * len(result.kernels)


def test_only_the_chosen_layers_are_distilled():
    model = build("small")
    data = samples(model, 20)
    first, *others = kc.quantize(model, "fast", data).kernels
    start = kc.quantize(model, "fast", data, layers=[first])
    result = kc.quantize(start, "best", data, layers=others)
    np.testing.assert_array_equal(result.kernels[first].scale, start.kernels[first].scale)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, data: kc.quantize(model, "gptq", data), "Unknown method: 'gptq'. Known: best, fast, optq_dist"),
        (lambda model, data: kc.quantize(model, "best"), "needs calibration data"),
        (lambda model, data: kc.quantize(model, "best", data, bits=1), "bits of Integer must be an integer from 2 to"),
        (lambda model, data: kc.quantize(model, kc.GPFQ(3), data, bits=3), "bits goes with the name of a method"),
        (
            lambda model, data: kc.quantize_with_accuracy_control(model, "best", data, len),
            "Received: 'best'. The names of methods go with kc.quantize.",
        ),
    ],
)
def test_bad_names_are_refused_in_one_line(call, message):
    model = build("small")
    with pytest.raises(InputError) as caught:
        call(model, samples(model, 5))
    assert message in str(caught.value) and "\n" not in str(caught.value)
