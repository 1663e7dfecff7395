"""Holds the imports of the code, those inside functions too, to the table of rooms in docs/architecture.md."""

import ast
import pathlib
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "keras_compress"
COMMANDS = ("train", "quantize", "benchmarks")

MOST_LINES = 400  # of a module
DECIDES = "bridge/tfmot.py"  # what tf.keras is, before tfmot would
EVERYWHERE = {"errors", "files", "foreign", "progress", "text"}
LOWER = {"numerics", "layers", "samples", "fitting", "calibration", "measurement", "bridge", "result", "report"} | {
    "keras",
    "tensorflow",
    "numpy",
}
TECHNIQUES = {"quantization", "pruning", "clustering", "training", "reduction", "export"}

# room: what it may import besides itself, the standard library and EVERYWHERE
ROOMS: dict[str, set[str]] = {
    "__init__": {"backend"},
    "errors": set(),
    "files": set(),
    "foreign": {"numpy"},
    "progress": {"rich"},
    "text": set(),
    "backend": {"keras"},
    "numerics": {"numpy", "scipy"},
    "layers": {"keras", "tensorflow", "numpy"},
    "report": {"numerics", "keras", "numpy", "pandas"},
    "result": {"numerics", "report", "layers", "bridge", "keras", "numpy"},
    "samples": {"layers", "keras", "tensorflow", "numpy", "PIL"},
    "fitting": {"layers", "samples", "keras", "tensorflow", "numpy"},
    "calibration": {"numerics", "layers", "samples", "keras", "tensorflow", "numpy", "h5py"},
    "measurement": {"layers", "samples", "keras", "tensorflow", "numpy", "ai_edge_litert", "flatbuffers"},
    "bridge": {
        "layers",
        "samples",
        "fitting",
        "keras",
        "tensorflow",
        "numpy",
        "h5py",
        "tf_keras",
        "tensorflow_model_optimization",
    },
    "quantization": LOWER,
    "pruning": LOWER,
    "clustering": LOWER,
    "training": LOWER,
    "reduction": LOWER,
    "export": LOWER | {"ai_edge_litert", "h5py"},
    "workflows": LOWER | TECHNIQUES,
    "sweep": LOWER | TECHNIQUES | {"workflows", "matplotlib", "ray"},
    "zoo": {"samples", "keras", "numpy", "PIL", "matplotlib"},
    "commands": LOWER
    | TECHNIQUES
    | {"workflows", "sweep", "zoo", "backend", "absl", "matplotlib"}
    | {PACKAGE, "<a computed name>"},
    "__main__": {"commands"},
}


