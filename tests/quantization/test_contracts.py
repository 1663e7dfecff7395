"""What every quantizer and every alphabet keeps to."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.paths import layers_by_path
from keras_compress.quantization.alphabets import AlphabetSetting
from tests import architectures
from tests.quantization.contracts import ALPHABETS, QUANTIZERS

CONFIGURED = QUANTIZERS | ALPHABETS


@pytest.fixture(params=CONFIGURED)
def configured(request):
    return CONFIGURED[request.param]


# One of each class is for every edit; its variants take as long again.
FIRSTS = {type(quantizer): name for name, quantizer in reversed(QUANTIZERS.items())}.values()


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in FIRSTS)) for name in QUANTIZERS], scope="module"
)
def quantized(request):
    """A model with all kinds of layers, its samples, and the result."""
    model = architectures.build("small")
    before = [weight.numpy().copy() for weight in model.weights]
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    samples = architectures.samples(model, 16)
    return (
        QUANTIZERS[request.param],
        model,
        samples,
        kc.quantize(model, QUANTIZERS[request.param], samples),
        before,
        nodes,
    )


def public_classes(base):
    return {value for name in kc.__all__ if isinstance(value := getattr(kc, name), type) and issubclass(value, base)}


def test_every_public_quantizer_and_alphabet_is_on_the_lists():
    assert {type(quantizer) for quantizer in QUANTIZERS.values()} == public_classes(kc.Quantizer) - {kc.Quantizer}
    assert {type(alphabet) for alphabet in ALPHABETS.values()} == public_classes(AlphabetSetting)


# Settings


def test_the_config_rebuilds_it(configured):
    assert type(configured).from_config(configured.get_config()) == configured


def test_the_config_is_the_arguments_of_the_constructor(configured):
    import inspect

    assert set(configured.get_config()) == set(inspect.signature(type(configured)).parameters)


def test_keras_serializes_it(configured):
    import json

    state = json.loads(json.dumps(keras.saving.serialize_keras_object(configured)))
    assert keras.saving.deserialize_keras_object(state) == configured


def test_it_prints_the_call_that_builds_it(configured):
    names = {name: getattr(kc, name) for name in kc.__all__}
    assert eval(repr(configured), names) == configured


def test_equal_if_built_alike_and_else_not(configured):
    copy = type(configured).from_config(configured.get_config())
    assert hash(copy) == hash(configured)
    assert [other for other in CONFIGURED.values() if other == configured] == [configured]
    assert configured != "something else"


@pytest.mark.parametrize("name", ALPHABETS)
def test_bits_are_the_logarithm_of_the_levels(name):
    setting = ALPHABETS[name]
    levels = setting.levels_array
    assert setting.num_levels == len(levels)
    assert 2**setting.effective_bits == pytest.approx(len(levels))
    assert len(set(np.diff(levels))) == 1 and levels[0] < levels[-1]


@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_b_bits_of_integers_are_at_most_two_to_the_b_levels(bits):
    largest = 2 ** (bits - 1)
    narrow, full = np.arange(1 - largest, largest), np.arange(-largest, largest)
    np.testing.assert_array_equal(kc.Integer(bits).levels_array, full if bits == 2 else narrow)
    np.testing.assert_array_equal(kc.Integer(bits, narrow_range=True).levels_array, narrow)
    np.testing.assert_array_equal(kc.Integer(bits, narrow_range=False).levels_array, full)


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_another_width_keeps_the_other_settings(alphabet):
    setting = ALPHABETS[alphabet]
    wider = setting.with_bits(5)
    assert wider == wider.with_bits(3).with_bits(5) and wider.num_levels in (31, 32, 33)
    kept = setting.get_config().keys() - {"bits", "levels"}
    assert {name: wider.get_config()[name] for name in kept} == {name: setting.get_config()[name] for name in kept}


def test_levels_of_the_papers():
    np.testing.assert_array_equal(kc.Ternary().levels_array, [-1, 0, 1])
    np.testing.assert_array_equal(kc.Equispaced(levels=3).levels_array, [-1, 0, 1])
    levels = kc.Equispaced(2).levels_array
    np.testing.assert_allclose(levels / levels.max(), np.linspace(-1, 1, 4))
    np.testing.assert_array_equal(kc.Midtread(3).levels_array, np.arange(-4, 5))


def test_the_radius_of_equispaced_levels_is_the_scaled_median_of_the_layer(rng):
    matrices = rng.normal(size=(1, 30, 4))
    alphabet = kc.Equispaced(2, scalar=3).for_layer(matrices, None, None)
    np.testing.assert_allclose(alphabet.radius, [3 * np.median(np.abs(matrices))], rtol=1e-6)


def test_the_radius_of_midtread_levels_is_the_scaled_mean_of_the_maxima(rng):
    matrices = rng.normal(size=(1, 30, 4))
    alphabet = kc.Midtread(2, scalar=1.5).for_layer(matrices, None, None)
    np.testing.assert_allclose(alphabet.radius, [1.5 * np.abs(matrices[0]).max(axis=0).mean()], rtol=1e-6)


@pytest.mark.parametrize("name", ALPHABETS)
def test_scales_are_one_a_channel_or_one_a_layer(rng, name):
    setting = ALPHABETS[name]
    alphabet = setting.for_layer(rng.normal(size=(2, 30, 3)), None, None)
    groups = () if setting.group_size is None else (1,)
    assert alphabet.scale.shape == ((*groups, 6) if setting.per_channel else (1,))


BAD_SETTINGS = {
    "one_bit": (lambda: kc.Integer(1), "bits of Integer must be an integer from 2 to 16. Received: 1"),
    "many_bits": (lambda: kc.GPFQ(17), "from 2 to 16. Received: 17"),
    "half_a_bit": (lambda: kc.MSQ(2.5), "Received: 2.5"),
    "effective_bits": (lambda: kc.MSQ(True), "Received: True"),
    "no_bits": (lambda: kc.Midtread(0), "bits of Midtread must be an integer from 1 to 16"),
    "one_level": (lambda: kc.Integer(levels=1), "levels must be an integer from 2"),
    "many_levels": (lambda: kc.Equispaced(levels=2**17), "levels must be an integer from 2 to 65536"),
    "zero_scalar": (lambda: kc.Equispaced(2, scalar=0), "scalar must be a positive number. Received: 0"),
    "nan_scalar": (lambda: kc.Midtread(2, scalar=float("nan")), "scalar must be a positive number"),
    "inf_scalar": (lambda: kc.Integer(2, scalar=float("inf")), "scalar must be a positive number"),
    "text_scalar": (lambda: kc.Integer(2, scalar="2"), "scalar must be a positive number"),
    "bits_and_alphabet": (lambda: kc.GPFQ(4, alphabet=kc.Integer(3)), "Give bits or an alphabet"),
    "alphabet_by_name": (lambda: kc.MSQ(alphabet="integer"), "Received: 'integer'"),
    "radius_rule": (lambda: kc.MSQ(4, radius="mean"), "radius must be one of median, max, mse, quantile"),
    "radius_above_one": (lambda: kc.GPFQ(4, radius=1.5), "Received: 1.5"),
    "radius_zero": (lambda: kc.GPFQ(4, radius=0), "Received: 0"),
    "fitted_msq": (lambda: kc.MSQ(4, radius="search"), "radius='search' fits scales to codes that follow the data"),
    "fitted_layer": (
        lambda: kc.GPFQ(alphabet=kc.Equispaced(2), radius="alternating"),
        "needs a scale for each channel",
    ),
    "beacon_layer": (lambda: kc.Beacon(alphabet=kc.Midtread(2)), "Beacon needs one scale for each channel"),
    "order": (lambda: kc.OPTQ(4, order="random"), "order must be one of natural, descending_diagonal"),
    "refine": (lambda: kc.GPFQ(4, refine=-1), "refine must be an integer from 0 upwards. Received: -1"),
    "half_a_sweep": (lambda: kc.Beacon(4, sweeps=0.5), "sweeps must be an integer from 0 upwards. Received: 0.5"),
    "refined_channels": (
        lambda: kc.GPFQ(4, patches="per_channel", refine=1),
        "per_channel' goes without order, refine",
    ),
    "alignment": (lambda: kc.SPFQ(4, alignment=0), "alignment must be an integer from 1 upwards. Received: 0"),
    "target": (lambda: kc.OPTQ(4, target="qronos"), "target must be one of weights, corrected. Received: 'qronos'"),
    "no_damping": (lambda: kc.Qronos(4, damping=0), r"damping must be a number in \(0, 1\]. Received: 0"),
    "negative_price": (lambda: kc.SparseGPFQ(4, regularization=-1), "regularization must be a number from 0 upwards"),
    "sparse_without_zero": (lambda: kc.SparseGPFQ(alphabet=kc.Equispaced(2)), "needs a zero among the levels"),
    "sparse_fitted": (lambda: kc.SparseGPFQ(4, radius="search"), "takes the zeros back"),
    "patches": (lambda: kc.GPFQ(4, patches="some"), "patches must be 'joint' or 'per_channel'. Received: 'some'"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_bad_setting_is_one_clear_line(case):
    build, message = BAD_SETTINGS[case]
    with pytest.raises(kc.InputError, match=message) as raised:
        build()
    assert "\n" not in str(raised.value)


# Results


def test_the_model_that_comes_in_is_untouched(quantized):
    _, model, _, result, before, nodes = quantized
    assert result.model is not model
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers] == nodes
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in result.model.weights}


def test_the_result_is_an_ordinary_model_of_the_same_kind(quantized):
    _, model, samples, result, *_ = quantized
    assert type(result.model) is type(model) and result.model.name == model.name
    assert [layer.name for layer in result.model.layers] == [layer.name for layer in model.layers]
    assert result.model(samples).shape == model(samples).shape


def test_weights_are_the_decoded_codes(quantized):
    _, model, _, result, *_ = quantized
    layers = layers_by_path(result.model)
    assert set(result.kernels) == {"conv", "logits"}
    for path, kernel in result.kernels.items():
        np.testing.assert_array_equal(layers[path].kernel.numpy(), kernel.decode())
        assert not np.array_equal(layers[path].kernel.numpy(), layers_by_path(model)[path].kernel.numpy())


def test_every_weight_lies_in_its_alphabet(quantized):
    quantizer, _, _, result, *_ = quantized
    for path, kernel in result.kernels.items():
        levels = quantizer.setting.levels_array
        if kernel.gap is not None:
            levels = np.arange(levels[0] - 1, levels[-1] + 2)
        np.testing.assert_array_equal(kernel.levels, levels)
        scale, zero, gap = (
            np.broadcast_to(0 if part is None else part, kernel.codes.shape[-1])
            for part in (kernel.scale, kernel.zero_point, kernel.gap)
        )
        steps = levels[:, None] - zero
        values = steps.astype(np.float32) * scale + (np.sign(steps) * gap).astype(np.float32)
        weights = layers_by_path(result.model)[path].kernel.numpy()
        assert (weights[..., None, :] == values).any(axis=-2).all()


def test_the_report_has_a_complete_row_for_every_layer_with_weights(quantized):
    quantizer, model, _, result, *_ = quantized
    (step,) = result.report.steps
    assert step.technique == "quantize"
    assert {row.path for row in step.rows} == {path for path, layer in layers_by_path(model).items() if layer.weights}
    for row in step.rows:
        assert row.parameters == layers_by_path(model)[row.path].count_params()
        if row.action == "float":
            assert row.path == "norm" and "BatchNormalization" in row.reason
            continue
        kernel = result.kernels[row.path]
        assert row.action == "quantized"
        assert row.alphabet == repr(quantizer.setting)
        assert row.num_levels == len(kernel.levels) and 2**row.effective_bits == pytest.approx(row.num_levels)
        assert row.zeros == pytest.approx((kernel.decode() == 0).mean())
        steps = kernel.levels[:, None] - (0 if kernel.zero_point is None else kernel.zero_point)
        values = steps * kernel.scale + np.sign(steps) * (0 if kernel.gap is None else kernel.gap)
        assert row.radius == pytest.approx(np.abs(values).max(axis=0).mean())
        assert row.relative_error > 0 and row.seconds >= 0
        assert row.path in str(result.report)


def test_the_figures_of_the_report(quantized):
    figures = quantized[3].report.steps[0].figures
    assert figures["samples"] == 16 and figures["walks"] == 1 and figures["seconds"] > 0


def test_it_comes_back_from_disk(quantized, tmp_path):
    _, _, samples, result, *_ = quantized
    result.save(tmp_path / "small")
    back = kc.load_result(tmp_path / "small")
    assert back.report == result.report
    assert back.kernels.keys() == result.kernels.keys()
    for path, kernel in result.kernels.items():
        for field in ("codes", "levels", "scale", "axis"):
            np.testing.assert_array_equal(getattr(back.kernels[path], field), getattr(kernel, field))
    np.testing.assert_array_equal(back.model(samples).numpy(), result.model(samples).numpy())


@pytest.mark.slow
def test_it_comes_out_the_same_each_time(quantized):
    quantizer, model, samples, result, *_ = quantized
    again = kc.quantize(model, quantizer, samples)
    for path, kernel in result.kernels.items():
        np.testing.assert_array_equal(again.kernels[path].codes, kernel.codes)
    for weight, other in zip(again.model.weights, result.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


def test_it_can_be_quantized_again(quantized):
    quantizer, _, samples, result, *_ = quantized
    again = kc.quantize(result, quantizer, samples, layers="logits")
    assert again.kernels.keys() == result.kernels.keys()
    assert len(again.report.steps) == 2
    np.testing.assert_array_equal(again.kernels["conv"].codes, result.kernels["conv"].codes)
