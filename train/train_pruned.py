"""`keras-compress train-pruned`: see --help."""

from keras_compress.commands import run

if __name__ == "__main__":
    run("train_pruned")