def imports(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that the module in `package` imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield node.lineno, _imported_name(node.args[0], package)


def _is_for_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _imported_name(argument: ast.expr, package: list[str]) -> str:
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    if ast.unparse(argument).startswith("f'{__name__}."):  # one of the package's own modules
        return ".".join(package)
    return "<a computed name>"


def room_violations(root: pathlib.Path) -> list[str]:
    """What the package below `root` imports against the table, one line each."""
    violations = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        room = parts[1]
        if room not in ROOMS:
            violations.append(f"{path.relative_to(root)}: the room {room!r} is not in the table")
            continue
        allowed = ROOMS[room] | EVERYWHERE | {room}
        tree = ast.parse(path.read_text())
        if room == "__init__":  # type checkers alone read the public names from all rooms
            tree.body = [node for node in tree.body if not _is_for_checkers(node)]
        targets = {}
        for line, name in imports(tree, list(parts[:-1])):
            first, *rest = name.split(".")
            if first == PACKAGE:  # a public name, or the package as a whole, is an arrow to every room
                target = rest[0] if rest and rest[0] in ROOMS else PACKAGE
            elif first in sys.stdlib_module_names or (room, name) == ("__init__", "<a computed name>"):
                continue
            else:
                target = "tensorflow.keras" if name.startswith("tensorflow.keras") else first
            targets[line, target] = None  # several names of one module are one arrow
        for line, target in targets:
            if target not in allowed:
                violations.append(f"{path.relative_to(root)}:{line}: {room} may not import {target}")
        if path.relative_to(root / PACKAGE).as_posix() == DECIDES:
            continue
        for node in ast.walk(tree):  # tf.keras is Keras 2 for a user who imported tfmot first
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("tf.keras", "tensorflow.keras"):
                violations.append(f"{path.relative_to(root)}:{node.lineno}: {room} may not use tf.keras")
    return violations


def command_violations(root: pathlib.Path) -> list[str]:
    """Imports of a command by the package or by another command, one line each."""
    violations = []
    for folder in (PACKAGE, *COMMANDS):
        siblings = {path.stem for path in (root / folder).glob("*.py")} if folder in COMMANDS else set()
        for path in sorted((root / folder).rglob("*.py")):
            package = list(path.relative_to(root).parent.parts)
            for line, name in imports(ast.parse(path.read_text()), package):
                if name.split(".")[0] in siblings.union(COMMANDS):
                    violations.append(f"{path.relative_to(root)}:{line}: {name} is a command, which nothing imports")
    return violations


def circles(root: pathlib.Path) -> list[list[str]]:
    """Groups of modules that import each other, also by way of others; the package's public names are no arrow."""
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted((root / PACKAGE).rglob("*.py"))
    }
    arrows: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = [name for _, name in imports(ast.parse(path.read_text()), module.split(".")[:-1])]
        targets = {".".join(name.split(".")[:length]) for name in names for length in range(2, name.count(".") + 2)}
        if path.name != "__init__.py":  # one that names the modules of its folder is their table of contents
            arrows[module] = (targets & modules.keys()) - {module}
    reached: dict[str, set[str]] = {}
    for module in arrows:
        pending, seen = list(arrows[module]), set()
        while pending:
            if (target := pending.pop()) not in seen:
                seen.add(target)
                pending += arrows.get(target, ())
        reached[module] = seen
    found = {frozenset({module, *(other for other in seen if module in reached.get(other, ()))})
             for module, seen in reached.items() if module in seen}  # fmt: skip
    return sorted(map(sorted, found))


def test_no_modules_import_each_other():
    assert not circles(ROOT)


def test_a_planted_circle_is_found(tmp_path):
    plant(tmp_path, f"{PACKAGE}/zoo/__init__.py", "from keras_compress.zoo.first import one")
    plant(tmp_path, f"{PACKAGE}/zoo/first.py", "def one():\n    from keras_compress.zoo.second import two")
    plant(tmp_path, f"{PACKAGE}/zoo/second.py", "from keras_compress.zoo import third")
    plant(tmp_path, f"{PACKAGE}/zoo/third.py", "import keras_compress.zoo.first")
    plant(tmp_path, f"{PACKAGE}/zoo/fourth.py", "import keras_compress.zoo.first")
    assert circles(tmp_path) == [[f"{PACKAGE}.zoo.{name}" for name in ("first", "second", "third")]]


def test_no_module_is_long():
    lengths = {path.relative_to(ROOT / PACKAGE).as_posix(): len(path.read_text().splitlines())
               for path in (ROOT / PACKAGE).rglob("*.py")}  # fmt: skip
    assert {name for name, length in lengths.items() if length > MOST_LINES} <= {"export/tflite.py"}


def test_no_room_imports_against_the_table():
    violations = room_violations(ROOT)
    assert not violations, "\n".join(violations)


def test_nothing_imports_a_command():
    violations = command_violations(ROOT)
    assert not violations, "\n".join(violations)


def test_the_tests_see_the_code():
    paths = {path.relative_to(ROOT).parts[1] for path in (ROOT / PACKAGE).rglob("*.py")}
    assert {"__init__.py", "numerics", "layers", "calibration", "quantization", "sweep", "zoo"} <= paths


