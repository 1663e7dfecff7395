"""What is in the files: the codes of the result, at the promised width, in a file that runs; or no file at all."""

import itertools
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_compress as kc
from keras_compress.export import policy
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.tflite import Runner
from keras_compress.result.quantized_kernel import WIDTHS

L = keras.layers
TERNARY = kc.Integer(levels=3)
ALPHABETS = {
    "ternary": TERNARY,
    "2 bits": kc.Integer(2, narrow_range=False),
    "3 bits": kc.Integer(3),
    "4 bits": kc.Integer(4),
    "8 bits": kc.Integer(8),
}
NEEDED = {"ternary": 2, "2 bits": 2, "3 bits": 4, "4 bits": 4, "8 bits": 8}


def drawn(model, seed=0):
    """Small weights, so that no softmax is sure of itself."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 1.5, variable.shape)
            values *= rng.choice([-1, 1], variable.shape) if variable.name == "gamma" else 1
        else:
            values = rng.normal(size=variable.shape) / max(1, np.prod(variable.shape[:-1])) ** 0.5
        variable.assign(values)
    return model


def every_layer():
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", name="conv")(inputs)))
    y = L.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    y = L.SeparableConv2D(8, 3, padding="same", name="separable")(y)
    x = L.Add()([x, y])
    x = L.Conv2D(8, 3, groups=2, strides=2, name="grouped")(x)
    x = L.Conv2DTranspose(4, 3, strides=2, name="transposed")(x)
    x = L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False, name="pointwise")(x))
    x = L.Dense(6, "relu", name="sequence_dense")(L.Reshape((49, 8))(x))
    x = L.Conv1D(5, 3, name="conv1d")(x)
    return keras.Model(inputs, L.Dense(10, "softmax", name="head")(L.Flatten()(x)), name="every_layer")


KINDS = {
    "conv": "CONV_2D", "depthwise": "DEPTHWISE_CONV_2D", "separable/depthwise_kernel": "DEPTHWISE_CONV_2D",
    "separable/pointwise_kernel": "CONV_2D", "grouped": "CONV_2D", "transposed": "TRANSPOSE_CONV",
    "pointwise": "CONV_2D", "sequence_dense": "FULLY_CONNECTED", "conv1d": "CONV_2D", "head": "FULLY_CONNECTED",
}  # fmt: skip


def samples_of(model, count=40, seed=3):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(count, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    return arrays[0] if len(arrays) == 1 else arrays


@pytest.fixture(scope="module")
def model():
    return drawn(every_layer())


def tensors_of(path):
    """Path -> (type, array, scale) of every constant with a scale, and the model."""
    content = flatbuffer.parse(flatbuffer.read_bytes(path))
    constants = {}
    for tensor in content.subgraphs[0].tensors:
        array = flatbuffer.array_of(content, tensor)
        if array is not None and tensor.quantization is not None and tensor.quantization.scale is not None:
            scale = np.asarray(tensor.quantization.scale, np.float32)
            constants[tensor.name.decode().removesuffix("/kernel")] = flatbuffer.TYPES[tensor.type], array, scale
    return constants, content


def in_keras_order(array, kernel, kind):
    """The codes of an operator as the Keras kernel has them; written apart from the exporter's own arrangement."""
    if kind == "FULLY_CONNECTED":
        return array.T
    if kind == "DEPTHWISE_CONV_2D":
        return array[0].reshape(kernel.codes.shape)
    if kind == "TRANSPOSE_CONV":
        return array.transpose(1, 2, 0, 3).reshape(kernel.codes.shape)
    return array.transpose(1, 2, 3, 0).reshape(kernel.codes.shape)


