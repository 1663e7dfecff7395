"""A model with rounded activations: what is rounded, how far, and what stays as it was."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.graph import Graph
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rounding import quantized_tensors
from keras_compress.layers.splitting import split_layers
from keras_compress.numerics.ranges import Histogram, TensorAlphabet, mse_range
from tests import architectures
from tests.calibration.test_calibration import FORMS
from tests.reference import activations as reference

L = keras.layers
RANGES = ["minmax", "moving_average", "mse"]
SETTINGS = {
    "default": {},
    "minmax": {"ranges": "minmax"},
    "moving_average": {"ranges": "moving_average", "bits": 6},
    "symmetric": {"symmetric": True},
    "four_bits": {"bits": 4},
    "ternary": {"bits": 2, "symmetric": True},
    "sixteen_bits": {"bits": 16},
}


SLOW_BUT_THE_FIRST = [pytest.param(name, marks=[pytest.mark.slow] * (name != "default")) for name in SETTINGS]


def roundings(model):
    return {path: layer for path, layer in layers_by_path(model).items() if isinstance(layer, kc.QuantizeActivation)}


def classifier():
    """Softmax at the end, an activation in the middle that is no ReLU, and every kind of alphabet."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 2), name="image"),
            L.Conv2D(4, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
            L.AveragePooling2D(2, name="pool"),
            L.Flatten(name="flat"),
            L.Dense(6, "tanh", name="hidden"),
            L.Dense(3, "softmax", name="predictions"),
        ],
        name="classifier",
    )


def built():
    model = classifier()
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.5, 2, variable.shape) * (1 if "var" in variable.name else rng.choice([-1, 1])))
    return model


@pytest.fixture
def model():
    return built()


@pytest.fixture
def samples(model):
    return architectures.samples(model, 70)


@pytest.fixture(params=SLOW_BUT_THE_FIRST, scope="module")
def rounded(request):
    """Settings, a result with quantized weights, samples, and the result with rounded activations."""
    model = built()
    samples = architectures.samples(model, 70)
    settings = SETTINGS[request.param]
    weights = kc.quantize(model, kc.MSQ(4), samples)
    return settings, weights, samples, kc.quantize_activations(weights, samples, **settings)


# What comes out


@pytest.mark.slow
def test_the_model_that_comes_in_is_untouched(model, samples):
    before = [weight.numpy().copy() for weight in model.weights]
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    result = kc.quantize_activations(model, samples)
    assert result.model is not model
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers] == nodes
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in result.model.weights}
    assert not roundings(model)


def test_the_layers_stand_where_an_integer_network_rounds(model, samples):
    result = kc.quantize_activations(model, samples)
    assert type(result.model) is keras.Sequential
    assert [layer.name for layer in result.model.layers] == [
        "image_quantized", "conv", "norm", "relu", "relu_quantized", "pool", "pool_quantized", "flat", "hidden",
        "hidden_quantized", "hidden_tanh", "hidden_tanh_quantized", "predictions", "predictions_quantized",
        "predictions_softmax", "predictions_softmax_quantized",
    ]  # fmt: skip


def test_alphabets_of_functions_and_of_pools(model, samples):
    layers = roundings(kc.quantize_activations(model, samples).model)
    alphabets = {name.removesuffix("_quantized"): (layer.scale, layer.zero_point) for name, layer in layers.items()}
    assert alphabets["predictions_softmax"] == (1 / 256, -128)
    assert alphabets["hidden_tanh"] == (1 / 128, 0)
    assert alphabets["pool"] == alphabets["relu"]
    assert alphabets["relu"][1] == -128  # no value lies below zero