def plant(root: pathlib.Path, path: str, source: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source)


@pytest.mark.parametrize(
    ("path", "source", "target"),
    [
        ("pruning/filters.py", "from keras_compress.quantization.quantize import quantize", "quantization"),
        ("pruning/filters.py", "def f():\n    import keras_compress.quantization", "quantization"),
        ("pruning/filters.py", "from ..quantization import quantize", "quantization"),
        ("pruning/filters.py", "import importlib\nimportlib.import_module('keras_compress.zoo')", "zoo"),
        ("pruning/filters.py", "from absl import flags", "absl"),
        ("numerics/gram.py", "import keras", "keras"),
        ("numerics/gram.py", "import scipy.linalg, tensorflow as tf", "tensorflow"),
        ("numerics/gram.py", "from keras_compress import layers", "layers"),
        ("layers/graph.py", "from keras_compress.numerics.gram import gram", "numerics"),
        ("layers/graph.py", "import keras_compress as kc", "keras_compress"),
        ("layers/graph.py", "from keras_compress import quantize", "keras_compress"),
        ("layers/graph.py", "from tensorflow import keras", "tensorflow.keras"),
        ("layers/graph.py", "from tensorflow.keras import layers", "tensorflow.keras"),
        ("layers/graph.py", "import importlib\nimportlib.import_module(input())", "<a computed name>"),
        ("files.py", "import numpy", "numpy"),
        ("errors.py", "from keras_compress.report import Report", "report"),
    ],
)
def test_a_planted_import_is_found(tmp_path, path, source, target):
    plant(tmp_path, f"{PACKAGE}/{path}", source)
    room = path.split("/")[0].removesuffix(".py")
    line = source.count("\n") + 1
    assert room_violations(tmp_path) == [f"{PACKAGE}/{path}:{line}: {room} may not import {target}"]


def test_a_planted_use_of_tf_keras_is_found(tmp_path):
    plant(tmp_path, f"{PACKAGE}/layers/graph.py", "import tensorflow as tf\n\nLAYERS = tf.keras.layers\n")
    assert room_violations(tmp_path) == [f"{PACKAGE}/layers/graph.py:3: layers may not use tf.keras"]


def test_a_room_outside_the_table_is_found(tmp_path):
    plant(tmp_path, f"{PACKAGE}/utils/things.py", "")
    assert room_violations(tmp_path) == [f"{PACKAGE}/utils/things.py: the room 'utils' is not in the table"]


def test_allowed_imports_pass(tmp_path):
    plant(tmp_path, f"{PACKAGE}/__init__.py", "import importlib\nimportlib.import_module(name)")
    plant(tmp_path, f"{PACKAGE}/zoo/__init__.py", "import importlib\nimportlib.import_module(f'{__name__}.{name}')")
    plant(tmp_path, f"{PACKAGE}/numerics/gram.py", "import math\nimport numpy as np\nfrom scipy import linalg")
    plant(tmp_path, f"{PACKAGE}/numerics/gpfq.py", "from keras_compress.numerics.gram import gram\nfrom . import gram")
    plant(tmp_path, f"{PACKAGE}/quantization/quantize.py", "from keras_compress import errors, numerics\nimport keras")
    assert not room_violations(tmp_path)


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        ("keras_compress/zoo/cards.py", "import train.train_baseline", "train.train_baseline"),
        ("quantize/sweep.py", "from train import train_baseline", "train.train_baseline"),
        ("quantize/sweep.py", "import other", "other"),
        ("quantize/sweep.py", "from .other import main", "quantize.other.main"),
    ],
)
def test_a_planted_import_of_a_command_is_found(tmp_path, path, source, name):
    plant(tmp_path, path, source)
    plant(tmp_path, "quantize/other.py", "import keras_compress.quantization")
    assert command_violations(tmp_path) == [f"{path}:1: {name} is a command, which nothing imports"]