# Packing


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(0, 33), st.integers(0, 2**32 - 1))
def test_what_is_packed_is_unpacked(bits, count, seed):
    codes = np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), count)
    packed = flatbuffer.pack(codes, bits)
    assert packed.dtype == np.uint8 and len(packed) == -(-count * bits // 8)
    np.testing.assert_array_equal(flatbuffer.unpack(packed, bits, count), codes)


def test_the_first_code_has_the_low_bits():
    assert flatbuffer.pack(np.array([1, -1, -8]), 4).tolist() == [0xF1, 0x08]
    assert flatbuffer.pack(np.array([1, -1, 0, -2, 1]), 2).tolist() == [0b10_00_11_01, 0b01]


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(kc.InputError, match="Codes from -9 to 3 do not fit into 4 bits"):
        flatbuffer.pack(np.array([-9, 3]), 4)


# The table of what goes where


def expected_placement(kind, mode, storage, needed):
    """The guide's table, in other words."""
    if kind == "FULLY_CONNECTED":
        return {"float": "weight-only", "dynamic": "dynamic", "int8": "static"}[mode], max(
            needed, 4 if storage == "fast" else 2
        )
    dynamic = "dynamic" if kind == "CONV_2D" else "weight-only"
    reads = {"float": "weight-only", "dynamic": dynamic, "int8": "static"}[mode]
    if storage == "fast" or (kind == "TRANSPOSE_CONV" and mode == "int8"):
        return reads, 8
    if mode == "int8" or (mode == "dynamic" and kind == "CONV_2D"):
        return reads, max(needed, 4)
    return reads, needed


@pytest.mark.parametrize("kind, mode", list(itertools.product(policy.RUNS, policy.MODES)))
def test_every_place_is_that_of_the_table(kind, mode):
    for storage, needed in itertools.product(policy.STORAGES, WIDTHS):
        place = policy.placement(kind, mode, storage, needed)
        assert (place.reads, place.storage_bits) == expected_placement(kind, mode, storage, needed)


def combinations():
    for name, mode, storage in itertools.product(ALPHABETS, policy.MODES, policy.STORAGES):
        yield pytest.param(name, mode, storage, marks=[] if (name, mode) == ("4 bits", "float") else [pytest.mark.slow])


@pytest.mark.parametrize("name, mode, storage", list(combinations()))
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.sampled(7)
def test_the_file_holds_the_codes_and_scales_of_the_result(model, tmp_path, name, mode, storage, folded):
    result = kc.quantize(kc.fold_batch_normalization(model) if folded else model, kc.MSQ(alphabet=ALPHABETS[name]))
    x = samples_of(model)
    report = kc.export_tflite(result, tmp_path / "net.tflite", activations=mode, storage=storage, calibration=x)
    tensors, _ = tensors_of(tmp_path / "net.tflite")
    for path, kernel in result.kernels.items():
        kind, array, scale = tensors[path]
        needed = NEEDED[name]
        if name == "2 bits" and not folded and path in ("conv", "pointwise"):
            needed = 4  # where a negative gamma turns it, -2 becomes 2
        reads, bits = expected_placement(KINDS[path], mode, storage, needed)
        row = report.row(path)
        assert (kind, row.storage, row.action) == (f"INT{bits}", f"int{bits}", reads), path
        assert row.bytes == -(-kernel.codes.size * bits // 8)
        codes = in_keras_order(array, kernel, KINDS[path])
        if folded or path not in ("conv", "pointwise"):
            np.testing.assert_array_equal(codes, kernel.codes, err_msg=path)
            np.testing.assert_array_equal(scale, np.broadcast_to(kernel.scale.ravel(), scale.shape), err_msg=path)
        else:  # the negative gammas of the BatchNorm behind it turn the codes
            layers = model.layers
            norm = layers[[layer.name for layer in layers].index(path) + 1]
            factor = np.float64(norm.gamma.numpy()) / np.sqrt(np.float64(norm.moving_variance.numpy()) + norm.epsilon)
            np.testing.assert_array_equal(codes, kernel.codes * np.sign(factor).astype(int), err_msg=path)
            expected = (np.float64(kernel.scale.ravel()) * np.abs(factor)).astype(np.float32)
            np.testing.assert_array_equal(scale, expected, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["simple", "grouped"])
def test_small_files_are_as_small_as_their_bits(tmp_path, kind):
    layers = [keras.Input((16, 16, 8)), L.Conv2D(64, 3, groups=1 + (kind == "grouped"), name="conv"), L.ReLU()]
    model = drawn(keras.Sequential([*layers, L.Flatten(), L.Dense(10, name="head")]))
    plain = kc.export_tflite(model, tmp_path / "float.tflite").steps[-1].figures["bytes"]
    result = kc.quantize(model, kc.MSQ(bits=4))
    report = kc.export_tflite(result, tmp_path / "small.tflite", storage="small")
    count = sum(kernel.codes.size for kernel in result.kernels.values())
    channels = sum(kernel.scale.size for kernel in result.kernels.values())
    assert sum(report.row(path).bytes for path in result.kernels) == count / 2
    rest = report.steps[-1].figures["bytes"] - count / 2
    assert rest <= 1.1 * (plain - 4 * count) + 16 * channels + 900, (rest, plain - 4 * count)


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [True, False])
def test_no_two_tensors_have_one_name(model, tmp_path, quantized):
    """Tools that work on files go by names."""
    kc.export_tflite(kc.quantize(model, kc.MSQ(bits=4)) if quantized else model, tmp_path / "net.tflite")
    names = [
        tensor.name for tensor in flatbuffer.parse(flatbuffer.read_bytes(tmp_path / "net.tflite")).subgraphs[0].tensors
    ]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_numbers_of_tensors_are_aligned_as_the_schema_requires(model, tmp_path):
    """`force_align: 16`; a Cortex-M0 cannot read a word that begins elsewhere."""
    kc.export_tflite(kc.quantize(model, kc.MSQ(bits=4)), tmp_path / "net.tflite", storage="small")
    content = (tmp_path / "net.tflite").read_bytes()
    file = schema.Model.GetRootAs(content)
    buffers = [file.Buffers(index) for index in range(file.BuffersLength())]
    starts = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
    assert len(starts) > 10 and all(start % 16 == 0 for start in starts)


# Models


def two_alike():
    """Equal shapes and proportional codes, one layer used twice, and a branch."""
    inputs, other = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    shared = L.Dense(6, "relu", name="shared")
    x = L.Add()([shared(inputs), shared(other)])
    x = L.Dense(6, name="second")(L.Dense(6, name="first")(x))
    return keras.Model([inputs, other], [L.Dense(6, name="third")(x), L.Softmax(name="chances")(x)], name="two_alike")


@pytest.mark.slow
@pytest.mark.parametrize("mode", policy.MODES)
@pytest.mark.parametrize("batch", [None, 1])
def test_layers_that_look_alike_are_not_mixed_up(tmp_path, mode, batch):
    model = drawn(two_alike())
    kernel = model.get_layer("first").kernel.numpy()
    model.get_layer("second").kernel.assign(2 * kernel)
    model.get_layer("third").kernel.assign(kernel)
    result = kc.quantize(model, kc.MSQ(bits=4))
    x = samples_of(model)
    kc.export_tflite(result, tmp_path / "net.tflite", activations=mode, calibration=x, static_batch=batch)
    tensors, content = tensors_of(tmp_path / "net.tflite")
    for path in ("shared", "first", "second"):
        np.testing.assert_array_equal(tensors[path][1].T, result.kernels[path].codes)
        np.testing.assert_array_equal(tensors[path][2], result.kernels[path].scale)
    assert "third" not in tensors, "equal codes and scales are stored once"
    signature = content.signatureDefs[0]
    assert [entry.name for entry in signature.inputs] == [b"left", b"right"]
    assert [entry.name for entry in signature.outputs] == [b"third", b"chances"]


def test_what_has_no_codes_stays_as_the_converter_made_it(model, tmp_path):
    result = kc.quantize(model, kc.MSQ(bits=4), layers=["conv", "head"])
    report = kc.export_tflite(result, tmp_path / "net.tflite")
    assert {row.path for row in report.steps[-1].rows if row.action != "float"} == {"conv", "head"}
    assert set(tensors_of(tmp_path / "net.tflite")[0]) == {"conv", "head"}


@pytest.mark.slow
def test_kernels_that_are_no_weights_of_an_operator_stay_floats_and_say_so(tmp_path):
    inputs = keras.Input((5, 6))
    x = L.LSTM(4, name="lstm")(L.EinsumDense("abc,cd->abd", output_shape=(None, 6), name="einsum")(inputs))
    model = drawn(keras.Model(inputs, L.Dense(3, name="head")(x)))
    result = kc.quantize(model, kc.MSQ(bits=4))
    report = kc.export_tflite(result, tmp_path / "net.tflite", static_batch=1)
    assert report.row("head").action == "weight-only"
    assert "no operator whose weights are this kernel" in report.row("lstm/recurrent_kernel").reason


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["float", "dynamic", "int8", "float16", "int16x8"])
def test_a_model_without_codes_takes_the_converters_path(model, tmp_path, mode):
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(model, path, activations=mode, calibration=samples_of(model), static_batch=1)
    figures = report.steps[-1].figures
    assert figures["bytes"] == os.path.getsize(path) and figures["gzipped bytes"] < figures["bytes"]
    types = {flatbuffer.TYPES[tensor.type] for tensor in tensors_of(path)[1].subgraphs[0].tensors}
    assert {"float16": "FLOAT16", "int8": "INT8", "int16x8": "INT16"}.get(mode, "FLOAT32") in types