FAST = ("mlp", "residual", "shared", "nested")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bits"),
    [pytest.param(name, 8, marks=[pytest.mark.slow] * (name not in FAST)) for name in architectures.MODELS]
    + [pytest.param(name, 4, marks=pytest.mark.slow) for name in architectures.MODELS],
)
def test_the_outputs_are_those_of_the_rounded_network(name, bits):
    """Run by the calls of the flat graph, each quantized tensor by the formulas of the specification."""
    model = architectures.build(name)
    samples = architectures.samples(model, 12)
    result = kc.quantize_activations(model, samples, bits=bits)
    layers = roundings(result.model)
    split = split_layers(model).model
    graph = Graph(split)
    tensors = quantized_tensors(graph)
    assert len(layers) == len(tensors) == len(result.report.steps[-1].rows)
    owner = {
        number: layer
        for tensor, layer in zip(tensors, _in_the_order_of(tensors, layers), strict=True)
        for number in tensor.tensors
    }

    def rounded(number, value):
        if number not in owner:
            return np.asarray(value)
        layer = owner[number]
        values = reference.rounded(np.asarray(value).ravel().tolist(), layer.scale, layer.zero_point, layer.bits)
        return np.reshape(values, np.shape(value)).astype(np.float32)

    values = {
        number: rounded(number, array) for number, array in zip(graph.inputs, keras.tree.flatten(samples), strict=True)
    }
    for call in graph.calls:
        values |= {number: rounded(number, value) for number, value in zip(call.outputs, call.run(values), strict=True)}
    for number, output in zip(graph.outputs, keras.tree.flatten(result.model(samples)), strict=True):
        # float32 sums in another order may cross a midpoint: a step in few outputs, and what later layers make of it
        difference = np.abs(np.asarray(output) - values[number]) / np.abs(values[number]).max()
        assert (difference < 1e-5).mean() > 0.9
        assert difference.max() < 2.0**-bits * 8


def _in_the_order_of(tensors, layers):
    """The inserted layers are named by the tensors' paths, and numbered where a layer is called twice."""
    left = dict(layers)
    for tensor in tensors:
        name = f"{tensor.path}_quantized"
        yield left.pop(name if name in left else f"{name}_2")


@pytest.mark.slow
def test_kernels_masks_and_codes_are_kept(model, samples):
    for layer in (model.get_layer("conv"), model.get_layer("hidden")):
        layer.kernel.assign(np.where(np.abs(layer.kernel.numpy()) < 0.8, 0, layer.kernel.numpy()))
    weights = kc.quantize(model, kc.GPFQ(4), samples, keep_zeros=True)
    result = kc.quantize_activations(weights, samples)
    assert result.kernels == weights.kernels and result.masks == weights.masks
    result.check()
    assert [step.technique for step in result.report.steps] == ["quantize", "quantize_activations"]
    assert result.report.row("hidden").action == "quantized" and result.report.row("hidden").parameters


@pytest.mark.slow
def test_it_comes_back_from_disk(rounded, tmp_path):
    _, _, samples, result = rounded
    result.save(tmp_path / "small")
    back = kc.load_result(tmp_path / "small")
    assert back.report == result.report
    assert back.kernels.keys() == result.kernels.keys()
    assert [layer.get_config() for layer in roundings(back.model).values()] == [
        layer.get_config() for layer in roundings(result.model).values()
    ]
    np.testing.assert_array_equal(np.asarray(back.model(samples)), np.asarray(result.model(samples)))


@pytest.mark.slow
def test_a_fresh_process_loads_it(model, samples, tmp_path):
    kc.quantize_activations(model, samples).save(tmp_path / "small")
    code = f"import keras_compress as kc; print(kc.load_model({str(tmp_path / 'small.keras')!r}).layers[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "<QuantizeActivation name=image_quantized" in done.stdout, done.stderr


@pytest.mark.slow
def test_it_comes_out_the_same_each_time(rounded):
    settings, weights, samples, first = rounded
    second = kc.quantize_activations(weights, samples, **settings)
    for layer, again in zip(roundings(first.model).values(), roundings(second.model).values(), strict=True):
        assert layer.get_config() == again.get_config()


