import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
from absl import flags
from absl.testing import flagsaver

import keras_compress as kc
from keras_compress import zoo
from keras_compress.commands.network_flags import input_shape
from keras_compress.sweep.records import Records
from tests import wrong_data

COMMAND = pathlib.Path(__file__).resolve().parents[2] / "quantize" / "quantize_pretrained.py"
NOT_THE_SAME_TWICE = ("time", "seconds", "peak_memory_mb")


@pytest.fixture(scope="module")
def command(load):
    return load("quantize_pretrained")


def files_of(folder: pathlib.Path) -> set[str]:
    paths = (pathlib.Path(top, name) for top, _, names in os.walk(folder) for name in names)
    return {str(path.relative_to(folder)) for path in paths}


def lasting(rows):
    return [{name: value for name, value in row.items() if name not in NOT_THE_SAME_TWICE} for row in rows]


@pytest.mark.slow
def test_a_grid_leaves_table_pictures_networks_and_log(call, tmp_path):
    done = call("tiny", "--methods=gpfq,msq", "-b", "3", "-s", "1,2", "--num_samples=20", "-bs", "64")
    assert done.code == 0, done.err
    rows = Records(tmp_path / "model_metrics/tiny.csv").rows
    assert [(row["method"], row["scalar"], row["batch_size"], row["dataset"]) for row in rows] == [
        (method, scalar, 64, "digits") for scalar in (1, 2) for method in ("gpfq", "msq")
    ]
    digits = zoo.load_dataset("digits")
    result = kc.load_result(tmp_path / "quantized_models" / rows[0]["file"])
    accuracy = kc.evaluate(result.model, digits.x_test[..., None] / 16, digits.y_test)
    assert (accuracy.top1, accuracy.top5) == (rows[0]["top1"], rows[0]["top5"])
    ends = (".keras", ".codes.npz", ".json", ".card.json")
    saved = {f"quantized_models/{row['file']}{end}" for row in rows for end in ends}
    pictures = (
        "accuracy_by_scalar_integer",
        "layer_errors",
        "methods",
        "accuracy_by_layer",
        "weights_gpfq",
        "weights_msq",
    )
    assert files_of(tmp_path) - files_of(tmp_path / "serialized_models") == {
        "model_metrics/tiny.csv",
        "train_logs/model_quantizing.log",
        *saved,
        *(f"model_metrics/tiny/{name}.png" for name in pictures),
    }
    assert not any(":" in name for name in files_of(tmp_path))
    lines = done.out.splitlines()
    assert lines[0].startswith("tiny on 360 test samples: float top-1") and max(map(len, lines)) <= 120
    assert "table:    model_metrics/tiny.csv" in lines and "networks: quantized_models/" in lines
    assert f"pictures: model_metrics/tiny/ ({', '.join(pictures)})" in " ".join(done.out.split())
    assert done.err.count("quantize ") == 4 and "quantize 4/4 msq integer 3 bits C 2" in done.err
    log = (tmp_path / "train_logs/model_quantizing.log").read_text().splitlines()
    assert sum("msq integer 3 bits" in line for line in log) == 2


@pytest.mark.slow
def test_a_network_without_a_card_gets_its_preprocessing_from_flags(call, tmp_path):
    few = ("--methods=msq", "--levels=3", "--num_samples=20", "--nosave_models")
    assert call("-model=tiny", *few).code == 0
    assert call("serialized_models/bare.keras", "-ds", "digits", "--scale=0.0625", *few).code == 0
    (tiny,), (bare,) = (Records(tmp_path / f"model_metrics/{name}.csv").rows for name in ("tiny", "bare"))
    assert bare["fingerprint"] == tiny["fingerprint"]  # the same weights and the same samples
    assert not (tmp_path / "quantized_models").exists()
    assert call("bare", "--dataset=digits", "--scale=0.0625", "--mean=0.5", "--std=0.25", *few).code == 0
    shifted = Records(tmp_path / "model_metrics/bare.csv").rows[1]
    assert shifted["fingerprint"] != bare["fingerprint"]


@pytest.mark.parametrize(
    ("arguments", "methods"),
    [
        ((), ["gpfq", "msq"]),
        (("--nocentered",), ["gpfq_uncentered", "msq"]),
        (("--bias_correction",), ["gpfq", "msq_bias"]),
        (("--nocentered", "--bias_correction"), ["gpfq_bias", "msq_bias"]),
        (("--methods=msq,msq_bias,gpfq_uncentered",), ["msq", "msq_bias", "gpfq_uncentered"]),
    ],
)
def test_methods_of_the_flags(command, arguments, methods):
    with flagsaver.flagsaver():
        flags.FLAGS([str(COMMAND), *arguments])
        assert command.grid_settings()["methods"] == methods


@pytest.mark.parametrize(
    ("arguments", "bits", "levels"),
    [
        ((), [2, 3, 4], []),
        (("--levels=3",), [], [3]),
        (("--bits=2,8", "--levels=3,5"), [2, 8], [3, 5]),
        (("-b", "4"), [4], []),
    ],
)
def test_bits_and_levels_of_the_flags(command, arguments, bits, levels):
    with flagsaver.flagsaver():
        flags.FLAGS([str(COMMAND), *arguments])
        settings = command.grid_settings()
    assert (settings["bits"], settings["levels"]) == (bits, levels)


