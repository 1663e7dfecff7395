"""Runs a grid: what it shares is computed once, what is known is written at once, what was written is not repeated."""

import dataclasses
import datetime
import hashlib
import json
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import Calibration, parse_bytes
from keras_compress.errors import InputError
from keras_compress.export.tflite import export_tflite
from keras_compress.files import check_writable_folder
from keras_compress.layers.graph import Graph
from keras_compress.layers.selection import Pattern, select
from keras_compress.measurement.counts import measure
from keras_compress.measurement.evaluation import evaluate
from keras_compress.measurement.scores import Evaluation
from keras_compress.measurement.tflite import evaluate_tflite
from keras_compress.quantization.activations import quantize_activations
from keras_compress.quantization.distillation import distill_scales
from keras_compress.quantization.folding import fold_batch_normalization
from keras_compress.quantization.quantize import quantize
from keras_compress.quantization.quantizers import Quantizer
from keras_compress.result import Result
from keras_compress.samples.samples import Samples
from keras_compress.samples.splits import DataSplits
from keras_compress.sweep.grid import Configuration, Grid
from keras_compress.sweep.memory import peak_bytes, reset_peak
from keras_compress.sweep.records import Records, Row, key_of

logger = logging.getLogger(__name__)

# Cells that every row of a grid has; without them it is computed again.
ALWAYS_THERE = (
    "float_top1", "top1", "test_samples", "layer_errors", "zeros", "parameters", "nonzeros", "macs", "raw_bytes",
    "gzipped_bytes", "ideal_bytes", "seconds",
)  # fmt: skip


def run(
    model: keras.Model,
    grid: Grid,
    samples: DataSplits,
    *,
    name: str,
    dataset: str = "",
    metrics_dir: str | os.PathLike[str] = "model_metrics",
    output_dir: str | os.PathLike[str] | None = None,
    memory_budget: int | str = "2GB",
    batch_size: int | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Row]:
    """Quantizes a model with every configuration of a grid, and records what each one cost.

    Each row is in `metrics_dir/NAME.csv` the moment it is known. A call that was killed is made again with the same
    arguments: configurations that have a row are not computed again.

    Args:
        model: a built Functional or Sequential classifier with one input and one output; it is not written to.
        grid: what to try.
        samples: to calibrate on and to test on.
        name: of the model, in file names and in the column `model`.
        dataset: name of the data set, for its column.
        metrics_dir: where NAME.csv goes.
        output_dir: where quantized models (`Result.save`) and their TFLite files go; None saves none.
        memory_budget, batch_size, work_dir: see `quantize`.
        seed: of the choice of calibration samples.
        overwrite: compute the configurations of this grid again and replace their rows.
        progress: whether to show a bar (on a terminal) or lines.

    Returns:
        The rows of this grid, in its order: the columns are those of `COLUMNS`.

    Raises:
        InputError: a model, data or setting that cannot be used; found before any work starts.
        StorageError: a folder cannot be written to, or a disk is full.
    """
    _check_settings(name, memory_budget, batch_size)
    samples.check(model, max(grid.num_samples))
    graph = Graph(model)
    paths = list(graph.views)
    ignored = select(grid.ignore_layers, paths, "ignore_layers") if grid.ignore_layers else set()
    if ignored >= set(paths):
        raise InputError(f"There is no layer to quantize: ignore_layers leaves none of {', '.join(paths) or 'none'}.")
    for path in set(paths) - ignored:
        bad = int((~np.isfinite(graph.views[path].kernel)).sum())
        if bad:
            raise InputError(
                f"The kernel of layer {path!r} has {bad} weights that are NaN or Inf. The training diverged; train "
                "again, or leave the layer out with ignore_layers."
            )
    records = Records(check_writable_folder(metrics_dir) / f"{name}.csv")
    if output_dir is not None:
        check_writable_folder(output_dir)
    start = fold_batch_normalization(model) if grid.fold else Result(model)
    common: Row = {
        "dataset": dataset,
        "model": name,
        "batch_size": batch_size,
        "seed": seed,
        "folded": start.report.steps[-1].figures["folded"] if grid.fold else 0,
        "ignored_layers": " ".join(grid.ignore_layers),
    }
    fingerprints = {count: samples.fingerprint(model, count, seed) for count in dict.fromkeys(grid.num_samples)}
    settings = {
        configuration: common
        | setting_cells(configuration, grid.form)
        | {"fingerprint": fingerprints[configuration.num_samples]}
        for configuration in grid
    }
    pending = [
        configuration
        for configuration, row in settings.items()
        if overwrite or not _done(records, row, output_dir, grid.exports)
    ]
    if len(pending) < len(settings):
        logger.info("%d of %d configurations are recorded already", len(settings) - len(pending), len(settings))
    records.drop(key_of(settings[configuration]) for configuration in pending)
    if pending:
        job = _Job(start, samples, ignored, grid.form, batch_size, seed, output_dir, list(grid.exports))
        job.evaluate_float(model)
        with progress_bar.tasks("quantize", len(pending), enabled=progress) as done:
            for count in dict.fromkeys(configuration.num_samples for configuration in pending):
                images = samples.calibration(count, seed)
                with Calibration(
                    start.model, images, memory_budget=memory_budget, batch_size=batch_size, work_dir=work_dir
                ) as calibration:
                    for configuration in pending:
                        if configuration.num_samples == count:
                            row = settings[configuration] | job.measured(
                                configuration, calibration, settings[configuration]
                            )
                            records.append(row)
                            logger.info("%s: %s", configuration, summary(row))
                            done(f"{configuration}: top-1 {row['top1']:.2%}")
    rows = [records.find(key_of(row)) for row in settings.values()]
    return [row for row in rows if row is not None]


