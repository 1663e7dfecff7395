"""Flags that several commands share: which network, and which samples belong to it; a training.

from keras_compress.commands import cli, options

options.define_model()

def main(argv):
    path = options.model_path(argv)
    ...
    data = options.load_data(path, model)
"""

from keras_compress.commands.network_flags import (
    card_path,
    define_dataset,
    define_model,
    has_data,
    load_data,
    model_path,
    numbers,
)
from keras_compress.commands.training_flags import define_training, load_training

__all__ = [
    "card_path",
    "define_dataset",
    "define_model",
    "define_training",
    "has_data",
    "load_data",
    "load_training",
    "model_path",
    "numbers",
]
