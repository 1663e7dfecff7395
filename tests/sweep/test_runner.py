import dataclasses
import datetime
import io
import logging
import pathlib
import shutil

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress import sweep
from keras_compress.errors import InputError, StorageError
from keras_compress.sweep import runner
from keras_compress.sweep.records import COLUMNS, Records

NOT_THE_SAME_TWICE = ("time", "seconds", "peak_memory_mb")
GRID = sweep.Grid(methods=["gpfq", "msq"], bits=[2], num_samples=[10, 20])
COUNTED = ("Calibration", "quantize", "evaluate")


def run(model, samples, folder, grid=GRID, **settings):
    places = {"metrics_dir": folder / "metrics", "output_dir": folder / "models"}
    return sweep.run(model, grid, samples, **({"name": "tiny", "dataset": "noise"} | places | settings))


def lasting(rows):
    return [{name: value for name, value in row.items() if name not in NOT_THE_SAME_TWICE} for row in rows]


def count_calls(monkeypatch):
    """How often the runner reads calibration samples, quantizes and evaluates from now on."""
    counts = dict.fromkeys(COUNTED, 0)

    def counting(name):
        original = getattr(runner, name)

        def call(*arguments, **settings):
            counts[name] += 1
            return original(*arguments, **settings)

        return call

    for name in COUNTED:
        monkeypatch.setattr(runner, name, counting(name))
    return counts


@dataclasses.dataclass
class Run:
    folder: pathlib.Path
    rows: list[dict]
    counts: dict[str, int]
    log: str


@pytest.fixture(scope="module")
def whole(model, samples, tmp_path_factory):
    """A run of the grid, which most tests start from."""
    folder = tmp_path_factory.mktemp("whole")
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logger = logging.getLogger("keras_compress")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            counts = count_calls(monkeypatch)
            rows = run(model, samples, folder)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return Run(folder, rows, counts, lines.getvalue())


@pytest.fixture
def again(whole, tmp_path, monkeypatch):
    """A copy of that run, to go on with."""
    folder = tmp_path / "again"
    shutil.copytree(whole.folder, folder)
    return Run(folder, whole.rows, count_calls(monkeypatch), "")


@pytest.mark.slow
def test_a_row_says_what_the_library_says(model, samples, whole):
    row = whole.rows[2]
    result = kc.quantize(
        kc.fold_batch_normalization(model), kc.GPFQ(alphabet=kc.Integer(2, scalar=1.0)), samples.calibration(20, 0)
    )
    before, after = (kc.evaluate(network, samples.test()) for network in (model, result.model))
    costs = kc.measure(result)
    assert set(row) == set(COLUMNS)
    assert (row["float_top1"], row["float_top5"], row["test_samples"]) == (before.top1, before.top5, 40)
    assert (row["top1"], row["top5"]) == (after.top1, after.top5)
    assert row["selection_top1"] == kc.evaluate(result.model, samples.selection(20, 0)).top1
    for name in ("parameters", "nonzeros", "macs", "raw_bytes", "gzipped_bytes", "ideal_bytes"):
        assert row[name] == getattr(costs, name)
    errors = {layer.path: layer.relative_error for layer in result.report.steps[-1].rows if layer.action == "quantized"}
    assert row["layer_errors"] == pytest.approx(errors) and list(errors) == ["conv", "hidden", "predictions"]
    assert row["layer_error"] == pytest.approx(np.mean(list(errors.values())))
    codes = np.concatenate([kernel.codes.ravel() for kernel in result.kernels.values()])
    assert row["zeros"] == pytest.approx(np.mean(codes == 0))
    assert (row["bits"], row["levels"], row["folded"], row["samples"]) == (2, 4, 1, 20)
    assert (row["dataset"], row["model"], row["form"], row["patches"]) == ("noise", "tiny", "auto", "joint")
    assert row["seconds"] > 0 and 50 < row["peak_memory_mb"] < 1e5
    assert datetime.datetime.fromisoformat(row["time"]).tzinfo is not None


@pytest.mark.slow
def test_what_is_saved_is_what_was_measured(samples, whole):
    assert len({row["file"] for row in whole.rows}) == 4
    for row in whole.rows[:2]:
        result = kc.load_result(whole.folder / "models" / row["file"])
        assert kc.evaluate(result.model, samples.test()).top1 == row["top1"]
        assert result.report.row("conv").relative_error == pytest.approx(row["layer_errors"]["conv"])