@pytest.mark.parametrize(
    ("ranges", "batch_size"),
    [("moving_average", 16), *(pytest.param(ranges, 1, marks=pytest.mark.slow) for ranges in RANGES)],
)
def test_batches_leave_no_trace(model, samples, ranges, batch_size):
    whole = kc.quantize_activations(model, samples, ranges=ranges)
    cut = kc.quantize_activations(model, samples, ranges=ranges, batch_size=batch_size)
    for layer, other in zip(roundings(whole.model).values(), roundings(cut.model).values(), strict=True):
        assert layer.zero_point == other.zero_point
        assert layer.scale == pytest.approx(other.scale, rel=1e-5)  # the convolution's own sums differ in float32


@pytest.mark.slow
def test_every_form_of_data_gives_the_same_alphabets(model):
    samples = architectures.samples(model, 33)
    expected = [layer.get_config() for layer in roundings(kc.quantize_activations(model, samples).model).values()]
    for form in FORMS.values():
        result = kc.quantize_activations(model, form(samples))
        assert [layer.get_config() for layer in roundings(result.model).values()] == expected
        assert result.report.steps[-1].figures["samples"] == 33


@pytest.mark.slow
def test_a_shared_calibration_serves_several_calls(model, samples, tmp_path):
    with kc.Calibration(model, samples, work_dir=tmp_path) as calibration:
        together = [kc.quantize_activations(model, calibration, bits=bits) for bits in (4, 8)]
        kc.quantize(model, kc.GPFQ(3), calibration)
    for bits, result in zip((4, 8), together, strict=True):
        alone = kc.quantize_activations(model, samples, bits=bits)
        for layer, other in zip(roundings(result.model).values(), roundings(alone.model).values(), strict=True):
            assert layer.get_config() == other.get_config()
    assert os.listdir(tmp_path) == []


# Ranges


def tensors_of(model, samples):
    """Name of the rounding layer -> the values that it is to round."""
    split = split_layers(model).model
    graph = Graph(split)
    values = dict(zip(graph.inputs, [samples], strict=True))
    for call in graph.calls:
        values |= dict(zip(call.outputs, call.run(values), strict=True))
    return {f"{tensor.path}_quantized": np.asarray(values[tensor.tensors[0]]) for tensor in quantized_tensors(graph)}


MEASURED = ["image_quantized", "relu_quantized", "hidden_quantized", "predictions_quantized"]


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_minmax_spans_all_values(model, samples, symmetric):
    layers = roundings(kc.quantize_activations(model, samples, ranges="minmax", symmetric=symmetric).model)
    for name in MEASURED:
        values = tensors_of(model, samples)[name].astype(np.float64)
        expected = TensorAlphabet.of_range(values.min(), values.max(), 8, symmetric=symmetric)
        assert layers[name].scale == pytest.approx(expected.scale, rel=1e-5)
        assert layers[name].zero_point == expected.zero_point


@pytest.mark.slow
def test_moving_averages_are_over_groups_of_32_samples(model, samples):
    layers = roundings(kc.quantize_activations(model, samples, ranges="moving_average").model)
    for name in MEASURED:
        groups = [part.astype(np.float64) for part in np.split(tensors_of(model, samples)[name], [32, 64])]
        low = reference.moving_average([float(part.min()) for part in groups], 0.99)
        high = reference.moving_average([float(part.max()) for part in groups], 0.99)
        scale, zero_point = reference.parameters(low, high, 8)
        assert layers[name].scale == pytest.approx(scale, rel=1e-5)
        assert layers[name].zero_point == zero_point


