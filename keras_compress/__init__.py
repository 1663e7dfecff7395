"""Makes trained Keras models small and says what it cost.

`import keras_compress` loads neither TensorFlow nor Keras: each public name loads its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `_MODULES` finds, for type checkers and editors
    from keras_compress import workflows as workflows
    from keras_compress.bridge.conversion import from_tf_keras as from_tf_keras
    from keras_compress.bridge.conversion import to_tf_keras as to_tf_keras
    from keras_compress.bridge.loading import load_model as load_model
    from keras_compress.calibration.calibration import Calibration as Calibration
    from keras_compress.clustering.weights import cluster_weights as cluster_weights
    from keras_compress.errors import InputError as InputError
    from keras_compress.errors import StorageError as StorageError
    from keras_compress.errors import UserError as UserError
    from keras_compress.export.c_array import export_c_array as export_c_array
    from keras_compress.export.packed import export_packed as export_packed
    from keras_compress.export.packed import load_packed as load_packed
    from keras_compress.export.tflite import export_tflite as export_tflite
    from keras_compress.fitting.summaries import TrainingSummaries as TrainingSummaries
    from keras_compress.fitting.training import Training as Training
    from keras_compress.layers.activation import QuantizeActivation as QuantizeActivation
    from keras_compress.measurement.counts import compare_sizes as compare_sizes
    from keras_compress.measurement.counts import measure as measure
    from keras_compress.measurement.evaluation import evaluate as evaluate
    from keras_compress.measurement.inspection import inspect_tflite as inspect_tflite
    from keras_compress.measurement.tflite import benchmark_tflite as benchmark_tflite
    from keras_compress.measurement.tflite import compare_tflite as compare_tflite
    from keras_compress.measurement.tflite import evaluate_tflite as evaluate_tflite
    from keras_compress.pruning.magnitude import prune_magnitude as prune_magnitude
    from keras_compress.pruning.schedules import ConstantSparsity as ConstantSparsity
    from keras_compress.pruning.schedules import PolynomialDecay as PolynomialDecay
    from keras_compress.quantization.accuracy import quantize_with_accuracy_control as quantize_with_accuracy_control
    from keras_compress.quantization.activations import quantize_activations as quantize_activations
    from keras_compress.quantization.allocation import allocate as allocate
    from keras_compress.quantization.alphabets import Equispaced as Equispaced
    from keras_compress.quantization.alphabets import Integer as Integer
    from keras_compress.quantization.alphabets import Midtread as Midtread
    from keras_compress.quantization.alphabets import Ternary as Ternary
    from keras_compress.quantization.distillation import distill_scales as distill_scales
    from keras_compress.quantization.folding import fold_batch_normalization as fold_batch_normalization
    from keras_compress.quantization.greedy import OPTQ as OPTQ
    from keras_compress.quantization.greedy import SPFQ as SPFQ
    from keras_compress.quantization.greedy import Beacon as Beacon
    from keras_compress.quantization.greedy import Qronos as Qronos
    from keras_compress.quantization.greedy import SparseGPFQ as SparseGPFQ
    from keras_compress.quantization.quantize import quantize as quantize
    from keras_compress.quantization.quantizers import GPFQ as GPFQ
    from keras_compress.quantization.quantizers import MSQ as MSQ
    from keras_compress.quantization.quantizers import Quantizer as Quantizer
    from keras_compress.quantization.recalibration import (
        recalibrate_batch_normalization as recalibrate_batch_normalization,
    )
    from keras_compress.report import Report as Report
    from keras_compress.result.quantized_kernel import QuantizedKernel as QuantizedKernel
    from keras_compress.result.reading import load_result as load_result
    from keras_compress.result.result import Result as Result
    from keras_compress.result.states import VariableState as VariableState
    from keras_compress.samples.forms import preprocess as preprocess
    from keras_compress.samples.images import ImageFolder as ImageFolder
    from keras_compress.samples.samples import Samples as Samples
    from keras_compress.training.quantization_aware import quantization_aware_training as quantization_aware_training

__version__ = "0.1.0"

_MODULES = {  # public name: the module that defines it
    "Beacon": "keras_compress.quantization.greedy",
    "Calibration": "keras_compress.calibration.calibration",
    "ConstantSparsity": "keras_compress.pruning.schedules",
    "Equispaced": "keras_compress.quantization.alphabets",
    "GPFQ": "keras_compress.quantization.quantizers",
    "ImageFolder": "keras_compress.samples.images",
    "InputError": "keras_compress.errors",
    "Integer": "keras_compress.quantization.alphabets",
    "MSQ": "keras_compress.quantization.quantizers",
    "Midtread": "keras_compress.quantization.alphabets",
    "OPTQ": "keras_compress.quantization.greedy",
    "Qronos": "keras_compress.quantization.greedy",
    "PolynomialDecay": "keras_compress.pruning.schedules",
    "QuantizeActivation": "keras_compress.layers.activation",
    "QuantizedKernel": "keras_compress.result.quantized_kernel",
    "Quantizer": "keras_compress.quantization.quantizers",
    "Report": "keras_compress.report",
    "Result": "keras_compress.result.result",
    "Samples": "keras_compress.samples.samples",
    "SPFQ": "keras_compress.quantization.greedy",
    "SparseGPFQ": "keras_compress.quantization.greedy",
    "StorageError": "keras_compress.errors",
    "Ternary": "keras_compress.quantization.alphabets",
    "Training": "keras_compress.fitting.training",
    "TrainingSummaries": "keras_compress.fitting.summaries",
    "UserError": "keras_compress.errors",
    "VariableState": "keras_compress.result.states",
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
    "load_result": "keras_compress.result.reading",
    "measure": "keras_compress.measurement.counts",
    "preprocess": "keras_compress.samples.forms",
    "prune_magnitude": "keras_compress.pruning.magnitude",
    "quantization_aware_training": "keras_compress.training.quantization_aware",
    "quantize": "keras_compress.quantization.quantize",
    "quantize_with_accuracy_control": "keras_compress.quantization.accuracy",
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
    "keras_compress.samples.forms",
    "keras_compress.samples.images",
    "keras_compress.samples.samples",
)

_PACKAGES = {"workflows": "keras_compress.workflows"}  # of classes that have their names there

__all__ = ["__version__", *_MODULES]


if not TYPE_CHECKING:  # a name that is not there is an error for type checkers, too

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
