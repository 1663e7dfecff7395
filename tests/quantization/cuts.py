"""Everything public that takes calibration data, on one network; as a command, what it gives on this many threads.

python -m tests.quantization.cuts gpfq_searched distilled
"""

import hashlib
import json
import pathlib
import sys
import tempfile

import keras
import numpy as np

import keras_compress as kc
from keras_compress import sweep
from tests.quantization.contracts import QUANTIZERS

L = keras.layers


def network(side: int = 8, width: int = 4) -> keras.Model:
    """Every way to a layer's statistics: correlation, taps, patches, depthwise, Dense; a residual block, BatchNorm."""
    inputs = keras.Input((side, side, 3))
    trunk = L.Conv2D(width, 3, padding="same", activation="relu", name="stem")(inputs)
    branch = L.BatchNormalization(name="norm")(L.Conv2D(width, 3, padding="same", use_bias=False, name="inner")(trunk))
    trunk = L.ReLU()(L.Add()([trunk, branch]))
    trunk = L.Conv2D(2 * width, 3, strides=2, padding="same", name="strided")(trunk)
    trunk = L.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(trunk)
    hidden = L.Dense(12, activation="relu", name="hidden")(L.Flatten()(trunk))
    model = keras.Model(inputs, L.Dense(5, activation="softmax", name="head")(hidden), name="cut")
    return drawn(model, np.random.default_rng(0))


def drawn(model: keras.Model, rng: np.random.Generator) -> keras.Model:
    """The model with weights that are the same in every process, and no zeros."""
    for variable in model.weights:
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 2, variable.shape))
        elif variable.name.endswith("kernel"):
            variable.assign(rng.normal(0, (2 / np.prod(variable.shape[:-1])) ** 0.5, variable.shape))
        else:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def samples(count: int, side: int = 8) -> np.ndarray:
    return np.maximum(np.random.default_rng(1).normal(0.3, 1, (count, side, side, 3)), -0.5).astype(np.float32)


def quantizing(quantizer, **settings):
    return lambda model, x, cut: kc.quantize(model, quantizer, x, **settings, **cut)


def distilling(model, x, cut):
    quantized = kc.quantize(model, kc.GPFQ(3), x)
    with kc.Calibration(model, x, **cut) as calibration:
        return kc.distill_scales(quantized, calibration, teacher=model, epochs=2, batch_size=10)


def holding(model, x, cut):
    """A score that falls with every bit that is taken away: some layers get bits back."""
    analog_outputs = np.asarray(model(x))
    return kc.quantize_with_accuracy_control(
        model,
        kc.GPFQ(2),
        x,
        lambda candidate: -float(np.abs(np.asarray(candidate(x)) - analog_outputs).mean()),
        max_drop=0.05,
        **cut,
    )


def labelled(model, x):
    return x, np.asarray(model(x)).argmax(axis=1) * (np.arange(len(x)) % 3 > 0)


def only_batches(cut):
    return {"batch_size": cut["batch_size"]} if "batch_size" in cut else {}


def on_files(measure):
    """Of two files, in float and with integers."""

    def measured(model, x, cut):
        with tempfile.TemporaryDirectory() as folder:
            first, second = pathlib.Path(folder) / "float.tflite", pathlib.Path(folder) / "int8.tflite"
            result = kc.quantize(model, kc.MSQ(4), x)
            kc.export_tflite(result, first)
            kc.export_tflite(result, second, activations="int8", calibration=x)
            return measure(model, x, first, second, only_batches(cut))

    return measured


def sweeping(model, x, cut):
    images, classes = labelled(model, x)
    data = sweep.DataSplits(images, classes, images, classes)
    settings = {name: value for name, value in cut.items() if name != "work_dir"}
    with tempfile.TemporaryDirectory() as folder:
        grid = sweep.Grid(methods=["gpfq"], bits=[3], num_samples=[30])
        (row,) = sweep.run(model, grid, data, name="cut", metrics_dir=folder, **settings)
    return {name: row[name] for name in ("top1", "float_top1", "layer_errors", "zeros", "fingerprint")}


# name -> function of model, samples and cut
TECHNIQUES = {name: quantizing(quantizer) for name, quantizer in QUANTIZERS.items()} | {
    "direct": quantizing(kc.GPFQ(3, radius="alternating"), form="direct"),
    "direct_aligned": quantizing(kc.SPFQ(3, alignment=2), form="direct"),
    "patch_fraction": quantizing(kc.GPFQ(3), patch_fraction=0.3),
    "patch_fraction_moments": quantizing(kc.MSQ(3), patch_fraction=0.3),
    "max_drop": holding,
    "distilled": distilling,
    "rounded_activations": lambda model, x, cut: kc.quantize_activations(model, x, bits=4, **cut),
    "averaged_activations": lambda model, x, cut: kc.quantize_activations(model, x, ranges="moving_average", **cut),
    "recalibrated": lambda model, x, cut: kc.recalibrate_batch_normalization(kc.quantize(model, kc.MSQ(3)), x, **cut),
    "allocated": lambda model, x, cut: kc.allocate(model, x, average_bits=3, **cut),
    "by_name": lambda model, x, cut: kc.quantize(model, "best", x, bits=3, **cut),
    "evaluated": lambda model, x, cut: kc.evaluate(model, *labelled(model, x), **only_batches(cut)),
    "evaluated_file": on_files(lambda model, x, a, b, cut: kc.evaluate_tflite(a, *labelled(model, x), **cut)),
    "evaluated_integers": on_files(lambda model, x, a, b, cut: kc.evaluate_tflite(b, *labelled(model, x), **cut)),
    "compared_files": on_files(lambda model, x, a, b, cut: kc.compare_tflite(a, b, x, **cut)),
    "swept": sweeping,
}
# Public functions that say how the work is cut, and where they are tried; of trainings the batches are steps.
TRIED = {
    "Calibration": "distilled", "quantize": "gpfq", "quantize_with_accuracy_control": "max_drop",
    "quantize_activations": "rounded_activations", "recalibrate_batch_normalization": "recalibrated",
    "allocate": "allocated", "distill_scales": "distilled", "evaluate": "evaluated",
    "evaluate_tflite": "evaluated_file", "compare_tflite": "compared_files", "sweep.run": "swept",
}  # fmt: skip
STEPS = {"Training"}


def digest(outcome) -> str:
    """Changes with any code, scale or weight, or with any quantizer of an allocation."""
    if not isinstance(outcome, kc.Result):
        return repr(sorted(outcome.items()) if isinstance(outcome, dict) else outcome)
    content = hashlib.sha256()
    for path, kernel in sorted(outcome.kernels.items()):
        content.update(path.encode() + kernel.codes.tobytes() + kernel.scale.tobytes())
    for layer in outcome.model.layers:
        if isinstance(layer, kc.QuantizeActivation):
            content.update(repr(layer.get_config()).encode())
    for weight in outcome.model.weights:
        content.update(weight.numpy().tobytes())
    return content.hexdigest()


if __name__ == "__main__":
    chosen = network(16, 16)
    print(json.dumps({name: digest(TECHNIQUES[name](chosen, samples(100, 16), {})) for name in sys.argv[1:]}))
