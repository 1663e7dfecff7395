import gzip
import math

import keras
import numpy as np
import pytest

from keras_compress.errors import InputError
from keras_compress.layers.operations import KINDS
from keras_compress.measurement.counts import measure
from keras_compress.result import QuantizedKernel, Result, VariableState

L = keras.layers


def counted_by_loops(layer: keras.Layer, shape: tuple[int, ...]) -> int:
    """Multiplications of a layer on one sample, found by asking how often each weight is used.

    With all weights and inputs 1, the outputs of a linear layer sum to its number of multiplications.
    """
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
    return int(np.asarray(model(np.ones((1, *shape)))).sum())


ONE_LAYER = {  # only 'valid' padding: with 'same', products with zeros of the border count too
    "dense": (lambda: L.Dense(5, use_bias=False), (7,)),
    "dense_3d": (lambda: L.Dense(5, use_bias=False), (3, 7)),
    "conv1d": (lambda: L.Conv1D(4, 3, use_bias=False, dilation_rate=2), (9, 2)),
    "conv2d": (lambda: L.Conv2D(4, (3, 2), strides=2, use_bias=False), (9, 8, 3)),
    "conv2d_groups": (lambda: L.Conv2D(4, 3, groups=2, use_bias=False), (6, 6, 4)),
    "conv3d": (lambda: L.Conv3D(2, 2, use_bias=False), (4, 4, 4, 2)),
    "transpose1d": (lambda: L.Conv1DTranspose(3, 3, strides=2, use_bias=False), (5, 2)),
    "transpose2d": (lambda: L.Conv2DTranspose(3, 3, strides=2, use_bias=False), (5, 4, 2)),
    "transpose3d": (lambda: L.Conv3DTranspose(2, 2, use_bias=False), (3, 3, 3, 2)),
    "depthwise1d": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False), (6, 3)),
    "depthwise2d": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), (6, 7, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_LAYER)
def test_macs_of_one_layer(name):
    build, shape = ONE_LAYER[name]
    layer = build()
    expected = counted_by_loops(layer, shape)
    assert measure(keras.Sequential([keras.Input(shape), layer])).macs == expected


@pytest.mark.parametrize(
    ("separable", "depthwise", "pointwise", "shape"),
    [
        (L.SeparableConv1D, L.DepthwiseConv1D, L.Conv1D, (9, 3)),
        (L.SeparableConv2D, L.DepthwiseConv2D, L.Conv2D, (9, 8, 3)),
    ],
)
def test_macs_of_a_separable_layer_are_those_of_its_parts(separable, depthwise, pointwise, shape):
    whole = keras.Sequential([keras.Input(shape), separable(5, 3, strides=2, depth_multiplier=2)])
    parts = keras.Sequential([keras.Input(shape), depthwise(3, strides=2, depth_multiplier=2), pointwise(5, 1)])
    assert measure(whole).macs == measure(parts).macs


def test_every_multiplying_layer_is_tested():
    tested = {type(build()) for build, _ in ONE_LAYER.values()} | {L.SeparableConv1D, L.SeparableConv2D}
    assert tested == {kind for kind, row in KINDS.items() if row.positions}


def test_other_layers_have_parameters_and_no_macs():
    model = keras.Sequential([keras.Input((4, 3)), L.LSTM(2), L.BatchNormalization(), L.Dense(2)])
    rows = measure(model).layers
    assert [row.macs for row in rows] == [0, 0, 4]
    assert [row.parameters for row in rows] == [layer.count_params() for layer in model.layers]


def test_each_call_of_a_shared_layer_counts():
    dense, inputs = L.Dense(4, name="dense"), keras.Input((4,))
    measured = measure(keras.Model(inputs, dense(dense(inputs)) + dense(inputs)))
    assert (measured.macs, measured.parameters) == (3 * 16, 20)


def test_a_nested_model_counts_with_the_shapes_that_it_is_called_on():
    open_inputs = keras.Input((None, None, 2))
    inner = keras.Model(open_inputs, L.Conv2D(3, 1, use_bias=False, name="conv")(open_inputs), name="inner")
    assert measure(inner).macs is None
    small, large = keras.Input((2, 2, 2)), keras.Input((4, 4, 2))
    measured = measure(keras.Model([small, large], [inner(small), inner(inputs=large)]))
    assert measured.macs == (4 + 16) * 2 * 3
    assert [row.path for row in measured.layers] == ["inner/conv"]