@pytest.mark.slow
@pytest.mark.parametrize("mode", policy.MODES)
def test_a_batchnorm_before_a_dense_layer_is_not_multiplied_into_its_codes(tmp_path, mode):
    """The converter would give each input of the kernel a factor of its own."""
    inner = keras.Sequential(
        [keras.Input((6,)), L.BatchNormalization(), L.Dense(5, "relu", name="hidden")], name="inner"
    )
    inputs = keras.Input((6,))
    x = L.BatchNormalization()(inner(L.ReLU()(inputs)))
    model = drawn(keras.Model(inputs, [L.Dense(3, name="one")(x), L.Dense(3, name="two")(x)]))
    result = kc.quantize(model, kc.MSQ(bits=4))
    kc.export_tflite(result, tmp_path / "net.tflite", activations=mode, calibration=samples_of(model))
    tensors, content = tensors_of(tmp_path / "net.tflite")
    for path in ("inner/hidden", "one", "two"):
        np.testing.assert_array_equal(tensors[path][1].T, result.kernels[path].codes)
        np.testing.assert_array_equal(tensors[path][2], result.kernels[path].scale)
    operators = {flatbuffer.operator_name(content, operator) for operator in content.subgraphs[0].operators}
    assert not operators & {"MAXIMUM", "ADD"}  # what it adds is in biases: of integers its own, else those behind it
    assert ("DEPTHWISE_CONV_2D" if mode == "int8" else "MUL") in operators


