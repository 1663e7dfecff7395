"""`keras-compress compare-exports`: see --help."""

from keras_compress.commands import run

if __name__ == "__main__":
    run("compare_exports")
