"""Files that mean harm, by name; `python -m tests.hardening.hostile FOLDER` writes them all.

Each is a few kilobytes, but for those that unpack to more. None of them has ever done more than to write a file
OWNED next to itself, to remove the file CANARY, or to ask for memory and time.
"""

import base64
import dataclasses
import io
import json
import marshal
import os
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

OWNED, CANARY = "OWNED", "CANARY"
KERAS_2, KERAS_3 = "2.15.0", "3.8.0"
HUGE = 500_000_000


@dataclasses.dataclass(frozen=True)
class Case:
    """One file, and how it is read.

    Attributes:
        write: puts it into an empty folder and returns its path.
        reader: of `readers.READERS`.
        gated: whether it must be refused before tf_keras is imported.
        fast: whether `make test` reads it too.
        refused: whether an error is expected.
    """

    write: Callable[[pathlib.Path], pathlib.Path]
    reader: str = "model"
    gated: bool = True
    fast: bool = False
    refused: bool = True


CASES: dict[str, Case] = {}


def case(name: str, **settings: Any) -> Callable[[Any], Any]:
    def add(write: Callable[[pathlib.Path], pathlib.Path]) -> Callable[[pathlib.Path], pathlib.Path]:
        assert name not in CASES, name
        CASES[name] = Case(write, **settings)
        return write

    return add


# Files of a configuration


def h5(folder: pathlib.Path, config: Any, version: str = KERAS_2, layers: list[str] | None = None) -> pathlib.Path:
    path = folder / "evil.h5"
    with h5py.File(path, "w") as file:
        text = config if isinstance(config, str) else json.dumps(config)
        if len(text) < 60_000:
            file.attrs["model_config"] = text
        else:
            file.attrs.create("model_config", text, dtype=h5py.string_dtype())
        file.attrs["keras_version"], file.attrs["backend"] = version, "tensorflow"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [name.encode() for name in layers or []]
        weights.attrs["backend"], weights.attrs["keras_version"] = "tensorflow", version
        for name in layers or []:
            weights.create_group(name).attrs["weight_names"] = []
    return path


def weights_file(**datasets: np.ndarray) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_group("layers")
        for name, values in datasets.items():
            file.create_dataset(f"layers/{name}/vars/0", data=values)
    return content.getvalue()


def keras(
    folder: pathlib.Path,
    config: Any,
    version: str = KERAS_2,
    *,
    metadata: str | None = None,
    weights: bytes | None = None,
    name: str = "evil.keras",
) -> pathlib.Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", metadata or json.dumps({"keras_version": version}))
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("model.weights.h5", weights if weights is not None else weights_file())
    return path


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""

    def varint(value: int) -> bytes:
        parts = b""
        while value > 127:
            parts, value = parts + bytes([value & 127 | 128]), value >> 7
        return parts + bytes([value])

    return varint(number << 3 | 2) + varint(len(content)) + content


def saved(folder: pathlib.Path, config: Any) -> pathlib.Path:
    path = folder / "evil"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    text = config if isinstance(config, str) else json.dumps(config)
    (path / "keras_metadata.pb").write_bytes(field(1, field(3, b"root") + field(5, text.encode())))
    return path


def saved_of_old(folder: pathlib.Path, config: Any) -> pathlib.Path:
    path = saved(folder, config)
    (path / "keras_metadata.pb").unlink()
    node = field(4, field(1, b"_tf_keras_network") + field(3, json.dumps(config).encode()))
    (path / "saved_model.pb").write_bytes(field(2, field(7, field(1, node))))
    return path


FORMATS = {"h5": h5, "keras": keras, "saved": saved, "saved_of_old": saved_of_old}


def layer(kind: str, name: str = "layer", nodes: Any = None, **settings: Any) -> dict[str, Any]:
    nodes = [[["in", 0, 0, {}]]] if nodes is None else nodes
    return {"class_name": kind, "name": name, "config": {"name": name, **settings}, "inbound_nodes": nodes}


def model(*layers: Any, shape: Any = (4,), dtype: str = "float32", output: str | None = None, name: str = "m") -> Any:
    """A functional model of Keras 2 around layers that read from its input."""
    first = layer("InputLayer", "in", [], batch_input_shape=[None, *shape], dtype=dtype)
    return {
        "class_name": "Functional",
        "config": {
            "name": name,
            "layers": [first, *layers],
            "input_layers": [["in", 0, 0]],
            "output_layers": [[output or "in", 0, 0]],
        },
    }


def sequential(*layers: Any, shape: Any = (4,), dtype: str = "float32") -> Any:
    first = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *shape], "dtype": dtype, "name": "in"}}
    return {"class_name": "Sequential", "config": {"name": "m", "layers": [first, *layers]}}


def plain(kind: str, name: str = "layer", **settings: Any) -> dict[str, Any]:
    """A layer of a Sequential model."""
    return {"class_name": kind, "config": {"name": name, **settings}}


def keras_3(kind: str, module: str = "keras.layers", name: str = "layer", **settings: Any) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": {"name": name, **settings}, "registered_name": None}


def sequential_3(*layers: Any, shape: Any = (4,)) -> Any:
    first = keras_3("InputLayer", name="in", batch_shape=[None, *shape], dtype="float32")
    return keras_3("Sequential", "keras", "m", layers=[first, *layers])


