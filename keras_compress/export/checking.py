"""Whether a file computes what it is to compute: read again, run, and compared number by number.

Each tensor of a file of integers is compared with the simulation's, computed from what the file itself had before it:
differences do not add up, and no tensor may be more than a step away. Outputs are compared with those of the simulation
alone. Runtimes round a little differently (an integer multiplier of 31 bits and a shift, each rounded; or one product
in float32), so that a sum near the middle between two steps may go either way.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.export.as_run import as_run, with_ties
from keras_compress.export.editing import Editor
from keras_compress.export.hybrid import Hybrid
from keras_compress.export.locating import weighted_operators
from keras_compress.export.placing import Placed, in_batches
from keras_compress.export.ranges import without_rounding
from keras_compress.export.simulation import rounded_at_each_call, run_graph
from keras_compress.export.tensors import STEPS, TINY, IntegerFile, Tensors
from keras_compress.layers.graph import LINEAR, Graph
from keras_compress.layers.paths import ModelInputs
from keras_compress.measurement import flatbuffer
from keras_compress.measurement.tflite import Runner

CHECKED = 32  # samples on which a file is run
# How far outputs may be from what is simulated, relative to their norm. Reasons: docs/decisions.md, 58.
TOLERANCES = {"float": 1e-4, "dynamic": 0.05, "int8": 0.05, "float16": 0.05, "int16x8": 0.05}
NUDGES = (0.05, -0.05, 0.25, -0.25)  # of a step: near the middle between two, rounding may go either way
HALF, MOST = 0.5, 0.2  # of what rounding does to an output, and of the output: see `_of_rounding`
BYTES = 2**28  # of all tensors of one batch, about


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the checks found.

    Attributes:
        difference: between an output of the file and what it should be, relative to the norm; the largest one.
        layer: the layer whose tensor differs most, and by how many steps; none where tensors within were not compared.
        errors: path of a kernel -> how far what it makes is, relative, from what it makes without rounded activations;
            none where activations are floats.
        simulation: of a file of integers, its sums rounded as the runtime rounds them here.
    """

    difference: float
    layer: tuple[str, float] | None = None
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    simulation: keras.Model | None = None


def check_floats(content: bytes, model: keras.Model, samples: list[np.ndarray], activations: str) -> Checked:
    """Compares a file that rounds no activations, or none that is known, with the model.

    Raises:
        InputError: outputs that are not finite, or too far from the model's.
    """
    inputs = ModelInputs.of(model)
    expected = [np.asarray(output) for output in keras.tree.flatten(inputs.call(model, samples))]
    return Checked(check_outputs(content, expected, samples, TOLERANCES[activations]))


def check_dynamic(content: bytes, model: keras.Model, hybrid: dict[str, Hybrid], samples: list[np.ndarray]) -> Checked:
    """Compares a file whose operators round their inputs at each call with a simulation that does so too.

    Args:
        content: of the file.
        model: with the weights of the file.
        hybrid: path of a kernel -> the operator that rounds its inputs.
        samples: one array for each input.

    Raises:
        InputError: outputs that are not finite, or too far from the simulation's.
    """
    graph = Graph(model)
    own = Runner(content, "the file").undelegated()

    def rounding(delegate: bool) -> Callable[[str, Any], Any]:
        def before(path: str, inputs: Any) -> Any:
            if path not in hybrid:
                return inputs
            operator, rows, pointwise = hybrid[path]
            return rounded_at_each_call(inputs, rows=rows or (pointwise and delegate and operator not in own))

        return before

    errors, outputs = _Errors(), []
    for arrays in _batches(samples, None, graph):
        values, unrounded = run_graph(graph, arrays, before=rounding(True)), run_graph(graph, arrays)
        errors.add(graph, values, graph, unrounded)
        builtin = run_graph(graph, arrays, before=rounding(False))
        outputs.append([np.stack([run[tensor] for run in (values, unrounded, builtin)]) for tensor in graph.outputs])
    runs = [np.concatenate(column, axis=1) for column in zip(*outputs, strict=True)]
    relative, expected = errors.relative(), [each[0] for each in runs]
    # What a loop rounds is not simulated.
    tolerance = TOLERANCES["dynamic"] if len(flatbuffer.parse(content).subgraphs) == 1 else MOST

    def moved() -> list[float]:
        return [_of_rounding(each[0], each[1]) for each in runs]

    largest = check_outputs(content, expected, samples, tolerance, _cause(relative), moved, delegates=(True,))
    # LiteRT's builtin kernels for 4-bit weights and float inputs round these in another way (5 % off at 2 bits).
    check_outputs(content, [each[2] for each in runs], samples, MOST, _cause(relative), delegates=(False,))
    return Checked(largest, None, relative)


