import json
import os
import pathlib
import zipfile
from contextlib import nullcontext

import h5py
import keras
import numpy as np
import pytest

from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.bridge.loading import load_model
from keras_compress.errors import InputError, StorageError

L = keras.layers


def network() -> keras.Model:
    layers = [L.Conv2D(2, 3), L.BatchNormalization(), L.Flatten(), L.Dense(3)]
    return keras.Sequential([keras.Input((5, 5, 1)), *layers], name="network")


def save(model: keras.Model, path: pathlib.Path) -> pathlib.Path:
    if path.suffix == ".keras":
        model.save(path)
        return path
    # The legacy writer warns of itself, and the format must go on being read.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("absl.logging.warning", lambda *args: None)
        model.save(path)
    return path


def with_lambda() -> keras.Model:
    inner = keras.Sequential([keras.Input((3,)), L.Lambda(lambda x: x * 2, name="twice")], name="inner")
    return keras.Sequential([keras.Input((3,)), inner, L.Dense(2)])


def edit_configuration(path: pathlib.Path, replace: dict[str, str], metadata: str | None = None) -> pathlib.Path:
    """The same `.keras` file with other text in its configuration."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = members["config.json"].decode()
    for old, new in replace.items():
        assert old in text
        text = text.replace(old, new)
    members["config.json"] = text.encode()
    if metadata is not None:
        members["metadata.json"] = metadata.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=[".keras", ".h5", ".hdf5"])
def suffix(request) -> str:
    return request.param


def test_a_model_comes_back_uncompiled(tmp_path, suffix):
    model = network()
    model.compile("sgd", "mse")
    loaded = load_model(save(model, tmp_path / f"model{suffix}"))
    assert loaded.name == "network"
    assert not loaded.compiled
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_a_path_may_be_text(tmp_path):
    assert load_model(str(save(network(), tmp_path / "model.keras"))).name == "network"


def test_a_lambda_is_refused_before_anything_is_built(tmp_path, suffix, monkeypatch):
    path = save(with_lambda(), tmp_path / f"model{suffix}")
    monkeypatch.setattr(keras.saving, "load_model", lambda *args, **kwargs: pytest.fail("deserialized"))
    with pytest.raises(InputError, match=r"'twice'.*allow_lambda=True.*--allow_lambda"):
        load_model(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_can_be_allowed(tmp_path, suffix):
    model = with_lambda()
    loaded = load_model(save(model, tmp_path / f"model{suffix}"), allow_lambda=True)
    inputs = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def test_a_lambda_function_within_another_layer_is_refused_too(tmp_path):
    path = save(network(), tmp_path / "model.keras")
    function = '{"class_name": "__lambda__", "config": {"value": ["4wE=", null, null]}}'
    with pytest.raises(InputError, match=r"\(a lambda function\)"):
        load_model(edit_configuration(path, {'"activity_regularizer": null': f'"activity_regularizer": {function}'}))


def test_a_missing_file(tmp_path):
    with pytest.raises(StorageError, match=r"There is no model file .*none\.keras"):
        load_model(tmp_path / "none.keras")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = save(network(), tmp_path / "model.keras")
    path.chmod(0)
    with pytest.raises(StorageError, match="cannot be read"):
        load_model(path)


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"is a folder, and no SavedModel; a file NAME\.keras"):
        load_model(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"without keras_metadata.pb: it holds functions, and no Keras model"):
        load_model(tmp_path)
    (tmp_path / "keras_metadata.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(InputError, match=r"keras_metadata.pb' is damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.99])
def test_a_truncated_file(tmp_path, suffix, fraction):
    path = save(network(), tmp_path / f"model{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(InputError, match=r"damaged or cut off|cannot be loaded"):
        load_model(path)


def test_damaged_weights_in_a_whole_archive(tmp_path):
    path = save(network(), tmp_path / "model.keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["model.weights.h5"] = members["model.weights.h5"][:500]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"epoch,loss\n1,0.5\n", "neither a zip nor an HDF5 file"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00", "a TFLite model"),
    ],
)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_foreign_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"not a Keras model: .*{message}.*model.save"):
        load_model(tmp_path / name)


def test_a_foreign_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.keras", "w") as archive:
        archive.writestr("photo.png", b"")
    with pytest.raises(InputError, match="holds no model"):
        load_model(tmp_path / "photos.keras")


def test_weights_alone(tmp_path):
    network().save_weights(tmp_path / "network.weights.h5")
    with pytest.raises(InputError, match="holds no model, perhaps weights only"):
        load_model(tmp_path / "network.weights.h5")


def test_a_name_that_hides_the_format(tmp_path):
    path = save(network(), tmp_path / "model.keras").rename(tmp_path / "model.h5")
    with pytest.raises(InputError, match=r"holds the format of \.keras files.*Rename it to 'model\.keras'"):
        load_model(path)


class Doubled(L.Dense):
    """A class that Keras does not know, unless it is registered."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs)


