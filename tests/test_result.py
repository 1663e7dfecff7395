"""A result is a model and the very integers behind it, on disk too."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.rewrite import Change, clone_model, rebuild
from keras_compress.report import LayerRow, Step
from keras_compress.result.saving import FORMAT_VERSION
from tests import architectures

L = keras.layers
Kernel = kc.QuantizedKernel


def kernel(shape=(4, 3), axis=-1, rng=None):
    rng = rng or np.random.default_rng(0)
    return Kernel(rng.integers(-3, 4, shape).astype(np.int8), np.arange(-3, 4), rng.uniform(0.1, 1, shape[axis]), axis)


@pytest.fixture
def result():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="one"), L.Dense(2, name="two")])
    quantized = kernel()
    model.get_layer("one").kernel.assign(quantized.decode())
    report = kc.Report().extended(  # a report is continued, never changed
        Step("quantize", {"seed": 0}, [LayerRow("one", "Dense", "quantized", effective_bits=2.8)], {"seconds": 0.5})
    )
    return kc.Result(model, {"one": kc.VariableState(quantized, quantized.codes != 0)}, report)


# Kernels


@pytest.mark.parametrize("axis", [0, 1, -1, 2])
def test_decoding_is_one_product_along_the_axis(rng, axis):
    quantized = kernel((4, 3, 5), axis, rng)
    expected = np.moveaxis(np.moveaxis(quantized.codes, axis, -1).astype(np.float32) * quantized.scale, -1, axis)
    np.testing.assert_array_equal(quantized.decode(), expected)
    assert quantized.decode().dtype == np.float32


def test_one_scale_may_serve_all_channels():
    quantized = Kernel(np.array([[1, -1]]), np.array([-1, 0, 1]), np.array([0.5]), 1)
    np.testing.assert_array_equal(quantized.decode(), [[0.5, -0.5]])
    assert 2**quantized.effective_bits == pytest.approx(3)


BAD_KERNELS = {
    "float_codes": ({"codes": np.zeros((4, 3))}, "must be integers"),
    "float_levels": ({"levels": np.arange(-3.0, 4.0)}, "must be integers"),
    "one_level": ({"levels": np.array([0])}, "strictly increasing"),
    "falling_levels": ({"levels": np.arange(3, -4, -1)}, "strictly increasing"),
    "scale_of_another_length": ({"scale": np.ones(2)}, "one entry, or one along axis"),
    "axis_beyond_the_shape": ({"axis": 2}, "axis must be among the axes"),
    "rows_of_scales_without_groups": ({"scale": np.ones((2, 3))}, "one entry, or one along axis"),
    "groups_that_are_too_few": ({"scale": np.ones((1, 3)), "group_size": 1}, "a row of them for each group of 1"),
    "nan_scale": ({"scale": np.array([1, np.nan, 1])}, "must be finite"),
    "strange_codes": ({"levels": np.array([-1, 0, 1])}, "must be one of the levels"),
}


@pytest.mark.parametrize("case", BAD_KERNELS)
def test_a_kernel_is_checked_when_it_is_made(case):
    changes, message = BAD_KERNELS[case]
    with pytest.raises(kc.InputError, match=message):
        dataclasses.replace(kernel(), **changes)


# Results


def test_a_model_is_a_result_to_which_nothing_was_done(result):
    fresh = kc.Result.of(result.model)
    assert fresh.model is result.model
    assert (fresh.kernels, fresh.masks, fresh.report.steps) == ({}, {}, ())
    assert kc.Result.of(result) is result


@pytest.mark.parametrize("other", ["model.keras", None, np.zeros(3), keras.layers.Dense(3)])
def test_what_is_neither_model_nor_result_is_an_error(other):
    with pytest.raises(kc.InputError, match=rf"is expected. Received: [\w.]*{type(other).__name__}"):
        kc.Result.of(other)


def test_weights_must_be_the_decoded_codes(result):
    layer = result.model.get_layer("one")
    value = layer.kernel.numpy()
    value[0, 0] = np.nextafter(value[0, 0], np.float32(9))
    layer.kernel.assign(value)
    with pytest.raises(kc.InputError, match="'one' differs from its codes"):
        kc.Result.of(result)


def test_codes_of_a_layer_that_is_not_there_are_an_error(result):
    with pytest.raises(kc.InputError, match="'three', which its model does not have"):
        kc.Result.of(dataclasses.replace(result, states={"three": kc.VariableState(kernel())}))


# Files


def assert_equal(first, second):
    assert first.report == second.report
    assert (first.kernels.keys(), first.masks.keys()) == (second.kernels.keys(), second.masks.keys())
    for path, quantized in first.kernels.items():
        for field in dataclasses.fields(quantized):
            value, other = getattr(quantized, field.name), getattr(second.kernels[path], field.name)
            np.testing.assert_array_equal(value, other)
            assert np.asarray(value).dtype == np.asarray(other).dtype
    for path, mask in first.masks.items():
        np.testing.assert_array_equal(mask, second.masks[path])
    for weight, other in zip(first.model.weights, second.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


@pytest.mark.parametrize("name", ["small", "small.keras", "a/new/folder/small", "with.dots-3.5"])
def test_a_result_comes_back_from_its_three_files(result, tmp_path, name):
    result.save(tmp_path / name)
    folder = (tmp_path / name).parent
    stem = (tmp_path / name).name.removesuffix(".keras")
    assert sorted(os.listdir(folder)) == sorted([stem + ".keras", stem + ".codes.npz", stem + ".json"])
    assert_equal(result, kc.load_result(tmp_path / name))


def test_paths_of_nested_layers_come_back(tmp_path, rng):
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3, name="one")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner], name="outer")
    quantized = kernel()
    inner.get_layer("one").kernel.assign(quantized.decode())
    nested = kc.Result(model, {"inner/one": kc.VariableState(quantized, quantized.codes != 0)})
    nested.save(tmp_path / "nested")
    assert_equal(nested, kc.load_result(tmp_path / "nested"))


def test_a_result_without_codes_comes_back(result, tmp_path):
    bare = kc.Result(result.model)
    bare.save(tmp_path / "bare")
    assert_equal(bare, kc.load_result(tmp_path / "bare"))


def test_saving_again_replaces_the_files(result, tmp_path):
    kc.Result(result.model).save(tmp_path / "small")
    result.save(tmp_path / "small")
    assert_equal(result, kc.load_result(tmp_path / "small"))
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("suffix", [".keras", ".codes.npz", ".json"])
def test_a_missing_file_is_named(result, tmp_path, suffix):
    result.save(tmp_path / "small")
    (tmp_path / f"small{suffix}").unlink()
    with pytest.raises(kc.StorageError, match=f"There is no file .*small{suffix}"):
        kc.load_result(tmp_path / "small")


@pytest.mark.parametrize("suffix", [".keras", ".codes.npz", ".json"])
@pytest.mark.parametrize("content", [b"", b"not ours", "half"])
def test_a_damaged_file_is_an_error(result, tmp_path, suffix, content):
    result.save(tmp_path / "small")
    path = tmp_path / f"small{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(kc.UserError) as raised:
        kc.load_result(tmp_path / "small")
    assert "\n" not in str(raised.value)


def test_codes_of_another_model_are_an_error(result, tmp_path):
    result.save(tmp_path / "small")
    other = keras.Sequential([keras.Input((4,)), L.Dense(3, name="one"), L.Dense(2, name="two")])
    other.save(tmp_path / "small.keras")
    with pytest.raises(kc.InputError, match="differs from its codes"):
        kc.load_result(tmp_path / "small")


@pytest.mark.parametrize(("newer", "what_to_do"), [(1, "Update it"), (-1, "Quantize again")])
def test_another_format_is_an_error(result, tmp_path, newer, what_to_do):
    result.save(tmp_path / "small")
    path = tmp_path / "small.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": FORMAT_VERSION + newer}))
    with pytest.raises(kc.InputError, match=rf"Expected format {FORMAT_VERSION}\. Received: .*{what_to_do}"):
        kc.load_result(tmp_path / "small")


def test_a_json_of_something_else_is_an_error(result, tmp_path):
    result.save(tmp_path / "small")
    (tmp_path / "small.json").write_text("[1, 2]")
    with pytest.raises(kc.InputError, match="damaged or not ours"):
        kc.load_result(tmp_path / "small")


def test_a_folder_that_cannot_be_made_is_an_error(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(kc.StorageError, match="cannot be written to"):
        result.save(tmp_path / "file" / "small")


def test_lambda_layers_are_refused_unless_allowed(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="one"), L.Lambda(lambda x: x + 1, output_shape=(3,))])
    kc.Result(model).save(tmp_path / "small")
    with pytest.raises(kc.InputError, match="allow_lambda"):
        kc.load_result(tmp_path / "small")
    assert kc.load_result(tmp_path / "small", allow_lambda=True).model.count_params() == model.count_params()


# What takes a model takes a result


def test_a_result_is_taken_wherever_its_model_is():
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
    y = np.argmax(model.predict(x, verbose=0), axis=1)
    result = kc.quantize(model, kc.MSQ(3))
    assert kc.evaluate(result, x, y) == kc.evaluate(result.model, x, y)
    assert kc.measure(result).parameters == kc.measure(result.model).parameters
    with kc.Calibration(result, x) as calibration:
        assert calibration.model is result.model
        again = kc.quantize(result, kc.GPFQ(4), calibration)
    assert set(again.kernels) == set(result.kernels)
    with pytest.raises(kc.InputError, match=r"Received: builtins.str"):
        kc.evaluate("model.keras", x, y)


@pytest.mark.slow
def test_a_result_converts_to_tf_keras():
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    result = kc.quantize(keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]), kc.MSQ(3))
    np.testing.assert_allclose(kc.to_tf_keras(result)(x), result.model.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


# What is known of variables, and what follows a technique


def state_of(values):
    """Codes, a mask and clusters of an array that lies on a grid of halves."""
    codes = np.rint(2 * values).astype(np.int8)
    quantized = Kernel(codes, np.arange(-8, 9), np.full(values.shape[-1], 0.5), -1)
    return kc.VariableState(quantized, codes != 0, codes.astype(int) + 8)


@pytest.fixture
def known(rng):
    """A result whose two kernels have codes, masks and clusters."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, name="one"), L.Dense(5, name="two")])
    states = {}
    for name in ("one", "two"):
        values = rng.integers(-3, 4, model.get_layer(name).kernel.shape) / 2
        model.get_layer(name).kernel.assign(values)
        states[name] = state_of(values)
    return kc.Result(model, states)


