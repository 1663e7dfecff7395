"""Trains a network on while its weights and activations are rounded, and writes down what that cost.

    python train/train_qat.py digits_cnn
    python train/train_qat.py digits_cnn --bits=4 --epochs=5 --learning_rate=0.0005
    python train/train_qat.py quantized_models/digits_cnn_gpfq_b4
    python train/train_qat.py quantized_models/digits_cnn_pruned --bits=8
    python train/train_qat.py my_network.h5 --dataset=cifar10 --checkpoint_dir=state
    python train/train_qat.py --architecture=cnn --dataset=mnist

MODEL is a path, or the name of a network in serialized_models/; its model card says which data set it belongs to, as
for quantize/quantize_pretrained.py. Codes of quantize_pretrained.py are where the training begins; zeros of
train_pruned.py stay. The network with its integers and its ranges of activations is in quantized_models/NAME_qatB.* (B
bits), which quantize/export_tflite.py takes; a TFLite file with both is next to it. A row is in model_metrics/NAME.csv,
logs for TensorBoard are in a folder of train_logs/NAME_qatB/. With --architecture the network is trained first, as
train/train_baseline.py would. With --strategy=multiworker the same command runs on each worker, the first one writes.
"""

import pathlib
from typing import Any

from absl import flags

from keras_compress.commands import options
from keras_compress.errors import InputError

FLAGS = flags.FLAGS
FILES = {8: "int8", None: "float"}  # bits of activations -> what a TFLite file has

options.define_model()
options.define_training()
flags.DEFINE_integer("bits", None, "Of the weights, 2 to 8. Default: as the codes of MODEL have, else 8.")
flags.DEFINE_string("activation_bits", "8", "Of the activations, 2 to 16; none leaves them in floating point.")


def main(argv: list[str]) -> None:
    activation_bits = _activation_bits()
    settings = {"bits": FLAGS.bits, "activation_bits": activation_bits, "engine": FLAGS.engine}

    def technique() -> dict[str, Any]:
        from keras_compress.training.quantization_aware import check_settings

        check_settings(**settings)
        return settings

    job = options.load_training(argv, f"qat{FLAGS.bits or ''}", technique)
    import keras_compress as kc

    result = kc.quantization_aware_training(job.given, job.train, **job.settings)
    bits = max(kernel.levels.size - 1 for kernel in result.kernels.values()).bit_length()
    job.write(result, pathlib.Path(FLAGS.output_dir), bits=bits, activations=FILES.get(activation_bits))


def _activation_bits() -> int | None:
    if FLAGS.activation_bits == "none":
        return None
    if not FLAGS.activation_bits.isdigit():
        raise InputError(f"--activation_bits takes none or an integer. Received: {FLAGS.activation_bits!r}.")
    return int(FLAGS.activation_bits)
