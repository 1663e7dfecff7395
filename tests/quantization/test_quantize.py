"""Settings of `quantize`: which layers, which zeros, which rows; and what it refuses, before any work."""

import contextlib
import os
import re

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.calibration.walk import Walk
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.selection import select
from tests import architectures

L = keras.layers
QUANTIZER = kc.GPFQ(3)


@pytest.fixture
def model():
    return architectures.build("nested")


@pytest.fixture
def samples(model):
    return architectures.samples(model, 20)


# Which layers

PATHS = ["encoder/first", "encoder/second", "head/first", "head/last"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (None, PATHS),
        ("head/last", ["head/last"]),
        ("last", ["head/last"]),
        ("first", ["encoder/first", "head/first"]),
        ("encoder/.*", ["encoder/first", "encoder/second"]),
        (re.compile(r".*/(second|last)"), ["encoder/second", "head/last"]),
        (lambda path: "first" in path, ["encoder/first", "head/first"]),
        (["last", re.compile("encoder/f.*")], ["encoder/first", "head/last"]),
    ],
)
def test_patterns_are_names_paths_expressions_and_functions(model, samples, patterns, expected):
    assert select(patterns, PATHS, "layers") == set(expected)
    result = kc.quantize(model, kc.MSQ(3), layers=patterns)
    assert set(result.kernels) == set(expected)
    for path in set(PATHS) - set(expected):
        assert result.report.row(path).action == "float"
        assert "layers=" in result.report.row(path).reason


@pytest.mark.parametrize("argument", ["layers", "overrides"])
@pytest.mark.parametrize(
    "pattern", ["nowhere", re.compile("firs"), lambda path: False], ids=["name", "regex", "function"]
)
def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_layers(model, samples, argument, pattern):
    setting = {argument: {pattern: None} if argument == "overrides" else pattern}
    with pytest.raises(kc.InputError, match=f"{argument}: the pattern .* matches no layer.*head/last"):
        kc.quantize(model, QUANTIZER, samples, **setting)


@pytest.mark.parametrize(("pattern", "message"), [("(", "nor a regular expression"), (3, "Received: int")])
def test_what_is_no_pattern_is_an_error(model, samples, pattern, message):
    with pytest.raises(kc.InputError, match=message):
        kc.quantize(model, QUANTIZER, samples, layers=[pattern])


def test_overrides_give_layers_other_quantizers_and_the_last_one_wins(model):
    overrides = {"encoder/.*": kc.MSQ(5), "second": kc.MSQ(2), "last": None}
    result = kc.quantize(model, kc.MSQ(3), overrides=overrides)
    num_levels = {path: len(kernel.levels) for path, kernel in result.kernels.items()}
    assert num_levels == {"encoder/first": 31, "encoder/second": 4, "head/first": 7}


def test_overrides_reach_layers_that_layers_leaves_out(model):
    result = kc.quantize(model, kc.MSQ(3), layers="last", overrides={"encoder/first": kc.MSQ(2)})
    assert set(result.kernels) == {"head/last", "encoder/first"}


def test_settings_that_leave_no_layer_are_an_error(model):
    with pytest.raises(kc.InputError, match="no layer to quantize"):
        kc.quantize(model, kc.MSQ(3), overrides={".*": None})


def test_an_override_must_be_a_quantizer(model):
    with pytest.raises(kc.InputError, match=r"quantizers or None\. Received: 4"):
        kc.quantize(model, kc.MSQ(3), overrides={"last": 4})


def test_layers_in_floating_point_do_not_change(model, samples):
    result = kc.quantize(model, QUANTIZER, samples, overrides={"encoder/first": None})
    for weight, original in zip(
        result.model.get_layer("encoder").get_layer("first").weights,
        model.get_layer("encoder").get_layer("first").weights,
        strict=True,
    ):
        np.testing.assert_array_equal(weight.numpy(), original.numpy())


@pytest.mark.slow
def test_every_other_layer_with_weights_is_reported_with_the_reason():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.DepthwiseConv2D(3, name="depthwise"),
            L.Conv2D(3, 2, name="conv"),
            L.BatchNormalization(name="norm"),
            L.Reshape((3, 9)),
            L.LSTM(4, name="recurrent"),
            L.PReLU(name="slope"),
            L.Dense(2, name="logits"),
        ]
    )
    result = kc.quantize(model, QUANTIZER, architectures.samples(model, 12))
    rows = {row.path: row for row in result.report.steps[0].rows}
    assert {path for path, row in rows.items() if row.action == "float"} == {"norm", "slope"}
    for path in ("norm", "slope"):
        assert rows[path].kind in rows[path].reason
        assert path in str(result.report)


# Zeros


@pytest.fixture
def pruned(model, rng):
    for layer in layers_by_path(model).values():
        if not layer.weights:
            continue
        layer.kernel.assign(np.where(rng.random(layer.kernel.shape) < 0.5, 0, layer.kernel.numpy()))
    return model


def kernels_of(model):
    return {path: layer.kernel.numpy() for path, layer in layers_by_path(model).items() if layer.weights}