def step():
    return Step("technique", {})


def test_all_that_holds_is_carried(known):
    done = step()
    after = known.after(clone_model(known.model), done)
    assert after.states == known.states and "dropped" not in done.figures
    assert after.report.steps == (done,) and known.report.steps == ()


def test_what_no_longer_holds_goes_and_the_step_says_why(known):
    model, done = clone_model(known.model), step()
    kernel = model.get_layer("one").kernel
    kernel.assign(np.asarray(kernel) + np.float32(0.25))
    after = known.after(model, done)
    assert after.states["one"].parts() == ["clusters"]  # equal weights are still equal
    assert after.states["two"].parts() == ["codes", "mask", "clusters"]
    assert done.figures["dropped"] == "codes of 1 kernel: weights changed; masks of 1 kernel: zeros were not kept"


def test_what_a_technique_found_is_in_place_of_those_parts_alone(known):
    mask = np.zeros((4, 6), bool)
    model, done = clone_model(known.model), step()
    model.get_layer("one").kernel.assign(np.zeros((4, 6)))
    after = known.after(model, done, changed={"one": kc.VariableState(mask=mask)})
    assert after.states["one"].mask is mask
    assert after.states["one"].parts() == ["mask", "clusters"]
    with pytest.raises(AssertionError, match="one is not as it says"):
        known.after(known.model, step(), changed={"one": kc.VariableState(mask=mask)})


