"""README's commands in a shell as a newcomer has it: no variables, no packages, a clone with its own environment."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TRACKED = ("Makefile", "README.md", "setup.cfg", "setup.py", "keras_compress", "train", "quantize")
PATH = "/usr/local/bin:/usr/bin:/bin"


def commands() -> list[str]:
    """The lines of README's blocks of commands, but for tests, containers and benchmarks."""
    text = README.read_text().partition("\n## Docker")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    lines = [line for line in lines if re.match(r"(make|python|\.) ", line)]
    return [line for line in lines if not line.startswith("make test")]


def example() -> str:
    """README's first block of Python."""
    (block, *_) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


def clone(folder: pathlib.Path) -> pathlib.Path:
    """The files that commands need, and .venv as `make install` leaves it: with the packages that this Python has."""
    folder.mkdir()
    for name in TRACKED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    (packages / "here.pth").write_text(f"{folder}\n{sysconfig.get_paths()['purelib']}\n")
    for stamp in (".installed", ".installed-dev"):
        (folder / ".venv" / stamp).touch()
    return folder


def run(lines: list[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Types the lines into one shell; it ends at the first that fails."""
    kept = {name: os.environ[name] for name in ("TMPDIR", "LANG") if name in os.environ}
    return subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)],
        cwd=folder,
        env={"PATH": PATH, "HOME": str(folder)} | kept,
        capture_output=True,
        text=True,
    )
