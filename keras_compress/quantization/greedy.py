"""The greedy family around GPFQ: what each class decides is a rounding, a target, or an objective."""

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.numerics.beacon import beacon
from keras_compress.numerics.gpfq import gpfq, gpfq_direct
from keras_compress.numerics.optq import optq
from keras_compress.numerics.spfq import aligned_weights
from keras_compress.numerics.statistics import LayerStatistics
from keras_compress.quantization.alphabets import FITTED, AlphabetSetting, Radius, check_integer
from keras_compress.quantization.quantizers import GreedyQuantizer, RefinedQuantizer

TARGETS = ("weights", "corrected")


@keras.saving.register_keras_serializable(package="keras_compress")
class SPFQ(RefinedQuantizer):
    """Stochastic path following quantization (Zhang, Zhou & Saab, 2023, arXiv 2309.10975).

    First the weights are aligned: replaced by ones that do on the compressed network's inputs what the given ones do on
    the analog network's. Then they are quantized as by GPFQ, with stochastic rounding under the seed of `quantize`.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        alignment: r, passes of the alignment. 1 is the same as GPFQ with stochastic rounding.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".
        refine: sweeps of coordinate descent afterwards.

    Raises:
        InputError: a setting out of range, or bits beside an alphabet.
    """

    def __init__(
        self,
        bits: int | None = None,
        *,
        alphabet: AlphabetSetting | None = None,
        radius: Radius | None = None,
        alignment: int = 1,
        centered: bool = True,
        bias_correction: bool = False,
        order: str = "natural",
        refine: int = 0,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order, refine)
        check_integer("alignment", alignment, 1)
        self.alignment = alignment

    @property
    def has_direct_form(self) -> bool:
        return super().has_direct_form and self.alignment == 1

    @property
    def matrices(self) -> int:
        return super().matrices + 2 * (self.alignment > 1)

    def first_codes(self, matrix, statistics, alphabet, keep, generator):  # type: ignore[no-untyped-def]
        noise = generator.random(matrix.shape)
        if self.alignment > 1:
            matrix = aligned_weights(matrix, statistics, self.alignment)
            sums, gram = statistics.sum_compressed, statistics.gram
            statistics = LayerStatistics(statistics.count, sums, sums, gram, gram)
        return gpfq(matrix, statistics, alphabet, keep=keep, noise=noise)

    def solve(self, matrix, evidence, alphabet, *, keep=None, centered=False, channels=None, generator=None):  # type: ignore[no-untyped-def]
        if isinstance(evidence, LayerStatistics):
            return super().solve(matrix, evidence, alphabet, keep=keep, centered=centered, generator=generator)
        noise = generator.random(matrix.shape)
        return gpfq_direct(matrix, evidence, alphabet, centered=centered, keep=keep, noise=noise)[0], alphabet


@keras.saving.register_keras_serializable(package="keras_compress")
class SparseGPFQ(GreedyQuantizer):
    """GPFQ with a price on letters that are not zero (Zhang, Zhou & Saab, 2023, L1): more zeros, same alphabet.

    Each step minimises 1/2 ||u + w_t X_t - p X~_t||^2 + lambda ||X~_t||^2 |p|, whose solution is the letter nearest to
    the softly thresholded argument.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Equispaced` or `Midtread` with a zero among its levels, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        regularization: lambda, in units of weights.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".

    Raises:
        InputError: a setting out of range, bits beside an alphabet, or an alphabet without zero.
    """

    def __init__(
        self,
        bits: int | None = None,
        *,
        alphabet: AlphabetSetting | None = None,
        radius: Radius | None = None,
        regularization: float = 0.1,
        centered: bool = True,
        bias_correction: bool = False,
        order: str = "natural",
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order)
        number = isinstance(regularization, (int, float)) and not isinstance(regularization, bool)
        if not number or not 0 <= regularization < np.inf:
            raise InputError(f"regularization must be a number from 0 upwards. Received: {regularization!r}.")
        if 0 not in self.setting.levels_array:
            raise InputError(f"SparseGPFQ needs a zero among the levels. Received: {self.setting!r}.")
        if radius in FITTED:
            raise InputError(f"radius={radius!r} takes the zeros back that the regularization makes.")
        self.regularization = regularization

    def fit(self, matrix, statistics, alphabet, keep, generator):  # type: ignore[no-untyped-def]
        return gpfq(matrix, statistics, alphabet, keep=keep, threshold=np.array([self.regularization])), alphabet

    def solve(self, matrix, evidence, alphabet, *, keep=None, centered=False, channels=None, generator=None):  # type: ignore[no-untyped-def]
        if isinstance(evidence, LayerStatistics):
            return super().solve(matrix, evidence, alphabet, keep=keep, centered=centered)
        threshold = np.array([self.regularization])
        return gpfq_direct(matrix, evidence, alphabet, centered=centered, keep=keep, threshold=threshold)[0], alphabet