def test_a_batch_that_is_joined_with_another_axis():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, L.Dense(3)(keras.ops.reshape(inputs, (-1, 4))))
    assert measure(model).macs == 5 * 4 * 3


def test_a_fixed_batch_counts_one_sample():
    assert measure(keras.Sequential([keras.Input(batch_shape=(8, 4)), L.Dense(3)])).macs == 12


def test_channels_first():
    layer = L.Conv2D(4, 3, data_format="channels_first")
    assert measure(keras.Sequential([keras.Input((2, 6, 5)), layer])).macs == 4 * 3 * (9 * 2) * 4


@pytest.mark.slow
def test_known_networks():
    """MACs as published: 300 million for MobileNetV2 (Sandler et al., 2018)."""
    measured = measure(keras.applications.MobileNetV2(weights=None))
    assert measured.parameters == 3_538_984
    assert measured.macs == pytest.approx(300e6, rel=0.005)


def network() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), L.Conv2D(4, 3, name="conv"), L.Flatten(), L.Dense(3, name="dense")]
    )
    model.set_weights([np.random.default_rng(0).normal(size=weight.shape) for weight in model.get_weights()])
    return model


def test_bytes_of_a_float_model():
    model = network()
    measured = measure(model)
    assert measured.raw_bytes == measured.ideal_bytes == 4 * model.count_params()
    whole = b"".join(weight.astype("<f4").tobytes() for weight in model.get_weights())
    assert measured.gzipped_bytes == len(gzip.compress(whole, compresslevel=6, mtime=0))


def quantized_network(levels: np.ndarray) -> Result:
    model = network()
    codes = np.random.default_rng(0).choice(levels, model.get_layer("dense").kernel.shape)
    kernel = QuantizedKernel(codes, levels, np.full(3, 0.5, np.float32), -1)
    model.get_layer("dense").kernel.assign(kernel.decode())
    return Result(model, {"dense": VariableState(kernel)})


@pytest.mark.parametrize("num_levels", [2, 3, 4, 7, 15])
def test_ideal_bytes_of_a_quantized_kernel(num_levels):
    measured = measure(quantized_network(np.arange(num_levels)))
    # 64 inputs times 3 units as codes; 3 scales, 3 biases and the convolution's 40 numbers as float32.
    assert measured.ideal_bytes == math.ceil(192 * math.log2(num_levels) / 8) + 4 * (3 + 3 + 40)
    assert measured.raw_bytes == 4 * (192 + 3 + 40)


def test_nonzeros_and_gzip_see_zeros():
    result = quantized_network(np.arange(-1, 2))
    measured, dense = measure(result), measure(network())
    codes = result.kernels["dense"].codes
    assert measured.nonzeros == measured.parameters - np.count_nonzero(codes == 0)
    assert measured.layers[-1].nonzeros == np.count_nonzero(codes) + 3
    assert measured.gzipped_bytes < dense.gzipped_bytes


def test_totals_are_sums():
    measured = measure(network())
    for field in ("parameters", "nonzeros", "macs", "ideal_bytes"):
        assert getattr(measured, field) == sum(getattr(row, field) for row in measured.layers)


def test_the_model_gets_no_nodes():
    model = network()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    measure(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


def test_the_table_can_be_read():
    lines = str(measure(network())).splitlines()
    assert lines[0].split() == ["layer", "type", "parameters", "non-zero", "MACs", "ideal", "bytes"]
    assert lines[1].split() == ["conv", "Conv2D", "40", "40", "576", "160"]
    assert lines[3].split() == ["total", "235", "235", "768", "940"]
    assert lines[4].startswith("bytes: 940 raw,")
    assert len({len(line) for line in lines[:4]}) == 1


def test_an_open_shape_is_shown_as_unknown():
    model = keras.Sequential([keras.Input((None, None, 1)), L.Conv2D(2, 3)])
    assert str(measure(model)).splitlines()[1].split()[-2] == "?"


def test_a_model_without_weights():
    measured = measure(keras.Sequential([keras.Input((2,)), L.ReLU()]))
    assert (measured.parameters, measured.macs, measured.ideal_bytes, measured.layers) == (0, 0, 0, ())
    assert "total" in str(measured)


def test_bad_input():
    with pytest.raises(InputError, match=r"is expected"):
        measure("model.keras")
    with pytest.raises(InputError, match="is not built"):
        measure(keras.Sequential([L.Dense(2)]))
    result = quantized_network(np.arange(3))
    with pytest.raises(InputError, match=r"codes for \['other'\]"):
        measure(Result(result.model, {"other": result.states["dense"]}))
