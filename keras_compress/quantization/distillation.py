"""`distill_scales()`: scales that bring the outputs of a quantized network nearer to those of the analog one."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import Calibration, calibrating
from keras_compress.calibration.forward import Stages
from keras_compress.calibration.store import ANALOG
from keras_compress.errors import InputError, check_integer
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import ModelInputs
from keras_compress.layers.rewrite import clone_model
from keras_compress.layers.selection import Patterns, select
from keras_compress.measurement.scores import PROBABILITY_TOLERANCE
from keras_compress.quantization.gradients import fixed_gradients
from keras_compress.report import LayerRow, Step
from keras_compress.result import QuantizedKernel, Result, VariableState
from keras_compress.samples.blocks import block_length, slices
from keras_compress.samples.model_inputs import input_specs

TEACHER = "teacher"  # whose outputs the store keeps
JUDGED = 256  # samples whose loss is summed at a time
LEAST = 1e-30  # probability of which a logarithm is taken

# From the outputs of teacher and student, (n, ...), to one number for each of the n samples.
Loss = Callable[[Any, Any], Any]


def distill_scales(
    model: Result,
    calibration: Any,
    *,
    teacher: keras.Model | Result,
    loss: str | Loss = "auto",
    temperature: float = 2.0,
    epochs: int = 20,
    learning_rate: float = 0.001,
    batch_size: int = 50,
    layers: Patterns | None = None,
    memory_budget: int | str = "2GB",
    work_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Result:
    """A copy of a quantized model whose scales are trained until its outputs are near those of a teacher.

    A quantizer fits each layer to its own outputs. Here all layers work for the outputs of the network: the scales of
    all kernels are trained together, by gradient descent, on unlabelled samples. Codes stay, and so do zeros, biases
    and every other weight, so that the result is as small as before and is exported alike. Only the step sizes are
    trained in the second phase of EfficientQAT too (arXiv 2407.11062, section 3.3, "E2E-QP", with labels); the outputs
    of the float network in place of labels are knowledge distillation (arXiv 1503.02531).

    Each scale is its old one times exp(t), and t is trained by Adam, with a rate that falls to zero along a cosine. If
    the loss over all samples has not fallen in the end, the scales stay as they were.

    Args:
        model: the result of `quantize`.
        calibration: the samples that calibrated, or others, in any form that `quantize` takes. A few hundred are
            enough, since there is one number to train for each output channel.
        teacher: the model whose outputs are the target, with the same inputs and outputs: the one that was quantized.
        loss: "kl_divergence" of the teacher's probabilities; "mean_squared_error", as a fraction of the teacher's
            mean square; or a function (teacher's outputs, model's outputs) -> one loss for each sample. "auto" is the
            first for outputs that are probabilities along the last axis, else the second; outputs are taken one by one,
            and their losses are added.
        temperature: of "kl_divergence": logits, the logarithms of probabilities, are divided by it. Above 1 the classes
            that the teacher thinks unlikely count more, which a few hundred samples then do not teach by heart.
        epochs: passes over the samples.
        learning_rate: of Adam, at the start; about the relative change of a scale in one step.
        batch_size: samples in one step.
        layers: kernels whose scales are trained: names, paths, regular expressions or a function of the path; None is
            all.
        memory_budget, work_dir, progress: as for `quantize`.
        seed: of the order of the samples.

    Raises:
        InputError: a model without codes, a teacher with other inputs or outputs, data or a setting that cannot be
            used, or outputs that are not finite.
        StorageError: as for `quantize`.
    """
    started = time.perf_counter()
    source_result, teacher_model = Result.of(model), Result.of(teacher).model
    _check_settings(loss, temperature, epochs, learning_rate, batch_size)
    if not source_result.kernels:
        raise InputError(
            f"Model {source_result.model.name!r} has no codes, and thus no scales to train. Quantize it first."
        )
    _check_teacher(source_result.model, teacher_model)
    selected = select(layers, list(source_result.kernels), "layers")
    paths = [path for path in source_result.kernels if path in selected]
    if calibration is None:
        raise InputError("Scales are trained on calibration data. Received: None.")
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))
    settings = {"loss": name, "temperature": temperature, "epochs": epochs, "learning_rate": learning_rate}
    step = Step("distill_scales", settings | {"batch_size": batch_size, "seed": seed})
    student = clone_model(source_result.model)
    views = views_by_path(student)
    scales = [_TrainedScale(path, views[path].variable, source_result.kernels[path]) for path in paths]
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(teacher_model, calibration, memory_budget, None, work_dir))
        assert source is not None
        done = stack.enter_context(progress_bar.tasks(step.technique, epochs, enabled=progress))
        trainer = _Trainer(source, student, scales, loss, temperature)
        before = trainer.mean_loss()
        if not math.isfinite(before):
            raise InputError(
                "The loss is not finite before training: some outputs of the model or of the teacher are NaN or Inf."
            )
        trainer.train(epochs, learning_rate, batch_size, seed, done)
        after = trainer.mean_loss()
        samples = source.num_samples
    kernels = {}
    fell = after < before
    for scale in scales:
        if fell:
            kernels[scale.path] = scale.trained()
            views[scale.path].variable.assign(kernels[scale.path].decode())
        step.add(_row(scale, views[scale.path].layer, fell))
    step.figures = {"loss before": before, "loss": min(before, after), "samples": samples}
    step.figures["seconds"] = time.perf_counter() - started
    return source_result.after(student, step, changed={path: VariableState(each) for path, each in kernels.items()})


class _TrainedScale:
    """The scale of one kernel, times exp(t): `logarithm` holds t, one number for each entry of the scale."""

    def __init__(self, path: str, variable: keras.Variable, kernel: QuantizedKernel):
        self.path = path
        self.kernel = kernel
        self.variable = variable
        self.logarithm = keras.Variable(np.zeros(kernel.scale.size, np.float32))
        self._weights = kernel.decode()
        self._entries = kernel.along(np.arange(kernel.scale.size).reshape(kernel.scale.shape))

    def weights(self, logarithm: Any) -> Any:
        """The kernel with this logarithm of its scale, a tensor."""
        return self._weights * tf.gather(tf.exp(logarithm), self._entries)

    @property
    def factors(self) -> np.ndarray:
        """exp(t), float64, like the kernel's scale."""
        return np.exp(np.asarray(self.logarithm, np.float64)).reshape(self.kernel.scale.shape)

    def trained(self) -> QuantizedKernel:
        """The same codes with the new scale."""
        scale = (self.kernel.scale * self.factors).astype(np.float32)
        gap = None if self.kernel.gap is None else (self.kernel.gap * self.factors).astype(np.float32)
        return dataclasses.replace(self.kernel, scale=scale, gap=gap)


