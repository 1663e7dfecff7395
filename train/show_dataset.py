"""`keras-compress show-dataset`: see --help."""

from keras_compress.commands import run

if __name__ == "__main__":
    run("show_dataset")
