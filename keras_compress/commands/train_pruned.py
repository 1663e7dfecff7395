"""Trains a network on while its smallest weights become zero, and writes down what that cost.

    python train/train_pruned.py digits_cnn
    python train/train_pruned.py digits_cnn --initial_sparsity=0.5 --final_sparsity=0.9 --epochs=20
    python train/train_pruned.py digits_mlp --block_size=4,1
    python train/train_pruned.py my_network.h5 --dataset=cifar10 --checkpoint_dir=state
    python train/train_pruned.py --architecture=cnn --dataset=mnist

MODEL is a path, or the name of a network in serialized_models/; its model card says which data set it belongs to, as
for quantize/quantize_pretrained.py. The pruned network, its zeros and its report are in quantized_models/NAME_pruned.*,
a row is in model_metrics/NAME.csv, and logs for TensorBoard are in a folder of train_logs/NAME_pruned/. With
--checkpoint_dir the same command goes on after a kill, to the same weights. The learning rate stays until the last
zeros come, and then falls. With --architecture the network is trained first, as train/train_baseline.py would. With
--strategy=multiworker the same command runs on each worker, the first one writes.
"""

import pathlib
from typing import Any

from absl import flags

from keras_compress.commands import options

FLAGS = flags.FLAGS

options.define_model()
options.define_training()
flags.DEFINE_float("initial_sparsity", 0.5, "Fraction of zeros in each kernel at the beginning.")
flags.DEFINE_float("final_sparsity", 0.8, "Fraction of zeros in each kernel after three quarters of the training.")
flags.DEFINE_bool("constant", False, "--final_sparsity from the beginning.")
flags.DEFINE_list("m_by_n", None, "Such as 2,4: two zeros among four neighbours along the input axis.")
flags.DEFINE_list("block_size", None, "Such as 4,1: zeros in blocks of four inputs of Dense layers.")


def main(argv: list[str]) -> None:
    given = [flag for flag in ("m_by_n", "block_size") if FLAGS[flag].value]
    pairs = {flag: tuple(options.numbers(flag, int)) for flag in given}

    def technique() -> dict[str, Any]:
        from keras_compress.pruning.magnitude import check_settings
        from keras_compress.pruning.schedules import ConstantSparsity, PolynomialDecay

        schedule = (
            ConstantSparsity(FLAGS.final_sparsity)
            if FLAGS.constant
            else PolynomialDecay(FLAGS.initial_sparsity, FLAGS.final_sparsity)
        )
        check_settings(schedule, **pairs)
        return {"schedule": schedule, "engine": FLAGS.engine, **pairs}

    job = options.load_training(argv, "pruned", technique)
    import keras_compress as kc

    result = kc.prune_magnitude(job.given, job.train, **job.settings)
    job.write(result, pathlib.Path(FLAGS.output_dir))
