"""One call of `quantize`: its state, and what it does to each kernel."""

import dataclasses
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.calibration import Calibration
from keras_compress.calibration.gather import Gatherer, StoredSamples
from keras_compress.calibration.walk import Walk
from keras_compress.layers.absorption import MeanAbsorber, mean_absorbers
from keras_compress.layers.convolution_views import ConvolutionView
from keras_compress.layers.graph import Graph
from keras_compress.layers.kernels import named_views
from keras_compress.layers.view import KernelView, LinearView
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.gpfq import BLOCK_SIZE
from keras_compress.numerics.statistics import Moments, mean_error
from keras_compress.quantization.quantizers import Quantizer, Statistics
from keras_compress.report import LayerRow
from keras_compress.result import QuantizedKernel

ERROR_ROWS = 1024  # that measure the error of a kernel within another layer


@dataclasses.dataclass
class Job:
    """The state of one call of `quantize`."""

    source: Calibration | None
    compressed: keras.Model
    plan: Mapping[str, Quantizer]  # layers to quantize, in the order of the walk
    form: str
    patch_fraction: float
    seed: int
    masks: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        self.graph = Graph(self.compressed)
        skip_inputs = {path: self.graph.skip_inputs(path) for path, each in self.plan.items() if each.compensate_skip}
        self.walk = None if self.source is None else Walk(self.source, self.graph, self.plan, skip_inputs)
        self.absorbers = mean_absorbers(self.compressed, self.graph)
        self.samples: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # rows of X and X~, of inner kernels
        self.errors: dict[str, float | None] = {}  # relative errors on them

    def quantize_layer(self, path: str, quantizer: Quantizer) -> tuple[QuantizedKernel, LayerRow]:
        started = time.perf_counter()
        view = self.graph.views[path]
        weights = view.kernel.astype(np.float64)
        matrices = view.matrices(weights)
        statistics, form = self.statistics(path, quantizer, view)
        alphabet = quantizer.layer_alphabet(matrices, statistics)
        absorber = self.absorbers.get(path)
        centered = quantizer.centers and absorber is not None and not view.memoryless
        keep = view.matrices(self.masks[path]) if path in self.masks else None
        all_codes, shifts, alphabets = [], [], []
        for group, matrix, group_statistics, group_alphabet in problems(view, matrices, statistics, alphabet):
            kept = keep if keep is None or view.solved_together else keep[group]
            if view.memoryless:
                codes = group_alphabet.nearest(matrix)
                codes = codes if kept is None else np.where(kept, codes, group_alphabet.zero_code)
            else:
                codes, group_alphabet = quantizer.solve(
                    matrix,
                    group_statistics,
                    group_alphabet,
                    keep=kept,
                    centered=centered,
                    channels=input_channels(view),
                    generator=self.generator(path, group),
                )
            all_codes.append(codes)
            alphabets.append(group_alphabet.shaped((-1,)))
            if group_statistics is not None:
                shifts.append(mean_error(matrix, group_alphabet.decode(codes), group_statistics).ravel())
        fitted_alphabet = Alphabet.joined(alphabets)
        kernel_codes = all_codes[0] if view.solved_together else np.stack(all_codes)
        quantized = _quantized_kernel(view, kernel_codes, fitted_alphabet)
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
            effective_bits=quantized.effective_bits,
            storage=quantized.storage,
            radius=float(fitted_alphabet.radius.mean()),
            zeros=float(np.mean(view.kernel == 0)),
            features=matrices.shape[1],
            rows=None if statistics is None else statistics[0].count,
            form=form,
            bias=bias,
            seconds=time.perf_counter() - started,
        )
        return quantized, row

    def generator(self, path: str, group: int) -> np.random.Generator:
        """Random numbers that depend on the seed and the layer alone, not on what was quantized before."""
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

    def statistics(self, path: str, quantizer: Quantizer, view: KernelView) -> tuple[list[Statistics] | None, str]:
        """Statistics of each group, and the solver's form."""
        if self.walk is None or self.source is None or quantizer.requires == "nothing" or view.memoryless:
            return None, ""
        walk, source = self.walk, self.source
        form = self._form(path, view, quantizer) if quantizer.requires == "gram" else ""
        skip_inputs = self._skip_inputs(path, quantizer, view, form)
        same = walk.same_inputs(path)
        key = (tuple(walk.inputs(path)), path, form == "gram", self.patch_fraction, self.seed)
        if same and not skip_inputs and form != "direct" and key in source.shared_statistics:
            gatherer = source.shared_statistics[key]
        else:
            gatherer = Gatherer(
                view,
                gram=form == "gram",
                same=same,
                fraction=self.patch_fraction,
                seed=self.seed,
                name=path,
                sampled=-(-ERROR_ROWS // source.num_blocks) if walk.is_inner(path) else 0,
            )

            def visit(analog: list[Any], compressed: list[Any]) -> None:
                if skip_inputs:
                    skip_pairs = zip(analog[1:], compressed[1:], strict=True)
                    mismatch = sum(analog_skip - compressed_skip for analog_skip, compressed_skip in skip_pairs)
                    gatherer.add(compressed[0], analog[0], mismatch)
                    return
                for call, (analog_inputs, compressed_inputs) in enumerate(zip(analog, compressed, strict=True)):
                    gatherer.add(compressed_inputs, analog_inputs, call=call)

            walk.advance(path, visit, keep_inputs=form == "direct", skip_inputs=skip_inputs)
            if same and source.keep and not skip_inputs:
                source.shared_statistics[key] = gatherer
        if gatherer.sample:
            self.samples[path] = gatherer.sample
        statistics = gatherer.result()
        if form != "direct":
            return list(statistics), form
        columns = max(source.memory_budget // (16 * statistics[0].count) // BLOCK_SIZE, 1) * BLOCK_SIZE
        return [
            StoredSamples(view, group, moments, walk.input_keys(path), source.store, columns)
            for group, moments in enumerate(statistics)
            if isinstance(moments, Moments)
        ], form

    def _skip_inputs(self, path: str, quantizer: Quantizer, view: KernelView, form: str) -> tuple[int, ...]:
        """Skip inputs of an addition behind this layer, where the quantizer makes up for their residual mismatch."""
        assert self.walk is not None
        if not quantizer.compensate_skip or form != "gram" or view.groups > 1 or self.patch_fraction < 1:
            return ()
        return tuple(self.walk.differing().intersection(self.graph.skip_inputs(path)))

    def relative_error(self, path: str) -> float | None:
        """Of the outputs of a quantized kernel; for a kernel within another layer on a sample of its rows."""
        if path in self.errors:
            return self.errors[path]
        return None if self.walk is None else self.walk.relative_error(path)

    def _error_on_sample(
        self, path: str, view: KernelView, weights: np.ndarray, taken: np.ndarray | None
    ) -> float | None:
        """||XW - X~Q|| / ||XW||; `taken` is the mean error that the bias has taken."""
        analog, quantized = view.matrices(weights), view.matrices(view.kernel.astype(np.float64))
        error = norm = 0.0
        for analog_rows, compressed_rows in self.samples[path]:
            outputs = analog_rows @ analog
            mismatch = outputs - compressed_rows @ quantized
            if taken is not None:
                mismatch -= taken.reshape(len(analog), 1, -1)
            error, norm = error + float(np.square(mismatch).sum()), norm + float(np.square(outputs).sum())
        return math.sqrt(error / norm) if norm > 0 else None

    def _form(self, path: str, view: KernelView, quantizer: Quantizer) -> str:
        """Gram statistics take 16 N^2 bytes, the direct form 8 m (n_out + columns at once)."""
        assert self.source is not None and self.walk is not None
        if self.walk.is_inner(path) or view.solved_together:
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
    view: KernelView, matrices: np.ndarray, statistics: list[Statistics] | None, alphabet: Alphabet
) -> Iterator[tuple[int, np.ndarray, Any, Alphabet]]:
    """Yields what a solver takes at once: group, matrix, statistics and alphabet.

    All groups come at once where the view solves them together.
    """
    groups, _, units = matrices.shape
    if view.solved_together:
        yield 0, matrices, None if statistics is None else statistics[0], alphabet.shaped((groups, units))
        return
    for group, matrix in enumerate(matrices):
        group_alphabet = alphabet.channels(slice(group * units, (group + 1) * units))
        yield group, matrix, None if statistics is None else statistics[group], group_alphabet


def input_channels(view: KernelView) -> list[np.ndarray] | None:
    """Indices of the features of each input channel of a convolution."""
    return view.per_channel_groups if isinstance(view, ConvolutionView) else None


def _quantized_kernel(view: KernelView, codes: np.ndarray, alphabet: Alphabet) -> QuantizedKernel:
    """From (groups, N, units) codes and an alphabet whose scales run over groups and units."""
    along = [view.kernel.shape[axis] for axis in view.axes]

    def shaped(values: Any) -> Any:
        shared = values is None or values.shape == (1,) or alphabet.group_size is not None
        return values if shared else values.reshape(along)

    scale, zero_point, gap = (shaped(part) for part in (alphabet.scale, alphabet.zero_point, alphabet.gap))
    kernel_codes = view.kernel_of(codes)
    return QuantizedKernel(kernel_codes, alphabet.levels, scale, view.axes, zero_point, gap, alphabet.group_size)
