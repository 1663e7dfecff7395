"""Makes trained Keras models small and says what it cost.

`import keras_compress` loads neither TensorFlow nor Keras: each public name loads its module when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {  # public name: the module that defines it
    "Beacon": "keras_compress.quantization.greedy",
    "Calibration": "keras_compress.calibration.calibration",
    "ConstantSparsity": "keras_compress.pruning.schedules",
    "Equispaced": "keras_compress.quantization.alphabets",
    "GPFQ": "keras_compress.quantization.quantizers",
    "InputError": "keras_compress.errors",
    "Integer": "keras_compress.quantization.alphabets",
    "MSQ": "keras_compress.quantization.quantizers",
    "Midtread": "keras_compress.quantization.alphabets",
    "OPTQ": "keras_compress.quantization.greedy",
    "Qronos": "keras_compress.quantization.greedy",
    "PolynomialDecay": "keras_compress.pruning.schedules",
    "QuantizeActivation": "keras_compress.layers.activation",
    "QuantizedKernel": "keras_compress.result",
    "Quantizer": "keras_compress.quantization.quantizers",
    "Report": "keras_compress.report",
    "Result": "keras_compress.result",
    "SPFQ": "keras_compress.quantization.greedy",
    "SparseGPFQ": "keras_compress.quantization.greedy",
    "StorageError": "keras_compress.errors",
    "UserError": "keras_compress.errors",
    "VariableState": "keras_compress.result",
    "allocate": "keras_compress.quantization.allocation",
    "benchmark_tflite": "keras_compress.measurement.tflite",
    "cluster_weights": "keras_compress.clustering.weights",
    "compare_tflite": "keras_compress.measurement.tflite",
    "compare_sizes": "keras_compress.measurement.counts",
    "distill_scales": "keras_compress.quantization.distillation",
    "evaluate": "keras_compress.measurement.evaluation",
    "evaluate_tflite": "keras_compress.measurement.tflite",
    "export_tflite": "keras_compress.export.tflite",
    "from_tf_keras": "keras_compress.bridge.conversion",
    "fold_batch_normalization": "keras_compress.quantization.folding",
    "inspect_tflite": "keras_compress.measurement.inspection",
    "load_model": "keras_compress.bridge.loading",
    "load_packed": "keras_compress.export.packed",
    "load_result": "keras_compress.result",
    "measure": "keras_compress.measurement.counts",
    "prune_magnitude": "keras_compress.pruning.magnitude",
    "quantization_aware_training": "keras_compress.training.quantization_aware",
    "quantize": "keras_compress.quantization.quantize",
    "quantize_activations": "keras_compress.quantization.activations",
    "recalibrate_batch_normalization": "keras_compress.quantization.recalibration",
    "export_packed": "keras_compress.export.packed",
    "to_tf_keras": "keras_compress.bridge.conversion",
    "export_c_array": "keras_compress.export.c_array",
}
_WITHOUT_KERAS = (
    "keras_compress.errors",
    "keras_compress.export.c_array",
    "keras_compress.measurement.inspection",
    "keras_compress.measurement.tflite",
    "keras_compress.report",
)

_PACKAGES = {"workflows": "keras_compress.workflows"}  # of classes that have their names there

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(_PACKAGES[name])
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES[name]
    if module not in _WITHOUT_KERAS:
        from keras_compress.backend import check_backend

        check_backend()
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