def fill(model, samples, **settings):
    """Coarse steps in the first layers and fine ones behind them: what the first lose, the others make up for."""
    coarse = {"encoder/.*": kc.GPFQ(2)}
    return kc.quantize(model, kc.GPFQ(6, centered=False), samples, overrides=coarse, **settings)


def fills_zeros(result, masks):
    return any(result.kernels[path].codes[~mask].any() for path, mask in masks.items())


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", [kc.MSQ(3), kc.GPFQ(3), kc.GPFQ(alphabet=kc.Midtread(2))], ids=str)
@pytest.mark.parametrize("form", ["gram", "direct"])
def test_zeros_are_kept_when_asked(pruned, samples, quantizer, form):
    result = kc.quantize(pruned, quantizer, samples, keep_zeros=True, form=form)
    for path, kernel in kernels_of(pruned).items():
        np.testing.assert_array_equal(result.masks[path], kernel != 0)
        assert not result.kernels[path].codes[kernel == 0].any()


def test_greedy_quantization_fills_zeros_unless_asked_to_keep_them(pruned, samples):
    result = fill(pruned, samples)
    assert result.masks == {}
    assert fills_zeros(result, {path: kernel != 0 for path, kernel in kernels_of(pruned).items()})


@pytest.mark.slow
@pytest.mark.parametrize("keep_zeros", [None, True])
def test_masks_of_a_result_are_kept(pruned, samples, keep_zeros):
    first = kc.quantize(pruned, QUANTIZER, samples, keep_zeros=True)
    again = fill(first, samples, keep_zeros=keep_zeros)
    for path, mask in first.masks.items():
        assert not again.kernels[path].codes[~mask].any()
        assert not again.masks[path][~mask].any()


@pytest.mark.slow
def test_the_masks_of_a_result_name_only_zeros(pruned, samples):
    """Also where the caller gave the zeros free: a mask that the weights break would mislead later steps."""
    first = kc.quantize(pruned, QUANTIZER, samples, keep_zeros=True)
    again = fill(first, samples, keep_zeros=False)
    assert fills_zeros(again, first.masks)
    for path, mask in again.masks.items():
        assert not again.kernels[path].codes[~mask].any()


def test_zeros_in_an_alphabet_without_zero_are_an_error(pruned, samples):
    quantizer = kc.GPFQ(alphabet=kc.Equispaced(2))
    with pytest.raises(kc.InputError, match=r"has zeros to keep.*odd number of levels"):
        kc.quantize(pruned, quantizer, samples, keep_zeros=True)


# Forms and rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quantizer"),
    [("residual", kc.GPFQ(3)), ("two_inputs_and_outputs", kc.GPFQ(2, centered=False, bias_correction=True))],
    ids=str,
)
def test_all_forms_agree(name, quantizer):
    model = architectures.build(name)
    samples = architectures.samples(model, 20)
    first, *others = (kc.quantize(model, quantizer, samples, form=form) for form in ("gram", "direct", "auto"))
    for other in others:
        for path, kernel in first.kernels.items():
            np.testing.assert_array_equal(other.kernels[path].codes, kernel.codes)


def test_auto_takes_the_direct_form_where_rows_are_fewer_than_features():
    model = keras.Sequential([keras.Input((50,)), L.Dense(20, name="wide"), L.Dense(3, name="narrow")])
    result = kc.quantize(model, QUANTIZER, architectures.samples(model, 30))
    assert (result.report.row("wide").form, result.report.row("narrow").form) == ("direct", "gram")
    assert (result.report.row("wide").features, result.report.row("wide").rows) == (50, 30)


def images_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(3, name="logits")]
    )
    return model, architectures.samples(model, 20)


@pytest.mark.slow
def test_a_fraction_of_the_patches_is_drawn_by_the_seed():
    model, images = images_model()

    def codes(seed):
        return kc.quantize(model, QUANTIZER, images, patch_fraction=0.2, seed=seed).kernels["conv"].codes

    np.testing.assert_array_equal(codes(1), codes(1))
    assert not np.array_equal(codes(1), codes(2))


def test_a_fraction_of_the_patches_says_so_in_the_report():
    model, images = images_model()
    result = kc.quantize(model, QUANTIZER, images, patch_fraction=0.25)
    assert result.report.row("conv").rows == 20 * 36 / 4
    assert result.report.steps[0].settings["patch_fraction"] == 0.25


def test_a_fraction_of_the_patches_leaves_dense_layers_all_their_rows():
    """A Dense layer has no patches: its rows are the samples."""
    model, images = images_model()
    result = kc.quantize(model, QUANTIZER, images, patch_fraction=0.25)
    assert result.report.row("logits").rows == 20


# Refusals


def subclassed():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(np.zeros((1, 8), np.float32))
    return model


def diverged():
    model = architectures.build("mlp")
    kernel = model.get_layer("two").kernel.numpy()
    kernel[0, :2] = np.nan, np.inf
    model.get_layer("two").kernel.assign(kernel)
    return model


