"""`python -m keras_compress`: the console command."""

from keras_compress.commands import main

if __name__ == "__main__":
    main()
