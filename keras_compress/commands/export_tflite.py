"""Writes a network as a TFLite file with its own integers, checks it, and says how accurate it is.

    python quantize/export_tflite.py quantized_models/digits_cnn_gpfq_integer_15levels_500samples_1234abcd
    python quantize/export_tflite.py NAME --activations=int8 --storage=small --static_batch=1 --c_array
    python quantize/export_tflite.py my_network.keras --activations=int8 --dataset=cifar10 --scale=0.00392157

MODEL is a path, or the name of a network in serialized_models/. With NAME.codes.npz next to NAME.keras, as
quantize_pretrained.py and Result.save leave them, the file holds the codes of the result; else weights are rounded to 8
bits where the file has integers. A model card or --dataset gives the samples that ranges of activations are measured on
(training samples) and those that the accuracy is of (test samples); activations=int8 and int16x8 need them. The last
line then says which operators stay in floating point, since TFLite has none of integers for them.
"""

import pathlib

from absl import flags

from keras_compress.commands import cli, options
from keras_compress.errors import InputError

FLAGS = flags.FLAGS

options.define_model()
flags.DEFINE_enum(
    "activations", "float", ["float", "dynamic", "int8", "float16", "int16x8"], "See docs/guides/export.md."
)
flags.DEFINE_enum("storage", "fast", ["fast", "small"], "Widths that run fastest, or the narrowest that run.")
flags.DEFINE_integer("static_batch", None, "Size of the batch axis, as microcontrollers need. Default: open.")
flags.DEFINE_integer("num_samples", 500, "Training samples that ranges are measured on.", lower_bound=1)
flags.DEFINE_enum(
    "ranges",
    "mse",
    ["mse", "moving_average", "minmax", "converter"],
    "Of activations=int8: by kc.quantize_activations, or by kc.export_tflite from least and largest values, as "
    "TensorFlow's converter measures them.",
)
flags.DEFINE_string("output", None, "Path of the file. Default: NAME.tflite next to the network.")
flags.DEFINE_bool("c_array", False, "Write NAME.h too, a C array of the file.")


INTEGERS = ("int8", "int16x8")  # activations


def main(argv: list[str]) -> None:
    path = options.model_path(argv)
    output = path.with_name(f"{path.stem}.tflite") if FLAGS.output is None else pathlib.Path(FLAGS.output)
    if FLAGS.activations in INTEGERS and not options.has_data(path):
        raise InputError(
            f"--activations={FLAGS.activations} measures ranges on samples, and there is no model card "
            f"{str(options.card_path(path))!r}. Name the data set with --dataset, and how the network expects it with "
            "--scale, --mean and --std."
        )
    cli.import_tensorflow()
    from keras_compress.bridge.loading import load_model
    from keras_compress.export.c_array import export_c_array
    from keras_compress.export.tflite import export_tflite
    from keras_compress.measurement.evaluation import evaluate
    from keras_compress.measurement.inspection import float_operators
    from keras_compress.measurement.tflite import evaluate_tflite
    from keras_compress.quantization.activations import quantize_activations
    from keras_compress.result import Result, has_codes, load_result

    given = load_result(path, allow_lambda=FLAGS.allow_lambda) if has_codes(path) else None
    model = load_model(path, allow_lambda=FLAGS.allow_lambda) if given is None else given.model
    data = options.load_data(path, model) if options.has_data(path) else None
    if data is not None:
        data.samples.check(model, FLAGS.num_samples)
    result = Result.of(model) if given is None else given
    images = None if data is None else data.samples.calibration(FLAGS.num_samples, FLAGS.seed)
    if FLAGS.activations == "int8" and FLAGS.ranges != "converter":
        result = quantize_activations(result, images, ranges=FLAGS.ranges)
    report = export_tflite(
        result,
        output,
        activations=FLAGS.activations,
        storage=FLAGS.storage,
        calibration=images,
        static_batch=FLAGS.static_batch,
    )
    print(report)
    if data is not None:
        print(f"Keras:  {evaluate(model, data.samples.test())}")
        print(f"TFLite: {evaluate_tflite(output, data.samples.test())}")
    print(f"file:   {output}")
    if FLAGS.c_array:
        print(f"array:  {export_c_array(output)}")
    if FLAGS.activations in INTEGERS:
        print(f"operators in floating point: {_named(float_operators(output.read_bytes()))}")


def _named(operators: str) -> str:
    return "none" if operators == "0" else f"{operators}; the file needs a processor that computes with floats"
