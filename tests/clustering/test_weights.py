"""Clustered kernels: a few shared values, that stay few in quantization-aware training."""

import gzip

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.kernels import views_by_path
from tests.pictures import Kill, Killed
from tests.trainings import fitted

pytestmark = pytest.mark.slow  # every test trains
L = keras.layers


def network():
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            L.DepthwiseConv2D(3, padding="same", name="depthwise"),
            L.ReLU(),
            L.Conv2D(16, 1, name="pointwise"),
        ],
        name="inner",
    )
    inputs = keras.Input((6, 6, 1), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="first")(inputs)
    gamma = keras.initializers.RandomUniform(-1, 1, seed=3)
    x = inner(L.ReLU()(L.BatchNormalization(gamma_initializer=gamma, name="norm")(x)))
    x = L.Dense(16, "relu", name="hidden")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(4, name="head")(x), name="network")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return network()


def cluster(model, data, **settings):
    settings = {"epochs": 2, "batch_size": 25, "number_of_clusters": 8} | settings
    return fitted(kc.cluster_weights, model, data, **settings)


def test_kernels_have_a_few_values_and_the_model_is_the_same_otherwise(model, data, tmp_path):
    before = [weight.numpy() for weight in model.weights]
    result = cluster(model, data, validation=data, optimizer=keras.optimizers.Adam(0.01), epochs=8)
    for weight, expected in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)
    assert type(result.model) is type(model) and result.model.output_names == model.output_names
    assert set(result.clusters) == {"first", "inner/depthwise", "inner/pointwise", "hidden", "head"}
    for path, view in views_by_path(result.model).items():
        numbers = result.clusters[path]
        assert len(np.unique(view.kernel)) <= 8, path
        for number in np.unique(numbers):
            assert len(np.unique(view.kernel[numbers == number])) == 1
    figures = result.report.steps[-1].figures
    assert figures["validation loss after"] < figures["validation loss before"]  # it learns
    assert figures["validation accuracy after"] == pytest.approx(kc.evaluate(result.model, *data).top1)
    assert figures["gzipped bytes"] < 0.4 * figures["gzipped bytes before"]
    assert "clustered" in str(result.report)
    result.save(tmp_path / "clustered")
    loaded = kc.load_result(tmp_path / "clustered")
    for path, numbers in result.clusters.items():
        np.testing.assert_array_equal(loaded.clusters[path], numbers)


def test_one_shared_value_takes_the_mean_step(data):
    """Plain gradient descent on a kernel of one cluster is descent along the mean of its gradients."""
    model = keras.Sequential([keras.Input((6, 6, 1)), L.Flatten(), L.Dense(4, use_bias=False, name="head")])
    model.get_layer("head").kernel.assign(np.full((36, 4), 0.1, np.float32))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result = cluster(model, data, loss=loss, batch_size=200, epochs=1, optimizer=keras.optimizers.SGD(0.5))
    inputs = data[0].reshape(200, 36)
    scores = np.exp(inputs @ np.full((36, 4), 0.1))
    errors = scores / scores.sum(axis=1, keepdims=True) - np.eye(4)[data[1]]
    gradient = inputs.T @ errors / 200
    expected = 0.1 - 0.5 * gradient.mean()
    np.testing.assert_allclose(result.model.get_layer("head").kernel.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.sampled(1)
def test_rounding_keeps_them_few(model, data, tmp_path, bits):
    clustered = cluster(model, data)
    rounded = fitted(kc.quantization_aware_training, clustered, data, bits=bits, epochs=2, batch_size=25)
    alone = fitted(kc.quantization_aware_training, model, data, bits=bits, epochs=2, batch_size=25)
    for path, kernel in rounded.kernels.items():
        # A BatchNorm with a negative gamma turns the sign of its channel's codes.
        assert len(np.unique(np.abs(kernel.codes) if path == "first" else kernel.codes)) <= 8, path
    sizes = []
    for name, result in (("rounded", rounded), ("alone", alone)):
        kc.export_tflite(result, tmp_path / f"{name}.tflite", activations="int8", storage="small")
        sizes.append(len(gzip.compress((tmp_path / f"{name}.tflite").read_bytes())))
    assert sizes[0] < sizes[1] if bits == 8 else sizes[0] < 1.02 * sizes[1]


def test_zeros_of_pruning_stay_through_both(model, data):
    pruned = fitted(kc.prune_magnitude, model, data, epochs=2, batch_size=25, schedule=kc.ConstantSparsity(0.6))
    clustered = cluster(pruned, data)
    rounded = fitted(kc.quantization_aware_training, clustered, data, epochs=1, batch_size=25)
    for path, mask in pruned.masks.items():
        kernel = views_by_path(clustered.model)[path].kernel
        assert (kernel[~mask] == 0).all() and len(np.unique(kernel)) <= 8, path
        assert (rounded.kernels[path].codes[~mask] == 0).all(), path
    sizes = kc.compare_sizes(float=model, pruned=pruned, clustered=clustered, rounded=rounded)
    gzipped = [size.gzipped_bytes for size in sizes.steps.values()]
    assert gzipped[0] > gzipped[1] > gzipped[2] and "rounded" in str(sizes)


def test_a_killed_run_goes_on_to_the_same_weights(model, data, tmp_path):
    whole = cluster(model, data)
    with pytest.raises(Killed):
        cluster(model, data, checkpoint=tmp_path / "state", callbacks=[Kill(1, 4)])
    resumed = cluster(model, data, checkpoint=tmp_path / "state")
    for weight, expected in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy(), err_msg=weight.path)


def test_small_kernels_and_others_are_left_alone(model, data):
    result = cluster(model, data, number_of_clusters=16, layers=["hidden", "pointwise"])
    assert set(result.clusters) == {"hidden", "inner/pointwise"}
    assert result.report.row("first").reason == "it has fewer than 128 weights"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"number_of_clusters": 1}, "number_of_clusters must be an integer from 2"),
        ({"number_of_clusters": 257}, "number_of_clusters must be at most 256. Received: 257"),
        ({"number_of_clusters": 200, "layers": "head"}, "'head' matches no layer that can be clustered"),
        ({"epochs": 0}, "epochs must be an integer from 1"),
    ],
)
def test_bad_settings(model, data, settings, message):
    with pytest.raises(kc.InputError, match=message):
        cluster(model, data, **settings)
