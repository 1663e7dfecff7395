"""TFLite files in the LiteRT interpreter. Loads neither TensorFlow nor Keras."""

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_compress.errors import InputError, check_integer
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.scores import Evaluation, evaluated
from keras_compress.progress import quiet_stderr
from keras_compress.samples.blocks import in_blocks
from keras_compress.samples.inputs import InputSpec, labelled, model_batches
from keras_compress.samples.samples import rebatched

Path = str | os.PathLike[str]
CALL = 64  # samples in one call of a file that leaves its batch axis open


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How near the outputs of two files are.

    Attributes:
        largest_difference: of two outputs, absolute.
        relative_difference: norm of the differences over the norm of the outputs of the first file.
        agreement: fraction of samples with the same highest output, of the first output of the model.
        num_samples: number of samples.
    """

    largest_difference: float
    relative_difference: float
    agreement: float
    num_samples: int

    def __str__(self) -> str:
        return (
            f"largest difference {self.largest_difference:.4g}, relative {self.relative_difference:.4g}, same class "
            f"{self.agreement:.2%} on {self.num_samples:,} samples"
        )


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of one call of a file.

    Attributes:
        name: of the file.
        milliseconds: median of all rounds.
        spread: the quartiles, in milliseconds.
        ratio: median over rounds of this file's time over the first file's.
    """

    name: str
    milliseconds: float
    spread: tuple[float, float]
    ratio: float

    def __str__(self) -> str:
        low, high = self.spread
        times = f"{self.milliseconds:.4g} ms (quartiles {low:.4g} to {high:.4g})"
        return f"{self.name}: {times}, {self.ratio:.3g} x the first"


