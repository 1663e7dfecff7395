"""`keras-compress quantize-pretrained`: see --help."""

from keras_compress.commands import run

if __name__ == "__main__":
    run("quantize_pretrained")
