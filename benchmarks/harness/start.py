"""What a benchmark on data sets and TensorFlow begins with."""

import logging
import pathlib
from typing import Any

from absl import flags

from harness import results
from keras_compress.commands import cli


def start(argv: list[str]) -> tuple[pathlib.Path, dict[str, Any]]:
    """Takes the command line; the folder of --data, and the machine as it was before TensorFlow was loaded.

    Raises:
        InputError: arguments that are no flags, or no folder of data sets.
    """
    cli.take_arguments(argv)
    data = results.data_folder(flags.FLAGS.data)
    machine = results.machine()
    cli.import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each network is traced: that is no news
    return data, machine