def test_what_the_grid_shares_is_computed_once(whole):
    # Samples are read once for each number of them; the float network is evaluated once; each configuration is
    # evaluated on the test samples and on those that choose between settings.
    assert whole.counts == {"Calibration": 2, "quantize": 4, "evaluate": 1 + 2 * 4}


def test_the_rows_are_those_of_the_grid_in_its_order(whole):
    expected = [(configuration.num_samples, configuration.bits, configuration.method) for configuration in GRID]
    assert [(row["samples"], row["bits"], row["method"]) for row in whole.rows] == expected
    assert Records(whole.folder / "metrics" / "tiny.csv").rows == whole.rows


def test_the_log_has_a_line_for_each_configuration(whole):
    lines = whole.log.splitlines()
    assert len(lines) == 1 + 4
    assert lines[0].startswith("float: top-1")
    assert lines[1].startswith("gpfq integer 2 bits C 1 10 samples: top-1 ")


def test_what_is_recorded_is_not_computed_again(model, samples, again, caplog):
    with caplog.at_level(logging.INFO, "keras_compress"):
        assert run(model, samples, again.folder) == again.rows
    assert set(again.counts.values()) == {0}
    assert [record.getMessage() for record in caplog.records] == ["4 of 4 configurations are recorded already"]


@pytest.mark.slow
def test_a_larger_grid_computes_what_is_new(model, samples, again):
    larger = sweep.Grid(methods=["msq", "msq_bias", "gpfq"], bits=[2], num_samples=[20])
    rows = run(model, samples, again.folder, larger)
    assert again.counts["quantize"] == 1
    assert [rows[2], rows[0]] == again.rows[2:]
    assert rows[1]["method"] == "msq_bias"