class Wrapped(keras.Model):
    """A subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def half(inputs):
    return inputs / 2


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_an_unknown_layer_is_named(tmp_path, suffix):
    path = save(keras.Sequential([keras.Input((3,)), Doubled(2)]), tmp_path / f"model{suffix}")
    with pytest.raises(InputError, match=r"'Doubled', which Keras does not know.*register_keras_serializable"):
        load_model(path)
    with keras.saving.custom_object_scope({"Doubled": Doubled}):
        assert type(load_model(path).layers[0]) is Doubled


def test_an_unknown_function_is_named(tmp_path):
    path = save(keras.Sequential([keras.Input((3,)), L.Dense(2, activation=half)]), tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"'half', which Keras does not know"):
        load_model(path)


def test_an_unknown_model_class_is_named(tmp_path):
    model = Wrapped()
    model(np.ones((1, 3)))
    with pytest.raises(InputError, match=r"'Wrapped', which Keras does not know"):
        load_model(save(model, tmp_path / "model.keras"))


def test_a_layer_is_no_model(tmp_path):
    path = save(network(), tmp_path / "model.keras")
    layer = json.dumps(keras.saving.serialize_keras_object(L.Flatten()))
    with zipfile.ZipFile(path) as archive:
        whole = archive.read("config.json").decode()
    with pytest.raises(InputError, match=r"holds a Flatten, and a keras\.Model is expected"):
        load_model(edit_configuration(path, {whole: layer}))


# Keras 2


def network_2(**settings):
    tk = import_tf_keras()
    inputs = tk.Input((8, 8, 3), name="image/raw")
    x = tk.layers.DepthwiseConv2D(3, padding="same", name="block/depthwise")(inputs)
    x = tk.layers.ReLU(6.0)(tk.layers.BatchNormalization()(x)) + 0.5
    x = tk.layers.Dense(4, name="block/dense", **settings)(tk.layers.GlobalAveragePooling2D()(x))
    return randomized(tk.Model(inputs, x, name="network"))


def randomized(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 1, weight.shape))
    return model


def save_2(model, path):
    with pytest.warns(UserWarning, match="saving your model as an HDF5") if path.suffix == ".h5" else nullcontext():
        model.save(path, **({"save_format": "tf"} if not path.suffix else {}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.h5", "model.keras", "folder"])
def test_what_keras_2_wrote_becomes_a_keras_3_model(tmp_path, name):
    model = network_2()
    loaded = load_model(save_2(model, tmp_path / name))
    assert isinstance(loaded, keras.Model) and loaded.name == "network" and not loaded.compiled
    assert [each.name for each in loaded.layers][:2] == ["image_raw", "block_depthwise"]
    for weight, original in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), original.numpy())
    x = np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(loaded(x).numpy(), model(x).numpy(), atol=1e-5)
    loaded.save(tmp_path / "again.keras")
    assert load_model(tmp_path / "again.keras").count_params() == model.count_params()


def test_a_sequential_model_whose_configuration_is_a_list(tmp_path):
    """As Keras 2.1 wrote it."""
    tk = import_tf_keras()
    layers = [tk.layers.InputLayer((6, 6, 2), name="image"), tk.layers.Conv2D(3, 3), tk.layers.Flatten()]
    model = randomized(tk.Sequential([*layers, tk.layers.Dense(2, "softmax")]))
    path = save_2(model, tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        configuration = json.loads(file.attrs["model_config"])
        configuration["config"] = configuration["config"]["layers"]
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(configuration), "2.1.4"
    loaded = load_model(path)
    x = np.random.default_rng(1).normal(size=(3, 6, 6, 2)).astype("float32")
    assert isinstance(loaded, keras.Sequential)
    np.testing.assert_allclose(loaded(x).numpy(), model(x).numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.h5", "model.keras", "folder"])
def test_lambdas_of_keras_2_do_not_run(tmp_path, name):
    tk = import_tf_keras()
    inner = tk.Sequential([tk.layers.Lambda(lambda x: x + 1, name="inner")], name="sequential")
    inputs = tk.Input((3,))
    path = save_2(tk.Model(inputs, tk.layers.Dense(2)(inner(inputs))), tmp_path / name)
    with pytest.raises(InputError, match=r"has Lambda layers or lambda functions \('inner'\)"):
        load_model(path)
    with pytest.raises(InputError, match=r"Layer 'inner' of type Lambda .* cannot be looked into"):
        load_model(path, allow_lambda=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.h5", "model.keras", "folder"])
def test_what_keras_3_would_compute_otherwise_is_refused(tmp_path, name):
    """hard_sigmoid has other numbers in Keras 3, which reads it without a word."""
    path = save_2(network_2(activation="hard_sigmoid"), tmp_path / name)
    with pytest.raises(InputError, match=r"was written by Keras 2. Layer 'block/dense' .* activation 'hard_sigmoid'"):
        load_model(path)


def test_a_layer_of_keras_2_that_nobody_knows(tmp_path):
    path = save_2(network_2(), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        configuration = file.attrs["model_config"]
        file.attrs["model_config"] = configuration.replace('"class_name": "Dense"', '"class_name": "Nobodys"')
    with pytest.raises(InputError, match=r"uses 'Nobodys', which Keras does not know"):
        load_model(path)


def test_a_saved_model_without_its_variables(tmp_path):
    path = save_2(network_2(), tmp_path / "folder")
    for file in (path / "variables").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="tf_keras cannot rebuild it"):
        load_model(path)


def test_every_message_is_one_line(tmp_path):
    path = save(network(), tmp_path / "model.keras")
    path = edit_configuration(path, {'"filters": 2': '"filters": "two"'})
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlperf_ic_resnet8.h5", None),
        ("mlperf_kws_dscnn.keras", None),
        ("onepixel_cifar10_lenet.keras", None),
        ("mlperf_vww_mobilenet025.h5", None),
        ("onepixel_cifar10_lenet_keras2.h5", None),
        ("mlperf_ic_resnet8_int8.tflite", "a TFLite model"),
    ],
)
def test_networks_of_others(name, message, data_file):
    path = data_file(f"models/{name}")
    if message is None:
        assert load_model(path).count_params() > 20_000
    else:
        with pytest.raises(InputError, match=message):
            load_model(path)
