"""`keras-compress export-tflite`: see --help."""

from keras_compress.commands import run

if __name__ == "__main__":
    run("export_tflite")