@pytest.mark.slow
def test_the_default_has_the_range_with_the_least_squared_error(model, samples):
    layers = roundings(kc.quantize_activations(model, samples, bits=4).model)
    for name in MEASURED:
        values = tensors_of(model, samples)[name]
        histogram = Histogram(float(values.min()), float(values.max()))
        histogram.add(values)
        expected = TensorAlphabet.of_range(*mse_range(histogram, 4), 4)
        assert layers[name].scale == pytest.approx(expected.scale, rel=1e-4)
        assert layers[name].zero_point == expected.zero_point


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_least_squared_error_is_no_larger_than_that_of_the_other_rules(symmetric):
    model = architectures.build("residual")
    samples = architectures.samples(model, 100)
    errors = {}
    for ranges in RANGES:
        report = kc.quantize_activations(model, samples, bits=4, ranges=ranges, symmetric=symmetric).report
        errors[ranges] = {row.path: row.relative_error for row in report.steps[-1].rows}
    joined = {"outer_quantized", "shortcut_quantized"}  # one range for both
    for path in errors["mse"].keys() - joined:
        assert errors["mse"][path] <= 1.02 * min(errors["minmax"][path], errors["moving_average"][path]), path


@pytest.mark.slow
def test_tensors_that_are_joined_have_the_same_alphabet():
    model = architectures.build("residual")
    layers = roundings(kc.quantize_activations(model, architectures.samples(model, 40)).model)
    outer, shortcut = layers["outer_quantized"], layers["shortcut_quantized"]
    assert (outer.scale, outer.zero_point) == (shortcut.scale, shortcut.zero_point)


@pytest.mark.slow
def test_more_bits_leave_less_error(model, samples):
    errors = []
    for bits in (3, 5, 8, 12):
        result = kc.quantize_activations(model, samples, bits=bits)
        errors.append(np.linalg.norm(np.asarray(result.model(samples)) - np.asarray(model(samples))))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]


# Which tensors


def test_layers_and_overrides_choose_by_the_layers_that_make_the_tensors(model, samples):
    result = kc.quantize_activations(model, samples, layers=["image", "predictions.*", "relu"], overrides={"relu": 4})
    bits = {path: layer.bits for path, layer in roundings(result.model).items()}
    assert bits == {
        "image_quantized": 8,
        "relu_quantized": 4,
        "predictions_quantized": 8,
        "predictions_softmax_quantized": 8,
    }
    assert result.report.steps[-1].figures["left in floating point"] == "pool, hidden, hidden_tanh"


def test_an_override_of_none_leaves_a_tensor_in_floating_point(model, samples):
    result = kc.quantize_activations(model, samples, bits=4, overrides={".*": 8, "predictions_softmax": None})
    assert {layer.bits for layer in roundings(result.model).values()} == {8}
    assert "predictions_softmax_quantized" not in roundings(result.model)


@pytest.mark.slow
def test_tensors_of_one_group_may_have_other_bits():
    model = architectures.build("residual")
    samples = architectures.samples(model, 40)
    layers = roundings(kc.quantize_activations(model, samples, bits=8, overrides={"shortcut": 4}).model)
    alone = roundings(kc.quantize_activations(model, samples, bits=8).model)
    assert layers["shortcut_quantized"].bits == 4
    assert layers["outer_quantized"].get_config() == alone["outer_quantized"].get_config()


# The report


def test_the_report_has_a_complete_row_for_every_quantized_tensor(rounded):
    settings, weights, samples, result = rounded
    step = result.report.steps[-1]
    assert step.settings == {"bits": 8, "symmetric": False, "ranges": "mse"} | settings
    layers = roundings(result.model)
    tensors = tensors_of(weights.model, samples)
    assert {row.path for row in step.rows} == set(layers) == set(tensors)
    for row in step.rows:
        layer = layers[row.path]
        assert (row.action, row.scale, row.zero_point) == ("quantized", layer.scale, layer.zero_point)
        assert row.num_levels == layer.highest - layer.lowest + 1 and 2**row.effective_bits == pytest.approx(
            row.num_levels
        )
        assert row.low == pytest.approx((layer.lowest - layer.zero_point) * layer.scale)
        assert row.high == pytest.approx((layer.highest - layer.zero_point) * layer.scale)
        values = tensors[row.path].astype(np.float64)
        expected = np.reshape(
            reference.rounded(
                values.ravel().tolist(), layer.scale, layer.zero_point, layer.bits, symmetric=layer.symmetric
            ),
            values.shape,
        )
        assert row.relative_error == pytest.approx(
            np.linalg.norm(values - expected) / np.linalg.norm(values), rel=2e-2, abs=1e-6
        )
        beyond = (values < row.low - 0.501 * layer.scale) | (values > row.high + 0.501 * layer.scale)
        assert row.clipped == pytest.approx(beyond.mean(), abs=2 / values.size)


