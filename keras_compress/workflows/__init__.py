"""Recipes that people know from tutorials, as classes: they chain techniques and add no mechanism."""

from keras_compress.workflows.pruning import ModelPruning
from keras_compress.workflows.quantization_aware import QuantizationAwareTraining

__all__ = ["ModelPruning", "QuantizationAwareTraining"]
