"""The package as a whole: what importing it costs, its lazy names, the check of the backend, and what a wheel holds."""

import importlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import keras_compress as kc

ROOT = pathlib.Path(__file__).resolve().parent.parent
PUBLIC = [name for name in kc.__all__ if name != "__version__"]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import keras_compress",
        "import keras_compress as kc; dir(kc); kc.__version__; kc.InputError; kc.Report",
        "from keras_compress import files, zoo; from keras_compress.commands import cli",
    ],
)
def test_importing_the_package_loads_neither_tensorflow_nor_keras(code):
    assert loaded_by(code) == "[]\n"


@pytest.mark.slow
def test_the_test_above_can_fail():
    assert "'keras'" in loaded_by("import keras_compress as kc; kc.Result")


def loaded_by(code: str) -> str:
    heavy = {"tensorflow", "keras", "tf_keras", "matplotlib"}
    done = run_python(f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_version_is_the_installed_one():
    assert importlib.metadata.version("keras_compress") == kc.__version__


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_found(name):
    assert name in dir(kc)
    public = getattr(kc, name)
    assert callable(public)
    assert public.__name__ == name
    assert public.__doc__


def test_a_name_stays_itself_after_its_module_is_loaded():
    importlib.import_module("keras_compress.quantization.quantize")
    assert callable(kc.quantize)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'keras_compress' has no attribute 'quantise'"):
        _ = kc.quantise
    with pytest.raises(ImportError, match="cannot import name 'quantise'"):
        exec("from keras_compress import quantise")


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_another_backend_is_refused_in_one_line_before_keras_is_imported(backend):
    code = (
        "import sys, keras_compress as kc\n"
        "try:\n    kc.GPFQ\n"
        "except kc.InputError as error:\n    print(error, 'keras' in sys.modules, sep='\\n')"
    )
    done = run_python(code, KERAS_BACKEND=backend)
    assert done.stdout.splitlines() == [
        f"keras_compress needs Keras on TensorFlow. Received: the Keras backend {backend!r}. "
        "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported.",
        "False",
    ], done.stderr


def test_another_backend_in_the_settings_of_keras_is_refused(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    code = "import os; del os.environ['KERAS_BACKEND']\nimport keras_compress as kc\nkc.GPFQ"
    done = run_python(code, KERAS_HOME=str(tmp_path))
    assert "InputError: keras_compress needs Keras on TensorFlow. Received: the Keras backend 'jax'." in done.stderr


def test_names_that_need_no_keras_work_with_another_backend():
    done = run_python("import keras_compress as kc; kc.UserError; kc.Report", KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("keras_compress", "tests", "train", "quantize"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("keras_compress-*.whl")
    assert wheel.name == f"keras_compress-{kc.__version__}-py3-none-any.whl"
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {"keras_compress/py.typed", "keras_compress/zoo/digits.npz", "keras_compress/zoo/datasets.py"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"keras_compress"}