def reshaped(reshape):
    """Two reshapes to the same sizes, so that their shapes are one tensor."""
    inputs = keras.Input((4, 6))
    hidden = L.Dense(24, name="one")(reshape(inputs))
    return drawn(keras.Model(inputs, L.Dense(3, name="two")(reshape(L.Reshape((4, 6))(hidden)))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "reshape",
    [L.Flatten, lambda: L.Reshape((24,)), lambda: lambda x: keras.ops.reshape(x, (-1, 24))],
    ids=["Flatten", "Reshape", "operation"],
)
def test_reshapes_that_keep_the_batch_axis_compute_no_sizes(tmp_path, reshape):
    model = reshaped(reshape())
    kc.export_tflite(kc.quantize(model, kc.MSQ(4)), tmp_path / "net.tflite")
    _, content = tensors_of(tmp_path / "net.tflite")
    operators = {flatbuffer.operator_name(content, operator) for operator in content.subgraphs[0].operators}
    assert not operators & {"SHAPE", "STRIDED_SLICE", "PACK"}
    result = kc.quantize(model, kc.MSQ(4))
    for batch in (1, 5):
        x = np.random.default_rng(batch).normal(size=(batch, 4, 6)).astype(np.float32)
        (outputs,) = Runner((tmp_path / "net.tflite").read_bytes()).run([x])
        np.testing.assert_allclose(outputs, np.asarray(result.model(x)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["float", "float16", "dynamic", "int8", "int16x8"])
def test_plain_models_with_reshapes_in_every_format(tmp_path, mode):
    model = drawn(keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(8, 3), L.Flatten(), L.Dense(40), L.Dense(4)]))
    x = samples_of(model)
    kc.export_tflite(model, tmp_path / "net.tflite", activations=mode, calibration=x)
    _, content = tensors_of(tmp_path / "net.tflite")
    operators = {flatbuffer.operator_name(content, operator) for operator in content.subgraphs[0].operators}
    assert "RESHAPE" in operators and not operators & {"SHAPE", "STRIDED_SLICE", "PACK"}