def tf_op(function: str, constant: Any, kind: str = "TFOpLambda", **arguments: Any) -> dict[str, Any]:
    """A call of a function of TensorFlow, of constants."""
    return layer(kind, "op", [[["_CONSTANT_VALUE", -1, constant, arguments]]], function=function)


def marshalled(folder: pathlib.Path) -> list[Any]:
    """A Python function as Keras 2 writes it: it makes the file OWNED."""
    code = compile(f"def f(*a, **k):\n    open({str(folder / OWNED)!r}, 'w').close()\n    return a[0]", "x", "exec")
    function = next(each for each in code.co_consts if hasattr(each, "co_code"))
    return [base64.b64encode(marshal.dumps(function)).decode(), None, None]


def python_lambda(folder: pathlib.Path, name: str = "lambda") -> dict[str, Any]:
    return plain("Lambda", name, function=marshalled(folder), function_type="lambda", arguments={})


# Code


def writes_file(folder: pathlib.Path) -> Any:
    return model(tf_op("io.write_file", str(folder / OWNED), contents="written"))


def removes(folder: pathlib.Path) -> Any:
    return model(tf_op("io.gfile.remove", str(folder / CANARY)))


def makes_folder(folder: pathlib.Path) -> Any:
    return model(tf_op("io.gfile.makedirs", str(folder / OWNED)))


def loads_library(folder: pathlib.Path) -> Any:
    (folder / "evil.so").write_bytes(b"\x7fELF")
    return model(tf_op("load_library", str(folder / "evil.so")))


def model_from_json(folder: pathlib.Path) -> Any:
    return model(tf_op("keras.models.model_from_json", json.dumps(sequential(python_lambda(folder)))))


def slicing(folder: pathlib.Path) -> Any:
    return model(tf_op("io.write_file", str(folder / OWNED), "SlicingOpLambda", contents="written"))


def old_name(folder: pathlib.Path) -> Any:
    return model(tf_op("compat.v1.gfile.MakeDirs", str(folder / OWNED)))


def class_method(folder: pathlib.Path) -> Any:
    return model(tf_op("RaggedTensor.from_tensor", [[1.0]], "ClassMethod", cls_symbol="RaggedTensor"))


def instance_method(folder: pathlib.Path) -> Any:
    return model(layer("InstanceMethod", "op", method_symbol="__class__", cls_ref=None))


def instance_property(folder: pathlib.Path) -> Any:
    return model(layer("InstanceProperty", "op", attr_name="__class__"))


def graph_operation(folder: pathlib.Path) -> Any:
    node = {"name": "w", "op": "WriteFile", "input": ["a", "b"]}
    return model(layer("TensorFlowOpLayer", "op", node_def=node, constants={"0": str(folder / OWNED), "1": "x"}))


def residual(folder: pathlib.Path) -> Any:
    cell = plain("LSTMCell", "cell", units=3)
    wrapper = plain(
        "ResidualWrapper", "wrapper", cell=cell, residual_fn=marshalled(folder)[0], residual_fn_type="function",
        residual_fn_module="builtins",
    )  # fmt: skip
    return sequential(plain("RNN", "rnn", cell=wrapper), shape=(5, 3))


def residual_lambda(folder: pathlib.Path) -> Any:
    cell = plain("LSTMCell", "cell", units=3)
    wrapper = plain("ResidualWrapper", "w", cell=cell, residual_fn=marshalled(folder), residual_fn_type="lambda")
    stack = plain("StackedRNNCells", "stack", cells=[cell, wrapper])
    return sequential(plain("RNN", "rnn", cell=stack), shape=(5, 3))


def typed_lambda(folder: pathlib.Path) -> Any:
    return sequential(plain("Dense", "dense", units=2, activation=marshalled(folder), activation_type="lambda"))


def hidden_type(folder: pathlib.Path) -> Any:
    return sequential(plain("Dense", "dense", units=2, function=marshalled(folder), function_type="lambda"))


def lambda_in_tuple(folder: pathlib.Path) -> Any:
    inner = sequential(python_lambda(folder))
    inner["config"]["layers"] = {"class_name": "__tuple__", "items": inner["config"]["layers"]}
    return inner


def lambda_nested(folder: pathlib.Path) -> Any:
    return sequential(plain("TimeDistributed", "td", layer=sequential(python_lambda(folder))), shape=(3, 4))


def lambda_backwards(folder: pathlib.Path) -> Any:
    inner = plain("LSTM", "lstm", units=2)
    return sequential(
        plain("Bidirectional", "b", layer=inner, backward_layer=python_lambda(folder), merge_mode="sum"), shape=(3, 4)
    )


def list_of_layers(folder: pathlib.Path) -> Any:
    return {"class_name": "Sequential", "config": sequential(python_lambda(folder))["config"]["layers"]}


def op_nested(folder: pathlib.Path) -> Any:
    return sequential({**writes_file(folder), "name": "inner"})


def a_module(folder: pathlib.Path) -> Any:
    (folder / "evil_module.py").write_text(f"open({str(folder / OWNED)!r}, 'w').close()\n")
    return {"module": "evil_module", "class_name": "Sequential", "config": {"name": "m", "layers": []},
            "registered_name": "evil"}  # fmt: skip


def a_module_of_a_function(folder: pathlib.Path) -> Any:
    a_module(folder)
    function = {"module": "evil_module", "class_name": "function", "config": "relu", "registered_name": "relu"}
    return sequential_3(keras_3("Dense", units=2, activation=function))


