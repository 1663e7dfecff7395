"""What every technique takes, returns and fills in."""

from keras_compress.result.quantized_kernel import QuantizedKernel, weight_scales, width_of
from keras_compress.result.reading import has_codes, load_result
from keras_compress.result.result import Result
from keras_compress.result.states import VariableState

__all__ = ["QuantizedKernel", "Result", "VariableState", "has_codes", "load_result", "weight_scales", "width_of"]
