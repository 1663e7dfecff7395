"""Bits go where they matter, within the budget, and the result goes straight into `quantize`."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from tests import architectures

WIDTHS = (2, 3, 4, 6, 8)


@pytest.fixture(scope="module")
def model():
    return architectures.build("small")


@pytest.fixture(scope="module")
def samples(model):
    return architectures.samples(model, 60)


def sizes(model, overrides):
    return np.array([model.get_layer(path).kernel.numpy().size for path in overrides])


def bits(overrides):
    return np.array([quantizer.bits for quantizer in overrides.values()])


@pytest.mark.slow
@pytest.mark.parametrize("average", [2, 3.3, 5, 8])
def test_the_average_is_within_the_budget(model, samples, average):
    overrides = kc.allocate(model, samples, average_bits=average, widths=WIDTHS)
    assert (bits(overrides) * sizes(model, overrides)).sum() <= average * sizes(model, overrides).sum()
    assert set(bits(overrides)) <= set(WIDTHS)
    result = kc.quantize(model, kc.GPFQ(), samples, overrides=overrides)
    assert set(result.kernels) == set(overrides)
    for path, quantizer in overrides.items():
        assert result.kernels[path].effective_bits <= quantizer.bits


def test_the_ends_of_the_budget_are_the_ends_of_the_widths(model, samples):
    assert set(bits(kc.allocate(model, samples, average_bits=2, widths=WIDTHS))) == {2}
    assert set(bits(kc.allocate(model, samples, budget="1MB", widths=WIDTHS))) == {8}


@pytest.mark.slow
def test_a_budget_in_bytes_counts_codes_and_scales(model, samples):
    least = kc.allocate(model, samples, average_bits=2, widths=WIDTHS)
    channels = sum(model.get_layer(path).kernel.shape[-1] for path in least)
    exact = int(np.ceil(2 * sizes(model, least) / 8).sum()) + 4 * channels
    assert set(bits(kc.allocate(model, samples, budget=exact, widths=WIDTHS))) == {2}
    with pytest.raises(
        kc.InputError, match=f"2 bits everywhere need {exact} bytes, and the budget is {exact - 1} bytes"
    ):
        kc.allocate(model, samples, budget=exact - 1, widths=WIDTHS)


@pytest.mark.parametrize("quantizer", [kc.MSQ(), kc.OPTQ(refine=1), kc.GPFQ(alphabet=kc.Midtread(3))], ids=repr)
def test_any_quantizer_may_be_the_method(model, samples, quantizer):
    overrides = kc.allocate(model, samples, average_bits=4, quantizer=quantizer, widths=(2, 4, 8))
    for chosen in overrides.values():
        assert chosen in [quantizer.with_bits(width) for width in (2, 4, 8)]


@pytest.mark.slow
def test_layers_narrow_the_choice(model, samples):
    (path, *_) = kc.allocate(model, samples, average_bits=4)
    assert list(kc.allocate(model, samples, average_bits=4, layers=path)) == [path]


@pytest.mark.slow
def test_a_loss_says_what_matters(model, samples):
    """A loss that minds one layer's weights alone sends all that can be sent there."""
    paths = list(kc.allocate(model, samples, average_bits=4))
    for path in paths:
        original = model.get_layer(path).kernel.numpy()

        def loss(candidate, path=path, original=original):
            return float(np.square(candidate.get_layer(path).kernel.numpy() - original).sum())

        size = dict(zip(paths, sizes(model, paths), strict=True))
        average = (2 * (sum(size.values()) - size[path]) + 8 * size[path]) / sum(size.values())
        overrides = kc.allocate(model, samples, average_bits=average, widths=(2, 8), loss=loss)
        assert overrides[path].bits == 8


