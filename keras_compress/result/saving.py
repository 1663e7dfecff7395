"""Writes the three files of a result: `NAME.keras`, `NAME.codes.npz` and `NAME.json`."""

import dataclasses
import json
import os
from collections.abc import Mapping

import keras
import numpy as np

from keras_compress.files import replacing
from keras_compress.numerics.inputs import InputSamples
from keras_compress.report import Report
from keras_compress.result.quantized_kernel import QuantizedKernel
from keras_compress.result.states import VariableState

FORMAT_VERSION = 4


def save(
    path: str | os.PathLike[str],
    model: keras.Model,
    states: Mapping[str, VariableState],
    report: Report,
    inputs: InputSamples | None,
    *,
    samples: bool,
) -> None:
    """See `Result.save`."""
    stem = stem_of(path)
    arrays: dict[str, np.ndarray] = {}
    for layer, state in states.items():
        for field in dataclasses.fields(QuantizedKernel) if state.codes is not None else ():
            value = getattr(state.codes, field.name)
            if value is not None:
                arrays[f"kernels/{layer}/{field.name}"] = np.asarray(value)
        if state.mask is not None:
            arrays[f"masks/{layer}"] = state.mask
        if state.clusters is not None:
            arrays[f"clusters/{layer}"] = state.clusters
    if inputs is not None:
        arrays |= {"inputs/low": inputs.low, "inputs/high": inputs.high}
        held = inputs.samples if samples else ()
        arrays |= {f"inputs/samples/{index}": array for index, array in enumerate(held)}
    with replacing(stem + ".keras") as part:
        model.save(part)
    with replacing(stem + ".codes.npz") as part:
        np.savez_compressed(part, allow_pickle=False, **arrays)
    with replacing(stem + ".json") as part:
        content = {"format_version": FORMAT_VERSION, "report": report.to_dict()}
        part.write_text(json.dumps(content, indent=1) + "\n")


def stem_of(path: str | os.PathLike[str]) -> str:
    """The path without `.keras`."""
    return os.fspath(path).removesuffix(".keras")