def test_the_kind_of_a_row_is_that_of_what_made_the_tensor(model, samples):
    result = kc.quantize_activations(model, samples)
    kinds = {row.path.removesuffix("_quantized"): row.kind for row in result.report.steps[-1].rows}
    assert kinds["image"] == "InputLayer" and kinds["relu"] == "ReLU" and kinds["predictions"] == "Dense"


def test_the_report_reads_well(model, samples):
    text = str(kc.quantize_activations(model, samples).report)
    header, first, *_ = text.splitlines()[1:]
    assert " ".join(header.split()) == "layer type done levels effective bits range scale zero clipped error"
    assert first.startswith("image_quantized") and " .. " in first and "%" in first
    assert "samples: 70" in text


# With other steps


@pytest.mark.slow
def test_weights_can_be_quantized_afterwards(model, samples):
    activations = kc.quantize_activations(model, samples)
    result = kc.quantize(activations, kc.GPFQ(4), samples)
    assert set(result.kernels) == {"conv", "hidden", "predictions"}
    assert roundings(result.model).keys() == roundings(activations.model).keys()
    result.check()


def test_a_batch_normalization_can_be_folded_afterwards(model, samples):
    activations = kc.quantize_activations(model, samples, bits=12)
    folded = kc.fold_batch_normalization(activations)
    assert "norm" not in layers_by_path(folded.model)
    np.testing.assert_allclose(np.asarray(folded.model(samples)), np.asarray(activations.model(samples)), atol=2e-3)


def test_rounding_twice_is_refused(model, samples):
    once = kc.quantize_activations(model, samples)
    with pytest.raises(kc.InputError, match=r"'classifier' are quantized already.*from before that step"):
        kc.quantize_activations(once, samples)


def test_a_mixed_precision_model_keeps_its_types():
    layers = [L.Dense(4, "relu", dtype="mixed_float16"), L.Dense(2, "softmax", dtype="float32")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    samples = architectures.samples(model, 30)
    result = kc.quantize_activations(model, samples)
    assert [keras.backend.standardize_dtype(layer.output.dtype) for layer in result.model.layers][:3] == [
        "float32", "float16", "float16",
    ]  # fmt: skip
    np.testing.assert_allclose(np.asarray(result.model(samples)), np.asarray(model(samples)), atol=0.05)


@pytest.mark.slow
def test_a_dead_tensor_stays_dead(model, samples):
    model.get_layer("norm").gamma.assign(np.zeros(4))
    model.get_layer("norm").beta.assign(np.full(4, -1.0))
    for ranges in RANGES:
        result = kc.quantize_activations(model, samples, ranges=ranges)
        row = result.report.row("relu_quantized")
        assert (row.relative_error, row.clipped, row.scale) == (0.0, 0.0, 1.0)
        assert np.isfinite(np.asarray(result.model(samples))).all()


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "bits of an activation must be an integer from 2 to 16. Received: 1"),
        ({"bits": 17}, "Received: 17"),
        ({"bits": "8"}, "Received: '8'"),
        ({"symmetric": "yes"}, "symmetric must be True or False. Received: 'yes'"),
        ({"ranges": "max"}, "ranges must be one of mse, moving_average, minmax. Received: 'max'"),
        ({"layers": "nowhere"}, "layers: the pattern 'nowhere' matches no layer.*image, relu, pool"),
        ({"overrides": {"relu": 1}}, "Received: 1"),
        ({"overrides": {".*": None}}, "no activation to quantize: of 7 tensors"),
        ({"memory_budget": "much"}, "memory_budget must be bytes"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
    ],
)
def test_a_bad_setting_is_one_clear_line(model, samples, settings, message):
    with pytest.raises(kc.InputError, match=message) as raised:
        kc.quantize_activations(model, samples, **settings)
    assert "\n" not in str(raised.value)