GOOD = np.ones((6, 8), np.float32)
REFUSED = {
    "unbuilt": (lambda: keras.Sequential([L.Dense(3)]), GOOD, {}, "is not built"),
    "subclassed": (subclassed, GOOD, {}, "cannot be rebuilt from its configuration"),
    "no_model": (lambda: "model.keras", GOOD, {}, "Load the file first: kc.load_model"),
    "nan_kernel": (diverged, GOOD, {}, "layer 'two' has 2 weights that are NaN or Inf"),
    "no_layers": (lambda: keras.Sequential([keras.Input((8,)), L.ReLU()]), GOOD, {}, "no layer to quantize"),
    "wrong_shape": (None, np.ones((6, 7), np.float32), {}, r"must have shape \(any, 8\). Received: \(6, 7\)"),
    "wrong_rank": (None, np.ones((6, 8, 1), np.float32), {}, r"Received: \(6, 8, 1\)"),
    "wrong_type": (None, np.full((6, 8), "a"), {}, "must hold numbers"),
    "empty": (None, GOOD[:0], {}, "empty"),
    "nan": (None, np.full((6, 8), np.nan), {}, "must be finite"),
    "no_data": (None, None, {}, "needs calibration data"),
    "form": (None, GOOD, {"form": "fast"}, "form must be one of auto, gram, direct. Received: 'fast'"),
    "fraction": (None, GOOD, {"patch_fraction": 0}, r"patch_fraction must lie in \(0, 1\]. Received: 0"),
    "fraction_and_direct": (None, GOOD, {"patch_fraction": 0.5, "form": "direct"}, "not with 'direct'"),
    "keep_zeros": (None, GOOD, {"keep_zeros": "yes"}, "keep_zeros must be"),
    "budget": (None, GOOD, {"memory_budget": "lots"}, "memory_budget must be bytes"),
    "batch_size": (None, GOOD, {"batch_size": 0}, "batch_size must be a positive integer"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_one_clear_line_before_any_work(case, tmp_path, monkeypatch):
    build, calibration, settings, message = REFUSED[case]
    model = build() if build else architectures.build("mlp")
    monkeypatch.setattr(Walk, "_run", lambda *args: pytest.fail("work had started"))
    with pytest.raises(kc.InputError, match=message) as raised:
        kc.quantize(model, QUANTIZER, calibration, work_dir=tmp_path, **settings)
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("quantizer", [None, kc.GPFQ, 4])
def test_the_quantizer_must_be_one(model, quantizer):
    with pytest.raises(kc.InputError, match="quantizer must be a quantizer such as"):
        kc.quantize(model, quantizer, None)


def test_a_result_whose_weights_were_changed_is_refused(model, samples):
    result = kc.quantize(model, QUANTIZER, samples)
    layer = result.model.get_layer("head").get_layer("last")
    layer.kernel.assign(layer.kernel + 1)
    with pytest.raises(kc.InputError, match="'head/last' differs from its codes"):
        kc.quantize(result, QUANTIZER, samples)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_that_cannot_hold_the_codes_are_left_out_or_refused_before_any_work(dtype, monkeypatch):
    """Decoded codes are float32; a shorter kernel would round them, and no longer equal them."""
    model = keras.Sequential([keras.Input((8,)), L.Dense(4, dtype=dtype, name="half"), L.Dense(3, name="logits")])
    try:
        result = kc.quantize(model, kc.MSQ(3))
    except kc.InputError as error:
        assert dtype in str(error)
    else:
        assert result.report.row("half").action == "float" and dtype in result.report.row("half").reason


def test_mixed_precision_is_quantized():
    model = keras.Sequential([keras.Input((8,)), L.Dense(4, dtype="mixed_bfloat16"), L.Dense(3, name="logits")])
    result = kc.quantize(model, QUANTIZER, architectures.samples(model, 20))
    assert len(result.kernels) == 2


# Models with functions and states


def test_a_lambda_in_memory_is_followed():
    model = keras.Sequential(
        [keras.Input((8,)), L.Dense(6, name="one"), L.Lambda(lambda x: x * x), L.Dense(3, name="two")]
    )
    samples = architectures.samples(model, 20)
    assert len(kc.quantize(model, QUANTIZER, samples).kernels) == 2


@pytest.mark.parametrize("training", [True, None])
def test_states_of_the_model_that_comes_in_stay(training):
    """A BatchNormalization that is called with training=True would write to its moving statistics."""
    inputs = keras.Input((8,))
    hidden = L.BatchNormalization(name="norm")(L.Dense(6, name="one")(inputs), training=training)
    hidden = L.Dropout(0.5)(hidden, training=training)
    model = keras.Model(inputs, L.Dense(3, name="two")(hidden))
    before = [variable.numpy().copy() for variable in model.variables]
    with contextlib.suppress(kc.InputError):  # a refusal is as good
        kc.quantize(model, QUANTIZER, architectures.samples(model, 20))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def test_progress_is_a_line_for_each_layer(model, samples, capsys):
    kc.quantize(model, QUANTIZER, samples, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1:3] for line in lines] == [[f"{index + 1}/4", path] for index, path in enumerate(PATHS)]