def quantized(
    configuration: Configuration,
    start: Result,
    calibration: Any,
    *,
    ignored: Collection[str] = (),
    form: str = "auto",
    seed: int = 0,
) -> Result:
    """A network quantized as a configuration says.

    Args:
        configuration: of a grid.
        start: what is quantized, its BatchNorm layers folded or not.
        calibration, form, seed: as for `quantize`.
        ignored: paths of layers that stay in floating point.

    Raises:
        InputError: as for `quantize`.
    """
    overrides: dict[Pattern, Quantizer | None] = {}
    if configuration.dense_scalar != configuration.scalar:
        quantizer = configuration.quantizer(dense=True)
        for path, view in Graph(start.model).views.items():
            if type(view.layer) is keras.layers.Dense:
                overrides[re.compile(re.escape(path))] = quantizer
    overrides.update((re.compile(re.escape(path)), None) for path in ignored)
    result = quantize(start, configuration.quantizer(), calibration, overrides=overrides, form=form, seed=seed)
    return distill_scales(result, calibration, teacher=start, seed=seed) if configuration.distills else result


def setting_cells(configuration: Configuration, form: str) -> Row:
    """The cells of a configuration's own settings."""
    quantizer = configuration.quantizer()
    solves = quantizer.requires == "gram"
    return {
        "method": configuration.method,
        "alphabet": configuration.alphabet,
        "bits": configuration.bits,
        "levels": quantizer.num_levels,
        "scalar": configuration.scalar,
        "dense_scalar": configuration.dense_scalar,
        "radius": "" if configuration.radius is None else str(configuration.radius),
        "patches": configuration.patches if solves else "",
        "samples": configuration.num_samples,
        "form": form if solves else "",
        "regularizer": configuration.regularizer,
        "lambda": configuration.regularization,
        "effective_bits": quantizer.setting.effective_bits,
    }


def summary(row: Row) -> str:
    """One line of what a row says."""
    error = "unknown" if row["layer_error"] is None else f"{row['layer_error']:.2%}"
    return (
        f"top-1 {row['top1']:.2%} (float {row['float_top1']:.2%}), layer error {error}, "
        f"{row['ideal_bytes']:,} bytes, {row['seconds']:.1f} s"
    )


