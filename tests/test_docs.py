"""Holds the documents to the code: examples run, links lead somewhere, names and flags exist, lists are complete."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

import keras_compress as kc
from keras_compress.sweep.records import COLUMNS
from tests import bare_shell
from tests.test_architecture import LOWER, ROOMS

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = ROOT / "keras_compress" / "commands"
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guides" / "quantize.md"
EXPORT_GUIDE = GUIDE.with_name("export.md")
MODELS_GUIDE = GUIDE.with_name("models.md")
TFMOT_GUIDE = GUIDE.with_name("tfmot.md")
PRUNE_GUIDE = GUIDE.with_name("prune.md")
QAT_GUIDE = GUIDE.with_name("qat.md")
DOCUMENTS = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = sorted(path for folder in ("train", "quantize", "benchmarks") for path in (ROOT / folder).glob("*.py"))
# Flags of other programs, and those that every command has.
OTHER_FLAGS = {"help", "helpfull", "rm", "user", "tag", "build-arg"}


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: pathlib.Path, language: str) -> list[str]:
    """The fenced blocks of a document in one language ("" for blocks without one)."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def prose(path: pathlib.Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def flags_of(command: pathlib.Path) -> set[str]:
    """Names that a command takes with two dashes in front, from its DEFINE_ calls."""
    names = set()
    if command.parent in (ROOT / "train", ROOT / "quantize"):
        command = MODULES / command.name
    for node in ast.walk(ast.parse(command.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
            name = ast.literal_eval(node.args[0])
            names.add(name)
            if ast.unparse(node.func) in ("flags.DEFINE_bool", "flags.DEFINE_boolean"):
                names.add(f"no{name}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "networks.define_flags":
            names |= flags_of(ROOT / "benchmarks" / "harness" / "networks.py")
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("options.define_"):
            for module in ("network_flags", "training_flags"):
                names |= flags_of(MODULES / f"{module}.py")
    return names


def command_lines(path: pathlib.Path) -> list[str]:
    """Lines of a document's blocks that call one of our commands, continued lines joined."""
    text = "\n".join(blocks(path, "")).replace("\\\n", " ")
    return [line for line in text.splitlines() if re.search(r"\bpython (train|quantize|benchmarks)/", line)]


def run_blocks(sources: list[str], folder: pathlib.Path) -> str:
    """What a fresh interpreter prints for the blocks, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(sources)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_examples_of_the_readme_and_the_guide_run(tmp_path):
    example = blocks(README, "python")[0]
    assert len([line for line in example.splitlines() if line]) <= 12
    printed = run_blocks([example, "print('THE GUIDE')", *blocks(GUIDE, "python")], tmp_path)
    readme, _, guide = printed.partition("THE GUIDE")
    accuracies = [float(text) for text in re.findall(r"top-1 ([\d.]+)%", readme)]
    assert len(accuracies) == 2
    assert min(accuracies) > 70  # chance is 10
    shown, header = (
        next(line.split() for line in text.splitlines() if line[:6] == "layer ")
        for text in (README.read_text(), readme)
    )
    assert shown == header
    assert "conv2" in readme and "predictions" in readme
    assert "gpfq" in guide and "msq" in guide
    assert {path.name for path in (tmp_path / "quantized").iterdir()} == {
        "digits_3bit.keras",
        "digits_3bit.codes.npz",
        "digits_3bit.json",
    }


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_the_examples_of_the_export_guide_run(tmp_path):
    printed = run_blocks(blocks(EXPORT_GUIDE, "python"), tmp_path)
    assert "int4" in printed and "static" in printed and "top-1" in printed


@pytest.mark.slow
def test_the_examples_of_the_guide_to_model_files_run(tmp_path):
    assert run_blocks(blocks(MODELS_GUIDE, "python"), tmp_path).split() == ["tf_keras", "keras"]


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_the_examples_of_the_guide_to_pruning_run(tmp_path):
    printed = run_blocks(blocks(PRUNE_GUIDE, "python"), tmp_path)
    assert "target" in printed and "validation accuracy after" in printed


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_the_examples_of_the_guide_to_quantization_aware_training_run(tmp_path):
    printed = run_blocks(blocks(QAT_GUIDE, "python"), tmp_path)
    assert "int4" in printed and "top-1" in printed


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_the_examples_for_people_who_come_from_tfmot_run(tmp_path):
    run_blocks(blocks(TFMOT_GUIDE, "python"), tmp_path)
    assert (tmp_path / "digits_int8.tflite").is_file()


def test_the_readme_enters_the_virtual_environment_before_it_uses_it():
    text, lines = README.read_text(), bare_shell.commands()
    first = next(index for index, line in enumerate(lines) if line.startswith("python "))
    assert lines[0].startswith("make quickstart") and ". .venv/bin/activate" in lines[1:first]
    assert text.index("\n. .venv/bin/activate\n") < text.index("```python")
    assert "'    . $(VENV)/bin/activate'" in (ROOT / "Makefile").read_text()  # said by `make quickstart`, too
    next_line = re.search(r"'    (python [^']*)'", (ROOT / "Makefile").read_text())
    assert next_line and (ROOT / next_line[1].split()[1]).is_file()


@pytest.mark.slow
def test_commands_of_the_readme_run_in_a_bare_shell(tmp_path):
    """The quick ones; `make readme` types all."""
    folder = bare_shell.clone(tmp_path / "clone")
    lines = [line for line in bare_shell.commands() if line[0] == "." or "show_dataset" in line]
    done = bare_shell.run(lines, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "train_logs" / "digits_samples.png").is_file()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?://", target):
            continue
        file, _, heading = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{name_of(path)} links to {target}"
        if heading:
            headings = [
                re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                for text in re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            ]
            assert heading in headings, f"{name_of(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_the_text_names_exist(path):
    named = set(re.findall(r"`((?:keras_compress|train|quantize|tests|docs|benchmarks)/[\w/.-]+\.\w+)`", prose(path)))
    missing = sorted(file for file in named if not (ROOT / file).exists())
    assert not missing


@pytest.mark.parametrize("name", kc.__all__)
def test_every_public_name_is_in_the_documents(name):
    texts = [path.read_text() for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    assert any(re.search(rf"\bkc\.{name}\b", text) for text in texts)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_names_of_the_package_in_the_documents_exist(path):
    named = set(re.findall(r"\bkc\.([A-Za-z_]\w*)", path.read_text()))
    assert named <= {*kc.__all__, *kc._PACKAGES}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_flags_in_the_text_exist_in_a_command(path):
    known = OTHER_FLAGS.union(*map(flags_of, COMMANDS))
    text = prose(path) + "\n".join(command_lines(path))
    assert set(re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)", text)) <= known
    aliases = set(re.findall(r"`-(\w+)`", prose(path)))
    assert aliases <= known


def test_command_lines_are_those_of_existing_commands_with_their_flags():
    count = 0
    for path in DOCUMENTS:
        for line in command_lines(path):
            command = re.search(r"\bpython ((?:train|quantize|benchmarks)/\w+\.py)(.*)", line)
            assert command, line
            file, arguments = ROOT / command[1], command[2]
            assert file.is_file(), line
            flags = set(re.findall(r"(?<=\s)--?([A-Za-z]\w*)", arguments))
            assert flags <= flags_of(file) | {"help"}, line
            count += 1
    assert count >= 6


def test_every_target_that_the_text_names_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        named = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", path.read_text(), re.MULTILINE)
        assert set(named) <= targets, name_of(path)


def test_the_guide_names_every_column_of_the_records():
    section = GUIDE.read_text().partition("### Columns of the CSV file")[2].partition("\n## ")[0]
    named = [name for item in re.findall(r"^\* (.*?):", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", item)]
    assert sorted(named) == sorted(COLUMNS)


def test_the_table_of_rooms_is_the_one_that_the_imports_are_held_to():
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)/?` \| [^|]* \| ?([^|]*?) ?\|$", text, re.MULTILINE)
    table = {}
    for name, cell in rows:
        allowed = set(re.findall(r"`(\w+)`", cell))
        table[name.removesuffix(".py")] = allowed | (LOWER if "lower rooms" in cell else set())
    package = ROOT / "keras_compress"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(table) == rooms
    there_is = rooms | third_party()  # the test's table also names rooms and packages that are to come
    assert table == {name: ROOMS[name] & there_is for name in table}


def third_party() -> set[str]:
    """Import names of the requirements in setup.cfg."""
    renamed = {"absl-py": "absl", "pillow": "PIL"}
    required = re.findall(r"^    ([a-z][\w-]*)>=", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    return {renamed.get(name, name.replace("-", "_")) for name in required}
