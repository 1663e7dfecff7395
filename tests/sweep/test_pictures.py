import itertools
import pathlib

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import keras_compress as kc
from keras_compress import sweep
from keras_compress.quantization.presets import PRESETS
from keras_compress.sweep import style
from keras_compress.sweep.layer_pictures import accuracies_by_layer
from keras_compress.sweep.pictures import reference_rows
from keras_compress.sweep.runner import setting_cells

pytestmark = pytest.mark.slow  # it quantizes and draws

LAYERS = ["stem/conv", *(f"encoder_{unit}/bottleneck_residual_unit/pointwise_convolution" for unit in range(12))]


def made_up_rows(**lists):
    rng = np.random.default_rng(0)
    rows = []
    for configuration in sweep.Grid(**({"bits": [4], "num_samples": [10]} | lists)):
        top1 = rng.uniform(0.2, 0.9)
        figures = {
            "model": "net", "seed": 0, "fingerprint": "", "float_top1": 0.95, "float_top5": 0.99, "top1": top1,
            "top5": 0.9, "selection_top1": top1, "test_samples": 1000, "layer_error": 0.1, "zeros": 0.3,
            "layer_errors": {layer: rng.uniform(0.01, 2) for layer in LAYERS}, "ideal_bytes": 10**7,
            "raw_bytes": 10**8, "seconds": 12.5, "file": "",
        }  # fmt: skip
        rows.append(setting_cells(configuration, "auto") | figures)
    return rows


def names(paths):
    return [path.name for path in paths]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({}, ["layer_errors.png", "methods.png"]),
        ({"scalars": [1, 2]}, ["accuracy_by_scalar_integer.png", "layer_errors.png", "methods.png"]),
        ({"dense_scalars": [1, 2]}, ["accuracy_by_scalar_integer.png", "layer_errors.png", "methods.png"]),
        ({"num_samples": [1, 10]}, ["accuracy_by_samples_integer.png", "layer_errors.png", "methods.png"]),
        (
            {"scalars": [1, 2], "alphabets": ["midtread", "integer"]},
            ["accuracy_by_scalar_midtread.png", "accuracy_by_scalar_integer.png", "layer_errors.png", "methods.png"],
        ),
    ],
)
def test_a_picture_is_made_where_the_grid_has_the_data(tmp_path, lists, expected):
    paths = sweep.draw(made_up_rows(**lists), tmp_path)
    assert names(paths) == expected
    assert all(matplotlib.image.imread(path)[..., :3].std() > 0.05 for path in paths)


def test_no_rows_no_pictures(tmp_path):
    assert sweep.draw([], tmp_path) == []


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """Figures in place of their files."""
    saved = []
    monkeypatch.setattr(style, "save", lambda figure, folder, name: saved.append(figure) or pathlib.Path(name))
    return saved


def test_one_line_for_each_method_and_one_panel_for_each_width(figures, tmp_path):
    rows = made_up_rows(methods=["msq", "gpfq"], bits=[2, 4], levels=[3], scalars=[1, 2, 3])
    sweep.draw(rows, tmp_path)
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels] == ["3 levels", "2 bits, 4 levels", "4 bits, 15 levels"]
    for axes in panels:
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines) == ["GPFQ, centred", "MSQ", "float"]
        assert set(lines["float"].get_ydata()) == {95.0}
    expected = [100 * row["top1"] for row in rows if row["method"] == "msq" and row["bits"] == 4]
    line = next(line for line in panels[2].get_lines() if line.get_label() == "MSQ")
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert line.get_xdata().tolist() == [1, 2, 3]


def test_numbers_of_samples_are_on_a_logarithmic_axis(figures, tmp_path):
    sweep.draw(made_up_rows(num_samples=[1, 10, 100]), tmp_path)
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    assert axes.get_lines()[0].get_xdata().tolist() == [1, 10, 100]


@pytest.mark.parametrize(
    "lists",
    [
        {"scalars": [1, 1.1, 5, 10]},
        {"scalars": list(range(1, 11)), "bits": [3, 4, 8], "methods": list(PRESETS)},
        {"num_samples": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000], "bits": [2, 3, 4, 8]},
        {"num_samples": [100, 200]},
        {"num_samples": [490, 495, 500]},
    ],
)
def test_labels_do_not_run_into_each_other(figures, tmp_path, lists):
    sweep.draw(made_up_rows(**lists), tmp_path)
    for figure in figures:
        figure.draw_without_rendering()
        for axes, side in itertools.product(figure.axes, ("xaxis", "yaxis")):
            labels = [label for label in getattr(axes, side).get_ticklabels() if label.get_text()]
            boxes = [label.get_window_extent() for label in labels if label.get_rotation() == 0]
            assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        (legend,) = figure.legends
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
        texts = [figure._suptitle, *(axes.title for axes in figure.axes)]
        assert all(text.get_window_extent().x0 >= 0 for text in texts)


def test_methods_are_compared_with_the_settings_of_the_best_gpfq():
    rows = made_up_rows(methods=["gpfq", "msq"], bits=[2, 4], scalars=[1, 2])
    for row in rows:
        row["selection_top1"] = 1.0 if (row["method"], row["bits"], row["scalar"]) == ("gpfq", 2, 2) else 0.5
    compared = [(row["method"], row["bits"], row["scalar"]) for row in reference_rows(rows)]
    assert compared == [("gpfq", 2, 2), ("msq", 2, 2)]


@pytest.mark.parametrize("fold", [False, True])
def test_accuracy_by_layers_goes_from_the_float_network_to_the_quantized_one(model, samples, fold):
    start = kc.fold_batch_normalization(model).model if fold else model
    result = kc.quantize(start, kc.GPFQ(bits=2), samples.calibration(20, 0))
    x, y = samples.test().read().parts
    accuracies = accuracies_by_layer(start, result, x, y, list(result.kernels))
    assert len(accuracies) == 4
    assert accuracies[0] == kc.evaluate(model, x, y).top1
    assert accuracies[-1] == kc.evaluate(result.model, x, y).top1
    one = kc.quantize(start, kc.GPFQ(bits=2), samples.calibration(20, 0), layers="conv")
    assert accuracies[1] == kc.evaluate(one.model, x, y).top1


def test_pictures_of_the_layers(model, samples, tmp_path):
    grid = sweep.Grid(methods=["gpfq", "msq"], bits=[3], num_samples=[20])
    rows = sweep.run(
        model, grid, samples, name="tiny", metrics_dir=tmp_path / "metrics", output_dir=tmp_path / "models"
    )
    paths = sweep.draw_layers(model, rows, samples, tmp_path / "models", tmp_path)
    assert names(paths) == ["accuracy_by_layer.png", "weights_gpfq.png", "weights_msq.png"]
    assert all(matplotlib.image.imread(path)[..., :3].std() > 0.05 for path in paths)
    assert sweep.draw_layers(model, rows, samples, tmp_path / "nowhere", tmp_path) == []
