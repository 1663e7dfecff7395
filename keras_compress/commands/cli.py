"""The one entry point of all commands: flags in, an exit code out.

0 after success and `--help`, 2 for input that the user can fix (one line, no traceback), 130 after Ctrl-C, and 1 with
a traceback for a fault of ours. absl's own `app.run` answers 1 to `--help` and to a bad flag, so it is not used.

    from absl import flags
    from keras_compress.commands import cli

    FLAGS = flags.FLAGS
    flags.DEFINE_integer("bits", 4, "Bits of a weight.")
    flags.DEFINE_alias("b", "bits")

    def main(argv):  # argv[0] is the script, argv[1:] what is not a flag
        (path,) = cli.take_arguments(argv, "model")
        cli.import_tensorflow()
        ...

    if __name__ == "__main__":
        cli.run(main)
"""

import errno
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable

from absl import flags

from keras_compress.backend import check_backend
from keras_compress.commands import NAME
from keras_compress.errors import InputError, UserError
from keras_compress.progress import quiet_stderr

EXIT_INPUT = 2
EXIT_FAULT = 1
EXIT_INTERRUPT = 130

# A disk or folder that refuses, where no room of the library met it first.
RECOVERABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

HELP = ("-h", "--h", "-help", "--help")
HELP_FULL = ("-helpfull", "--helpfull")
# What TensorFlow, Keras and matplotlib read when they are imported. The user's own values win.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "Agg", "KERAS_BACKEND": "tensorflow"}


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags in `sys.argv`, calls `main(argv)` with what is left, and ends the process.

    Args:
        main: takes the arguments that are not flags, the script's name first. An integer that it returns is the exit
            code.
    """
    sys.exit(call(main, sys.argv))


def call(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Does what `run` does and returns the exit code instead of ending the process."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if any(option in HELP + HELP_FULL for option in options):
        print(help_text(main, full=any(option in HELP_FULL for option in options)))
        return 0
    try:
        rest = flags.FLAGS(argv)
        code = main(rest) or 0
        sys.stdout.flush()  # here, where a closed pipe can be met, and not when the interpreter ends
        return code
    except BrokenPipeError:  # whoever read the lines, such as `head`, has enough of them
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 0
    except flags.Error as error:
        return complain(f"{error} See {os.path.basename(argv[0])} --help.")
    except UserError as error:
        return complain(str(error))
    except OSError as error:
        if error.errno in RECOVERABLE:
            return complain(
                f"{error.strerror}: {error.filename or 'while writing'}. Free space or name another folder."
            )
        traceback.print_exc()
        return EXIT_FAULT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPT
    except Exception:
        traceback.print_exc()
        return EXIT_FAULT


def command_line() -> str:
    """What the user typed, to type it again."""
    command, *arguments = sys.argv
    start = command if command.startswith(f"{NAME} ") else shlex.join(["python", command])
    return f"{start} {shlex.join(arguments)}".rstrip()


def take_arguments(argv: list[str], *names: str) -> list[str]:
    """Returns the arguments that are not flags, of which there must be one for each of `names`.

    Raises:
        InputError: there are more or fewer.
    """
    arguments = argv[1:]
    if len(arguments) != len(names):
        expected = " ".join(name.upper() for name in names) or "no arguments, only flags"
        received = " ".join(arguments) or "none"
        raise InputError(
            f"Expected {expected}. Received: {received}. "
            f"A value belongs to its flag as in --name=value. See {os.path.basename(argv[0])} --help."
        )
    return arguments


def import_tensorflow(*, find_devices: bool = True) -> None:
    """Imports TensorFlow and finds its devices, without the lines that its C++ code writes to stderr meanwhile.

    TF_CPP_MIN_LOG_LEVEL does not reach them (tensorflow/tensorflow#100442). They are shown if the import fails.

    Args:
        find_devices: false where workers must find each other before.

    Raises:
        InputError: Keras is set to another backend.
    """
    with quiet_stderr(unless=ImportError):
        check_backend()
        tensorflow = importlib.import_module("tensorflow")
        if find_devices:
            tensorflow.config.list_logical_devices()


def help_text(main: Callable[[list[str]], int | None], *, full: bool = False) -> str:
    """The script's docstring and its flags (`full`: the flags of every module)."""
    module = sys.modules[main.__module__]
    described = flags.FLAGS.get_help() if full else flags.FLAGS.module_help(_flag_module(main))
    return f"{(module.__doc__ or '').strip()}\n\nflags:\n{described}"


def _flag_module(main: Callable[[list[str]], int | None]) -> str:
    # absl files the flags of a script under sys.argv[0], those of an imported module under its name.
    return sys.argv[0] if main.__module__ == "__main__" else main.__module__


def complain(message: str) -> int:
    """Says in one line of stderr what the user can fix; the exit code."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return EXIT_INPUT
