"""Every public function that takes a model or a result and returns a result, once: each passes all contracts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_compress as kc

L = keras.layers
SHAPE, CLASSES, COUNT = (6, 6, 2), 3, 32


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(COUNT, *SHAPE)).astype(np.float32), np.arange(COUNT) % CLASSES


def model() -> keras.Model:
    """A convolution with BatchNorm, a depthwise one, an addition and a Dense layer; every weight drawn."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    first = L.BatchNormalization(name="norm")(L.Conv2D(8, 3, padding="same", name="conv")(inputs))
    hidden = L.DepthwiseConv2D(3, padding="same", name="depthwise")(L.ReLU(name="relu")(first))
    hidden = L.Flatten(name="flat")(L.Add(name="add")([first, hidden]))
    built = keras.Model(inputs, L.Dense(CLASSES, "softmax", name="classes")(hidden))
    rng = np.random.default_rng(1)
    for variable in built.weights:
        if len(variable.shape) == 1:
            low, high = (0.5, 2.0) if variable.name in ("gamma", "moving_variance") else (-0.3, 0.3)
            variable.assign(rng.uniform(low, high, variable.shape))
    built.compile("sgd", "sparse_categorical_crossentropy")
    return built


@dataclasses.dataclass(frozen=True)
class Technique:
    """How a technique is called in the contracts.

    Attributes:
        call: model or result -> result.
        keeps: parts of `VariableState` that survive it in every kernel.
        makes: parts that some kernels have after it.
        trains: whether it changes weights by training.
    """

    call: Callable[[Any], kc.Result]
    keeps: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    trains: bool = False


def _distilled(given: Any) -> kc.Result:
    x, _ = data()
    known = given if isinstance(given, kc.Result) and given.kernels else kc.quantize(given, kc.MSQ(3), x)
    return kc.distill_scales(known, x, teacher=model(), epochs=1)


EVERYTHING = ("codes", "mask", "clusters")
ONE_EPOCH = kc.Training(verbose=0)
TECHNIQUES: dict[str, Technique] = {
    "fold_batch_normalization": Technique(kc.fold_batch_normalization, keeps=("codes", "mask")),
    "recalibrate_batch_normalization": Technique(
        lambda given: kc.recalibrate_batch_normalization(given, data()[0]), keeps=EVERYTHING
    ),
    "quantize": Technique(lambda given: kc.quantize(given, kc.GPFQ(3), data()[0]), keeps=("mask",), makes=("codes",)),
    "quantize_with_accuracy_control": Technique(
        lambda given: kc.quantize_with_accuracy_control(given, kc.GPFQ(3), data()[0], data(), max_drop=0.2),
        keeps=("mask",), makes=("codes",),
    ),
    "quantize_activations": Technique(lambda given: kc.quantize_activations(given, data()[0]), keeps=EVERYTHING),
    "distill_scales": Technique(_distilled, keeps=("codes", "mask"), makes=("codes",)),
    "prune_magnitude": Technique(
        lambda given: kc.prune_magnitude(given, data(), schedule=kc.ConstantSparsity(0.5), training=ONE_EPOCH),
        keeps=("mask",), makes=("mask",), trains=True,
    ),
    "cluster_weights": Technique(
        lambda given: kc.cluster_weights(given, data(), number_of_clusters=4, training=ONE_EPOCH),
        keeps=("mask",), makes=("clusters",), trains=True,
    ),
    "quantization_aware_training": Technique(
        lambda given: kc.quantization_aware_training(given, data(), training=ONE_EPOCH),
        keeps=("mask",), makes=("codes",), trains=True,
    ),
}  # fmt: skip
NO_TECHNIQUE = {  # public functions that return something else
    "allocate", "benchmark_tflite", "compare_sizes", "compare_tflite", "evaluate", "evaluate_tflite", "export_c_array",
    "export_packed", "export_tflite", "from_tf_keras", "inspect_tflite", "load_model", "load_packed", "load_result",
    "measure", "preprocess", "to_tf_keras",
}  # fmt: skip
