"""What every technique gives on small networks of all kinds, as hashes: what a change must not move without a word.

    python -m tests.hashes.outcomes            # writes tests/hashes/hashes.json anew
    python -m tests.hashes.outcomes gpfq       # those of some outcomes

Codes are hashed as they are; scales, weights and figures with four digits, since processors round sums differently in
the last ones. Files are hashed by their operators, shapes, integers and scales, without names.
"""

import hashlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_compress as kc
from tests.quantization.contracts import QUANTIZERS
from tests.quantization.cuts import drawn

L = keras.layers
HASHES = pathlib.Path(__file__).with_name("hashes.json")
DIGITS = 4


def images(build: Callable[[Any], Any], shape: tuple[int, ...] = (8, 8, 4)) -> keras.Model:
    inputs = keras.Input(shape)
    return keras.Model(inputs, L.Dense(3, name="logits")(L.Flatten()(build(inputs))))


def residual(x: Any) -> Any:
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x)
    branch = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, padding="same", use_bias=False, name="inner")(x))
    return L.ReLU()(L.Add()([x, branch]))


def inverted(x: Any) -> Any:
    y = L.ReLU(6.0)(L.BatchNormalization(name="bn1")(L.Conv2D(8, 1, use_bias=False, name="expand")(x)))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(y)
    y = L.ReLU(6.0)(L.BatchNormalization(name="bn2")(y))
    return L.Add()([x, L.BatchNormalization(name="bn3")(L.Conv2D(4, 1, use_bias=False, name="project")(y))])


def excited(x: Any) -> Any:
    x = L.Conv2D(6, 3, activation="silu", name="conv")(x)
    weights = L.Conv2D(2, 1, activation="relu", name="squeeze")(L.GlobalAveragePooling2D(keepdims=True)(x))
    return L.Multiply()([x, L.Conv2D(6, 1, activation="hard_sigmoid", name="excite")(weights)])


def joined(x: Any) -> Any:
    first, second = L.Conv2D(3, 3, padding="same", name="first")(x), L.Conv2D(3, 1, name="second")(x)
    return L.AveragePooling2D(2)(L.Concatenate()([first, second, x]))


def shared(x: Any) -> Any:
    layer = L.Conv2D(4, 1, activation="relu", name="shared")
    return L.Subtract()([layer(x), layer(L.ReLU()(x))])


def nested(x: Any) -> Any:
    inputs = keras.Input((8, 8, 4))
    block = keras.Model(inputs, L.Conv2D(4, 3, padding="same", activation="tanh", name="conv")(inputs), name="block")
    return block(block(x))


def normalized(x: Any) -> Any:
    x = L.Conv2D(4, 3, strides=2, activation="relu", name="conv")(L.Rescaling(1 / 3, -0.5)(x))
    return L.Conv2D(4, 1, name="other")(L.BatchNormalization(name="norm")(x))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "dense": lambda: keras.Sequential([keras.Input((12,)), L.Dense(8, "relu"), L.Dense(5, "softmax")]),
    "residual": lambda: images(residual),
    "inverted": lambda: images(inverted),
    "excited": lambda: images(excited),
    "joined": lambda: images(joined),
    "shared": lambda: images(shared),
    "nested": lambda: images(nested),
    "normalized": lambda: images(normalized),
    "grouped": lambda: images(lambda x: L.Conv2D(6, 3, groups=2, dilation_rate=2, activation="relu", name="conv")(x)),
    "transposed": lambda: images(lambda x: L.Conv2DTranspose(3, 3, strides=2, padding="same", name="up")(x)),
    "separable": lambda: images(lambda x: L.SeparableConv2D(5, 3, strides=2, activation="elu", name="conv")(x)),
    "sequences": lambda: images(lambda x: L.Conv1D(5, 3, activation="relu", name="conv")(x), (9, 4)),
    "recurrent": lambda: images(lambda x: L.LSTM(5, name="lstm")(L.SimpleRNN(4, return_sequences=True)(x)), (6, 4)),
}
CONVOLUTIONS = tuple(name for name in MODELS if name not in ("dense", "recurrent"))
FILES = tuple(name for name in MODELS if name != "recurrent")


def model_of(name: str) -> keras.Model:
    """With weights that are the same in every process."""
    return drawn(MODELS[name](), np.random.default_rng(list(MODELS).index(name)))


def samples_of(model: keras.Model, count: int = 24) -> np.ndarray:
    return np.random.default_rng(1).normal(0.3, 1, (count, *model.inputs[0].shape[1:])).astype(np.float32)


class Digest:
    """A hash that last digits of floats do not change."""

    def __init__(self) -> None:
        self.content = hashlib.sha256()

    def add(self, value: Any) -> "Digest":
        array = np.asarray(value)
        if array.dtype.kind == "f":
            text = [f"{each:.{DIGITS - 1}e}" for each in array.ravel().tolist()]
            self.content.update(",".join("0" if float(each) == 0 else each for each in text).encode())
        elif array.dtype.kind in "iub":
            self.content.update(repr(array.astype(np.int64).tolist()).encode())
        else:
            self.content.update(str(value).encode())
        return self

    def result(self, result: kc.Result) -> "Digest":
        for path, kernel in sorted(result.kernels.items()):
            self.add(path).add(kernel.codes).add(kernel.levels).add(kernel.scale)
        for path, mask in sorted(result.masks.items()):
            self.add(path).add(mask)
        for layer in result.model.layers:
            if isinstance(layer, kc.QuantizeActivation):
                self.add(layer.name).add(layer.scale).add(layer.zero_point)
        for variable in result.model.weights:
            if "float" in variable.dtype:
                self.add(variable.path).add(variable)
        return self

    def hexdigest(self) -> str:
        return self.content.hexdigest()[:16]


