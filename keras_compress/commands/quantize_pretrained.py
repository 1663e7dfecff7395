"""Quantizes a trained network with every combination of the settings, and writes down what each one cost.

    python quantize/quantize_pretrained.py digits_cnn
    python quantize/quantize_pretrained.py digits_cnn --methods=gpfq,msq --bits=2,3,4 --levels=3 --num_samples=100,500
    python quantize/quantize_pretrained.py my_network.keras --dataset=cifar10 --scale=0.00392157
    python quantize/quantize_pretrained.py digits_cnn --methods=gpfq --bits=4 --export_tflite=float,int8 --storage=small
    python quantize/quantize_pretrained.py digits_cnn --alphabet=equispaced --levels=3 --alphabet_scalars=1,2,3,4,5,6

MODEL is a path, or the name of a network in serialized_models/. Its model card NAME.json, which train_baseline.py
writes, says which data set it belongs to and how samples are preprocessed; a network without one needs --dataset, and
--scale, --mean and --std, unless it expects the numbers of the data set as they are.

One row for each configuration is in model_metrics/NAME.csv the moment it is known, pictures are in model_metrics/NAME/,
quantized networks with their integers, and .tflite files if asked for, in quantized_models/, and the log in
train_logs/model_quantizing.log. After a kill, the same command goes on where it stopped. Calibration samples are drawn
from the training samples.
"""

import contextlib
import logging
import pathlib
import textwrap
import time
from typing import Any

from absl import flags

from keras_compress.commands import cli, options
from keras_compress.quantization.presets import ALIASES, PRESETS

FLAGS = flags.FLAGS

options.define_model()
flags.DEFINE_list(
    "methods",
    ["gpfq", "msq"],
    f"{', '.join(PRESETS)}; {', '.join(f'{alias} is {method}' for alias, method in ALIASES.items())}.",
)
flags.DEFINE_list(
    "bits", None, "Bits of a weight; 2 are the integers -2 to 1. Default: 2,3,4 if no --levels are given."
)
flags.DEFINE_alias("b", "bits")
flags.DEFINE_list("levels", [], "Numbers of levels, such as 3 for ternary weights; they join the bits.")
flags.DEFINE_list("alphabet", ["integer"], "integer, integer_full (with -2^(b-1)), equispaced, midtread.")
flags.DEFINE_list("alphabet_scalars", ["1"], "C, factors on the radius of the alphabet.")
flags.DEFINE_alias("s", "alphabet_scalars")
flags.DEFINE_list(
    "dense_alphabet_scalars", None, "C of Dense layers. Default: the same as --alphabet_scalars, in pairs."
)
flags.DEFINE_list("num_samples", ["500"], "Calibration samples, drawn from the training samples.")
flags.DEFINE_integer("batch_size", None, "Samples that are read and kept at a time. Default: one block.")
flags.DEFINE_alias("bs", "batch_size")
flags.DEFINE_list("ignore_layers", [], "Names, paths or regular expressions of layers to leave in floating point.")
flags.DEFINE_string("radius", None, "median, max, mse, quantile, or a quantile in (0, 1]. Default: the alphabet's own.")
flags.DEFINE_bool("centered", True, "Whether gpfq leaves the mean error to the bias; --nocentered: gpfq_uncentered.")
flags.DEFINE_bool("bias_correction", False, "msq becomes msq_bias, and gpfq_uncentered becomes gpfq_bias.")
flags.DEFINE_enum("patches", "joint", ["joint", "per_channel"], "Patches of convolutions, for GPFQ.")
flags.DEFINE_enum("regularizer", "l1", ["l0", "l1"], "Of sparse_gpfq.", case_sensitive=False)
flags.DEFINE_alias("reg", "regularizer")
flags.DEFINE_list("lambdas", ["0.1"], "Of sparse_gpfq: prices of weights that are not zero, in units of weights.")
flags.DEFINE_alias("l", "lambdas")
flags.DEFINE_enum("form", "auto", ["auto", "gram", "direct"], "Form of GPFQ's solver.")
flags.DEFINE_string("memory_budget", "2GB", "Memory for activations and statistics; what does not fit goes to disk.")
flags.DEFINE_bool("fold_batch_normalization", True, "Whether BatchNorm layers are folded first, where that is exact.")
flags.DEFINE_list("export_tflite", [], "Activations of TFLite files to write and to test: float, dynamic, int8.")
flags.DEFINE_enum("storage", "fast", ["fast", "small"], "Of TFLite files: widths that run fastest, or the narrowest.")
flags.DEFINE_bool("save_models", True, "Whether to save the quantized networks. Pictures of layers need them.")
flags.DEFINE_bool("overwrite", False, "Compute again what is recorded, and replace its rows.")
flags.DEFINE_string("output_dir", "quantized_models", "Where quantized networks go.")
flags.DEFINE_string("metrics_dir", "model_metrics", "Where NAME.csv and the folder NAME with pictures go.")
flags.DEFINE_string("logs_dir", "train_logs", "Where model_quantizing.log goes.")


