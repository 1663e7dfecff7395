"""Shows a data set: samples and number of samples of each class, as a picture and as lines of text.

    python train/show_dataset.py --dataset=digits
    python train/show_dataset.py --dataset=my_table.csv --label_column=species --output=species.png

For a table the picture holds a summary of the columns. It takes a second for `digits`, which needs no network.
"""

import pathlib

from absl import flags

from keras_compress.commands import cli, options

FLAGS = flags.FLAGS

options.define_dataset()
flags.DEFINE_integer("num_samples", 10, "Images of each class.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the choice of images, and of splits.", lower_bound=0)
flags.DEFINE_string("output", None, "Picture to write. Default: train_logs/DATASET_samples.png.")


def main(argv: list[str]) -> None:
    cli.take_arguments(argv)
    from keras_compress.zoo.datasets import load_dataset, needs_keras
    from keras_compress.zoo.pictures import class_counts, draw_dataset

    if needs_keras(FLAGS.dataset):
        cli.import_tensorflow()
    dataset = load_dataset(FLAGS.dataset, seed=FLAGS.seed, label_column=FLAGS.label_column, image_size=FLAGS.image_size)
    output = pathlib.Path(FLAGS.output or f"train_logs/{dataset.name}_samples.png")
    draw_dataset(dataset, output, num_samples=FLAGS.num_samples, seed=FLAGS.seed)
    counts = class_counts(dataset)
    width = max(5, *map(len, dataset.class_names))
    print(f"{'class':<{width}} {'train':>9} {'test':>9}")
    for name, train, test in zip(dataset.class_names, counts["train"], counts["test"], strict=True):
        print(f"{name:<{width}} {train:>9,} {test:>9,}")
    print(f"{'all':<{width}} {len(dataset.y_train):>9,} {len(dataset.y_test):>9,}")
    print(f"written: {output}")
