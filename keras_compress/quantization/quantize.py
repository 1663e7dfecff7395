"""`quantize()`: every kernel of a model, layer by layer, from the inputs to the outputs."""

import contextlib
import dataclasses
import math
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_compress import progress as progress_bar
from keras_compress.calibration.calibration import Calibration, parse_bytes
from keras_compress.calibration.gather import Gatherer, StoredSamples
from keras_compress.calibration.walk import Walk
from keras_compress.errors import InputError
from keras_compress.layers.absorption import MeanAbsorber, mean_absorbers
from keras_compress.layers.clone import clone_model
from keras_compress.layers.convolution_views import ConvolutionView
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import named_views, refusal, views_by_path
from keras_compress.layers.paths import all_layers_by_path, held_layers
from keras_compress.layers.view import KernelView, LinearView
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.statistics import Moments, mean_error
from keras_compress.quantization.accuracy import keep_accuracy, score_of
from keras_compress.quantization.plan import (
    check_forms,
    check_groups,
    check_kernels,
    check_settings,
    plan_layers,
    zero_masks,
)
from keras_compress.quantization.quantizers import Evidence, Quantizer
from keras_compress.quantization.selection import Pattern, Patterns
from keras_compress.report import LayerRow, Step
from keras_compress.result import QuantizedKernel, Result

ERROR_ROWS = 1024  # that measure the error of a kernel within another layer


