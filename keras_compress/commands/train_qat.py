"""Trains a network on while its weights and activations are rounded, and writes down what that cost.

    python train/train_qat.py digits_cnn
    python train/train_qat.py digits_cnn --bits=4 --epochs=5 --learning_rate=0.0005
    python train/train_qat.py quantized_models/digits_cnn_pruned --bits=8
    python train/train_qat.py my_network.h5 --dataset=cifar10 --checkpoint_dir=state
    python train/train_qat.py --architecture=cnn --dataset=mnist

MODEL is a path, or the name of a network in serialized_models/; its model card says which data set it belongs to, as
for quantize/quantize_pretrained.py. Zeros of train_pruned.py stay. The network with its integers is in
quantized_models/NAME_qatB.* (B bits), which quantize/export_tflite.py takes; the TFLite file with the trained ranges of
activations is next to it. A row is in model_metrics/NAME.csv, logs for TensorBoard are in train_logs/NAME_qatB/. With
--architecture the network is trained first, as train/train_baseline.py would. With --strategy=multiworker the same
command runs on each worker, the first one writes.
"""

import pathlib
from typing import Any

from absl import flags

from keras_compress.commands import options

FLAGS = flags.FLAGS

options.define_model()
options.define_training()
flags.DEFINE_integer("bits", 8, "Of the weights, 2 to 8; activations have 8.")


def main(argv: list[str]) -> None:
    def technique() -> dict[str, Any]:
        from keras_compress.training.quantization_aware import check_bits

        check_bits(FLAGS.bits)
        return {"bits": FLAGS.bits}

    job = options.load_training(argv, f"qat{FLAGS.bits}", technique)
    import keras_compress as kc

    folder = pathlib.Path(FLAGS.output_dir)
    file = folder / f"{job.name}.tflite" if job.writes else None
    result = kc.quantization_aware_training(job.given, job.train, tflite=file, **job.settings)
    job.write(result, folder, bits=FLAGS.bits, tflite=file)