@pytest.mark.parametrize(
    ("expected", "received", "shape"),
    [
        ((28, 28, 1), (28, 28), (28, 28, 1)),
        ((784,), (28, 28), (784,)),
        ((32, 32, 3), (32, 32, 3), (32, 32, 3)),
        ((3, 32, 32), (32, 32, 3), None),
        ((None, None, 3), (32, 32, 3), None),
        ((100,), (28, 28), None),
    ],
)
def test_samples_are_reshaped_where_that_cannot_be_wrong(expected, received, shape):
    assert input_shape(types.SimpleNamespace(input_shape=(None, *expected)), received) == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Expected MODEL. Received: none."),
        (("tiny", "other"), "Expected MODEL. Received: tiny other."),
        (("nothing",), "There is no model 'nothing' in 'serialized_models'. Known: bare,"),
        (("folder/nothing.keras",), "There is no model file 'folder/nothing.keras'."),
        (("cut", "-ds", "digits"), "is damaged or cut off"),
        (("notes", "-ds", "digits"), "is not a Keras model"),
        (("nan", "-ds", "digits"), "The kernel of layer 'conv' has 18 weights that are NaN or Inf."),
        (("bare",), "There is no model card 'serialized_models/bare.json'. Name the data set with --dataset"),
        (("bare", "-ds", "imagenet"), "Unknown data set 'imagenet'. Known: digits"),
        (("three", "-ds", "digits"), "The model has 3 classes. Received: a data set with 10."),
        (("nine", "-ds", "digits"), "expects samples of shape (9,). Received: training samples of shape (8, 8)"),
        (("two", "-ds", "digits"), "A classifier with one input and one output (n, classes) is expected."),
        (("tiny", "--scale=2"), "card 'serialized_models/tiny.json' holds the preprocessing. Leave out --scale."),
        (("bare", "-ds", "digits", "--mean=1,2"), "--mean takes one number, or 8. Received: 2 numbers."),
        (("bare", "-ds", "digits", "--std=0"), "--std divides and must not be 0."),
        (("tiny", "--methods=gptq"), "Unknown method: 'gptq'. Known: best, fast, optq_distilled,"),
        (("tiny", "--alphabet=float"), "Unknown alphabet: 'float'. Known: integer,"),
        (("tiny", "--bits=1"), "bits of Integer must be an integer from 2 to 16. Received: 1."),
        (("tiny", "--bits=two"), "--bits takes whole numbers with commas between. Received: two."),
        (("tiny", "--levels=1"), "levels must be an integer from 2 to 65536. Received: 1."),
        (("tiny", "--alphabet_scalars=-1"), "scalar must be a positive number. Received: -1.0."),
        (("tiny", "--radius=2"), "or a quantile of |w| in (0, 1]. Received: 2.0."),
        (("tiny", "--num_samples=2000"), "num_samples must be at most 1,437, the number of training samples."),
        (("tiny", "--ignore_layers=conv9"), "ignore_layers: the pattern 'conv9' matches no layer"),
        (("tiny", "--ignore_layers=.*"), "There is no layer to quantize"),
        (("tiny", "--batch_size=0"), "batch_size must be a positive integer. Received: 0."),
        (("tiny", "--memory_budget=lots"), "memory_budget must be bytes"),
        (("tiny", "--patches=apart"), "flag --patches=apart"),
        (("tiny", "--logs_dir=a_file/logs"), "The folder 'a_file/logs' cannot be written to"),
        (("tiny", "--metrics_dir=a_file/metrics"), "The folder 'a_file/metrics' cannot be written to"),
        (("tiny", "--output_dir=a_file"), "The folder 'a_file' cannot be written to"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(call, tmp_path, arguments, message):
    (tmp_path / "a_file").touch()
    before = files_of(tmp_path)
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert message in done.err
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("what", ["foreign", "of a newer program"])
def test_records_that_are_not_ours_are_left_alone(call, tmp_path, what):
    (tmp_path / "model_metrics").mkdir()
    path = tmp_path / "model_metrics" / "tiny.csv"
    path.write_text("a,b\n1,2\n" if what == "foreign" else "time,newer\n1,2\n")
    content = path.read_bytes()
    done = call("tiny", "--num_samples=20")
    assert done.code == 2 and "has other columns than this program writes" in done.err
    assert path.read_bytes() == content


def run_command(folder: pathlib.Path, *arguments: str, **settings) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.sampled(0)
def test_a_command_that_was_killed_goes_on_where_it_stopped(networks, tmp_path):
    arguments = ("tiny", "--methods=gpfq,msq", "--bits=2,3", "--num_samples=10,20")
    for name in ("killed", "whole"):
        shutil.copytree(networks, tmp_path / name / "serialized_models")
    process = run_command(tmp_path / "killed", *arguments)
    for line in process.stderr:
        if line.startswith("quantize 3/8"):
            break
    process.kill()
    process.communicate()
    path = tmp_path / "killed" / "model_metrics" / "tiny.csv"
    known = Records(path).rows
    assert 3 <= len(known) < 8
    resumed = run_command(tmp_path / "killed", *arguments)
    out, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert f"quantize {8 - len(known)}/{8 - len(known)} " in err
    whole = run_command(tmp_path / "whole", *arguments)
    table, err = whole.communicate()
    assert whole.returncode == 0, err
    rows, whole_rows = Records(path).rows, Records(tmp_path / "whole" / "model_metrics" / "tiny.csv").rows
    assert lasting(rows) == lasting(whole_rows)
    assert rows[: len(known)] == known
    assert len(out.splitlines()) == len(table.splitlines())


def test_the_wrong_data_set_is_one_line(call, tmp_path):
    wrong_data.check(call, tmp_path)
