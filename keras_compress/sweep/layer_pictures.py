"""Pictures that look into the quantized networks: accuracy while layers are quantized, and weights before and after."""

import logging
import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_compress.errors import UserError
from keras_compress.files import check_writable_folder
from keras_compress.layers.absorption import mean_absorbers
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import clone_model
from keras_compress.quantization.folding import fold_batch_normalization
from keras_compress.quantization.presets import PRESETS
from keras_compress.result import Result, load_result
from keras_compress.samples.splits import DataSplits
from keras_compress.sweep import style
from keras_compress.sweep.pictures import layer_figure, reference_rows, settings_text
from keras_compress.sweep.records import Row

MAX_IMAGES = 1000  # test samples behind each point of the accuracy by layers
MAX_LAYERS = 12  # panels of weights
BINS = 81
BATCH = 256

logger = logging.getLogger(__name__)


def draw_layers(
    model: keras.Model,
    rows: Sequence[Row],
    samples: DataSplits,
    output_dir: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    allow_lambda: bool = False,
) -> list[pathlib.Path]:
    """Draws `accuracy_by_layer.png` and `weights_METHOD.png`.

    They compare the best GPFQ row with the rows of other methods that have its settings.

    Args:
        model: the model of the grid.
        rows: what `run` returned.
        samples: what `run` got.
        output_dir: where `run` saved the quantized models.
        folder: where the pictures go.
        allow_lambda: see `load_model`.

    Returns:
        The files that were written; none where the quantized models are not there.

    Raises:
        StorageError: `folder` cannot be written to.
    """
    if not rows:
        return []
    folder = check_writable_folder(folder)
    compared = reference_rows(rows)
    results = []
    for row in compared:
        try:
            results.append((row, load_result(pathlib.Path(output_dir) / row["file"], allow_lambda=allow_lambda)))
        except UserError as error:
            logger.info("no picture of the layers of %s: %s", row["file"] or "a network that was not saved", error)
    if not results:
        return []
    start = fold_batch_normalization(model).model if compared[0]["folded"] else model
    paths = [_accuracy_by_layer(start, results, samples, folder)]
    memoryless = [pair for pair in results[1:] if pair[0]["method"].startswith("msq")]
    for row, result in results[:1] + memoryless[-1:]:
        paths.append(_weights(start, row, result, folder))
    return paths


def accuracies_by_layer(
    start: keras.Model, result: Result, x: np.ndarray, y: np.ndarray, layers: Sequence[str]
) -> list[float]:
    """Top-1 with no layer quantized, then with the first one, with the first two, ... of `layers`."""
    model = clone_model(start)
    absorbers = mean_absorbers(start, Graph(start))
    mixed, quantized = (
        layers_by_path(network) | {path: view.layer for path, view in views_by_path(network).items()}
        for network in (model, result.model)
    )
    accuracies = [_top1(model, x, y)]
    for path in layers:
        # The bias, or the BatchNorm that stands in for it, changed with the kernel.
        for changed in {path, absorbers[path].path if path in absorbers else path}:
            mixed[changed].set_weights(quantized[changed].get_weights())
        accuracies.append(_top1(model, x, y))
    return accuracies


def _top1(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    # As `evaluate`, which would trace the model anew for each layer.
    return float(np.mean(np.argmax(model.predict(x, batch_size=BATCH, verbose=0), axis=1) == y))


def _accuracy_by_layer(
    start: keras.Model, results: list[tuple[Row, Result]], samples: DataSplits, folder: pathlib.Path
) -> pathlib.Path:
    generator = np.random.default_rng(0)
    chosen = samples.test().at(generator.permutation(len(samples.x_test))[:MAX_IMAGES]).read()
    x, y = chosen.inputs, chosen.labels
    layers = list(results[0][0]["layer_errors"])
    figure, axes = layer_figure(layers, first=["(none)"])
    for row, result in results:
        accuracies = 100 * np.asarray(accuracies_by_layer(start, result, x, y, layers))
        method = row["method"]
        axes.plot(
            accuracies,
            range(len(accuracies)),
            color=PRESETS[method].color,
            marker=PRESETS[method].marker,
            label=PRESETS[method].label,
        )
    axes.set_xlabel(f"top-1 (%), {len(x):,} test samples")
    axes.set_ylabel("quantized down to this layer")
    figure.suptitle(
        f"{results[0][0]['model']}: accuracy while layers are quantized\n{settings_text(results[0][0])}", fontsize=11
    )
    style.legend_below(figure, axes)
    return style.save(figure, folder, "accuracy_by_layer")


def _weights(start: keras.Model, row: Row, result: Result, folder: pathlib.Path) -> pathlib.Path:
    before = views_by_path(start)
    layers = list(result.kernels)[:MAX_LAYERS]
    columns = min(len(layers), 3)
    lines = -(-len(layers) // columns)
    figure = Figure(figsize=(max(3.2 * columns, 6.0), 2.2 * lines + 1.1), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, path in zip(grid.flat, layers, strict=False):
        old, new = before[path].kernel.ravel(), result.kernels[path].decode().ravel()
        bins = np.linspace(min(old.min(), new.min()), max(old.max(), new.max()), BINS + 1)
        for weights, settings in (
            (old, {"histtype": "stepfilled", "color": style.GREY, "label": "before"}),
            (new, {"histtype": "step", "color": PRESETS[row["method"]].color, "linewidth": 1.2, "label": "after"}),
        ):
            axes.hist(weights, bins=bins, weights=np.full(weights.size, 100 / weights.size), **settings)
        axes.set_yscale("log")
        axes.set_title(style.short(path), fontsize=9 if len(path) < 40 else 6)
        axes.tick_params(labelsize=8)
        style.tidy(axes)
    for axes in grid.flat[len(layers) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("fraction (%)", fontsize=9)
    for axes in grid.flat[max(0, len(layers) - columns) : len(layers)]:
        axes.set_xlabel("weight", fontsize=9)
    more = f", first {len(layers)} of {len(result.kernels)} layers" if len(result.kernels) > len(layers) else ""
    figure.suptitle(
        f"{row['model']}: weights before and after {PRESETS[row['method']].label}{more}\n{settings_text(row)}",
        fontsize=11,
    )
    style.legend_below(figure, grid.flat[0])
    return style.save(figure, folder, f"weights_{row['method']}")