def with_zeros(fraction, block):
    """A Dense network with so many zeros, in blocks of inputs."""
    model = drawn(keras.Sequential([keras.Input((64,)), L.Dense(128, "relu"), L.Dense(64, "relu"), L.Dense(8)]))
    rng = np.random.default_rng(0)
    for layer in model.layers[:2]:
        blocks = rng.uniform(size=(layer.kernel.shape[0] // block, layer.kernel.shape[1])) >= fraction
        layer.kernel.assign(layer.kernel.numpy() * blocks.repeat(block, axis=0))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 4])
def test_sparse_storage_leaves_the_zeros_out(tmp_path, block):
    model = with_zeros(0.8, block)
    for storage in ("fast", "sparse"):
        kc.export_tflite(model, tmp_path / f"{storage}.tflite", storage=storage)
    dense, sparse = (os.path.getsize(tmp_path / f"{storage}.tflite") for storage in ("fast", "sparse"))
    assert sparse < (0.5 if block == 4 else 0.6) * dense
    x = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    (outputs,) = Runner((tmp_path / "sparse.tflite").read_bytes()).run([x])
    np.testing.assert_allclose(outputs, np.asarray(model(x)), rtol=1e-4, atol=1e-5)
    assert "FLOAT32" in str(kc.inspect_tflite(tmp_path / "sparse.tflite"))


def test_sparse_storage_is_for_floats(tmp_path):
    model = with_zeros(0.8, 4)
    with pytest.raises(kc.InputError, match="Received: a result with codes"):
        kc.export_tflite(kc.quantize(model, kc.MSQ(4)), tmp_path / "net.tflite", storage="sparse")
    with pytest.raises(kc.InputError, match='Received: activations="int8"'):
        kc.export_tflite(
            model, tmp_path / "net.tflite", storage="sparse", activations="int8", calibration=np.ones((4, 64))
        )