def quantize(
    model: keras.Model | Result,
    quantizer: Quantizer,
    calibration: Any = None,
    *,
    layers: Patterns | None = None,
    overrides: Mapping[Pattern, Quantizer | None] | None = None,
    keep_zeros: bool | None = None,
    form: str = "auto",
    memory_budget: int | str = "2GB",
    batch_size: int | None = None,
    patch_fraction: float = 1.0,
    work_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    max_drop: float | None = None,
    validation: Any = None,
    progress: bool = False,
) -> Result:
    """A quantized copy of a model, the integers behind its kernels, and a report.

    Kernels of dense, convolutional, embedding and recurrent layers are quantized in the order in which the model calls
    them, each one with the inputs that it gets from the layers that are quantized already. Any other layer with weights
    stays in floating point; the report says why. The model that comes in is not written to.

    Layers within other layers (projections of MultiHeadAttention, parts of a layer of your own) and those of subclassed
    models, whose connections are not known, are quantized too: their inputs are seen by looking on while the model
    runs. In a subclassed model each kernel takes a pass of its own from the inputs, which is slower.

    Args:
        model: a built model, or the result of an earlier step.
        quantizer: `MSQ(...)`, `GPFQ(...)`.
        calibration: a few hundred samples, preprocessed as in training: an array, a list or dictionary of arrays, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator of batches, or a `Calibration`, which several
            calls can share. Labels are ignored. None is enough for MSQ without bias correction.
        layers: which layers to quantize: names, paths, regular expressions or a function of the path; None is all.
        overrides: pattern -> another quantizer for these layers, or None to leave them in floating point; later
            patterns win.
        keep_zeros: True: weights that are zero stay zero. None: those that the result's masks name. False: none.
        form: "gram" keeps N x N matrices, "direct" the residual of all rows; "auto" takes the smaller one.
        memory_budget: bytes, or text such as "512MB"; what does not fit goes to disk.
        batch_size: samples that go through the networks at a time; None chooses by the budget.
        patch_fraction: share of the patches of a convolution that are used, drawn without replacement.
        work_dir: folder for activations that do not fit.
        seed: of the patches' draw, and of stochastic quantizers.
        max_drop: how far the score on `validation` may fall, such as 0.01. Layers are given back bits (2, 3, 4, 5, 6,
            8, floating point), the most harmful first, until it is within bounds; the report says which and how much.
            Takes several quantizations, which share the pass through the analog network.
        validation: (inputs, labels) of a classifier, whose score is top-1; or a function of a model that gives a score,
            larger is better. Samples that neither calibrate nor test.
        progress: whether to show a bar (on a terminal) or lines.

    Raises:
        InputError: a model, data or setting that cannot be used; found before any work starts.
        StorageError: `work_dir` cannot be written to, or its disk is full.
    """
    started = time.perf_counter()
    given = Result.of(model)
    check_settings(quantizer, form, patch_fraction, keep_zeros)
    graph = Graph(given.model)
    plan = plan_layers(graph, quantizer, layers, overrides)
    check_kernels(graph, plan)
    check_groups(graph, plan)
    check_forms(graph, plan, form, calibration, memory_budget)
    masks = zero_masks(graph, plan, given, keep_zeros)
    if max_drop is not None or validation is not None:
        score = score_of(max_drop, validation)
        if calibration is None:
            raise InputError("max_drop needs calibration data, to find which layers harm. Pass a few hundred samples.")
        with calibrating(given.model, calibration, memory_budget, batch_size, work_dir) as shared:
            assert shared is not None
            shared.keep = True

            def run(chosen: dict[str, Quantizer | None]) -> Result:
                exact: dict[Pattern, Quantizer | None] = {
                    re.compile(re.escape(path)): other for path, other in chosen.items()
                }
                return quantize(
                    given,
                    quantizer,
                    shared,
                    layers=lambda path: path in chosen,
                    overrides=exact,
                    keep_zeros=keep_zeros,
                    form=form,
                    patch_fraction=patch_fraction,
                    seed=seed,
                    progress=progress,
                )

            return keep_accuracy(run, plan, given.model, shared, score, float(max_drop or 0.0))
    needs_data = [path for path, chosen in plan.items() if chosen.evidence != "nothing" and _must_have_data(chosen)]
    if needs_data and calibration is None:
        raise InputError(
            f"{plan[needs_data[0]]!r} needs calibration data. Pass a few hundred samples, preprocessed as in training."
        )
    step = Step("quantize", {"quantizer": repr(quantizer), "form": form, "seed": seed})
    if patch_fraction < 1:
        step.settings["patch_fraction"] = patch_fraction
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(calibrating(given.model, calibration, memory_budget, batch_size, work_dir))
        twin = clone_model(given.model)
        job = Job(source, twin, list(plan), form, patch_fraction, seed, masks)
        done = stack.enter_context(progress_bar.tasks("quantize", len(plan), enabled=progress))
        kernels: dict[str, QuantizedKernel] = {}
        rows: dict[str, LayerRow] = {}
        for path, chosen in plan.items():
            kernels[path], rows[path] = job.quantize_layer(path, chosen)
            done(path)
        if job.walk is not None:
            job.walk.finish()
            for path, row in rows.items():
                row.relative_error = job.relative_error(path)
    for row in _all_rows(given, graph, rows):
        step.add(row)
    step.figures = {"seconds": time.perf_counter() - started}
    if graph.closed:
        step.figures["slow walk"] = f"{graph.closed}: each kernel took a pass of its own through the model"
    if source is not None:
        step.figures |= {"samples": source.num_samples, "walks": int(job.walk is not None)}
    kept = {path: kernel for path, kernel in given.kernels.items() if path not in kernels}
    other_masks = {path: mask for path, mask in given.masks.items() if path not in plan}
    result = Result(twin, kept | kernels, other_masks | masks, given.report.extended(step))
    result.check()
    return result