def of_result(result: kc.Result) -> str:
    return Digest().result(result).hexdigest()


def of_file(content: bytes) -> str:
    """Of a TFLite file: operators, tensors, integers, and scales with a few digits."""
    from keras_compress.measurement import flatbuffer

    file, digest = flatbuffer.parse(content), Digest()
    for graph in file.subgraphs:
        for operator in graph.operators:
            digest.add(flatbuffer.operator_name(file, operator)).add(operator.inputs).add(operator.outputs)
        for tensor in graph.tensors:
            digest.add(flatbuffer.TYPES[tensor.type]).add([] if tensor.shape is None else tensor.shape)
            values = flatbuffer.array_of(file, tensor)
            if values is not None:
                digest.add(values)
            if tensor.quantization is not None and tensor.quantization.scale is not None:
                digest.add(tensor.quantization.scale).add(tensor.quantization.zeroPoint)
    return digest.hexdigest()


def quantizing(quantizer: Any, **settings: Any) -> Callable[[keras.Model, np.ndarray], str]:
    return lambda model, x: of_result(kc.quantize(model, quantizer, x, **settings))


def exporting(bits: int, activations: str, storage: str, ranges: str | None = None, batch: int | None = None) -> Any:
    def export(model: keras.Model, x: np.ndarray) -> str:
        result = kc.quantize(model, kc.MSQ(bits=bits), x)
        settings: dict[str, Any] = {"activations": activations, "storage": storage, "static_batch": batch}
        if ranges is not None:
            result = kc.quantize_activations(result, x, ranges=ranges)
        elif activations == "int8":
            settings["calibration"] = x
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "net.tflite"
            kc.export_tflite(result, path, **settings)
            return of_file(path.read_bytes())

    return export


def packing(model: keras.Model, x: np.ndarray) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "net.packed"
        kc.export_packed(kc.quantize(model, kc.MSQ(3), x), path)
        return Digest().add([np.asarray(weight).sum() for weight in kc.load_packed(path).model.weights]).hexdigest()


def distilling(model: keras.Model, x: np.ndarray) -> str:
    return of_result(kc.distill_scales(kc.quantize(model, kc.MSQ(3), x), x, teacher=model, epochs=2, batch_size=8))


def allocating(model: keras.Model, x: np.ndarray) -> str:
    return Digest().add(repr(sorted(kc.allocate(model, x, average_bits=3).items()))).hexdigest()


# name -> what it gives, and on which networks
OUTCOMES: dict[str, tuple[Callable[[keras.Model, np.ndarray], str], tuple[str, ...]]] = {
    **{name: (quantizing(quantizer), tuple(MODELS)) for name, quantizer in QUANTIZERS.items()},
    "direct": (quantizing(kc.GPFQ(3, radius="alternating"), form="direct"), ("dense", "residual")),
    "patch_fraction": (quantizing(kc.GPFQ(3), patch_fraction=0.3), CONVOLUTIONS),
    "folded": (lambda model, x: of_result(kc.fold_batch_normalization(model)), ("residual", "inverted", "normalized")),
    "recalibrated": (
        lambda model, x: of_result(kc.recalibrate_batch_normalization(kc.quantize(model, kc.MSQ(3)), x)),
        ("residual", "inverted", "normalized"),
    ),
    "distilled": (distilling, ("dense", "residual")),
    "allocated": (allocating, ("dense", "residual", "inverted")),
    "packed": (packing, tuple(MODELS)),
    **{
        f"activations_{ranges}_{bits}": (
            lambda model, x, ranges=ranges, bits=bits: of_result(
                kc.quantize_activations(model, x, ranges=ranges, bits=bits)
            ),
            FILES,
        )
        for ranges, bits in (("mse", 8), ("minmax", 8), ("moving_average", 4))
    },
    "float_small_4": (exporting(4, "float", "small"), FILES),
    "float_fast_2": (exporting(2, "float", "fast"), FILES),
    "dynamic_small_8": (exporting(8, "dynamic", "small"), FILES),
    "dynamic_fast_4": (exporting(4, "dynamic", "fast", batch=1), FILES),
    "int8_small_4": (exporting(4, "int8", "small", "mse"), FILES),
    "int8_fast_8": (exporting(8, "int8", "fast", "minmax", batch=1), FILES),
    "int8_measured_2": (exporting(2, "int8", "small", batch=1), FILES),
}


def cases() -> list[tuple[str, str]]:
    return [(outcome, name) for outcome, (_, names) in OUTCOMES.items() for name in names]


def hash_of(outcome: str, name: str) -> str:
    keras.utils.clear_session(free_memory=False)  # names of layers that have none of their own count from one again
    keras.utils.set_random_seed(0)
    model = model_of(name)
    return OUTCOMES[outcome][0](model, samples_of(model))


def main(chosen: list[str]) -> None:
    hashes = json.loads(HASHES.read_text()) if HASHES.exists() and chosen else {}
    for outcome, (_, names) in OUTCOMES.items():
        if not chosen or outcome in chosen:
            hashes[outcome] = {name: hash_of(outcome, name) for name in names}
            HASHES.write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
