"""Training under tf.distribute: two workers on one machine give the weights that one process gives."""

import types

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.bridge.strategies import strategy_of, task_of
from tests import workers

TRAINING = """
import sys
from keras_compress.bridge.strategies import strategy_of
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
settings = {"epochs": 2, "batch_size": 16, "strategy": strategy, "validation": (x, y)}
pruned = kc.prune_magnitude(model, (x, y), schedule=kc.ConstantSparsity(0.5), **settings)
trained = kc.quantization_aware_training(pruned, (x, y), tflite=sys.argv[2] + ".tflite", **settings)
losses = [result.report.steps[-1].figures["validation loss after"] for result in (pruned, trained)]
np.savez(sys.argv[2], *pruned.model.get_weights(), *trained.model.get_weights(), losses=losses)
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
    for number in range(6):  # pruned: sums in another order
        np.testing.assert_allclose(first[f"arr_{number}"], single[f"arr_{number}"], rtol=0, atol=1e-5)
    # quantization-aware training: ranges of activations are means of both halves of a batch
    assert (np.abs(first["losses"] - single["losses"]) <= [1e-5, 0.02]).all()
    assert all((first[f"arr_{number}"] == 0).mean() >= 0.5 for number in (6, 8, 10))
    sizes = [(tmp_path / f"{name}.tflite").stat().st_size for name in ("worker0", "worker1", "alone")]
    assert sizes[0] == sizes[1] and abs(sizes[0] - sizes[2]) < 200  # of descriptions


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