class _LeastSquaresQuantizer(RefinedQuantizer):
    """A quantizer whose weights to come make up for each letter, by means of the inverse of G."""

    damping: float

    @property
    def has_direct_form(self) -> bool:
        return False

    @property
    def matrices(self) -> int:
        return super().matrices + 3  # G read backwards, its factor, and the factor's inverse

    def _check_damping(self) -> None:
        number = isinstance(self.damping, (int, float)) and not isinstance(self.damping, bool)
        if not number or not 0 < self.damping <= 1:
            raise InputError(f"damping must be a number in (0, 1]. Received: {self.damping!r}.")


@keras.saving.register_keras_serializable(package="keras_compress")
class OPTQ(_LeastSquaresQuantizer):
    """OPTQ, also known as GPTQ (Frantar et al., 2023, arXiv 2210.17323).

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        target: "weights", as published, aims at what the given weights do on the compressed network's inputs;
            "corrected" at the analog network's outputs, from the weights that come closest to them.
        damping: added to the diagonal of X~^T X~, as a share of its mean.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".
        refine: sweeps of coordinate descent afterwards.

    Raises:
        InputError: a setting out of range, or bits beside an alphabet.
    """

    def __init__(
        self,
        bits: int | None = None,
        *,
        alphabet: AlphabetSetting | None = None,
        radius: Radius | None = None,
        target: str = "weights",
        damping: float = 0.01,
        centered: bool = True,
        bias_correction: bool = False,
        order: str = "natural",
        refine: int = 0,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order, refine)
        if target not in TARGETS:
            raise InputError(f"target must be one of {', '.join(TARGETS)}. Received: {target!r}.")
        self.target = target
        self.damping = damping
        self._check_damping()

    def first_codes(self, matrix, statistics, alphabet, keep, generator):  # type: ignore[no-untyped-def]
        return optq(matrix, statistics, alphabet, target=self.target, damping=self.damping, keep=keep)


@keras.saving.register_keras_serializable(package="keras_compress")
class Qronos(_LeastSquaresQuantizer):
    """Qronos (Zhang et al., 2025, arXiv 2505.11695): OPTQ towards the analog network's outputs.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        damping: added to the diagonals of X~^T X~ and X~^T X, as a share of the former's mean.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".
        refine: sweeps of coordinate descent afterwards.

    Raises:
        InputError: a setting out of range, or bits beside an alphabet.
    """

    def __init__(
        self,
        bits: int | None = None,
        *,
        alphabet: AlphabetSetting | None = None,
        radius: Radius | None = None,
        damping: float = 1e-4,
        centered: bool = True,
        bias_correction: bool = False,
        order: str = "natural",
        refine: int = 0,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order, refine)
        self.damping = damping
        self._check_damping()

    def first_codes(self, matrix, statistics, alphabet, keep, generator):  # type: ignore[no-untyped-def]
        return optq(matrix, statistics, alphabet, target="qronos", damping=self.damping, keep=keep)


@keras.saving.register_keras_serializable(package="keras_compress")
class Beacon(GreedyQuantizer):
    """Beacon (arXiv 2508.20293): codes by the direction of the outputs alone, then the best scale for each channel.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Equispaced` or `Midtread` with a scale for each channel, in place of `bits`; its radius
            and scalar are of no consequence.
        sweeps: passes over the features.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.

    Raises:
        InputError: a setting out of range, bits beside an alphabet, or one scale for the whole layer.
    """

    def __init__(
        self,
        bits: int | None = None,
        *,
        alphabet: AlphabetSetting | None = None,
        sweeps: int = 6,
        centered: bool = True,
        bias_correction: bool = False,
    ):
        super().__init__(bits, alphabet, None, bias_correction, centered, "natural")
        check_integer("sweeps", sweeps, 0)
        if not self.setting.per_channel:
            raise InputError(f"Beacon needs a scale for each channel. Received: {self.setting!r}.")
        self.sweeps = sweeps

    @property
    def has_direct_form(self) -> bool:
        return False

    def fit(self, matrix, statistics, alphabet, keep, generator):  # type: ignore[no-untyped-def]
        return beacon(matrix, statistics, alphabet.levels, sweeps=self.sweeps, keep=keep)
