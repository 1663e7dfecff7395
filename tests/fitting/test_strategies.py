"""Training under tf.distribute: two workers on one machine give the weights that one process gives."""

import types

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.fitting.strategies import strategy_of, task_of
from tests import workers

TRAINING = """
import sys
from keras_compress.fitting.strategies import strategy_of
strategy = strategy_of(sys.argv[1])
import keras, numpy as np
import keras_compress as kc

keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((6, 6, 1)),
    keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
    keras.layers.Flatten(),
    keras.layers.Dense(16, name="hidden"),
    keras.layers.ReLU(),
    keras.layers.Dense(4, activation="softmax", name="head"),
])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(96, 6, 6, 1)).astype("float32"), rng.integers(0, 4, 96)
settings = {"training": kc.Training(2, 16, strategy=strategy, verbose=0), "validation": (x, y)}
pruned = kc.prune_magnitude(model, (x, y), schedule=kc.ConstantSparsity(0.5), **settings)
clustered = kc.cluster_weights(model, (x, y), number_of_clusters=4, **settings)
trained = kc.quantization_aware_training(pruned, (x, y), bits=4, **settings)
results = pruned, clustered, trained
losses = [result.report.steps[-1].figures["validation loss after"] for result in results]
weights = [weight for result in results for weight in result.model.get_weights()]
ranges = [layer.scale for layer in trained.model.layers if hasattr(layer, "zero_point")]
np.savez(sys.argv[2], *weights, losses=losses, ranges=ranges)
"""


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_two_workers_give_what_one_process_gives(tmp_path):
    done = workers.finish(workers.start(lambda index: ["-c", TRAINING, "multiworker", tmp_path / f"worker{index}"]))
    assert [code for code, _, _ in done] == [0, 0], done
    (alone,) = workers.finish(workers.start(lambda index: ["-c", TRAINING, "none", tmp_path / "alone"], count=1))
    assert alone[0] == 0, alone
    first, second, single = (np.load(tmp_path / f"{name}.npz") for name in ("worker0", "worker1", "alone"))
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name])
    for number in range(12):  # pruned and clustered: sums in another order
        np.testing.assert_allclose(first[f"arr_{number}"], single[f"arr_{number}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(first["ranges"], single["ranges"], rtol=1e-4)  # extremes of whole batches
    for number in range(12, 18):  # codes of 4 bits: a weight at a tie may go the other way
        weights, expected = first[f"arr_{number}"], single[f"arr_{number}"]
        assert np.isclose(weights, expected, rtol=0, atol=1e-3).mean() > 0.98
    assert all((first[f"arr_{number}"] == 0).mean() >= 0.5 for number in (12, 14, 16))
    np.testing.assert_allclose(first["losses"], single["losses"], atol=0.02)


DEVICES = """
import sys
import tensorflow as tf
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
sys.argv[1] = "mirrored"
tf.distribute.MirroredStrategy = lambda made=tf.distribute.MirroredStrategy: made(["CPU:0", "CPU:1"])
"""


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_two_devices_give_what_one_gives(tmp_path):
    for name, code in (("two", DEVICES + TRAINING), ("one", TRAINING)):
        (done,) = workers.finish(workers.start(lambda i, n=name, c=code: ["-c", c, "none", tmp_path / n], count=1))
        assert done[0] == 0, done
    two, one = (np.load(tmp_path / f"{name}.npz") for name in ("two", "one"))
    for number in range(12):
        np.testing.assert_allclose(two[f"arr_{number}"], one[f"arr_{number}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(two["ranges"], one["ranges"], rtol=1e-4)


def test_workers_without_tf_config_are_refused(monkeypatch):
    for value in (None, "{", "{}", '{"cluster": {"worker": []}, "task": {"index": 0}}'):
        monkeypatch.delenv("TF_CONFIG", raising=False)
        if value is not None:
            monkeypatch.setenv("TF_CONFIG", value)
        with pytest.raises(kc.InputError, match="needs the variable TF_CONFIG"):
            strategy_of("multiworker")
    with pytest.raises(kc.InputError, match="strategy must be one of none, mirrored, multiworker"):
        strategy_of("many")


def test_one_process_is_the_first_worker():
    assert strategy_of("none") is None
    mirrored = strategy_of("mirrored")
    assert isinstance(mirrored, tf.distribute.MirroredStrategy)
    assert task_of(None) == task_of(mirrored) == 0


@pytest.mark.parametrize("kind, index, number", [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_a_chief_is_the_first_worker(kind, index, number):
    cluster = tf.train.ClusterSpec({"chief": ["a:1"], "worker": ["b:1", "c:1"]})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, task_type=kind, task_id=index)
    assert task_of(types.SimpleNamespace(cluster_resolver=resolver)) == number
