"""What a training did to a classifier, as a row of the records that grids write too."""

import datetime
import math
import pathlib
from typing import Any

import keras

from keras_compress.files import check_writable_folder
from keras_compress.measurement.counts import measure
from keras_compress.measurement.evaluation import evaluate
from keras_compress.result import Result
from keras_compress.samples.splits import VALIDATION, DataSplits
from keras_compress.sweep.records import Records, Row


def record_training(
    result: Result,
    model: keras.Model,
    samples: DataSplits,
    *,
    name: str,
    dataset: str,
    file: str,
    metrics_dir: str,
    batch_size: int,
    seed: int,
    bits: int | None = None,
    tflite: dict[str, tuple[float, int]] | None = None,
) -> Row:
    """Evaluates a result of a training on the test samples, and appends a row to METRICS_DIR/NAME.csv.

    Args:
        result: its last step is the training.
        model: the network before.
        samples: of the data set.
        name, dataset, file: of the network, the data set, the files of the result.
        metrics_dir: folder of the CSV file.
        batch_size, seed: of the training.
        bits: of the weights, where they were rounded.
        tflite: name of a TFLite file -> its top-1 on the test samples, and its bytes.
    """
    step = result.report.steps[-1]
    before, after = (evaluate(each, samples.test()) for each in (model, result.model))
    kernels = [row for row in step.rows if row.action in ("pruned", "quantized") and row.parameters]
    levels = {row.num_levels for row in kernels}
    zeros = sum((row.zeros or 0.0) * row.parameters for row in kernels) / sum(row.parameters for row in kernels)
    num_levels = levels.pop() if bits is not None and len(levels) == 1 else None
    row: dict[str, Any] = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "dataset": dataset,
        "model": name,
        "method": step.technique,
        "alphabet": "" if bits is None else "integer",
        "bits": bits,
        "levels": num_levels,
        "effective_bits": None if num_levels is None else math.log2(num_levels),
        "samples": int(len(samples.x_train) * (1 - VALIDATION)),
        "batch_size": batch_size,
        "seed": seed,
        "fingerprint": samples.fingerprint(model, len(samples.x_train), seed),
        "float_top1": before.top1,
        "float_top5": before.top5,
        "top1": after.top1,
        "top5": after.top5,
        "test_samples": after.num_samples,
        "zeros": zeros,
        **measure(result).totals(),
        "seconds": round(step.figures["seconds"], 3),
        "file": file,
        "tflite_top1": {export: top1 for export, (top1, _) in (tflite or {}).items()} or None,
        "tflite_bytes": {export: size for export, (_, size) in (tflite or {}).items()} or None,
    }
    records = Records(check_writable_folder(metrics_dir) / f"{pathlib.PurePath(name).name}.csv")
    records.append(row)
    return records.rows[-1]