def quiet_head():
    """A wide layer whose outputs the head hardly reads, and a head that is all that counts."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((12,))
    loud = keras.layers.Dense(24, activation="relu", name="loud")(inputs)
    quiet = keras.layers.Dense(24, activation="relu", name="quiet")(inputs)
    joined = keras.layers.Concatenate()([loud, quiet])
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax", name="head")(joined))
    for layer in ("loud", "quiet", "head"):
        kernel = model.get_layer(layer).kernel
        kernel.assign(rng.normal(0, 0.5, kernel.shape))
    kernel = model.get_layer("head").kernel
    kernel.assign(np.concatenate([kernel.numpy()[:24], 1e-3 * kernel.numpy()[24:]]))
    return model, rng.normal(size=(80, 12)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", None])
def test_bits_go_where_the_outputs_of_the_network_feel_them(activation):
    """Both layers have the same relative errors; one of them does nothing to the outputs."""
    model, x = quiet_head()
    model.get_layer("head").activation = keras.activations.get(activation)
    overrides = kc.allocate(model, x, average_bits=4, widths=WIDTHS, layers=["loud", "quiet"])
    assert overrides["loud"].bits > overrides["quiet"].bits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "cnn", "residual", "two_inputs_and_outputs", "nested"])
@pytest.mark.sampled(2)
def test_it_is_never_further_off_than_one_width_everywhere(name):
    model = architectures.build(name)
    x = architectures.samples(model, 40)
    allocation = kc.allocate(model, x, average_bits=3)
    step = allocation.report.steps[-1]
    by_choice, by_one = (value for key, value in step.figures.items() if key.startswith("criterion at"))
    assert "taken" not in step.figures or by_one < by_choice
    analog_outputs = keras.tree.flatten(model(x))

    def distance(result):
        outputs = keras.tree.flatten(result.model(x))
        return sum(
            float(np.square(analog - compressed).sum() / np.square(analog).sum())
            for analog, compressed in zip(analog_outputs, outputs, strict=True)
        )

    allocated = distance(kc.quantize(model, kc.GPFQ(), x, overrides=allocation))
    assert allocated == pytest.approx(min(by_choice, by_one), rel=1e-3)


def test_the_report_names_the_criterion(model, samples):
    allocation = kc.allocate(model, samples, average_bits=3, widths=(2, 3, 4))
    assert allocation.criterion == "distance of the network's outputs"
    assert allocation.criterion in str(allocation) and str(allocation) == str(allocation.report)
    step = allocation.report.steps[-1]
    assert step.technique == "allocate"
    assert {row.path: 2**row.effective_bits for row in step.rows} == pytest.approx(
        {path: quantizer.num_levels for path, quantizer in allocation.items()}
    )
    result = kc.quantize(model, kc.GPFQ(), samples, overrides=allocation)
    assert allocation.criterion in str(result.report)


@pytest.mark.slow
def test_a_loss_is_named_too(model, samples):
    allocation = kc.allocate(model, samples, average_bits=3, widths=(2, 3), loss=lambda network: 1.0)
    assert allocation.criterion == "loss of the network"


@pytest.mark.slow
def test_kernels_within_other_layers_and_lookups_are_weighed_too():
    tokens = keras.Input((7,), dtype="int32")
    embedded = keras.layers.Embedding(20, 8, name="table")(tokens)
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(embedded, embedded)
    pooled = keras.layers.GlobalAveragePooling1D()(attended)
    model = keras.Model(tokens, keras.layers.Dense(3, name="head")(pooled))
    x = np.random.default_rng(0).integers(0, 20, (40, 7))
    allocation = kc.allocate(model, x, average_bits=4)
    assert {"table", "head", "attention/query_dense"} <= set(allocation)


@pytest.mark.slow
def test_nothing_reaches_the_terminal(model, samples, capfd):
    for average in (2.5, 3, 4):
        kc.allocate(model, samples, average_bits=average)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Give average_bits, or budget in bytes. Received: neither"),
        ({"average_bits": 4, "budget": 10}, "Received: both"),
        ({"average_bits": 1.5}, "2 bits everywhere need"),
        ({"budget": "lots"}, "budget must be bytes, or text such as \"40KB\". Received: 'lots'"),
        ({"average_bits": 4, "widths": ()}, "widths must name at least one"),
        ({"average_bits": 4, "widths": (1, 2)}, "bits of Integer must be an integer from 2 to 16. Received: 1"),
        ({"average_bits": 4, "quantizer": "gpfq"}, "quantizer must be a quantizer"),
    ],
)
def test_bad_settings_are_one_clear_line(model, samples, settings, message):
    with pytest.raises(kc.InputError, match=message):
        kc.allocate(model, samples, **settings)
