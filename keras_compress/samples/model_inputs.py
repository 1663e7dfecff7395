"""What a Keras model takes."""

import keras

from keras_compress.layers.paths import ModelInputs
from keras_compress.samples.inputs import InputSpec


def input_specs(model: keras.Model) -> list[InputSpec]:
    """Of the inputs of a model, in their order."""
    inputs = ModelInputs.of(model)
    return [
        InputSpec(name, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        for name, tensor in zip(inputs.names, inputs.tensors, strict=True)
    ]
