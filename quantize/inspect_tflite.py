"""`keras-compress inspect-tflite`: see --help."""

from keras_compress.commands import run

if __name__ == "__main__":
    run("inspect_tflite")