def test_data_is_needed(model):
    with pytest.raises(kc.InputError, match=r"measured on calibration data\. Received: None"):
        kc.quantize_activations(model, None)
    with pytest.raises(kc.InputError, match="calibration is empty"):
        kc.quantize_activations(model, np.zeros((0, 8, 8, 2), np.float32))


def test_samples_that_are_not_finite_are_refused(model, samples):
    with pytest.raises(kc.InputError, match="must be finite"):
        kc.quantize_activations(model, np.where(samples == samples.max(), np.nan, samples))


def test_activations_that_are_not_finite_are_refused(model, samples):
    model.get_layer("hidden").bias.assign(np.full(6, np.nan))
    with pytest.raises(kc.InputError, match="outputs of layer 'hidden' must be finite"):
        kc.quantize_activations(model, samples)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_model_whose_tensors_cannot_be_reached_is_refused():
    samples = np.ones((4, 5, 2), np.float32)
    model = Subclassed(name="mine")
    model(samples)
    with pytest.raises(kc.InputError, match="cannot be rounded: model 'mine' is subclassed"):
        kc.quantize_activations(model, samples)
    model = keras.Sequential([keras.Input((5, 2)), L.Masking(name="hide"), L.LSTM(2)])
    with pytest.raises(kc.InputError, match="layer 'hide' passes on a mask"):
        kc.quantize_activations(model, samples)


def test_what_is_no_model_is_refused(samples):
    with pytest.raises(kc.InputError, match=r"keras\.Model or a kc\.Result is expected"):
        kc.quantize_activations("model", samples)


def test_progress_names_the_passes(model, samples, capsys):
    kc.quantize_activations(model, samples, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines if line.startswith("quantize_activations")] == [
        "extremes", "histograms", "errors",
    ]  # fmt: skip


# Networks that others trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "mean", "std"),
    [
        ("models/mlperf_ic_resnet8.h5", 0.0, 1.0),
        ("models/onepixel_cifar10_lenet.keras", [125.307, 122.95, 113.865], [62.9932, 62.0887, 66.7048]),
    ],
    ids=["resnet8", "lenet"],
)
@pytest.mark.sampled(1)
def test_eight_bits_everywhere_stay_near_the_float_network(data_file, file, mean, std):
    model = kc.load_model(data_file(file))
    with np.load(data_file("cifar10.npz")) as arrays:
        images, tests = (
            ((arrays[name][:2000].astype(np.float32) - np.float32(mean)) / np.float32(std))
            for name in ("x_train", "x_test")
        )
        labels = arrays["y_test"][:2000]
    weights = kc.quantize(kc.fold_batch_normalization(model), kc.MSQ(8, radius="max"))
    analog_top1 = kc.evaluate(model, tests, labels).top1
    for ranges in RANGES:
        result = kc.quantize_activations(weights, images[:500], ranges=ranges)
        assert kc.evaluate(result.model, tests, labels).top1 == pytest.approx(analog_top1, abs=0.015), ranges
    four = kc.quantize(kc.fold_batch_normalization(model), kc.GPFQ(4), images[:500])
    both = kc.quantize_activations(four, images[:500])
    assert kc.evaluate(both.model, tests, labels).top1 >= kc.evaluate(four.model, tests, labels).top1 - 0.02
