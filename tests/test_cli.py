import ast
import errno
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import pytest
from absl import flags

import keras_compress as kc
from keras_compress import commands
from keras_compress.commands import cli
from keras_compress.errors import InputError, StorageError

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = ROOT / "keras_compress" / "commands"
COMMANDS = sorted(path.relative_to(ROOT) for folder in ("train", "quantize") for path in (ROOT / folder).glob("*.py"))


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> flags.FlagValues:
    """Flags of a command of its own; `cli` parses these instead of the process's."""
    values = flags.FlagValues()
    flags.DEFINE_integer("bits", 4, "Bits of a weight.", flag_values=values, module_name=__name__)
    flags.DEFINE_alias("b", "bits", flag_values=values, module_name=__name__)
    flags.DEFINE_integer("batch_size", 64, "Samples in a step.", flag_values=values, module_name=__name__)
    flags.DEFINE_alias("bs", "batch_size", flag_values=values, module_name=__name__)
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    return values


def call(error_or_code, *arguments: str) -> tuple[int, list[list[str]]]:
    """Exit code of a command that raises or returns `error_or_code`, and what its `main` was given."""
    calls = []

    def main(argv: list[str]) -> int | None:
        calls.append(argv)
        if isinstance(error_or_code, BaseException):
            raise error_or_code
        return error_or_code

    return cli.call(main, ["train/command.py", *arguments]), calls


def run_command(command: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [("--bits=3",), ("--bits", "3"), ("-b=3",), ("-b", "3"), ("--b=3",)])
def test_flags_are_parsed_and_the_rest_is_passed_on(values, arguments):
    assert call(None, "model.keras", *arguments) == (0, [["train/command.py", "model.keras"]])
    assert values.bits == 3


def test_a_flag_of_two_letters_works_with_one_dash(values):
    assert call(None, "-bs", "16")[0] == 0
    assert values.batch_size == 16


def test_the_returned_number_is_the_exit_code(values):
    assert call(3)[0] == 3


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("Received\n  nothing."), 2, "error: Received nothing.\n"),
        (StorageError("The disk is full."), 2, "error: The disk is full.\n"),
        (OSError(errno.ENOSPC, "No space left", "a.csv"), 2, "error: No space left: a.csv. Free space"),
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), 2, "error: Permission denied: a.csv."),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_the_user_can_fix_is_one_line(values, capsys, error, code, message):
    assert call(error)[0] == code
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("a fault"), OSError(errno.EIO, "a fault")])
def test_a_fault_of_ours_shows_its_traceback(values, capsys, error):
    assert call(error)[0] == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "a fault" in err


@pytest.mark.parametrize("arguments", [("--bts=3",), ("--bits=many",), ("--bits",)])
def test_a_bad_flag_stops_before_main(values, capsys, arguments):
    assert call(None, *arguments) == (2, [])
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["-h", "--help", "-help", "--helpfull"])
def test_help_shows_the_flags_and_runs_nothing(values, capsys, option):
    assert call(InputError("main must not run"), "model.keras", option) == (0, [])
    out = capsys.readouterr().out
    assert "--bits: Bits of a weight." in out


def test_help_behind_two_dashes_is_an_argument(values):
    assert call(None, "--", "--help") == (0, [["train/command.py", "--help"]])


def test_arguments_are_counted():
    assert cli.take_arguments(["command.py", "a.keras"], "model") == ["a.keras"]
    with pytest.raises(InputError, match=r"Expected MODEL\. Received: none\."):
        cli.take_arguments(["command.py"], "model")
    with pytest.raises(InputError, match=r"Expected no arguments, only flags. Received: a b."):
        cli.take_arguments(["command.py", "a", "b"])


def test_banners_of_tensorflow_are_held_back_unless_it_fails(monkeypatch, capfd):
    def import_loudly(name: str):
        os.write(2, b"a banner\n")
        return sys.modules["tensorflow"]

    importlib.import_module("tensorflow")
    capfd.readouterr()  # the banners of the import itself
    monkeypatch.setattr(cli.importlib, "import_module", import_loudly)
    cli.import_tensorflow()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"

    def fail(name: str):
        os.write(2, b"a reason\n")
        raise ImportError("no tensorflow")

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    with pytest.raises(ImportError):
        cli.import_tensorflow()
    assert capfd.readouterr().err == "a reason\n"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_answers_help_in_under_a_second(command):
    seconds = []
    for _ in range(3):  # the fastest counts: another process may take the cores
        started = time.perf_counter()
        process = run_command(command, "--help")
        seconds.append(time.perf_counter() - started)
        if seconds[-1] < 1.0:
            break
    assert process.returncode == 0, process.stderr
    assert f"python {command}" in process.stdout  # the docstring holds the command
    assert "flags:" in process.stdout
    first_flag = re.search(r'flags\.DEFINE_\w+\(\s*"(\w+)"', MODULES.joinpath(command.name).read_text())
    assert first_flag is not None and f"{first_flag[1]}:" in process.stdout.partition("flags:")[2]
    assert process.stderr == ""
    assert min(seconds) < 1.0


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_refuses_an_unknown_flag(command):
    process = run_command(command, "--no_such_flag=1")
    assert process.returncode == 2
    assert process.stderr.startswith("error: Unknown command line flag 'no_such_flag'")
    assert process.stderr.count("\n") == 1


def test_a_reader_that_has_enough_is_no_fault():
    """Such as `head`, which closes the pipe."""
    code = (
        "import sys; from keras_compress.commands import cli; sys.argv = ['command'];\n"
        "def main(argv):\n    for line in range(100_000): print('line', line)\ncli.run(main)"
    )
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -c {shlex.quote(code)} | head -n 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "line 0\n", "")


# The console command


def console(*arguments: str, module: bool = False) -> subprocess.CompletedProcess[str]:
    script = pathlib.Path(sys.executable).with_name("keras-compress")
    start = [sys.executable, "-m", "keras_compress"] if module or not script.exists() else [script]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*start, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_the_console_command_lists_the_commands(arguments, module):
    done = console(*arguments, module=module)
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert f"  {command.stem.replace('_', '-')} " in done.stdout


def test_every_script_is_a_command_and_every_command_a_script():
    assert {command.stem for command in COMMANDS} == set(commands.COMMANDS)
    for command in COMMANDS:
        assert len(ast.parse((ROOT / command).read_text()).body) == 3  # its docstring, one import, one call


def test_an_unknown_command_is_one_line():
    done = console("quantise")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Expected a command: show-dataset, ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_console_and_script_have_the_same_flags(command):
    script, short = run_command(command, "--help"), console(command.stem.replace("_", "-"), "--help", module=True)
    assert (short.returncode, short.stderr) == (0, "")
    assert short.stdout == script.stdout


def test_the_version_is_printed():
    assert console("--version").stdout == f"{kc.__version__}\n"


def test_what_was_typed_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["keras-compress train-qat", "a b", "--bits=4"])
    assert cli.command_line() == "keras-compress train-qat 'a b' --bits=4"
    monkeypatch.setattr(sys, "argv", ["train/train_qat.py"])
    assert cli.command_line() == "python train/train_qat.py"