class Runner:
    """A TFLite model, ready to run.

    Floats go in and come out, whatever integers the file has for them.

    Args:
        content: of a TFLite file.
        name: of the file, for messages.
        threads: of the interpreter.
        delegate: whether XNNPACK runs what it can, as by default on devices; else the builtin kernels do.
        inner: whether `values` can be asked for every tensor, and not only for outputs; XNNPACK hides some.

    Raises:
        InputError: the interpreter refuses the file.
    """

    def __init__(
        self, content: bytes, name: str = "the model", *, threads: int = 1, delegate: bool = True, inner: bool = False
    ):
        flatbuffer.check_identifier(content, name)
        kind = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with quiet_stderr(unless=Exception):  # which says that XNNPACK was made
                self._interpreter = Interpreter(
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=kind,
                    experimental_preserve_all_tensors=inner,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"The interpreter refuses {name!r}: {' '.join(str(error).split())[:300]}") from error
        self.name = name
        self._details: dict[int, dict[str, Any]] = {}  # of all tensors, once they are asked for
        self.inputs: list[dict[str, Any]] = list(self._interpreter.get_input_details())  # with the shapes of the file
        self._shapes = [tuple(map(int, details["shape"])) for details in self.inputs]  # those that memory is there for

    @property
    def batched(self) -> bool:
        """Whether several samples may run at once."""
        return all(details["shape_signature"][0] == -1 for details in self.inputs)

    @property
    def output_scales(self) -> list[float]:
        """One step of each output; 0 for floats."""
        return [float(entry["quantization"][0]) for entry in self._interpreter.get_output_details()]

    def undelegated(self) -> set[int]:
        """Numbers of the operators that XNNPACK does not take, so that the interpreter's own kernels run them."""
        details = self._interpreter._get_ops_details()  # what TensorFlow's own debugger of files reads
        delegates = [entry for entry in details if entry["op_name"] == "DELEGATE"]
        makers = {
            int(tensor): entry for entry in details if entry["op_name"] != "DELEGATE" for tensor in entry["outputs"]
        }
        taken: set[int] = set()
        for delegate in delegates:
            inputs = {int(tensor) for tensor in delegate["inputs"]}
            pending = [int(tensor) for tensor in delegate["outputs"]]
            while pending:
                maker = makers.get(pending.pop())
                if maker is not None and maker["index"] not in taken:
                    taken.add(maker["index"])
                    pending += [int(tensor) for tensor in maker["inputs"] if int(tensor) not in inputs]
        return {entry["index"] for entry in makers.values()} - taken

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for one batch, as float32 where the file has integers with scales.

        Raises:
            InputError: inputs that do not fit the file.
        """
        self.check_number(arrays)
        shapes = [array.shape for array in arrays]
        try:
            if shapes != self._shapes:
                self._resize(shapes)
            for entry, array in zip(self.inputs, arrays, strict=True):
                self._interpreter.set_tensor(entry["index"], _quantized(array, entry))
            self._interpreter.invoke()
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self.name!r} does not run: {' '.join(str(error).split())[:300]}") from error
        return [
            _dequantized(self._interpreter.get_tensor(entry["index"]), entry)
            for entry in self._interpreter.get_output_details()
        ]

    def values(self, tensor: int) -> np.ndarray:
        """What a tensor held in the last run, as float32 where it has integers with a scale; for `inner` ones too."""
        if not self._details:
            self._details = {entry["index"]: entry for entry in self._interpreter.get_tensor_details()}
        return _dequantized(self._interpreter.get_tensor(tensor), self._details[tensor])

    def values_of(self, tensors: Iterable[int]) -> dict[int, np.ndarray]:
        """`values` of several tensors, without those that hold nothing behind the last run, as a loop's own may."""
        held = {}
        for tensor in tensors:
            with contextlib.suppress(ValueError):
                held[tensor] = self.values(tensor)
        return held

    def check_number(self, arrays: Sequence[np.ndarray]) -> None:
        """Raises InputError for another number of arrays than the file has inputs."""
        if len(arrays) != len(self.inputs):
            raise InputError(f"{self.name!r} has {len(self.inputs)} inputs. Received: {len(arrays)} arrays.")

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        for entry, shape in zip(self.inputs, shapes, strict=True):
            signature = tuple(int(size) for size in entry["shape_signature"])
            if len(signature) != len(shape) or any(
                size not in (-1, length) for size, length in zip(signature, shape, strict=True)
            ):
                raise InputError(f"{self.name!r} expects inputs of shape {signature}. Received: {shape}.")
            self._interpreter.resize_tensor_input(entry["index"], shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def specs(self) -> list[InputSpec]:
        """Of the inputs; floats go into integers with a scale."""
        specs = []
        for details in self.inputs:
            signature = [int(size) for size in details["shape_signature"]]
            shape = (None, *(None if size == -1 else size for size in signature[1:]))
            kind, (scale, _) = np.dtype(details["dtype"]), details["quantization"]
            specs.append(InputSpec(details["name"], shape, "float32" if kind.kind in "iu" and scale else kind.name))
        return specs

    def read_size(self, batch_size: int | None) -> int:
        """Samples that are read at a time: whole calls."""
        call = CALL if self.batched else int(self.inputs[0]["shape"][0])
        return max(1, (batch_size or CALL) // call) * call

    def outputs(self, arrays: Sequence[np.ndarray], batch_size: int = CALL) -> list[np.ndarray]:
        """The outputs for any number of samples."""
        size = batch_size if self.batched else int(self.inputs[0]["shape"][0])
        parts = []
        for start in range(0, len(arrays[0]), size):
            batch = [array[start : start + size] for array in arrays]
            num_padded = 0 if self.batched else size - len(batch[0])
            if num_padded:
                batch = [np.concatenate([array, np.repeat(array[-1:], num_padded, axis=0)]) for array in batch]
            parts.append([output[: size - num_padded] for output in self.run(batch)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _quantized(array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    kind = np.dtype(details["dtype"])
    scale, zero_point = details["quantization"]
    if kind.kind not in "iu" or not scale:
        return np.ascontiguousarray(array, kind)
    limits = np.iinfo(kind)
    return np.clip(np.rint(array / scale) + zero_point, limits.min, limits.max).astype(kind)


def _dequantized(array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if array.dtype.kind not in "iu" or not scale:
        return array
    return ((array.astype(np.float32) - zero_point) * np.float32(scale)).astype(np.float32)


def runner_of(path: Path, **settings: Any) -> Runner:
    """A `Runner` of a file.

    Raises:
        StorageError: there is no such file.
        InputError: it is no TFLite file, or the interpreter refuses it.
    """
    content = flatbuffer.read_bytes(path)
    flatbuffer.parse(content, os.fspath(path))
    return Runner(content, os.fspath(path), **settings)


def evaluate_tflite(
    path: Path,
    x: Any,
    y: Any = None,
    *,
    task: str | None = None,
    batch_size: int | None = None,
    threads: int = 1,
) -> Evaluation:
    """How a model in a TFLite file does; the same numbers as `kc.evaluate` gives for a Keras model.

    Args:
        path: of the file, with one output.
        x: (n, ...) array, or a list of arrays for a file with several inputs, or a dictionary of them by name; floats,
            preprocessed as for training, also where the file takes integers. Or inputs and labels together, in any form
            that `kc.evaluate` takes.
        y: as for `kc.evaluate`.
        task: as for `kc.evaluate`, but for "compiled".
        batch_size: samples that are read at a time; no figure depends on it.
        threads: of the interpreter.

    Raises:
        StorageError: there is no such file.
        InputError: no TFLite file, one that the interpreter refuses, or data that does not fit it.
    """
    check_batch_size(batch_size)
    runner = runner_of(path, threads=threads)

    def outputs_of(inputs: Sequence[np.ndarray]) -> np.ndarray:
        outputs = runner.outputs(inputs)
        if len(outputs) != 1:
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise InputError(f"Expected a file with one output. Received: {runner.name!r} with outputs {shapes}.")
        return outputs[0]

    return evaluated(labelled(x, y), runner.specs(), outputs_of, runner.read_size(batch_size), task)


def compare_tflite(path_a: Path, path_b: Path, x: Any, *, batch_size: int | None = None) -> Comparison:
    """How near the outputs of two TFLite files are on the same samples.

    Args:
        path_a, path_b: of the files; their inputs and outputs have the same shapes.
        x: inputs, as for `evaluate_tflite`; labels are ignored.
        batch_size: samples that are read at a time; no figure depends on it.

    Raises:
        StorageError, InputError: as for `evaluate_tflite`; outputs of different shapes.
    """
    check_batch_size(batch_size)
    first, second = runner_of(path_a), runner_of(path_b)
    batches = rebatched(model_batches(x, first.specs(), "x", finite=False), first.read_size(batch_size))
    total = norm = error = largest = 0.0
    agreeing = 0
    for inputs in (part for batch in batches for part in in_blocks(batch.inputs, CALL)):
        outputs_a, outputs_b = (
            [output.astype(np.float64) for output in runner.outputs(inputs)] for runner in (first, second)
        )
        shapes = [[output.shape for output in outputs] for outputs in (outputs_a, outputs_b)]
        if shapes[0] != shapes[1]:
            raise InputError(f"The outputs of the two files have other shapes: {shapes[0]} and {shapes[1]}.")
        differences = [a - b for a, b in zip(outputs_a, outputs_b, strict=True)]
        norm += sum(float(np.square(output).sum()) for output in outputs_a)
        error += sum(float(np.square(difference).sum()) for difference in differences)
        largest = max(largest, *(float(np.abs(difference).max()) for difference in differences))
        one, other = (outputs[0].reshape(len(outputs[0]), -1).argmax(axis=1) for outputs in (outputs_a, outputs_b))
        agreeing += int((one == other).sum())
        total += len(one)
    return Comparison(
        largest_difference=largest,
        relative_difference=float(np.sqrt(error / norm)) if norm > 0 else float(error > 0),
        agreement=agreeing / total,
        num_samples=int(total),
    )


def benchmark_tflite(
    path: Path, *, against: Path | Sequence[Path] = (), threads: int = 1, rounds: int = 50, seed: int = 0
) -> list[Timing]:
    """Latency of a TFLite file next to others, which take turns with it, one sample at a time.

    Args:
        path: of the file.
        against: one other file, or several; ratios are those to `path`.
        threads: of each interpreter.
        rounds: calls of each file, after a few to warm up.
        seed: of the random inputs.

    Returns:
        One `Timing` for each file, `path` first.

    Raises:
        StorageError: there is no such file.
        InputError: no TFLite file, one that the interpreter refuses, or a setting out of range.
    """
    for name, value in (("threads", threads), ("rounds", rounds)):
        check_integer(name, value, 1)
    others = [against] if isinstance(against, (str, os.PathLike)) else list(against)
    runners = [runner_of(each, threads=threads) for each in (path, *others)]
    generator = np.random.default_rng(seed)
    inputs = []
    for runner in runners:
        shapes = [[max(int(size), 1) for size in details["shape"]] for details in runner.inputs]
        inputs.append([generator.normal(size=shape).astype(np.float32) for shape in shapes])
    times: list[list[float]] = [[] for _ in runners]
    for turn in range(-max(3, rounds // 10), rounds):
        for runner, arrays, series in zip(runners, inputs, times, strict=True):
            runner.run(arrays)  # not timed: what another file has left in the caches does not count
            started = time.perf_counter()
            runner.run(arrays)
            if turn >= 0:
                series.append(1000 * (time.perf_counter() - started))
    timings = []
    for runner, series in zip(runners, times, strict=True):
        ratios = [duration / first for duration, first in zip(series, times[0], strict=True)]
        low, high = np.quantile(series, [0.25, 0.75])
        timings.append(
            Timing(runner.name, statistics.median(series), (float(low), float(high)), statistics.median(ratios))
        )
    return timings


def check_batch_size(batch_size: Any) -> None:
    """Raises InputError for what is no number of samples."""
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
