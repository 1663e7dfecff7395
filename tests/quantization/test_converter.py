"""The quantized tensors, and their alphabets, are those of the int8 file that TFLite's converter makes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from tests.layers import roundings

schema = pytest.importorskip("tensorflow.lite.python.schema_py_generated")

# The converter seems to compute sums in place while it measures ranges: the range of an input holds the outputs too.
# And it takes some functions apart.
LEFT_OUT = {
    roundings.norm_after_relu, roundings.relu_with_two_readers, roundings.relu_with_a_threshold,
    roundings.other_functions,
}  # fmt: skip
# What the file rounds besides: the product in a BatchNormalization that is not folded (`norm_first` and
# `norm_with_two_readers`), before the bias of a Dense layer on sequences (`moved`), between the two kernels of
# `separable_norm`, and in `a_layer_as_activation`.
WITHIN_LAYERS = 5


def alphabets_of_the_file(model, images):
    """Scale and zero point of each int8 tensor that is no constant."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(converter.convert()), 0))
    alphabets = set()
    for tensor in file.subgraphs[0].tensors:
        quantization = tensor.quantization
        if tensor.type == schema.TensorType.INT8 and file.buffers[tensor.buffer].data is None:
            alphabets.add((float(quantization.scale[0]), int(quantization.zeroPoint[0])))
    return alphabets


def without_partner(alphabets, others):
    return [
        (scale, zero_point)
        for scale, zero_point in alphabets
        if not any(abs(scale / other - 1) < 1e-4 and zero_point == point for other, point in others)
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning")
@pytest.mark.sampled(0)
def test_the_alphabets_are_those_of_the_int8_file(rng):
    image = keras.Input((8, 8, 4), name="image")
    chosen = [case for case in roundings.EXPECTED if case not in LEFT_OUT]
    outputs = []
    for case in chosen:
        inner = keras.Input((8, 8, 4))
        outputs.append(keras.Model(inner, case(inner), name=case.__name__)(image))
    model = keras.Model(image, outputs)
    for variable in model.weights:
        low, high = (0.5, 2.0) if variable.name in ("gamma", "moving_variance") else (-0.5, 0.5)
        variable.assign(rng.uniform(low, high, variable.shape))
    images = rng.normal(0.3, 1, (20, 8, 8, 4)).astype(np.float32)
    of_file = alphabets_of_the_file(model, images)
    step = kc.quantize_activations(model, images, ranges="minmax").report.steps[-1]
    paths = {(row.scale, row.zero_point): row.path for row in step.rows}
    assert len(paths) > 25
    assert {paths[alphabet] for alphabet in without_partner(paths, of_file)} == set()
    assert len(without_partner(of_file, paths)) <= WITHIN_LAYERS