def check_integers(
    content: bytes,
    simulation: keras.Model,
    kernels: Mapping[str, Placed],
    samples: list[np.ndarray],
    batch: int | None,
) -> Checked:
    """Compares a file of integers with its simulation, each tensor that is rounded and all outputs.

    Args:
        content: of the file.
        simulation: with a `QuantizeActivation` layer for each tensor of integers.
        kernels: path in the simulation -> what the file has for it.
        samples: one array for each input.
        batch: size of the file's batch axis, or None.

    Raises:
        InputError: outputs that are not finite, or a tensor or an output too far from the simulation's.
    """
    file, simulation = IntegerFile(content), with_ties(simulation)
    own = Runner(content, "the file").undelegated()
    operators = [operator for operator, _, _ in weighted_operators(file.model)]
    twice = {path: each for path, each in kernels.items() if each.step is not None and operators[each.operator] in own}
    if twice:
        simulation = as_run(file, simulation, twice, _batches(samples, batch, Graph(simulation)))
    graph, plain = Graph(simulation), Graph(without_rounding(simulation))
    tensors, errors, outputs = Tensors(file, graph), _Errors(), []
    for arrays in _batches(samples, batch, graph):
        file.runner.run(arrays)
        values, unrounded = run_graph(graph, arrays), run_graph(plain, arrays)
        tensors.pair(values)
        run_graph(graph, arrays, after=tensors.compared)
        errors.add(graph, values, plain, unrounded)
        outputs.append([np.asarray(values[tensor]) for tensor in graph.outputs])
    expected = [np.concatenate(column)[: len(samples[0])] for column in zip(*outputs, strict=True)]

    @functools.cache
    def moved() -> list[float]:
        """How far each output moves where rounding goes the other way near the middle between two steps."""
        largest = np.zeros(len(expected))
        for nudge in NUDGES:
            batches = [run_graph(graph, arrays, nudge=nudge) for arrays in _batches(samples, batch, graph)]
            for number, (tensor, output) in enumerate(zip(graph.outputs, expected, strict=True)):
                other = np.concatenate([np.asarray(values[tensor]) for values in batches])[: len(output)]
                largest[number] = max(largest[number], np.linalg.norm(other - output))
        most = [MOST * float(np.linalg.norm(output)) for output in expected]
        return [min(2 * float(each), limit) for each, limit in zip(largest, most, strict=True)]

    relative, layer = errors.relative(), tensors.check()
    largest = check_outputs(content, expected, samples, TOLERANCES["int8"], _cause(relative), moved, delegates=(True,))
    return Checked(largest, layer, relative, simulation)


def _of_rounding(simulated: Any, unrounded: Any) -> float:
    """Norm of the difference that two runs may have whose ranges at each call are not the same to the last bit.

    Half of what rounding does to an output, where that is much, but never more than a fifth of the output.
    """
    noise = np.linalg.norm(np.asarray(simulated, np.float64) - np.asarray(unrounded, np.float64))
    return float(min(HALF * noise, MOST * np.linalg.norm(np.asarray(simulated, np.float64))))


def _cause(errors: dict[str, float]) -> str:
    return f" The error grows most at layer {grows_most(errors)}." if errors else ""


def grows_most(errors: dict[str, float]) -> str:
    """The layer whose error exceeds that of the layer before by most."""
    growth = np.diff([0.0, *errors.values()])
    path = list(errors)[int(np.argmax(growth))]
    return f"{path}, to {errors[path]:.2%}"


def check_written(content: bytes, placed: Sequence[Placed]) -> None:
    """Reads a file again and compares every code, scale and bias with those that its operator should have.

    Raises:
        InputError: something differs, such as a bias that does not fit.
    """
    file = Editor(content)
    for each in placed:
        operator, kind, number = file.weighted[each.operator]
        tensor = file.graph.tensors[number]
        values, quantization = flatbuffer.array_of(file.model, tensor), tensor.quantization
        assert values is not None
        same = (
            kind == each.kind
            and flatbuffer.BITS[flatbuffer.TYPES[tensor.type]] == each.placement.storage_bits
            and np.array_equal(values, each.codes)
            and np.array_equal(np.asarray(quantization.scale, np.float32), each.scale)
            and np.array_equal(quantization.zeroPoint, np.zeros(len(each.scale)))
        )
        if not same:
            raise InputError(f"The file does not hold the codes of layer {each.path!r}; it was not written.")
        if each.bias is not None:
            _check_bias(file.bias_numbers(operator, kind), each)