@pytest.mark.slow
@pytest.mark.parametrize("died_after", [0, 3])
def test_a_killed_grid_goes_on_and_ends_with_the_same_rows(model, samples, whole, tmp_path, monkeypatch, died_after):
    counts = count_calls(monkeypatch)
    append = Records.append

    def dying(records, row):
        if len(records.rows) == died_after:
            with records.path.open("ab") as file:
                file.write(b"2026-11-22T03:45:25+00:00,noise,ti")  # the kill came in the middle of a row
            raise KeyboardInterrupt
        append(records, row)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Records, "append", dying)
        run(model, samples, tmp_path)
    resumed = run(model, samples, tmp_path)
    assert counts["quantize"] == (died_after + 1) + (4 - died_after)
    assert lasting(resumed) == lasting(whole.rows)
    for row in whole.rows:
        result, resumed_result = (
            kc.load_result(folder / "models" / row["file"]) for folder in (whole.folder, tmp_path)
        )
        for path, kernel in result.kernels.items():
            np.testing.assert_array_equal(kernel.codes, resumed_result.kernels[path].codes)
        for before, after in zip(result.model.get_weights(), resumed_result.model.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_a_model_file_that_is_missing_is_made_again_and_its_row_replaced(model, samples, again):
    (again.folder / "models" / f"{again.rows[1]['file']}.codes.npz").unlink()
    assert lasting(run(model, samples, again.folder)) == lasting(again.rows)
    assert again.counts["quantize"] == 1
    assert len(Records(again.folder / "metrics" / "tiny.csv").rows) == 4


@pytest.mark.slow
def test_overwrite_replaces_the_rows_of_this_grid_only(model, samples, again):
    few = sweep.Grid(methods=["msq"], bits=[2], num_samples=[10])
    run(model, samples, again.folder, few, overwrite=True)
    assert again.counts["quantize"] == 1
    rows = Records(again.folder / "metrics" / "tiny.csv").rows
    assert sorted(map(str, lasting(rows))) == sorted(map(str, lasting(again.rows)))


@pytest.mark.slow
def test_other_weights_under_the_same_name_are_computed_anew(model, samples, again):
    other = keras.models.clone_model(model)
    rows = run(other, samples, again.folder, sweep.Grid(methods=["msq"], bits=[2], num_samples=[10]))
    assert again.counts["quantize"] == 1
    assert rows[0]["fingerprint"] != again.rows[1]["fingerprint"]


@pytest.mark.slow
def test_dense_layers_have_their_own_scalar_ignored_ones_stay_and_the_model_too(model, samples, tmp_path):
    weights = [weight.copy() for weight in model.get_weights()]
    grid = sweep.Grid(
        methods=["msq"], bits=[4], scalars=[1.0], dense_scalars=[2.0], num_samples=[60], ignore_layers=["pred.*"],
        fold=False,
    )  # fmt: skip
    (row,) = run(model, samples, tmp_path, grid)
    result = kc.load_result(tmp_path / "models" / row["file"])
    assert set(result.kernels) == {"conv", "hidden"} == set(row["layer_errors"])
    assert result.report.row("conv").alphabet == "Integer()"
    assert result.report.row("hidden").alphabet == "Integer(scalar=2.0)"
    assert result.report.row("predictions").action == "float"
    assert "norm" in [layer.name for layer in result.model.layers] and row["folded"] == 0
    assert row["selection_top1"] is None  # every training sample calibrates
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_nothing_is_saved_where_nobody_asks(model, samples, tmp_path):
    (row,) = run(model, samples, tmp_path, sweep.Grid(methods=["msq"], bits=[2], num_samples=[5]), output_dir=None)
    assert row["file"] == "" and [path.name for path in tmp_path.iterdir()] == ["metrics"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": dataclasses.replace(GRID, ignore_layers=["conv9"])}, "the pattern 'conv9' matches no layer"),
        ({"grid": dataclasses.replace(GRID, ignore_layers=[".*"])}, "leaves none of conv, hidden, predictions"),
        ({"memory_budget": "lots"}, "memory_budget must be bytes"),
        ({"batch_size": 0}, "batch_size must be a positive integer. Received: 0."),
        ({"name": "a/b"}, "name must be a file name"),
        ({"name": "a:b"}, "name must be a file name"),
        ({"grid": sweep.Grid(bits=[4], num_samples=[61])}, "num_samples must be at most 60"),
    ],
)
def test_bad_settings_are_refused_before_any_work(model, samples, tmp_path, settings, message):
    with pytest.raises(InputError) as error:
        run(model, samples, tmp_path, **settings)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(model, samples, tmp_path):
    (tmp_path / "models").touch()
    with pytest.raises(StorageError, match="models' cannot be written to"):
        run(model, samples, tmp_path)
    assert not list((tmp_path / "metrics").iterdir())


EXPORTS = ("float/small", "int8/fast")


@pytest.mark.slow
def test_tflite_files_are_written_tested_and_not_made_twice(model, samples, tmp_path, monkeypatch):
    settings = {"methods": ["msq"], "num_samples": [10], "exports": EXPORTS}
    grid = sweep.Grid(**settings, bits=[4], alphabets=["integer", "midtread"])
    wide = sweep.Grid(**settings, bits=[8], alphabets=["midtread"])
    rows = run(model, samples, tmp_path, grid) + run(model, samples, tmp_path, wide)
    for row in rows[:2]:
        for export in EXPORTS:
            path = runner.tflite_path(tmp_path / "models", row["file"], export)
            assert kc.evaluate_tflite(path, samples.test()).top1 == row["tflite_top1"][export]
            assert path.stat().st_size == row["tflite_bytes"][export]
    assert rows[2]["tflite_top1"] == rows[2]["tflite_bytes"] == dict.fromkeys(EXPORTS)  # 257 levels fit no type
    assert "float/small" in sweep.table(rows) and "int8/fast" in sweep.table(rows)
    counts = count_calls(monkeypatch)
    assert run(model, samples, tmp_path, dataclasses.replace(grid, exports=EXPORTS[:1])) == rows[:2]
    assert run(model, samples, tmp_path, wide) == rows[2:]
    assert counts["quantize"] == 0
    runner.tflite_path(tmp_path / "models", rows[0]["file"], EXPORTS[0]).unlink()
    assert lasting(run(model, samples, tmp_path, grid)) == lasting(rows[:2])
    assert counts["quantize"] == 1


def test_an_unknown_export_is_refused():
    with pytest.raises(InputError, match=r"exports must be among float/fast, .* Received: 'int8'"):
        sweep.Grid(bits=[4], exports=["int8"])