class Sized(L.Layer):
    """Reshapes to two sizes that are computed, and to one that does not come first."""

    def call(self, x):
        batch, width = keras.ops.shape(x)[0], keras.ops.shape(x)[1]
        x = keras.ops.reshape(x, (batch, 2 * width // 2, 1))
        return keras.ops.reshape(x, (4, batch))

    def compute_output_shape(self, input_shape):
        return (4, input_shape[0])


@pytest.mark.slow
def test_sizes_of_layers_of_ones_own(tmp_path):
    inputs = keras.Input((4,))
    model = drawn(keras.Model(inputs, Sized()(L.Dense(4, name="one")(inputs))))
    result = kc.quantize(model, kc.MSQ(4))
    kc.export_tflite(result, tmp_path / "net.tflite")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (outputs,) = Runner((tmp_path / "net.tflite").read_bytes()).run([x])
    np.testing.assert_allclose(outputs, np.asarray(result.model(x)), atol=1e-5)


RANDOM = {  # a layer of n_out channels: how it is built, and its operator
    "dense": (lambda n_out, size: L.Dense(n_out, name="layer"), "FULLY_CONNECTED"),
    "conv": (lambda n_out, size: L.Conv2D(n_out, size, padding="same", name="layer"), "CONV_2D"),
    "strided": (lambda n_out, size: L.Conv2D(n_out, size, strides=2, use_bias=False, name="layer"), "CONV_2D"),
    "depthwise": (
        lambda n_out, size: L.DepthwiseConv2D(size, depth_multiplier=n_out, name="layer"),
        "DEPTHWISE_CONV_2D",
    ),
    "transposed": (lambda n_out, size: L.Conv2DTranspose(n_out, size, strides=2, name="layer"), "TRANSPOSE_CONV"),
}


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(RANDOM)),
    n_in=st.integers(1, 9),
    n_out=st.integers(1, 9),
    size=st.integers(1, 3),
    width=st.sampled_from(sorted(ALPHABETS)),
    mode=st.sampled_from(policy.MODES),
    storage=st.sampled_from(policy.STORAGES),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_codes_are_written_read_back_and_run(kind, n_in, n_out, size, width, mode, storage, seed):
    build, operator = RANDOM[kind]
    rng = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input((5, 5, n_in)), build(n_out, size)])
    view = drawn(model, seed).get_layer("layer")
    axes = (2, 3) if kind == "depthwise" else 2 if kind == "transposed" else view.kernel.ndim - 1
    levels = ALPHABETS[width].levels_array
    along = tuple(view.kernel.shape[axis] for axis in np.atleast_1d(axes))
    scale = rng.uniform(0.001, 0.1, along).astype(np.float32)
    kernel = kc.QuantizedKernel(rng.choice(levels, view.kernel.shape), levels, scale, axes)
    view.kernel.assign(kernel.decode())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "net.tflite")
        x = samples_of(model, 8, seed % 1000)
        report = kc.export_tflite(
            kc.Result(model, {"layer": kc.VariableState(kernel)}),
            path,
            activations=mode,
            storage=storage,
            calibration=x,
        )
        name, array, stored = tensors_of(path)[0]["layer"]
    row = report.row("layer")
    assert name == row.storage.upper() and row.action != "float"
    np.testing.assert_array_equal(in_keras_order(array, kernel, operator), kernel.codes)
    np.testing.assert_array_equal(stored, scale.ravel())
    assert report.steps[-1].figures["difference of the outputs"] < (1e-5 if row.action == "weight-only" else 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_that_the_model_has_are_those_of_the_file(tmp_path, symmetric):
    """The file computes what the simulation did, up to ties; calibration samples are not asked for."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="one")(inputs)
    x = L.Add()([x, L.ReLU()(L.Conv2D(8, 3, padding="same", name="two")(x))])
    x = L.Flatten()(L.MaxPooling2D()(x))
    model = drawn(keras.Model(inputs, L.Dense(10, "softmax", name="head")(x)))
    x = samples_of(model)
    w8 = kc.quantize(model, kc.GPFQ(4), x)
    result = kc.quantize_activations(w8, x, symmetric=symmetric)
    report = kc.export_tflite(result, tmp_path / "net.tflite", activations="int8")
    tensors, content = tensors_of(tmp_path / "net.tflite")
    for path, kernel in result.kernels.items():
        np.testing.assert_array_equal(tensors[path][2], kernel.scale)
    computed = {
        (float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]))
        for tensor in content.subgraphs[0].tensors
        if tensor.type == schema.TensorType.INT8 and flatbuffer.array_of(content, tensor) is None
    }
    allowed = {
        (layer.scale, layer.zero_point) for layer in result.model.layers if isinstance(layer, kc.QuantizeActivation)
    }
    allowed.add((1 / 256, -128))  # of every softmax
    assert all(any(np.allclose(each, other, rtol=1e-6) for other in allowed) for each in computed), (computed, allowed)
    kinds = {flatbuffer.operator_name(content, operator) for operator in content.subgraphs[0].operators}
    assert not kinds & {"ROUND", "FAKE_QUANT", "DEQUANTIZE", "MINIMUM"} and (symmetric or "QUANTIZE" not in kinds)
    figures = report.steps[-1].figures
    assert figures["difference of the outputs"] < 0.02 and "operators in floating point" not in figures
    with pytest.raises(kc.InputError, match=r"rounds its activations.* Pass \"int8\"; or the result before"):
        kc.export_tflite(result, tmp_path / "other.tflite")
    with pytest.raises(kc.InputError, match=r"have 8 bits. Received: 4 bits in layer 'images_quantized'"):
        kc.export_tflite(kc.quantize_activations(w8, x, bits=4), tmp_path / "other.tflite", activations="int8")


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.sampled(2)
def test_a_batchnorm_behind_an_activation_is_integers(tmp_path, rank, batch):
    """A product and a sum of constants: a depthwise convolution of 1 x 1, with a weight of 127 steps a channel."""
    inputs = keras.Input(((6, 6, 3), (7, 3), (10,))[3 - rank], name="images")
    layer = {3: lambda **settings: L.Conv2D(8, 3, **settings), 2: lambda **settings: L.Conv1D(8, 3, **settings),
             1: lambda **settings: L.Dense(8, **settings)}[rank]  # fmt: skip
    x = L.BatchNormalization(name="norm")(layer(activation="relu", name="product")(inputs))
    model = drawn(keras.Model(inputs, L.Dense(10, name="head")(L.Flatten()(x))))
    x = samples_of(model)
    result = kc.quantize(model, kc.MSQ(bits=8), x)
    ranged = kc.quantize_activations(result, x)
    for each, calibration in ((ranged, None), (result, x)):
        path = tmp_path / "net.tflite"
        report = kc.export_tflite(each, path, activations="int8", calibration=calibration, static_batch=batch)
        assert "operators in floating point" not in report.steps[-1].figures
        tensors, content = tensors_of(path)
        codes = tensors["norm"][1].ravel()
        np.testing.assert_array_equal(np.abs(codes), 127)
        np.testing.assert_array_equal(np.sign(codes), np.sign(model.get_layer("norm").gamma.numpy()))
        types = {flatbuffer.TYPES[tensor.type] for tensor in content.subgraphs[0].tensors}
        assert "FLOAT32" not in types
    expected = ranged.model.predict(x, verbose=0)
    kc.export_tflite(ranged, tmp_path / "net.tflite", activations="int8")
    (outputs,) = Runner((tmp_path / "net.tflite").read_bytes()).outputs([x])
    assert np.linalg.norm(outputs - expected) <= 0.01 * np.linalg.norm(expected)


@pytest.mark.slow
def test_operators_that_stay_floats_in_a_file_of_integers_are_named(tmp_path):
    """TFLite has no ELU of integers."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.Conv2D(8, 3, activation="elu", name="conv")(inputs)
    model = drawn(keras.Model(inputs, L.Dense(10, name="head")(L.Flatten()(x))))
    x = samples_of(model)
    result = kc.quantize(model, kc.MSQ(bits=8), x)
    for each, calibration in ((kc.quantize_activations(result, x), None), (result, x)):
        step = kc.export_tflite(each, tmp_path / "net.tflite", activations="int8", calibration=calibration)
        assert step.steps[-1].figures["operators in floating point"] == "1 ELU"


@pytest.mark.slow
def test_the_report_says_at_which_layer_integers_lose_most(tmp_path):
    """One channel of `second` is so large that eight bits leave little of the others."""
    x = samples_of(model := three_dense())
    spoil(model, 300)
    report = kc.export_tflite(
        kc.quantize(model, kc.MSQ(bits=8)),
        tmp_path / "net.tflite",
        activations="int8",
        calibration=x,
        static_batch=3,
    )
    step = report.steps[-1]
    errors = {row.path: row.relative_error for row in step.rows}
    assert errors["first"] < 0.02 and 0.1 < errors["third"] < 0.6
    assert step.figures["error grows most at"] == f"third, to {errors['third']:.2%}"
    plain = kc.export_tflite(kc.quantize(model, kc.MSQ(bits=8)), tmp_path / "net.tflite").steps[-1]
    assert "error grows most at" not in plain.figures and plain.rows[0].relative_error is None
    spoil(model, 10)  # what integers cost is reported, and no reason to refuse: the simulation says the same
    lossy = kc.export_tflite(
        kc.quantize(model, kc.MSQ(bits=8)), tmp_path / "net.tflite", activations="int8", calibration=x
    ).steps[-1]
    assert {row.path: row.relative_error for row in lossy.rows}["third"] > 0.8
    assert lossy.figures["difference of the outputs"] < 0.05


def three_dense():
    names = ("first", "second", "third")
    return drawn(keras.Sequential([keras.Input((12,)), *(L.Dense(12, name=name) for name in names)]))


def spoil(model, factor):
    """Makes one channel of `second` larger, which `third` takes back."""
    second, third = (model.get_layer(name).kernel for name in ("second", "third"))
    second.assign(second.numpy() * np.where(np.arange(12) == 0, factor, 1))
    third.assign(third.numpy() / np.where(np.arange(12) == 0, factor, 1)[:, np.newaxis])


def test_a_code_that_a_negative_factor_makes_too_large_is_refused(tmp_path):
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, L.BatchNormalization(name="norm")(L.Conv2D(3, 3, use_bias=False, name="conv")(inputs)))
    drawn(model)
    model.get_layer("norm").gamma.assign([-1.0, 1.0, 1.0])
    kernel = model.get_layer("conv").kernel.numpy()
    scale = np.full(3, 0.01, np.float32)
    codes = np.clip(np.rint(kernel / 0.01), -127, 127).astype(np.int64)
    codes[0, 0, 0, 0] = -128
    quantized = kc.QuantizedKernel(codes, np.arange(-128, 128), scale, 3)
    model.get_layer("conv").kernel.assign(quantized.decode())
    with pytest.raises(kc.InputError, match="layer 'conv' has negative factors, which make 128 of the code -128"):
        kc.export_tflite(kc.Result(model, {"conv": kc.VariableState(quantized)}), tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


EXPORT = """
import sys, keras, keras_compress as kc, numpy as np
keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])  # so that names are counted up
x = np.load(sys.argv[3])
kc.export_tflite(kc.load_result(sys.argv[1]), sys.argv[2], activations="int8", calibration=x)
"""


@pytest.mark.slow
def test_a_later_process_writes_the_same_bytes(model, tmp_path):
    x = samples_of(model)
    result = kc.quantize(kc.fold_batch_normalization(model), kc.GPFQ(bits=4), x)
    result.save(tmp_path / "net")
    np.save(tmp_path / "x.npy", x)
    kc.export_tflite(result, tmp_path / "here.tflite", activations="int8", calibration=x)
    names = ("net", "there.tflite", "x.npy")
    subprocess.run([sys.executable, "-c", EXPORT, *(str(tmp_path / name) for name in names)], check=True)
    assert (tmp_path / "here.tflite").read_bytes() == (tmp_path / "there.tflite").read_bytes()


# Bad input


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"activations": "int4"},
            "activations must be one of float, dynamic, int8, float16, .* Received: 'int4'",
        ),
        ({"storage": "tiny"}, "storage must be one of fast, small, sparse. Received: 'tiny'"),
        ({"static_batch": 0}, "static_batch must be an integer from 1 upwards. Received: 0"),
        ({"activations": "int8"}, 'activations="int8" needs calibration samples'),
        ({"activations": "float16"}, 'activations="float16" rounds all weights anew'),
        ({"path": "net.bin"}, "must end in .tflite. Received: 'net.bin'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_any_work(model, tmp_path, arguments, message):
    result = kc.quantize(model, kc.MSQ(bits=4))
    with pytest.raises(kc.InputError, match=message):
        kc.export_tflite(result, **{"path": tmp_path / "net.tflite"} | arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "quantizer, message",
    [
        (kc.MSQ(alphabet=kc.Midtread(8)), "257 levels, -128 to 128, do not fit into 8 bits"),
        (kc.MSQ(alphabet=kc.Integer(4, symmetric=False)), "weights have no zero point"),
        (kc.MSQ(alphabet=kc.Integer(4, group_size=8)), "no scales for groups of inputs"),
    ],
    ids=repr,
)
def test_codes_that_no_weight_type_holds_are_refused_by_name(tmp_path, quantizer, message):
    model = drawn(keras.Sequential([keras.Input((16,)), L.Dense(3, name="head")]))
    result = kc.quantize(model, quantizer, samples_of(model))
    with pytest.raises(kc.InputError, match="'head'.*" + message):
        kc.export_tflite(result, tmp_path / "net.tflite")


def test_midtread_with_4_bits_needs_8(tmp_path):
    model = drawn(keras.Sequential([keras.Input((64,)), L.Dense(3, name="head")]))
    result = kc.quantize(model, kc.MSQ(alphabet=kc.Midtread(4, scalar=0.3)))
    assert result.kernels["head"].codes.max() == 8
    assert kc.export_tflite(result, tmp_path / "net.tflite").row("head").storage == "int8"


def test_a_file_that_differs_is_not_left_behind(model, tmp_path, monkeypatch):
    from keras_compress.export import checking

    result = kc.quantize(model, kc.MSQ(bits=4))
    (tmp_path / "net.tflite").write_bytes(b"old")
    monkeypatch.setitem(checking.TOLERANCES, "float", -1.0)
    monkeypatch.setattr(checking, "TINY", -1.0)
    with pytest.raises(kc.InputError, match=r"differs from what it should be by .* it was not written"):
        kc.export_tflite(result, tmp_path / "net.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]
    assert (tmp_path / "net.tflite").read_bytes() == b"old"


def test_a_file_with_other_codes_is_not_left_behind(model, tmp_path, monkeypatch):
    from keras_compress.export import editing

    pack = flatbuffer.pack

    def off_by_one(codes, bits):
        return pack(np.clip(codes + 1, -7, 7), bits)

    result = kc.quantize(model, kc.MSQ(bits=4))
    monkeypatch.setattr(editing.flatbuffer, "pack", off_by_one)
    with pytest.raises(kc.InputError, match="does not hold the codes of layer 'conv'"):
        kc.export_tflite(result, tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []
