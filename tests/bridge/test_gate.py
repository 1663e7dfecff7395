"""What the gate lets pass, and what it refuses by name."""

import json

import keras
import numpy as np
import pytest

from keras_compress.bridge import allowed, gate
from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.bridge.loading import load_model
from keras_compress.errors import InputError
from tests.hardening import hostile

L = keras.layers


def test_every_allowed_layer_is_one_of_keras():
    tk = import_tf_keras()
    for name in (*allowed.LAYERS, *allowed.ONLY_KERAS_3, *allowed.ONLY_KERAS_2):
        if name != "GroupedQueryAttention":  # as files name GroupQueryAttention
            assert isinstance(getattr(L, name, None) or getattr(tk.layers, name), type), name


@pytest.mark.parametrize(
    "name",
    ["Lambda", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "Wrapper", "Map", "WhileLoop", "Cond",
     "VectorizedMap", "Scan", "ResidualWrapper", "DenseFeatures", "ClassMethod", "TensorFlowOpLayer", "__lambda__",
     "__typespec__", "TypeSpec", "CompositeTensor"],
)  # fmt: skip
def test_what_calls_code_is_on_no_list(name):
    assert name not in allowed.CLASSES and name not in allowed.FUNCTIONS


def test_a_large_network_of_keras_passes():
    with keras.device("cpu"):
        inputs = keras.Input((32, 32, 3))
        x = L.Conv2D(4, 3, activation="gelu", kernel_regularizer="l2", kernel_constraint="max_norm")(inputs)
        x = L.BatchNormalization(dtype="mixed_float16")(x)
        x = keras.ops.concatenate([x * 2, keras.ops.split(x, 2, axis=-1)[0]], axis=-1)
        x = L.TimeDistributed(L.Dense(3, kernel_initializer=keras.initializers.HeNormal(seed=1)))(x[:, 1:, ::2])
        x = L.Bidirectional(L.RNN(L.StackedRNNCells([L.LSTMCell(2), L.GRUCell(2)])))(L.Reshape((-1, 3))(x))
        inner = keras.Sequential([keras.Input((4,)), L.Dense(2), L.Dropout(0.1)])
        inner.compile("adam", "mse", metrics=["accuracy", keras.metrics.AUC()])
        model = keras.Model(inputs, L.Activation("softmax")(inner(x)))
    gate.check(json.loads(model.to_json()), "model.keras")


def test_a_network_with_operations_of_keras_2_passes():
    tk = import_tf_keras()
    import tensorflow as tf

    inputs = tk.Input((8, 8, 2))
    x = tf.concat([inputs * 2.0, tf.cast(tf.cast(inputs, "int32"), "float32")], axis=-1)[:, 1:, ..., :3]
    x = tf.nn.relu(1.0 - tf.reduce_mean(x, axis=[1, 2]) + np.ones(3, "float32"))
    model = tk.Model(inputs, tk.layers.Dense(2)(x))
    gate.check(json.loads(model.to_json()), "model.h5")


def test_a_class_of_the_users_own_passes_while_it_is_registered():
    config = hostile.sequential(hostile.plain("Mine", "mine", units=2))
    with pytest.raises(InputError, match="'Mine', which Keras does not know"):
        gate.check(config, "model.h5")
    with keras.saving.custom_object_scope({"Mine": L.Dense}):
        gate.check(config, "model.h5")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (hostile.sequential(hostile.plain("TFSMLayer", filepath="x")), "class 'TFSMLayer', which is not on the list"),
        (hostile.sequential(hostile.plain("StringLookup", vocabulary="/etc/passwd")), "vocabulary is the path"),
        (hostile.sequential(hostile.plain("Dense", units=2, activation="exec")), "activation is 'exec'"),
        (hostile.sequential(hostile.plain("Dense", units=1 << 80)), "an integer of more than 62 bits"),
        (hostile.model(hostile.tf_op("math.add", 1.0, y=2.0)), "called without a tensor of the model"),
        (
            hostile.model(hostile.layer("TFOpLambda", "op", [[["in", 0, 0, {"y": "text"}]]], function="math.add")),
            "gets the text 'text' as y",
        ),
        ({"class_name": "Sequential", "module": "os", "config": {}}, "in the module 'os'"),
    ],
)  # fmt: skip
def test_the_message_names_what_is_refused(config, message):
    with pytest.raises(InputError, match=rf"refused: .*{message}.*allow_lambda=True") as caught:
        gate.check(config, "model.h5")
    assert "\n" not in str(caught.value)
    if "62 bits" not in message:
        gate.check(config, "model.h5", allow_lambda=True)


def test_trust_does_not_lift_the_limits_of_size(tmp_path):
    path = hostile.keras(tmp_path, hostile.sequential_3(hostile.keras_3("Dense", units=hostile.HUGE)), "3.8.0")
    with pytest.raises(InputError, match=r"at least 2,000,000,000 weights in 1 arrays, and the file has 0 in 0"):
        load_model(path, allow_lambda=True)


def test_the_state_of_a_random_generator_need_not_be_in_the_file(tmp_path):
    model = keras.Sequential([keras.Input((3,)), L.Dropout(0.5), L.GaussianNoise(0.1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("absl.logging.warning", lambda *args: None)  # of the format
        model.save(tmp_path / "model.h5")
    assert len(load_model(tmp_path / "model.h5").layers) == 2