def test_states_follow_kernels_that_move_and_leave_with_those_that_go(known):
    chain = Change([L.Dense(4, use_bias=False, name="thin"), L.Dense(6, name="one")])
    moved = Change([L.Dense(5, name="other")])
    rewrite, done = rebuild(known.model, {"one": chain, "two": moved}), step()
    after = known.after(rewrite.model, done, rewrite=rewrite)
    assert after.states == {"other": known.states["two"]}
    assert done.figures["dropped"] == "states of 1 kernel: their layers are gone"
    alone = keras.Sequential([keras.Input((4,)), L.Dense(6, name="new")])
    gone = step()
    assert not known.after(alone, gone).states
    assert gone.figures["dropped"].startswith("codes of 2 kernels: their layers are gone")


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_states_are_sliced_as_arrays_are(known, axis):
    positions = [0, 2, 3]
    state = known.states["one"]
    part = state.sliced(np.array(positions), axis)
    values = np.take(np.asarray(known.model.get_layer("one").kernel), positions, axis)
    assert not part.broken(values)
    assert part.parts() == ["codes", "mask", "clusters"]


def test_slices_of_asymmetric_codes_have_their_own_zero_points(rng):
    quantized = Kernel(
        rng.integers(0, 4, (6, 3, 2)), np.arange(4), rng.uniform(1, 2, (3, 2)), (1, 2), rng.integers(0, 4, (3, 2))
    )
    part = quantized.taken(np.array([2, 0]), 1)
    np.testing.assert_array_equal(part.decode(), quantized.decode()[:, [2, 0]])
    part = quantized.taken(np.array([1]), -1)
    np.testing.assert_array_equal(part.decode(), quantized.decode()[..., [1]])
    grouped = Kernel(rng.integers(0, 4, (6, 3)), np.arange(4), rng.uniform(1, 2, (3, 3)), 1, group_size=2)
    np.testing.assert_array_equal(grouped.taken(np.array([0, 2]), 1).decode(), grouped.decode()[:, [0, 2]])
    with pytest.raises(kc.InputError, match="Groups of 2 features share scales"):
        grouped.taken(np.array([0]), 0)