def main(argv: list[str]) -> None:
    started = time.perf_counter()
    path = options.model_path(argv)
    settings = grid_settings()
    cli.import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each quantized network is traced: that is no news
    from keras_compress import sweep
    from keras_compress.bridge.loading import load_model
    from keras_compress.files import check_writable_folder

    grid = sweep.Grid(**settings)
    model = load_model(path, allow_lambda=FLAGS.allow_lambda)
    data = options.load_data(path, model)
    log_path = check_writable_folder(FLAGS.logs_dir) / "model_quantizing.log"
    name = path.stem
    log = open_log(log_path)
    try:
        rows = sweep.run(
            model,
            grid,
            data.samples,
            name=name,
            dataset=data.name,
            metrics_dir=FLAGS.metrics_dir,
            output_dir=FLAGS.output_dir if FLAGS.save_models else None,
            memory_budget=FLAGS.memory_budget,
            batch_size=FLAGS.batch_size,
            seed=FLAGS.seed,
            overwrite=FLAGS.overwrite,
            progress=True,
        )
        print(sweep.table(rows))
        metrics = pathlib.Path(FLAGS.metrics_dir) / name
        pictures = sweep.draw(rows, metrics)
        if FLAGS.save_models:
            for row in rows:
                data.card.write(pathlib.Path(FLAGS.output_dir) / f"{row['file']}.card.json")
            pictures += sweep.draw_layers(
                model, rows, data.samples, FLAGS.output_dir, metrics, allow_lambda=FLAGS.allow_lambda
            )
    except KeyboardInterrupt:
        logging.getLogger("keras_compress").info("interrupted; the same command goes on from here")
        raise
    finally:
        close_log(log)
    names = ", ".join(picture.stem for picture in pictures)
    print(f"table:    {metrics}.csv")
    print(textwrap.fill(f"pictures: {metrics}/ ({names})", width=120, subsequent_indent=" " * 10))
    if FLAGS.save_models:
        print(f"networks: {FLAGS.output_dir}/")
    print(f"log:      {log_path}")
    print(f"{time.perf_counter() - started:.0f} seconds")


def grid_settings() -> dict[str, Any]:
    """The arguments of the grid, from the flags."""
    levels = options.numbers("levels", int)
    bits = options.numbers("bits", int) if FLAGS.bits is not None else [] if levels else [2, 3, 4]
    dense = None if FLAGS.dense_alphabet_scalars is None else options.numbers("dense_alphabet_scalars", float)
    renamed = {} if FLAGS.centered else {"gpfq": "gpfq_uncentered"}
    methods = [renamed.get(method, method) for method in FLAGS.methods]
    if FLAGS.bias_correction:
        corrected = {"msq": "msq_bias", "gpfq_uncentered": "gpfq_bias"}
        methods = [corrected.get(method, method) for method in methods]
    radius = FLAGS.radius
    with contextlib.suppress(TypeError, ValueError):  # the name of a rule, or none
        radius = float(radius)
    return {
        "methods": methods,
        "bits": bits,
        "levels": levels,
        "alphabets": FLAGS.alphabet,
        "scalars": options.numbers("alphabet_scalars", float),
        "dense_scalars": dense,
        "num_samples": options.numbers("num_samples", int),
        "radius": radius,
        "patches": FLAGS.patches,
        "regularizer": FLAGS.regularizer,
        "regularizations": options.numbers("lambdas", float),
        "form": FLAGS.form,
        "fold": FLAGS.fold_batch_normalization,
        "ignore_layers": FLAGS.ignore_layers,
        "exports": [f"{activations}/{FLAGS.storage}" for activations in FLAGS.export_tflite],
    }


def open_log(path: pathlib.Path) -> logging.Handler:
    """Sends the log of the package to a file, line by line."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("keras_compress")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler


def close_log(handler: logging.Handler) -> None:
    logging.getLogger("keras_compress").removeHandler(handler)
    handler.close()