class _Trainer:
    """Trains the scales of the student towards the outputs of the teacher on the samples of a calibration."""

    def __init__(
        self,
        source: Calibration,
        student: keras.Model,
        scales: list[_TrainedScale],
        loss: str | Loss,
        temperature: float,
    ):
        self.source = source
        self.student = student
        self.inputs = ModelInputs.of(student)
        self.scales = scales
        graph = source.graph
        self._keys = [(ANALOG, tensor) for tensor in graph.inputs]
        outputs = list(dict.fromkeys(graph.outputs))
        self._targets = [(TEACHER, tensor) for tensor in graph.outputs]
        probabilities = dict.fromkeys(outputs, True)
        squares = dict.fromkeys(outputs, 0.0)
        blocks = dict.fromkeys(outputs, 0)

        def keep(tensor: int, values: Any) -> None:
            source.store.write((TEACHER, tensor), blocks[tensor], values)
            blocks[tensor] += 1
            squares[tensor] += 2 * float(tf.nn.l2_loss(tf.cast(values, tf.float32))) / source.num_samples
            probabilities[tensor] &= _are_probabilities(values)

        Stages(source, graph, outputs).show(outputs, keep)
        self._losses = [_loss_of(loss, temperature, probabilities[tensor], squares[tensor]) for tensor in graph.outputs]
        specs = [[source.store.spec(key) for key in keys] for keys in (self._keys, self._targets)]

        def judge(inputs: list[Any], targets: list[Any]) -> Any:
            return self._sum_of_losses(inputs, targets)

        self._judge = tf.function(judge, input_signature=specs, autograph=False).get_concrete_function()
        self._specs = specs
        numbers = sum(math.prod(size or 1 for size in spec.shape[1:]) for spec in specs[0] + specs[1])
        self._blocks = list(slices(source.num_samples, block_length(numbers)))

    def mean_loss(self) -> float:
        """Over all samples."""
        total = 0.0
        for rows in self._blocks:
            inputs, targets = self._read(rows)
            for part in slices(len(inputs[0]), JUDGED):
                total += float(self._judge([x[part] for x in inputs], [y[part] for y in targets]))
        return total / self.source.num_samples

    def train(self, epochs: int, learning_rate: float, batch_size: int, seed: int, done: Callable[[str], None]) -> None:
        """Adam on the mean loss of batches; samples of a block are shuffled, and so are the blocks."""
        variables = [scale.logarithm for scale in self.scales]
        steps = epochs * sum(-(-(rows.stop - rows.start) // batch_size) for rows in self._blocks)
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
        optimizer.build(variables)

        def learn(inputs: list[Any], targets: list[Any]) -> None:
            logarithms = [tf.identity(variable.value) for variable in variables]
            with fixed_gradients():
                value = self._sum_of_losses(inputs, targets, logarithms) / tf.cast(tf.shape(inputs[0])[0], tf.float32)
            optimizer.apply(tf.gradients(value, logarithms), variables)

        learn_traced = tf.function(learn, input_signature=self._specs, autograph=False).get_concrete_function()
        generator = np.random.default_rng(seed)
        for epoch in range(epochs):
            for block in generator.permutation(len(self._blocks)):
                inputs, targets = self._read(self._blocks[block])
                order = generator.permutation(len(inputs[0]))
                for rows in np.array_split(order, -(-len(order) // batch_size)):
                    learn_traced([tf.gather(x, rows) for x in inputs], [tf.gather(y, rows) for y in targets])
            done(f"epoch {epoch + 1}")

    def _sum_of_losses(self, inputs: list[Any], targets: list[Any], logarithms: list[Any] | None = None) -> Any:
        """`logarithms` of the scales, a tensor for each; None takes them as they are."""
        if logarithms is None:
            logarithms = [scale.logarithm.value for scale in self.scales]
        weights = [scale.weights(logarithm) for scale, logarithm in zip(self.scales, logarithms, strict=True)]
        mapping = [(scale.variable, kernel) for scale, kernel in zip(self.scales, weights, strict=True)]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = keras.tree.flatten(self.inputs.call(self.student, inputs))
        parts = [
            tf.reduce_sum(loss(tf.cast(target, tf.float32), tf.cast(output, tf.float32)))
            for loss, target, output in zip(self._losses, targets, outputs, strict=True)
        ]
        return tf.add_n(parts)

    def _read(self, rows: slice) -> tuple[list[Any], list[Any]]:
        read = self.source.store.read_rows
        return [read(key, rows) for key in self._keys], [read(key, rows) for key in self._targets]


def _are_probabilities(values: Any) -> bool:
    if values.shape.rank < 2 or values.shape[-1] < 2:
        return False
    values = tf.cast(values, tf.float32)
    sums = tf.reduce_sum(values, axis=-1)
    return bool(tf.reduce_all(values >= 0)) and bool(tf.reduce_all(tf.abs(sums - 1) <= PROBABILITY_TOLERANCE))


def _loss_of(loss: str | Loss, temperature: float, probable: bool, square: float) -> Loss:
    """The loss of one output; `square` is the teacher's sum of squares, mean over samples."""
    if callable(loss):
        return loss
    if loss == "kl_divergence" or (loss == "auto" and probable):
        if not probable:
            raise InputError(
                'loss="kl_divergence" compares probabilities. Expected: outputs of the teacher that are probabilities '
                'along the last axis. Received: others. Pass "mean_squared_error", or a function of both outputs.'
            )
        return lambda target, output: _kl_divergence(target, output, temperature)
    return lambda target, output: _per_sample(tf.square(target - output)) / max(square, np.finfo(np.float32).tiny)


def _kl_divergence(target: Any, output: Any, temperature: float) -> Any:
    target, output = (
        tf.nn.log_softmax(tf.math.log(tf.maximum(values, LEAST)) / temperature) for values in (target, output)
    )
    return _per_sample(tf.exp(target) * (target - output))


def _per_sample(values: Any) -> Any:
    return tf.reduce_sum(tf.reshape(values, [tf.shape(values)[0], -1]), axis=1)


def _check_settings(loss: Any, temperature: Any, epochs: Any, learning_rate: Any, batch_size: Any) -> None:
    if not callable(loss) and loss not in ("auto", "kl_divergence", "mean_squared_error"):
        raise InputError(
            'loss must be "auto", "kl_divergence", "mean_squared_error", or a function of the outputs of teacher and '
            f"model. Received: {loss!r}."
        )
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_integer(name, value, 1)
    for name, value, least, most in (("learning_rate", learning_rate, 0, 1), ("temperature", temperature, 0, 1000)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least < value < most:
            raise InputError(f"{name} must be a number between {least} and {most}. Received: {value!r}.")


def _check_teacher(student: keras.Model, teacher: keras.Model) -> None:
    for what, expected, received in (
        ("inputs", *([(spec.shape, spec.dtype) for spec in input_specs(model)] for model in (student, teacher))),
        ("outputs", *(_output_shapes(model) for model in (student, teacher))),
    ):
        if expected != received:
            raise InputError(
                f"The teacher must have the {what} of the model: {expected}. Received: {received}. Pass the model that "
                "was quantized."
            )


def _output_shapes(model: keras.Model) -> list[tuple[int | None, ...]]:
    graph = Graph(model)
    return [graph.shapes[tensor] for tensor in graph.outputs]


def _row(scale: _TrainedScale, layer: keras.Layer, fell: bool) -> LayerRow:
    row = LayerRow(scale.path, type(layer).__name__, "distilled", parameters=scale.kernel.codes.size)
    row.num_levels, row.effective_bits = len(scale.kernel.levels), scale.kernel.effective_bits
    row.storage = scale.kernel.storage
    if fell:
        row.scale_moved = float(np.sqrt(np.mean((scale.factors - 1) ** 2)))
    else:
        row.action, row.reason = "kept", "training did not lower the loss"
    return row