@dataclasses.dataclass
class Job:
    """The state of one call of `quantize`."""

    source: Calibration | None
    twin: keras.Model
    paths: list[str]  # layers to quantize, in the order of the walk
    form: str
    patch_fraction: float
    seed: int
    masks: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        self.graph = Graph(self.twin)
        self.walk = None if self.source is None else Walk(self.source, self.graph, self.paths)
        self.absorbers = mean_absorbers(self.twin, self.graph)
        self.samples: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # rows of X and X~, of inner kernels
        self.errors: dict[str, float | None] = {}  # relative errors on them

    def quantize_layer(self, path: str, quantizer: Quantizer) -> tuple[QuantizedKernel, LayerRow]:
        started = time.perf_counter()
        view = self.graph.views[path]
        weights = view.kernel.astype(np.float64)
        matrices = view.matrices(weights)
        evidence, form = self.evidence(path, quantizer, view)
        alphabet = quantizer.layer_alphabet(matrices, evidence)
        absorber = self.absorbers.get(path)
        centered = quantizer.centers and absorber is not None and not view.memoryless
        keep = view.matrices(self.masks[path]) if path in self.masks else None
        codes, shifts, found_alphabets = [], [], []
        for group, matrix, facts, letters in problems(view, matrices, evidence, alphabet):
            kept = keep if keep is None or view.batched else keep[group]
            if view.memoryless:
                found = letters.nearest(matrix)
                found = found if kept is None else np.where(kept, found, letters.zero_code)
            else:
                found, letters = quantizer.solve(
                    matrix,
                    facts,
                    letters,
                    keep=kept,
                    centered=centered,
                    channels=input_channels(view),
                    generator=self.generator(path, group),
                )
            codes.append(found)
            found_alphabets.append(letters.shaped((-1,)))
            if facts is not None:
                shifts.append(mean_error(matrix, letters.decode(found), facts).ravel())
        found_alphabet = Alphabet.joined(found_alphabets)
        quantized = _quantized_kernel(view, codes[0] if view.batched else np.stack(codes), found_alphabet)
        view.variable.assign(quantized.decode())
        if self.walk is not None:
            self.walk.changed.add(path)
        shift = np.concatenate(shifts) if shifts else None
        bias = self._correct(path, absorber, shift, quantizer, centered)
        if path in self.samples:
            taken = shift if bias in ("centered", "corrected") else None
            self.errors[path] = self._error_on_sample(path, view, weights, taken)
        own = len(named_views(path, view.layer)) == 1
        row = LayerRow(
            path,
            type(view.layer).__name__,
            "quantized",
            view.memoryless and f"rounded weight by weight: {view.memoryless}",
            parameters=view.layer.count_params() if own else view.kernel.size,
            alphabet=repr(quantizer.setting),
            num_levels=len(quantized.levels),
            bits=quantized.bits,
            storage="packed" if quantized.storage_bits is None else f"int{quantized.storage_bits}",
            radius=float(found_alphabet.radius.mean()),
            zeros=float(np.mean(view.kernel == 0)),
            features=matrices.shape[1],
            rows=None if evidence is None else evidence[0].count,
            form=form,
            bias=bias,
            seconds=time.perf_counter() - started,
        )
        return quantized, row

    def generator(self, path: str, group: int) -> np.random.Generator:
        """Random numbers that hang on the seed and the layer alone, not on what was quantized before."""
        return np.random.default_rng((self.seed, zlib.crc32(path.encode()), group))

    def _correct(
        self, path: str, absorber: MeanAbsorber | None, shift: np.ndarray | None, quantizer: Quantizer, centered: bool
    ) -> str:
        if not centered and not quantizer.bias_correction:
            return "kept"
        if absorber is None:
            return "none"
        assert shift is not None
        absorber.absorb(shift)
        if self.walk is not None:
            self.walk.changed.add(absorber.path)
            if absorber.path != path:
                self.walk.offsets[path] = shift
        return "centered" if centered else "corrected"

    def evidence(self, path: str, quantizer: Quantizer, view: KernelView) -> tuple[list[Evidence] | None, str]:
        """What the calibration data says of each group, and the solver's form."""
        if self.walk is None or self.source is None or quantizer.evidence == "nothing" or view.memoryless:
            return None, ""
        walk, source = self.walk, self.source
        form = self._form(path, view, quantizer) if quantizer.evidence == "gram" else ""
        beside = self._beside(path, quantizer, view, form)
        same = walk.same_inputs(path)
        key = (tuple(walk.inputs(path)), path, form == "gram", self.patch_fraction, self.seed)
        if same and not beside and form != "direct" and key in source.shared_statistics:
            gatherer = source.shared_statistics[key]
        else:
            gatherer = Gatherer(
                view,
                gram=form == "gram",
                same=same,
                fraction=self.patch_fraction,
                seed=self.seed,
                name=path,
                sampled=-(-ERROR_ROWS // walk.num_chunks) if walk.is_inner(path) else 0,
            )

            def visit(analog: list[Any], compressed: list[Any]) -> None:
                if beside:
                    missing = sum(ours - theirs for ours, theirs in zip(analog[1:], compressed[1:], strict=True))
                    gatherer.add(compressed[0], analog[0], missing)
                    return
                for ours, theirs in zip(analog, compressed, strict=True):
                    gatherer.add(theirs, ours)

            walk.advance(path, visit, keep_inputs=form == "direct", beside=beside)
            if same and source.keep and not beside:
                source.shared_statistics[key] = gatherer
        if gatherer.sample:
            self.samples[path] = gatherer.sample
        statistics = gatherer.result()
        if form != "direct":
            return list(statistics), form
        columns = max(source.memory_budget // (16 * statistics[0].count), 128)
        return [
            StoredSamples(view, group, moments, walk.input_keys(path), source.store, columns)
            for group, moments in enumerate(statistics)
            if isinstance(moments, Moments)
        ], form

    def _beside(self, path: str, quantizer: Quantizer, view: KernelView, form: str) -> tuple[int, ...]:
        """Other summands of an addition behind this layer, where the quantizer makes up for what they lack."""
        assert self.walk is not None
        if not quantizer.through_additions or form != "gram" or view.groups > 1 or self.patch_fraction < 1:
            return ()
        return tuple(self.walk.differing().intersection(self.graph.other_summands(path)))

    def relative_error(self, path: str) -> float | None:
        """Of the outputs of a quantized kernel; of those within another layer on a sample of their rows."""
        if path in self.errors:
            return self.errors[path]
        return None if self.walk is None else self.walk.relative_error(path)

    def _error_on_sample(
        self, path: str, view: KernelView, weights: np.ndarray, taken: np.ndarray | None
    ) -> float | None:
        """||XW - X~Q|| / ||XW||; `taken` is the mean error that the bias has taken."""
        analog, quantized = view.matrices(weights), view.matrices(view.kernel.astype(np.float64))
        error = norm = 0.0
        for ours, theirs in self.samples[path]:
            outputs = ours @ analog
            missing = outputs - theirs @ quantized
            if taken is not None:
                missing -= taken.reshape(len(analog), 1, -1)
            error, norm = error + float(np.square(missing).sum()), norm + float(np.square(outputs).sum())
        return math.sqrt(error / norm) if norm > 0 else None

    def _form(self, path: str, view: KernelView, quantizer: Quantizer) -> str:
        """Gram statistics take 16 N^2 bytes, the direct form 8 m (n_out + columns at once)."""
        assert self.source is not None and self.walk is not None
        if self.walk.is_inner(path) or view.batched:
            return "gram"
        if self.form != "auto" or not quantizer.has_direct_form:
            return "gram" if self.form == "auto" else self.form
        if self.patch_fraction < 1 and isinstance(view, ConvolutionView):
            return "gram"  # the direct form reads every row
        assert isinstance(view, LinearView), "an inner kernel has no call of its own"
        features = view.num_features
        rows = self.source.num_samples * sum(
            view.num_positions(self.source.graph.shapes[tensor]) for tensor in self.walk.inputs(path)
        )
        gram_bytes = 8 * features**2 * (2 * view.groups + quantizer.matrices)
        direct_bytes = 8 * rows * (view.num_channels + 2 * features)
        fits = gram_bytes <= self.source.memory_budget or gram_bytes <= direct_bytes
        return "gram" if features <= rows and fits else "direct"


def problems(
    view: KernelView, matrices: np.ndarray, evidence: list[Evidence] | None, alphabet: Alphabet
) -> Iterator[tuple[int, np.ndarray, Any, Alphabet]]:
    """Yields what a solver takes at once: group, matrix, evidence and letters; all groups of a batched view."""
    groups, _, units = matrices.shape
    if view.batched:
        yield 0, matrices, None if evidence is None else evidence[0], alphabet.shaped((groups, units))
        return
    for group, matrix in enumerate(matrices):
        letters = alphabet.channels(slice(group * units, (group + 1) * units))
        yield group, matrix, None if evidence is None else evidence[group], letters


def _must_have_data(quantizer: Quantizer) -> bool:
    """Memoryless quantization without bias correction is better with data, and possible without."""
    return quantizer.evidence == "gram" or quantizer.bias_correction


def _quantized_kernel(view: KernelView, codes: np.ndarray, alphabet: Alphabet) -> QuantizedKernel:
    """From (groups, N, units) codes and letters whose scales run over groups and units."""
    along = [view.kernel.shape[axis] for axis in view.axes]

    def shaped(values: Any) -> Any:
        shared = values is None or values.shape == (1,) or alphabet.group_size is not None
        return values if shared else values.reshape(along)

    scale, zero_point, gap = (shaped(part) for part in (alphabet.scale, alphabet.zero_point, alphabet.gap))
    kernel_codes = view.kernel_of(codes)
    return QuantizedKernel(kernel_codes, alphabet.levels, scale, view.axes, zero_point, gap, alphabet.group_size)


@contextlib.contextmanager
def calibrating(
    model: keras.Model, data: Any, memory_budget: int | str, batch_size: int | None, work_dir: Any
) -> Iterator[Calibration | None]:
    if isinstance(data, Calibration):
        if data.model is not model:
            raise InputError(
                f"The Calibration was made for model {data.model.name!r}, and another one is to be quantized "
                f"({model.name!r}). Make a Calibration with the very model that is passed."
            )
        data.check_open()
        try:
            yield data
        finally:
            data.release()
    elif data is None:
        parse_bytes(memory_budget)
        yield None
    else:
        calibration = Calibration(model, data, memory_budget=memory_budget, batch_size=batch_size, work_dir=work_dir)
        calibration.keep = False
        with calibration:
            yield calibration


def input_channels(view: KernelView) -> list[np.ndarray] | None:
    """Indices of the features of each input channel of a convolution."""
    return view.per_channel_groups if isinstance(view, ConvolutionView) else None


def _all_rows(given: Result, graph: Graph, rows: dict[str, LayerRow]) -> list[LayerRow]:
    """A row for each kernel that we know and each other layer with weights: what was done, or why nothing."""
    found = []
    views = views_by_path(given.model)
    of_layer: dict[int, list[str]] = {}
    for path, view in views.items():
        of_layer.setdefault(id(view.layer), []).append(path)
    done: set[int] = set()
    for path, layer in all_layers_by_path(given.model).items():
        kernels = of_layer.get(id(layer), [])
        for kernel in kernels:
            row = rows.get(kernel)
            if row is None:
                action, why = "float", "the settings leave it out (layers= or overrides=)"
                if kernel in given.kernels:
                    action, why = "kept", "its codes of an earlier step are kept"
                elif kernel not in graph.views:
                    why = graph.unseen.get(kernel, "no call of the model reaches it")
                size = layer.count_params() if len(kernels) == 1 else views[kernel].kernel.size
                row = LayerRow(kernel, type(layer).__name__, action, why, parameters=size)
            found.append(row)
        own = {id(weight): weight for weight in layer.weights}
        inner = {id(weight) for held in held_layers(layer).values() for weight in held.weights}
        left = [weight for name, weight in own.items() if name not in done and (kernels or name not in inner)]
        done.update(map(id, left))
        if left and not kernels:
            size = sum(math.prod(weight.shape) for weight in left)
            found.append(LayerRow(path, type(layer).__name__, "float", refusal(layer), parameters=size))
    return found