@dataclasses.dataclass
class _Job:
    """What all configurations share."""

    start: Result
    samples: DataSplits
    ignored: set[str]
    form: str
    batch_size: int | None
    seed: int
    output_dir: str | os.PathLike[str] | None
    exports: list[str]

    def evaluate_float(self, model: keras.Model) -> None:
        self.float = self._evaluate(model, self.samples.test())
        logger.info("float: %s", self.float)

    def measured(self, configuration: Configuration, calibration: Calibration, settings: Row) -> Row:
        """Quantizes, saves, and returns the cells of what came out."""
        reset_peak()
        result = quantized(configuration, self.start, calibration, ignored=self.ignored, form=self.form, seed=self.seed)
        peak = peak_bytes()
        steps = result.report.steps[len(self.start.report.steps) :]
        errors = {row.path: _finite(row.relative_error) for row in steps[0].rows if row.path in result.kernels}
        known = [error for error in errors.values() if error is not None]
        codes = [kernel.codes for kernel in result.kernels.values()]
        accuracy = self._evaluate(result.model, self.samples.test())
        selection = self.samples.selection(configuration.num_samples, self.seed)
        file = ""
        if self.output_dir is not None:
            file = file_name(settings)
            result.save(pathlib.Path(self.output_dir) / file)
        tflite = self._exported(result, configuration.num_samples, file)
        return {
            "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "float_top1": self.float.top1,
            "float_top5": self.float.top5,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "selection_top1": None if selection is None else self._evaluate(result.model, selection).top1,
            "test_samples": accuracy.num_samples,
            "layer_error": float(np.mean(known)) if known else None,
            "layer_errors": errors,
            "zeros": sum(int((code == 0).sum()) for code in codes) / sum(code.size for code in codes),
            **measure(result).totals(),
            "seconds": round(sum(step.figures["seconds"] for step in steps), 3),
            "peak_memory_mb": round(peak / 1e6, 1),
            "file": file,
            "tflite_top1": {export: top1 for export, (top1, _) in tflite.items()} or None,
            "tflite_bytes": {export: size for export, (_, size) in tflite.items()} or None,
        }

    def _exported(self, result: Result, num_samples: int, file: str) -> dict[str, tuple[float | None, int | None]]:
        """Top-1 and bytes of each TFLite file; None of those that this result cannot become."""
        exported: dict[str, tuple[float | None, int | None]] = {}
        images = self.samples.calibration(num_samples, self.seed) if self.exports else None
        rounded: Result | None = None
        with tempfile.TemporaryDirectory() as folder:
            for export in self.exports:
                path = tflite_path(folder if self.output_dir is None else self.output_dir, file or "network", export)
                activations, storage = export.split("/")
                try:
                    if activations == "int8" and rounded is None:
                        rounded = quantize_activations(result, images)
                    source = rounded if activations == "int8" else result
                    export_tflite(source, path, activations=activations, storage=storage, calibration=images)
                    exported[export] = evaluate_tflite(path, self.samples.test()).top1, path.stat().st_size
                except InputError as error:
                    logger.warning("no TFLite file %s: %s", export, error)
                    exported[export] = None, None
        return exported

    def _evaluate(self, model: keras.Model, samples: Samples) -> Evaluation:
        return evaluate(model, samples)


def file_name(settings: Row) -> str:
    """Name of a quantized model: readable, and another one for other settings."""
    digest = hashlib.sha256(json.dumps(key_of(settings)).encode()).hexdigest()[:8]
    parts = (settings["model"], settings["method"], settings["alphabet"], f"{settings['levels']}levels")
    return "_".join((*parts, f"{settings['samples']}samples", digest))


def tflite_path(folder: str | os.PathLike[str], file: str, export: str) -> pathlib.Path:
    """Where the TFLite file of a quantized network goes."""
    return pathlib.Path(folder) / f"{file}.{export.replace('/', '_')}.tflite"


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _done(records: Records, settings: Row, output_dir: str | os.PathLike[str] | None, exports: Sequence[str]) -> bool:
    """Whether a configuration has a row, and the files that it names by its settings: a cell is no path."""
    row = records.find(key_of(settings))
    if row is None or not (row["tflite_top1"] or {}).keys() >= set(exports):
        return False
    if any(row[name] is None for name in ALWAYS_THERE):
        return False
    if output_dir is None:
        return True
    if row["file"] != file_name(settings):
        return False
    stem = pathlib.Path(output_dir) / row["file"]
    files = [stem.with_name(stem.name + suffix) for suffix in (".keras", ".codes.npz", ".json")]
    files += [tflite_path(output_dir, row["file"], name) for name in exports if row["tflite_top1"][name] is not None]
    return all(file.is_file() for file in files)


def _check_settings(name: str, memory_budget: int | str, batch_size: int | None) -> None:
    if not name or name.startswith(".") or pathlib.Path(name).name != name or ":" in name:
        raise InputError(f"name must be a file name without dots in front, colons or slashes. Received: {name!r}.")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be a positive integer. Received: {batch_size!r}.")
    parse_bytes(memory_budget)