def os_function(folder: pathlib.Path) -> Any:
    function = {"module": "os", "class_name": "function", "config": "mkdir", "registered_name": "function"}
    return sequential_3(keras_3("Dense", units=2, activation=function))


def keras_function(module: str, name: str) -> Callable[[pathlib.Path], Any]:
    def config(folder: pathlib.Path) -> Any:
        function = {"module": module, "class_name": "function", "config": name, "registered_name": name}
        return sequential_3(keras_3("Dense", units=2, activation=function))

    return config


def named(setting: str, value: Any) -> Callable[[pathlib.Path], Any]:
    def config(folder: pathlib.Path) -> Any:
        return sequential(plain("Dense", "dense", units=2, **{setting: value}))

    return config


def of_class(kind: str, **settings: Any) -> Callable[[pathlib.Path], Any]:
    return lambda folder: sequential(plain(kind, "layer", **settings))


def of_class_3(kind: str, module: str = "keras.layers", **settings: Any) -> Callable[[pathlib.Path], Any]:
    return lambda folder: sequential_3(keras_3(kind, module, **settings))


def nested_compile(folder: pathlib.Path) -> Any:
    inner = sequential_3(keras_3("Dense", units=2))
    loss = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    inner["compile_config"] = {"optimizer": "sgd", "loss": loss}
    return sequential_3(inner)


def type_spec(folder: pathlib.Path) -> Any:
    spec = {"class_name": "TypeSpec", "type_spec": "tf.TensorSpec", "serialized": [[4], "float32", "x"]}
    return sequential(plain("Dense", "dense", units=2, spec=spec))


def composite(folder: pathlib.Path) -> Any:
    tensor = {"class_name": "CompositeTensor", "spec": {"class_name": "TypeSpec"}, "tensors": [["float32", [1.0]]]}
    return sequential(plain("Dense", "dense", units=2, tensor=tensor))


def type_spec_3(folder: pathlib.Path) -> Any:
    spec = {"class_name": "__typespec__", "module": "tensorflow", "spec_name": "TensorSpec", "registered_name": None,
            "config": [[4], "float32", "x"]}  # fmt: skip
    return sequential_3(keras_3("Dense", units=2, activation=spec))


def python_function(folder: pathlib.Path) -> Any:
    value = {"class_name": "__lambda__", "config": {"value": marshalled(folder)}}
    return sequential_3(keras_3("Dense", units=2, activation=value))


def lambda_3(folder: pathlib.Path) -> Any:
    value = {"class_name": "__lambda__", "config": {"value": marshalled(folder)}}
    return sequential_3(keras_3("Lambda", function=value, arguments={}))


CODE: dict[str, tuple[str, Callable[[pathlib.Path], Any]]] = {
    "writes a file": ("h5 keras saved saved_of_old", writes_file),
    "removes a file": ("h5 saved", removes),
    "makes a folder": ("h5 saved", makes_folder),
    "loads a library": ("h5", loads_library),
    "model_from_json": ("h5 keras", model_from_json),
    "SlicingOpLambda": ("h5 keras", slicing),
    "compat.v1": ("h5", old_name),
    "py_function": ("h5", lambda folder: model(tf_op("py_function", "f", inp=[], Tout="float32"))),
    "ClassMethod": ("h5", class_method),
    "InstanceMethod": ("h5", instance_method),
    "InstanceProperty": ("h5", instance_property),
    "TensorFlowOpLayer": ("h5 keras", graph_operation),
    "ResidualWrapper": ("h5 saved", residual),
    "ResidualWrapper in a stack": ("h5 keras saved", residual_lambda),
    "DeviceWrapper": ("h5", lambda folder: sequential(plain("RNN", cell=plain("DeviceWrapper", "w")), shape=(3, 4))),
    "marshalled activation": ("h5 keras saved", typed_lambda),
    "marshalled setting": ("h5", hidden_type),
    "Lambda": ("h5 keras saved", lambda folder: sequential(python_lambda(folder))),
    "Lambda in a tuple": ("h5 saved saved_of_old", lambda_in_tuple),
    "Lambda in TimeDistributed": ("h5 keras", lambda_nested),
    "Lambda backwards": ("h5", lambda_backwards),
    "Lambda in a list": ("h5", list_of_layers),
    "function in a model in a model": ("h5 keras saved", op_nested),
    "module": ("keras h5", a_module),
    "module of a function": ("keras h5", a_module_of_a_function),
    "function of os": ("keras h5", os_function),
    "func_load": ("keras", keras_function("keras.src.utils.python_utils", "func_load")),
    "get_file": ("keras", keras_function("keras.utils", "get_file")),
    "load_model": ("keras", keras_function("keras.saving", "load_model")),
    "unsafe deserialization": ("keras", keras_function("keras.config", "enable_unsafe_deserialization")),
    "activation by a global": ("h5 saved", named("activation", "deserialize")),
    "activation in a list": ("h5", named("activation", ["relu", {"class_name": "Lambda"}])),
    "initializer by a global": ("h5", named("kernel_initializer", "tf")),
    "regularizer by a global": ("h5 saved", named("kernel_regularizer", "deserialize")),
    "constraint by a global": ("h5", named("kernel_constraint", "get_file")),
    "class in a tuple": (
        "h5", named("kernel_initializer", {"class_name": {"class_name": "__tuple__", "items": ["a"]}, "config": {}})
    ),
    "class in a list": ("h5 keras", lambda folder: {"class_name": ["Sequential"], "config": {}}),
    "DenseFeatures": ("h5", of_class("DenseFeatures", feature_columns=[])),
    "Wrapper": ("h5", of_class("Wrapper", layer=plain("Dense", units=1))),
    "TextVectorization": (
        "h5 keras", of_class("TextVectorization", standardize={"class_name": "function", "config": "system",
                                                             "module": "os", "registered_name": "system"}),
    ),
    "registered as another": ("keras", lambda folder: {**sequential_3(), "registered_name": "builtins>exec"}),
    "TypeSpec": ("h5 saved", type_spec),
    "CompositeTensor": ("h5", composite),
    "__typespec__": ("keras", type_spec_3),
    "__lambda__": ("keras h5", python_function),
    "Lambda of Keras 3": ("keras h5", lambda_3),
    "TFSMLayer": ("keras h5", of_class_3("TFSMLayer", filepath="/tmp")),
    "TorchModuleWrapper": ("keras", of_class_3("TorchModuleWrapper", module={"class_name": "__bytes__"})),
    "FlaxLayer": ("keras", of_class_3("FlaxLayer", module_class="x")),
    "how a model within was compiled": ("keras", nested_compile),
}  # fmt: skip
for _name, (_formats, _config) in CODE.items():
    for _format in _formats.split():

        def _write(folder: pathlib.Path, config: Any = _config, write: Any = FORMATS[_format]) -> pathlib.Path:
            return write(folder, config(folder))

        CASES[f"{_name}, {_format}"] = Case(_write, fast=_format == "h5" or _name in ("module", "Lambda"))