def test_states_are_scaled_with_their_channels(known):
    factor = np.array([1, -2, 0.5, 4, -1, 2])
    state = known.states["one"].scaled(factor, "one")
    values = np.asarray(known.model.get_layer("one").kernel) * factor
    assert list(state.broken(values.astype(np.float32))) == ["clusters"]
    assert state.updated(kc.VariableState(clusters=np.zeros((4, 6), int))).parts() == ["codes", "mask", "clusters"]


def test_it_prints_in_a_line(known):
    assert repr(known) == str(known)
    assert str(known).startswith("Result(model 'sequential") and str(known).endswith(
        "codes of 2 kernels, masks of 2 kernels, clusters of 2 kernels; steps: none)"
    )
    assert str(kc.Result(known.model)).endswith("nothing known of its weights; steps: none)")
    assert repr(known.kernels["one"]) == "QuantizedKernel(<(4, 6), 17 levels from -8 to 8, 6 scales>)"
    assert repr(known.states["one"]).startswith("VariableState(codes=QuantizedKernel(<(4, 6), 17 levels")
    assert "% zeros>, clusters=<" in repr(known.states["one"])


# BatchNorm behind codes


ALPHABETS = {
    "2 bits": kc.Integer(2), "full": kc.Integer(4, narrow_range=False), "ternary": kc.Ternary(),
    "3 bits": kc.Integer(3), "asymmetric": kc.Integer(3, symmetric=False), "even": kc.Equispaced(2),
    "midtread": kc.Midtread(2),
}  # fmt: skip


def with_negative_gammas():
    model = architectures.build("cnn")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(np.where(np.arange(layer.gamma.shape[0]) % 2, -1, 1) * layer.gamma)
    return model


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_folding_codes_is_exact_or_the_batch_normalization_stays_and_says_why(alphabet):
    model = with_negative_gammas()
    result = kc.quantize(model, kc.MSQ(alphabet=ALPHABETS[alphabet]))
    folded = kc.fold_batch_normalization(result)
    x = architectures.samples(model, 9)
    np.testing.assert_allclose(folded.model(x), result.model(x), rtol=1e-4, atol=1e-5)
    folded.check()
    assert folded.kernels.keys() == result.kernels.keys()
    turned = result.kernels["conv3"].codes[..., 1::2]
    exact = ALPHABETS[alphabet].symmetric and not set(-turned.ravel()) - set(ALPHABETS[alphabet].levels_array)
    assert exact == (alphabet not in ("2 bits", "full", "asymmetric"))
    (row,) = (row for row in folded.report.steps[-1].rows if row.path == "norm")
    assert row.action == ("folded" if exact else "kept") and ("fold before quantizing" in row.reason) == (not exact)


def test_codes_that_do_not_use_the_odd_level_are_turned():
    levels = np.arange(-2, 2)
    kernel = kc.QuantizedKernel(np.array([[1, -2], [-1, 0]]), levels, np.ones(2, np.float32), 1)
    assert kernel.multiplied(np.array([-2.0, 1.0]), "dense").codes.tolist() == [[-1, -2], [1, 0]]
    with pytest.raises(kc.InputError, match="do not hold its codes with other signs"):
        kernel.multiplied(np.array([1.0, -1.0]), "dense")
