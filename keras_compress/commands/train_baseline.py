"""Trains a network to quantize, and writes serialized_models/NAME.keras with its model card NAME.json next to it.

    python train/train_baseline.py
    python train/train_baseline.py --dataset=mnist --architecture=mlp --epochs=15
    python train/train_baseline.py --dataset=cifar10 --epochs=16 --learning_rate=0.002 --dropout_scale=0.5
    python train/train_baseline.py --dataset=my_table.csv --label_column=species --architecture=mlp
    python train/train_baseline.py --dataset=my_images/ --image_size=32 --architecture=resnet18 --width_multiplier=0.5

The first three reach 0.989, 0.985 and 0.87 of the test samples with seed 0. On two cores they take less than one, less
than four, and 37 minutes. TensorFlow's threads sum in no fixed order: a second training differs in the third digit.

The training is Adam with a one-cycle learning rate, or a constant one. The epoch with the best accuracy on a validation
split of the training samples is kept; the test samples are looked at once, at the end. Data sets:
keras_compress/zoo/datasets.py.
"""

import pathlib
import sys

from absl import flags

from keras_compress.commands import cli, options

FLAGS = flags.FLAGS

options.define_dataset()
flags.DEFINE_string("architecture", "cnn", "mlp, cnn, lenet, resnet18, vgg16 or vgg16_bn.")
flags.DEFINE_alias("model", "architecture")
flags.DEFINE_float("width_multiplier", 1.0, "Factor on the numbers of filters and units.")
flags.DEFINE_float("dropout_scale", 1.0, "Factor on the dropout rates, 0 to 1. A short training needs less dropout.")
flags.DEFINE_string(
    "preprocessing", None, "unit, raw or standardize. Default: unit for images, standardize for tables."
)
flags.DEFINE_string("augment", "auto", "none, shift or flip_shift. auto: flip_shift for cifar10, otherwise none.")
flags.DEFINE_integer("epochs", 20, "Passes over the training samples.")
flags.DEFINE_integer("batch_size", 64, "Samples in a step.")
flags.DEFINE_alias("bs", "batch_size")
flags.DEFINE_float("learning_rate", 0.002, "Learning rate at its peak.")
flags.DEFINE_string("schedule", "one_cycle", "Of the learning rate: one_cycle or constant.")
flags.DEFINE_float("validation_fraction", 0.1, "Fraction of the training samples that choose the epoch.")
flags.DEFINE_integer("seed", 0, "Of splits, first weights, order of samples, augmentation and dropout.", lower_bound=0)
flags.DEFINE_string("name", None, "Name of the files. Default: DATASET_ARCHITECTURE.")
flags.DEFINE_string("models_dir", "serialized_models", "Where NAME.keras and NAME.json go.")
flags.DEFINE_string("logs_dir", "train_logs", "Where NAME.csv and the folder NAME for TensorBoard go.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    from keras_compress.zoo import datasets

    reading = {name: FLAGS[name].value for name in ("label_column", "image_size") if FLAGS[name].value is not None}
    if datasets.needs_keras(FLAGS.dataset):
        cli.import_tensorflow()
    dataset = datasets.load_dataset(FLAGS.dataset, seed=FLAGS.seed, **reading)
    cli.import_tensorflow()
    from keras_compress.zoo import baseline, batches

    recipe = baseline.Recipe(
        epochs=FLAGS.epochs,
        batch_size=FLAGS.batch_size,
        learning_rate=FLAGS.learning_rate,
        schedule=FLAGS.schedule,
        validation_fraction=FLAGS.validation_fraction,
        augment=batches.augmentation_for(dataset.name, FLAGS.augment),
        seed=FLAGS.seed,
    )
    trained = baseline.train_network(
        dataset,
        FLAGS.architecture,
        recipe,
        models_dir=pathlib.Path(FLAGS.models_dir),
        logs_dir=pathlib.Path(FLAGS.logs_dir),
        source=FLAGS.dataset,
        options=reading,
        preprocessing=FLAGS.preprocessing,
        width_multiplier=FLAGS.width_multiplier,
        dropout_scale=FLAGS.dropout_scale,
        name=FLAGS.name,
        command=cli.command_line(),
        verbose=1 if sys.stdout.isatty() else 2,
    )
    print(trained)
