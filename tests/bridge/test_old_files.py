"""Files that early versions of Keras 2 wrote, with other names and places than today."""

import io
import json
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from keras_compress.bridge import groups
from keras_compress.bridge.libraries import import_tf_keras
from keras_compress.bridge.loading import load_model
from keras_compress.errors import InputError
from tests.hardening import hostile

OLD = "_layer_checkpoint_dependencies"


def network():
    tk = import_tf_keras()
    tk.utils.set_random_seed(1)
    layers = tk.layers
    inner = tk.Sequential([layers.Input((3,)), layers.Dense(3, "relu"), layers.Dense(3)], name="inner")
    inputs = tk.Input((4,))
    x = layers.Dense(3, "relu")(inputs)
    x = layers.Dropout(0.5)(layers.BatchNormalization()(inner(x)))
    return tk.Model(inputs, layers.Dense(2)(layers.Dense(5)(x)), name="network")


def in_steps_of_two(path: str) -> str:
    """As Keras 2.13: each layer with weights is counted twice."""

    def twice(match: re.Match[str]) -> str:
        number = f"_{2 * int(match[2])}" if match[2] else ""
        return f"{OLD}/{match[1]}{number}"

    return re.sub(r"layers/([a-z_]+?)(?:_(\d+))?(?=/|$)", twice, path)


def in_steps_of_one(path: str) -> str:
    return re.sub(r"layers(?=/)", OLD, path)


def on_windows(path: str) -> str:
    return re.sub(r"/?layers/", lambda match: match[0].replace("/", "\\"), path)


def rewrite(source: pathlib.Path, target: pathlib.Path, change: Callable[[str], str]) -> None:
    """The same file with other names of groups."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".h5"):
                buffer = io.BytesIO()
                with h5py.File(io.BytesIO(content)) as old, h5py.File(buffer, "w") as new:
                    for place, values in datasets(old):
                        new.create_dataset(change(place), data=values)
                content = buffer.getvalue()
            copy.writestr(name, content)


def datasets(file: h5py.File) -> list[tuple[str, np.ndarray]]:
    arrays = []
    file.visititems(lambda name, place: arrays.append((name, place[()])) if isinstance(place, h5py.Dataset) else None)
    return arrays


@pytest.mark.parametrize(
    "change",
    [
        in_steps_of_two,
        in_steps_of_one,
        on_windows,
        lambda path: on_windows(path).replace("layers", OLD),
    ],
    ids=["2.13", "2.12", "windows", "windows, old names"],
)
def test_keras_files_of_keras_2_12_to_2_15(tmp_path, change):
    model = network()
    model.save(tmp_path / "new.keras")
    rewrite(tmp_path / "new.keras", tmp_path / "old.keras", change)
    loaded = load_model(tmp_path / "old.keras")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(loaded(x).numpy(), model(x).numpy(), atol=1e-5)
    for weight, original in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, original)


def test_a_layer_without_weights_counts_once_in_keras_2_13():
    """Layers of one class, the second without weights: 0 and 1, 2, 3 and 4."""
    places = [f"{OLD}/wrapper{number}/vars" for number in ("", "_2", "_3")]
    half, rank, same = groups.numberings([OLD])
    assert list(groups._new_paths(places, rank).values()) == [
        "layers/wrapper/vars", "layers/wrapper_1/vars", "layers/wrapper_2/vars",
    ]  # fmt: skip
    assert groups._new_paths(places, half) == groups._new_paths(places, rank)
    assert groups._new_paths(places, same)[places[1]] == "layers/wrapper_2/vars"


def as_of_tensorflow_2_4(folder: pathlib.Path) -> None:
    """Puts what Keras says of each object where it was until then."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tf_keras.protobuf.saved_metadata_pb2 import SavedMetadata

    program = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    for node in SavedMetadata.FromString((folder / "keras_metadata.pb").read_bytes()).nodes:
        target = program.meta_graphs[0].object_graph_def.nodes[node.node_id].user_object
        # TensorFlow has taken the field out of its definition; its number was 3.
        content = target.SerializeToString() + hostile.field(3, node.metadata.encode())
        target.ParseFromString(content)
    (folder / "saved_model.pb").write_bytes(program.SerializeToString())
    (folder / "keras_metadata.pb").unlink()


@pytest.mark.slow
def test_a_saved_model_of_tensorflow_2_4(tmp_path):
    model = network()
    model.save(tmp_path / "folder", save_format="tf")
    as_of_tensorflow_2_4(tmp_path / "folder")
    loaded = load_model(tmp_path / "folder")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(loaded(x).numpy(), model(x).numpy(), atol=1e-5)
    (index,) = (tmp_path / "folder/variables").glob("*.index")
    shutil.copy(index, tmp_path / "copy")
    index.unlink()
    index.symlink_to(tmp_path / "copy")
    with pytest.raises(InputError, match="is a symbolic link"):
        load_model(tmp_path / "folder")


def test_functions_alone_are_no_model(tmp_path):
    path = hostile.saved_of_old(tmp_path, {"class_name": "Sequential", "config": {}})
    (path / "saved_model.pb").write_bytes(hostile.field(2, hostile.field(7, hostile.field(1, b""))))
    with pytest.raises(InputError, match=r"without keras_metadata\.pb: it holds functions"):
        load_model(path)
    (path / "saved_model.pb").write_bytes(b"\x12\xff")
    with pytest.raises(InputError, match="is damaged"):
        load_model(path)


def test_the_metadata_of_an_old_saved_model_goes_through_the_gate(tmp_path):
    config = json.loads(json.dumps(hostile.removes(tmp_path)))
    with pytest.raises(InputError, match=r"calls tf\.io\.gfile\.remove"):
        load_model(hostile.saved_of_old(tmp_path, config))
