"""The commands: `keras-compress NAME`, `python -m keras_compress NAME`, and the scripts in train/ and quantize/.

Each command is a module here: a docstring with examples, flags, and `main`. None is imported before it is asked for,
since flags belong to the process.
"""

import importlib
import sys

COMMANDS = {  # module: what it does
    "show_dataset": "a picture with samples and class counts of a data set",
    "train_baseline": "trains an architecture on a data set",
    "train_pruned": "fine-tunes a network while weights become zero",
    "train_qat": "fine-tunes a network while weights and activations are quantized",
    "quantize_pretrained": "quantizes a network by a grid of methods, widths and settings",
    "export_tflite": "writes a network as a TFLite file with its own integers",
    "compare_exports": "every TFLite file that a network can become",
    "inspect_tflite": "what is in a TFLite file, and where its bytes are",
}
NAME = "keras-compress"


def run(command: str) -> None:
    """Runs a command of `COMMANDS` with the flags in `sys.argv`, and ends the process."""
    from keras_compress.commands import cli

    cli.run(importlib.import_module(f"keras_compress.commands.{command}").main)


def main() -> None:
    """The console command: `keras-compress NAME --flags`."""
    from keras_compress.commands import cli

    name, *rest = sys.argv[1:] or ["--help"]
    if name in (*cli.HELP, "help"):
        print(_help())
        sys.exit(0)
    if name == "--version":
        from keras_compress import __version__

        print(__version__)
        sys.exit(0)
    command = name.replace("-", "_")
    if command not in COMMANDS:
        names = ", ".join(each.replace("_", "-") for each in COMMANDS)
        sys.exit(cli.complain(f"Expected a command: {names}. Received: {name}. See {NAME} --help."))
    sys.argv = [f"{NAME} {name}", *rest]
    run(command)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name.replace('_', '-').ljust(width)}{what}" for name, what in COMMANDS.items()]
    return "\n".join([f"{NAME} COMMAND [--flags]", "", *lines, "", f"{NAME} COMMAND --help lists its flags."])
