"""Writes every TFLite file that a network can become, and compares their sizes, accuracies and latencies.

    python quantize/compare_exports.py digits_cnn
    python quantize/compare_exports.py digits_cnn --methods=gpfq,optq_refined --bits=4,8
    python quantize/compare_exports.py quantized_models/digits_cnn_gpfq_integer_15levels_500samples_1234abcd

MODEL is a path, or the name of a network in serialized_models/. It is exported as it is ("no codes": float, float16,
8-bit weights and 16-bit activations as TensorFlow's converter makes them, and full integers), and for each of --methods
and --bits it is quantized, and exported with its own integers in every mode and storage. With NAME.codes.npz next to
NAME.keras, it is quantized already, and its codes are exported. Samples are those of the model card or of --dataset:
training samples to calibrate on, test samples for the accuracy. Files take turns when they are timed, one sample at a
time. "in floats" are the operators whose outputs are floats: 0 is a file that computes with integers alone.

Files go to quantized_models/NAME/, the table and the picture to model_metrics/NAME/exports.csv and exports.png.
"""

import pathlib
import time

from absl import flags

from keras_compress.commands import cli, options

FLAGS = flags.FLAGS

options.define_model()
flags.DEFINE_list("methods", ["gpfq"], "As for quantize_pretrained.py.")
flags.DEFINE_list("bits", ["4"], "Bits of a weight.")
flags.DEFINE_alias("b", "bits")
flags.DEFINE_list("levels", [], "Numbers of levels, such as 3 for ternary weights; they join the bits.")
flags.DEFINE_integer("num_samples", 500, "Training samples to quantize by, and to measure ranges on.", lower_bound=1)
flags.DEFINE_integer("threads", 1, "Of the interpreter.", lower_bound=1)
flags.DEFINE_integer("rounds", 100, "Timed calls of each file.", lower_bound=1)
flags.DEFINE_string("output_dir", "quantized_models", "Where the folder NAME with the files goes.")
flags.DEFINE_string("metrics_dir", "model_metrics", "Where the folder NAME with table and picture goes.")


def main(argv: list[str]) -> None:
    started = time.perf_counter()
    path = options.model_path(argv)
    bits, levels = options.numbers("bits", int), options.numbers("levels", int)
    cli.import_tensorflow()
    from keras_compress import sweep
    from keras_compress.bridge.loading import load_model
    from keras_compress.measurement.evaluation import evaluate
    from keras_compress.quantization.folding import fold_batch_normalization
    from keras_compress.result import has_codes, load_result

    grid = sweep.Grid(methods=FLAGS.methods, bits=bits, levels=levels, num_samples=[FLAGS.num_samples])
    saved = load_result(path, allow_lambda=FLAGS.allow_lambda) if has_codes(path) else None
    model = load_model(path, allow_lambda=FLAGS.allow_lambda) if saved is None else saved.model
    data = options.load_data(path, model)
    data.samples.check(model, FLAGS.num_samples)
    if saved is None:
        folded, images = fold_batch_normalization(model), data.samples.calibration(FLAGS.num_samples, FLAGS.seed)
        results = {
            f"{each.method} {each.width}": sweep.quantized(each, folded, images, seed=FLAGS.seed) for each in grid
        }
    else:
        results = {"codes": saved}
    metrics = pathlib.Path(FLAGS.metrics_dir) / path.stem
    rows = sweep.compare_exports(
        model if saved is None else None,
        results,
        data.samples,
        pathlib.Path(FLAGS.output_dir) / path.stem,
        num_samples=FLAGS.num_samples,
        seed=FLAGS.seed,
        threads=FLAGS.threads,
        rounds=FLAGS.rounds,
        progress=True,
    )
    top1 = evaluate(model, data.samples.test()).top1
    sweep.write_exports(rows, metrics / "exports.csv")
    title = f"{path.stem}: TFLite files on {len(data.samples.y_test):,} test samples"
    picture = sweep.draw_exports(rows, top1, title, metrics / "exports")
    print(f"{path.stem} in Keras: top-1 {top1:.2%} on {len(data.samples.y_test):,} test samples")
    print(sweep.exports_table(rows, top1))
    print(f"files:   {pathlib.Path(FLAGS.output_dir) / path.stem}/")
    print(f"table:   {metrics / 'exports.csv'}")
    print(f"picture: {picture}")
    print(f"{time.perf_counter() - started:.0f} seconds")