for _name, _config in (("Lambda", lambda_3), ("TFSMLayer", of_class_3("TFSMLayer", filepath="/tmp"))):

    def _write_3(folder: pathlib.Path, config: Any = _config) -> pathlib.Path:
        return keras(folder, config(folder), KERAS_3)

    CASES[f"{_name} that says Keras 3"] = Case(_write_3)


# Paths


def vocabulary(kind: str) -> Callable[[pathlib.Path], Any]:
    def config(folder: pathlib.Path) -> Any:
        (folder / "secret").write_text("1\n2\n")
        dtype = "int64" if kind == "IntegerLookup" else "string"
        return sequential(plain(kind, "lookup", vocabulary=str(folder / "secret")), shape=(1,), dtype=dtype)

    return config


for _kind in ("StringLookup", "IntegerLookup", "TextVectorization"):
    for _format in FORMATS:

        def _write_vocabulary(folder: pathlib.Path, kind: str = _kind, write: Any = FORMATS[_format]) -> pathlib.Path:
            return write(folder, vocabulary(kind)(folder))

        CASES[f"vocabulary of {_kind}, {_format}"] = Case(_write_vocabulary, fast=_format == "h5")


@case("links in a SavedModel", gated=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = saved(folder, sequential(plain("Dense", "dense", units=2)))
    (folder / "secret").write_bytes(bytes(1000))
    (path / "variables/variables.index").symlink_to(folder / "secret")
    return path


# More than the file has


def large(kind: str, shape: Any = (4,), **settings: Any) -> Callable[[pathlib.Path], pathlib.Path]:
    return lambda folder: keras(folder, sequential_3(keras_3(kind, **settings), shape=shape), KERAS_3)


for _kind, _shape, _settings in (
    ("Dense", (4,), {"units": HUGE}),
    ("Dense", (4,), {"units": 50_000_000}),
    ("Dense", (HUGE,), {"units": 4}),
    ("Conv2D", (8, 8, 3), {"filters": HUGE, "kernel_size": 1}),
    ("Conv2D", (90_000, 90_000, 3), {"filters": 4, "kernel_size": 80_000}),
    ("Embedding", (4,), {"input_dim": HUGE, "output_dim": 4}),
    ("LSTM", (4, 4), {"units": 1_000_000}),
    ("PReLU", (HUGE,), {}),
    ("MultiHeadAttention", (4,), {"num_heads": HUGE, "key_dim": 4}),
    ("Dense", (4,), {"units": 20_000, "kernel_initializer": "orthogonal", "input_shape": [20_000]}),
    ("BatchNormalization", (HUGE,), {}),
):
    CASES[f"{_kind} {_settings} for {_shape}"] = Case(large(_kind, _shape, **_settings), fast=_kind == "Dense")


CASES["STFTSpectrogram of 2^26"] = Case(
    large("STFTSpectrogram", (1 << 27, 1), fft_length=1 << 26, frame_length=1 << 26, mode="log"), fast=True
)
CASES["Conv1D begun by STFT"] = Case(
    large("Conv1D", (1 << 27, 1), kernel_size=1 << 26, filters=9, kernel_initializer={"class_name": "STFTInitializer",
          "module": "keras.initializers", "registered_name": None, "config": {}})
)  # fmt: skip


@case("Dense of 5e8 in .h5", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    return h5(folder, sequential(plain("Dense", "dense", units=HUGE)), layers=["dense"])


@case("Dense of 5e8 in .h5 that says Keras 3")
def _(folder: pathlib.Path) -> pathlib.Path:
    return h5(folder, sequential_3(keras_3("Dense", name="dense", units=HUGE)), KERAS_3, ["dense"])


@case("Dense of 5e8 that only tf_keras reads", gated=False)
def _(folder: pathlib.Path) -> pathlib.Path:
    return h5(folder, sequential(plain("Dense", "a/dense", units=HUGE)), layers=["a"])


@case("two layers of 20,000", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    layers = [keras_3("Dense", name=f"d{index}", units=20_000) for index in range(2)]
    return keras(folder, sequential_3(*layers), KERAS_3)


@case("thousands of layers without weights in the file")
def _(folder: pathlib.Path) -> pathlib.Path:
    layers = [layer("Dense", f"d{index}", units=1) for index in range(4000)]
    return h5(folder, model(*layers))


@case("a hundred thousand layers")
def _(folder: pathlib.Path) -> pathlib.Path:
    return h5(folder, sequential(*[plain("ReLU", str(index)) for index in range(100_000)]))


@case("as many layers as are allowed", refused=False)
def _(folder: pathlib.Path) -> pathlib.Path:
    return h5(folder, model(*[layer("ReLU", f"a{index}") for index in range(4000)]))


@case("models within models, each called twice", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    inner = model(layer("ReLU", "relu"), output="relu", name="m0")
    for index in range(1, 15):
        called = {**inner, "name": inner["config"]["name"], "inbound_nodes": [[["in", 0, 0, {}]], [["in", 0, 0, {}]]]}
        inner = model(called, output=called["name"], name=f"m{index}")
    return h5(folder, inner)


@case("a constant as large as an outer product", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    column = [[float(index)] for index in range(30_000)]
    return h5(folder, model(tf_op("linalg.matmul", column, b=[[1.0] * 30_000])))


@case("a layer called with a constant")
def _(folder: pathlib.Path) -> pathlib.Path:
    node = {"args": [{"class_name": "__numpy__", "config": {"value": [[[1.0]]], "dtype": "float32"}}], "kwargs": {}}
    up = {**keras_3("UpSampling1D", name="up", size=HUGE), "inbound_nodes": [node]}
    return keras(folder, model(up), KERAS_3)


@case("an array of long texts")
def _(folder: pathlib.Path) -> pathlib.Path:
    array = {"class_name": "__numpy__", "config": {"value": ["a"] * 1000, "dtype": "U1000000"}}
    return keras(folder, sequential_3(keras_3("Rescaling", scale=array)), KERAS_3)


@case("an operation with a billion outputs")
def _(folder: pathlib.Path) -> pathlib.Path:
    tensor = {
        "class_name": "__keras_tensor__",
        "config": {"shape": [None, HUGE], "dtype": "float32", "keras_history": ["in", 0, 0]},
    }
    node = {"args": [tensor], "kwargs": {}}
    split = {
        **keras_3("Split", "keras.src.ops.numpy", "split", indices_or_sections=HUGE, axis=1), "name": "split",
        "inbound_nodes": [node],
    }  # fmt: skip
    return keras(folder, model(split, shape=(HUGE,)), KERAS_3)


def run_by_tf_keras(*layers: Any, shape: Any) -> Callable[[pathlib.Path], pathlib.Path]:
    """A file that only tf_keras reads, whose layers have no weights: what they claim comes true when they are run."""
    names = [each["config"]["name"] for each in layers]
    return lambda folder: h5(folder, sequential(*layers, plain("ReLU", "a/relu"), shape=shape), layers=[*names, "a"])


for _name, _layers, _shape in (
    ("an input of a billion numbers", [], (1_000_000_000,)),
    ("an image of a billion pixels", [plain("GlobalMaxPooling2D", "pool")], (30_000, 30_000, 1)),
    ("RepeatVector", [plain("RepeatVector", "repeat", n=HUGE)], (4,)),
    ("ZeroPadding2D", [plain("ZeroPadding2D", "pad", padding=[[20_000] * 2] * 2)], (4, 4, 1)),
    ("UpSampling1D", [plain("UpSampling1D", "up", size=100_000_000)], (4, 1)),
    ("UpSampling3D", [plain("UpSampling3D", "up", size=[3000] * 3)], (4, 4, 4, 1)),
    ("Resizing", [plain("Resizing", "resize", height=50_000, width=50_000)], (4, 4, 1)),
    ("CategoryEncoding", [plain("CategoryEncoding", "code", num_tokens=HUGE, output_mode="multi_hot")], (4,)),
    ("Reshape", [plain("RepeatVector", "repeat", n=30_000), plain("RepeatVector", "again", n=30_000)], (4,)),
):
    CASES[f"run: {_name}"] = Case(
        run_by_tf_keras(*_layers, shape=_shape), gated=False, fast=_name in ("RepeatVector", "UpSampling1D")
    )


@case("run: attention of all to all", gated=False)
def _(folder: pathlib.Path) -> pathlib.Path:
    attention = layer("Attention", "a/attention", [[["in", 0, 0, {}], ["in", 0, 0, {}]]], use_scale=False)
    return h5(folder, model(attention, shape=(1_000_000, 1), output="a/attention"), layers=["in", "a"])


# Texts


@case("JSON nested deeply in .h5", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    return h5(folder, "[" * 100_000 + "]" * 100_000)


@case("JSON nested deeply in .keras", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    return keras(folder, '{"class_name": "Sequential", "config": ' + "[" * 100_000 + "]" * 100_000 + "}", KERAS_3)


@case("models nested deeply")
def _(folder: pathlib.Path) -> pathlib.Path:
    inner = sequential()
    for _ in range(200):
        inner = sequential(inner)
    return h5(folder, inner)


@case("metadata nested deeply")
def _(folder: pathlib.Path) -> pathlib.Path:
    return keras(folder, sequential(), metadata="[" * 100_000 + "]" * 100_000)


@case("metadata nested deeply in a SavedModel")
def _(folder: pathlib.Path) -> pathlib.Path:
    return saved(folder, "[" * 100_000 + "]" * 100_000)


@case("a bomb of metadata")
def _(folder: pathlib.Path) -> pathlib.Path:
    return keras(folder, sequential(), metadata=" " * 2_000_000_000 if False else "[" + "0," * 150_000_000 + "0]")


@case("a bomb of a configuration")
def _(folder: pathlib.Path) -> pathlib.Path:
    return keras(folder, "[" + "{}," * 80_000_000 + "{}]")


@case("a configuration of empty objects within the limit", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    return keras(folder, "[" + "{}," * 5_000_000 + "{}]")


for _name, _settings in (
    ("StringLookup", {"vocabulary": ["a"], "num_oov_indices": HUGE}),
    ("TextVectorization", {"ngrams": HUGE}),
):

    def _write_count(folder: pathlib.Path, kind: str = _name, settings: Any = _settings) -> pathlib.Path:
        return h5(folder, sequential(plain(kind, "lookup", **settings), shape=(1,), dtype="string"), layers=["lookup"])

    CASES[f"{_name} with {list(_settings)[-1]} of 5e8"] = Case(_write_count, fast=True)


@case("groups without end", gated=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential(plain("Dense", "dense", units=2)), layers=["dense"])
    with h5py.File(path, "a", libver="latest") as file:
        for index in range(40_000):
            file.create_group(f"g{index}")
    return path


@case("a number of many digits", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    return h5(folder, '{"class_name": "Sequential", "config": {"layers": [], "n": ' + "9" * 50_000 + "}}")


# Containers


@case("a bomb of weights")
def _(folder: pathlib.Path) -> pathlib.Path:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros((20_000, 10_000), np.float32))
    return keras(folder, sequential_3(keras_3("Dense", units=10_000), shape=(20_000,)), KERAS_3,
                 weights=content.getvalue())  # fmt: skip


@case("packed data in .h5", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential(plain("Dense", "dense", units=20_000), shape=(10_000,)), layers=["dense"])
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/dense/kernel:0", (10_000, 20_000), "f4", compression="gzip", chunks=True,
                            fillvalue=0)[:1] = 0  # fmt: skip
    return path


@case("data that were never written, .h5", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential(plain("Dense", "dense", units=HUGE)), layers=["dense"])
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/dense/kernel:0", (4, HUGE), "f4")
    return path


@case("data that were never written, .keras", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("layers/dense/vars/0", (4, HUGE), "f4")
    return keras(folder, sequential_3(keras_3("Dense", units=HUGE)), KERAS_3, weights=content.getvalue())


@case("a link to another file", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential(plain("Dense", "dense", units=2)), layers=["dense"])
    with h5py.File(folder / "secret.h5", "w") as file:
        file.create_dataset("data", data=np.zeros((4, 2), "f4"))
    with h5py.File(path, "a") as file:
        file["model_weights/dense/kernel:0"] = h5py.ExternalLink("secret.h5", "data")
    return path


@case("data in another file")
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential(plain("Dense", "dense", units=2)), layers=["dense"])
    (folder / "secret").write_bytes(bytes(32))
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/dense/kernel:0", (4, 2), "f4", external=[(str(folder / "secret"), 0, 32)])
    return path


@case("virtual data")
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential(plain("Dense", "dense", units=2)), layers=["dense"])
    with h5py.File(folder / "secret.h5", "w") as file:
        file.create_dataset("data", data=np.zeros((4, 2), "f4"))
    layout = h5py.VirtualLayout((4, 2), "f4")
    layout[:] = h5py.VirtualSource(folder / "secret.h5", "data", (4, 2))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("model_weights/dense/kernel:0", layout)
    return path


@case("a text that many names share")
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential())
    with h5py.File(path, "a") as file:
        file.attrs.create("layer_names", ["x" * 60_000] * 2000, dtype=h5py.string_dtype())
    return path


@case("a file of holes", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = h5(folder, sequential(plain("Dense", "dense", units=2)))
    os.truncate(path, 100 << 30)
    return path


@case("members that overlap")
def _(folder: pathlib.Path) -> pathlib.Path:
    path = keras(folder, sequential())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/0", bytes(10_000_000))
        last = archive.infolist()[-1]
        for index in range(1, 2000):
            copy = zipfile.ZipInfo(f"assets/{index}")
            copy.header_offset, copy.CRC = last.header_offset, last.CRC
            copy.file_size, copy.compress_size = last.file_size, last.compress_size
            copy.compress_type = last.compress_type
            archive.filelist.append(copy)
    return path


@case("two configurations", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = keras(folder, sequential())
    with zipfile.ZipFile(path, "a") as archive:
        archive.fp.seek(0, 2)  # type: ignore[union-attr]
        info = zipfile.ZipInfo("config.json")
        archive.NameToInfo.pop("config.json")
        archive.writestr(info, json.dumps(sequential(python_lambda(folder))))
    return path


@case("weights as .npz")
def _(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "evil.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(sequential_3()))
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.npz", b"")
    return path


@case("variables that claim more than their file")
def _(folder: pathlib.Path) -> pathlib.Path:
    path = saved(folder, sequential(plain("Dense", "dense", units=HUGE)))
    (path / "variables/variables.index").write_bytes(b"\0" * 200)
    (path / "variables/variables.data-00000-of-00001").write_bytes(b"")
    return path


# Pipes


def pipe(name: str, reader: str = "model") -> None:
    def write(folder: pathlib.Path) -> pathlib.Path:
        os.mkfifo(folder / name)
        return folder / name

    CASES[f"a pipe named {name}, {reader}"] = Case(write, reader, fast=True)


for _path in ("x.keras", "x.h5"):
    pipe(_path)
pipe("x.packed", "packed")
pipe("x.npz", "dataset")
pipe("x.json", "card")
for _path in ("saved_model.pb", "keras_metadata.pb", "variables/variables.index"):

    def _write_pipe(folder: pathlib.Path, name: str = _path) -> pathlib.Path:
        path = saved(folder, sequential())
        if name == "saved_model.pb":
            (path / "keras_metadata.pb").unlink()
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)
        return path

    CASES[f"a pipe {_path} in a SavedModel"] = Case(_write_pipe, fast=_path == "keras_metadata.pb")


@case("a device", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    (folder / "zero.keras").symlink_to("/dev/zero")
    return folder / "zero.keras"


# Packed files


def packed(folder: pathlib.Path, header: Any, contents: bytes = b"") -> pathlib.Path:
    from keras_compress.export import packed as format_

    text = header if isinstance(header, bytes) else format_.compressed(header)
    format_.write(folder / "evil.packed", text + contents)
    return folder / "evil.packed"


def declared(folder: pathlib.Path, size: int, **settings: Any) -> pathlib.Path:
    path = folder / "evil.packed"
    with h5py.File(path, "w") as file:
        attributes = file.create_dataset("packed", (size,), "u1", **settings).attrs
        attributes["format"], attributes["version"] = np.bytes_("keras_compress packed"), 1
        attributes["sha256"] = np.void(bytes(32))
    return path


CASES["packed: 100 GB that were never written"] = Case(lambda folder: declared(folder, 100 << 30), "packed", fast=True)
CASES["packed: 4 GB that were never written"] = Case(lambda folder: declared(folder, 4 << 30), "packed", fast=True)
CASES["packed: external /dev/zero"] = Case(
    lambda folder: declared(folder, 4 << 30, external=[("/dev/zero", 0, 4 << 30)]), "packed"
)
CASES["packed: a bomb of chunks"] = Case(
    lambda folder: declared(folder, 2 << 30, compression="gzip", chunks=(1 << 20,)), "packed"
)


@case("packed: an external pipe", reader="packed", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    os.mkfifo(folder / "pipe")
    return declared(folder, 1000, external=[(str(folder / "pipe"), 0, 1000)])


@case("packed: a bomb of a header", reader="packed")
def _(folder: pathlib.Path) -> pathlib.Path:
    from keras_compress.export import packed as format_

    compressor = zlib.compressobj(9, zdict=format_._dictionary())
    text = compressor.compress(b"[" + b"{}," * 70_000_000 + b"{}]") + compressor.flush()
    return packed(folder, text)


@case("packed: a header of empty objects", reader="packed")
def _(folder: pathlib.Path) -> pathlib.Path:
    from keras_compress.export import packed as format_

    compressor = zlib.compressobj(9, zdict=format_._dictionary())
    return packed(folder, compressor.compress(b"[" + b"{}," * 5_000_000 + b"{}]") + compressor.flush())


@case("packed: Dense of 5e8", reader="packed", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    config = sequential_3(keras_3("Dense", units=HUGE))
    return packed(folder, {"configuration": config, "weights": [{"shape": [4, HUGE], "dtype": "float32"}]})


@case("packed: Dense of 5e8 that says it is small", reader="packed", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    config = sequential_3(keras_3("Dense", units=HUGE))
    return packed(folder, {"configuration": config, "weights": [{"shape": [4, 2], "dtype": "float32"}]}, bytes(32))


@case("packed: a Lambda", reader="packed", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    return packed(folder, {"configuration": lambda_3(folder), "weights": []})


@case("packed: a class of elsewhere", reader="packed")
def _(folder: pathlib.Path) -> pathlib.Path:
    return packed(folder, {"configuration": a_module(folder), "weights": []})


@case("packed: a group of any size", reader="packed", gated=False)
def _(folder: pathlib.Path) -> pathlib.Path:
    kernel = {"axis": [1], "group_size": 1 << 40, "levels": [-1, 1, 3], "scale": [1, 2]}
    weights = [{"shape": [4, 2], "kernel": kernel}]
    config = sequential_3(keras_3("Dense", units=2, use_bias=False))
    return packed(folder, {"configuration": config, "weights": weights}, np.ones(2, "f4").tobytes() + bytes(1))


# Data


def arrays(path: pathlib.Path, **headers: tuple[str, tuple[int, ...], bytes]) -> pathlib.Path:
    """An .npz whose arrays claim types and shapes, with the bytes that are really there."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (kind, shape, content) in headers.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", header.getvalue() + content)
    return path


KEYS = ("x_train", "y_train", "x_test", "y_test")


@case("npz: declared as 36 TB", reader="dataset", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    return arrays(folder / "evil.npz", **dict.fromkeys(KEYS, ("<f8", (10**6, 4500, 1000), b"")))


@case("npz: a bomb of zeros", reader="dataset")
def _(folder: pathlib.Path) -> pathlib.Path:
    return arrays(folder / "evil.npz", **dict.fromkeys(KEYS, ("|u1", (750_000_000,), bytes(750_000_000))))


@case("npz: Python objects", reader="dataset", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(folder / OWNED), "w")

    np.savez(folder / "evil.npz", x_train=np.array([Evil()], object))
    return folder / "evil.npz"


@case("result: a bomb of masks", reader="result")
def _(folder: pathlib.Path) -> pathlib.Path:
    result(folder)
    arrays(folder / "evil.codes.npz", **{"masks/dense": ("|b1", (500_000_000,), bytes(500_000_000))})
    return folder / "evil"


@case("result: a report of empty objects", reader="result")
def _(folder: pathlib.Path) -> pathlib.Path:
    result(folder)
    (folder / "evil.json").write_text("[" + "{}," * 5_000_000 + "{}]")
    return folder / "evil"


@case("result: a pipe of codes", reader="result", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    result(folder)
    (folder / "evil.codes.npz").unlink()
    os.mkfifo(folder / "evil.codes.npz")
    return folder / "evil"


def result(folder: pathlib.Path) -> None:
    """A small network without weights as the three files of a result."""
    keras(folder, sequential_3(keras_3("ReLU", name="relu")), KERAS_3)
    np.savez(folder / "evil.codes.npz")
    (folder / "evil.json").write_text(json.dumps({"format_version": 1, "report": {"steps": []}}))


def image(path: pathlib.Path, size: tuple[int, int], content: bytes | None = None) -> None:
    """A black PNG of one bit a pixel, or one that claims to be."""
    import struct

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    if content is None:
        content = bytes((size[0] + 7) // 8 + 1) * size[1]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content, 9)) + chunk(b"IEND", b"")
    )


def image_folder(folder: pathlib.Path) -> pathlib.Path:
    for name in ("a", "b"):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(2):
            image(folder / "images" / name / f"{index}.png", (8, 8))
    return folder / "images"


@case("images: twelve of 13,000 pixels each way", reader="dataset", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = image_folder(folder)
    for index in range(12):
        image(path / "a" / f"{index}.png", (13_000, 13_000))
    return path


@case("images: thousands of a megapixel", reader="dataset")
def _(folder: pathlib.Path) -> pathlib.Path:
    path = image_folder(folder)
    for index in range(1000):
        image(path / "a" / f"{index}.png", (1024, 1024))
    return path


@case("images: a pipe", reader="dataset", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = image_folder(folder)
    os.mkfifo(path / "a" / "x.png")
    return path


@case("images: PostScript that starts a program", reader="dataset", fast=True)
def _(folder: pathlib.Path) -> pathlib.Path:
    path = image_folder(folder)
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\ntouch {folder / OWNED}\n")
    program.chmod(0o755)
    (path / "a" / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    return path


# Records


def row(folder: pathlib.Path, **cells: str) -> pathlib.Path:
    import csv

    from keras_compress.sweep.records import COLUMNS

    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerow({"method": "msq", **cells})
    return folder / "rows.csv"


for _name, _cells in (
    ("a path", {"file": "../outside/evil"}),
    ("an absolute path", {"file": "/tmp/evil"}),
    ("a list of errors", {"layer_errors": "[1, 2]"}),
    ("errors that are texts", {"layer_errors": '{"x": "y"}'}),
    ("a number for accuracies", {"tflite_top1": "5"}),
    ("not a number", {"top1": "nan"}),
    ("infinity", {"top1": "1e999"}),
    ("a long field", {"time": "x" * 200_000}),
    ("errors nested deeply", {"layer_errors": "[" * 50_000 + "]" * 50_000}),
):

    def _write_row(folder: pathlib.Path, cells: dict[str, str] = _cells) -> pathlib.Path:
        return row(folder, **cells)

    CASES[f"records: {_name}"] = Case(_write_row, "records", fast=True)


# Folders of a store


@case("store: a folder of somebody's thesis", reader="store", fast=True, refused=False)
def _(folder: pathlib.Path) -> pathlib.Path:
    work = folder / "work"
    for name in ("keras_compress-thesis", "keras_compress-abcdefgh"):
        (work / name).mkdir(parents=True)
        (work / name / "lock").write_text("")
        (work / name / "chapter.tex").write_text("text")
        (work / name / "results.h5").write_text("text")
    return work


@case("store: a pipe for a lock", reader="store", fast=True, refused=False)
def _(folder: pathlib.Path) -> pathlib.Path:
    work = folder / "work"
    (work / "keras_compress-abcdefgh").mkdir(parents=True)
    os.mkfifo(work / "keras_compress-abcdefgh" / "lock")
    return work


@case("store: a link to another folder", reader="store", fast=True, refused=False)
def _(folder: pathlib.Path) -> pathlib.Path:
    from keras_compress.calibration import store

    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "lock").write_bytes(store.MARK)
    (folder / "elsewhere" / "data.h5").write_text("text")
    (folder / "work").mkdir()
    (folder / "work" / "keras_compress-abcdefgh").symlink_to(folder / "elsewhere")
    return folder / "work"


def write(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes one case into a new folder, with a file that must stay."""
    folder.mkdir(parents=True)
    (folder / CANARY).write_text("alive")
    return CASES[name].write(folder)


def folder_name(name: str) -> str:
    return "".join(each if each.isalnum() else "_" for each in name)[:100]


def names(*, fast: bool = False) -> Iterator[str]:
    return (name for name, each in CASES.items() if each.fast or not fast)


if __name__ == "__main__":
    for _name in names():
        print(write(_name, pathlib.Path(sys.argv[1], folder_name(_name))))