def _check_bias(steps: np.ndarray | None, placed: Placed) -> None:
    bias, step = placed.bias, placed.step
    assert bias is not None and step is not None
    held = np.zeros(len(bias)) if steps is None else steps * step
    allowed = 0.5 * step + 1e-6 * np.abs(bias)
    worst = int(np.argmax(np.abs(held - bias) - allowed))
    if not np.abs(held - bias)[worst] <= allowed[worst]:
        raise InputError(
            f"The bias of channel {worst} of layer {placed.path!r} does not fit: it is {bias[worst]:.6g}, and the file "
            f"holds {held[worst]:.6g} in steps of {step[worst]:.3g}; the file was not written."
        )


def check_outputs(
    content: bytes,
    expected: list[np.ndarray],
    samples: list[np.ndarray],
    tolerance: float,
    cause: str = "",
    allowed: Callable[[], list[float]] | None = None,
    *,
    delegates: Sequence[bool] = (True, False),
) -> float:
    """Runs a file with and without XNNPACK; the largest relative difference of an output.

    Args:
        content: of the file.
        expected: the outputs that it should have for these samples.
        samples: one array for each input.
        tolerance: largest difference, relative to the norm of the output; one step of an output of integers is allowed.
        cause: what may be the reason, for the message.
        allowed: gives the norms of the differences that outputs may have in any case; called where one is needed.
        delegates: whether to run with XNNPACK, without, or both.

    Raises:
        InputError: outputs that are not finite, or beyond the limit.
    """
    largest = 0.0
    for delegate in delegates:
        how = "with" if delegate else "without"
        runner = Runner(content, "the file", delegate=delegate)
        outputs = runner.outputs(samples)
        for index, (output, reference, scale) in enumerate(zip(outputs, expected, runner.output_scales, strict=True)):
            if not np.isfinite(output).all():
                raise InputError(f"Output {index} of the file is NaN or Inf {how} XNNPACK; it was not written.")
            error, norm = (float(np.linalg.norm(each.astype(np.float64))) for each in (output - reference, reference))
            difference = error / norm if norm > 0 else error
            limit = max(tolerance * norm, max(STEPS * scale, TINY) * np.sqrt(output.size))
            if not error <= limit and (allowed is None or not error <= allowed()[index]):
                raise InputError(
                    f"Output {index} of the file differs from what it should be by {difference:.2%} {how} XNNPACK, and "
                    f"{tolerance:.2%} are allowed; it was not written.{cause}"
                )
            largest = max(largest, difference)
    return largest


class _Errors:
    """How far what each kernel makes is from what it makes in the same network without rounded activations."""

    def __init__(self) -> None:
        self.squares: dict[str, np.ndarray] = {}

    def add(self, graph: Graph, values: dict[int, Any], plain: Graph, plain_values: dict[int, Any]) -> None:
        products, unrounded = _products(graph, values), _products(plain, plain_values)
        for path in products.keys() & unrounded.keys():
            for product, reference in zip(products[path], unrounded[path], strict=True):
                sums = np.array([np.square(product - reference).sum(), np.square(reference).sum()])
                self.squares[path] = self.squares.get(path, 0) + sums

    def relative(self) -> dict[str, float]:
        tiny = np.finfo(np.float64).tiny
        return {path: float(np.sqrt(error / max(norm, tiny))) for path, (error, norm) in self.squares.items()}


def _products(graph: Graph, values: dict[int, Any]) -> dict[str, list[np.ndarray]]:
    """Path of a kernel -> what each of its calls makes."""
    products: dict[str, list[np.ndarray]] = {}
    for call in graph.calls:
        if call.part == LINEAR:
            products.setdefault(call.path, []).append(np.asarray(values[call.outputs[0]], np.float64))
    return products


def _batches(samples: list[np.ndarray], batch: int | None, graph: Graph) -> Iterator[list[np.ndarray]]:
    """Samples in batches whose tensors fit into memory, or of the size that a file has; its last one is filled up."""
    if batch is not None:
        yield from in_batches(samples, batch)
        return
    floats = sum(int(np.prod([size or 1 for size in shape[1:]])) for shape in graph.shapes)
    size = max(1, min(CHECKED, BYTES // (8 * floats)))
    for start in range(0, len(samples[0]), size):
        yield [array[start : start + size] for array in samples]
