"""The greedy quantizers around GPFQ: what each class decides is a rounding, a target, or an objective."""

import keras
import numpy as np

from keras_compress.errors import InputError, check_integer
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.beacon import beacon
from keras_compress.numerics.optq import optq
from keras_compress.numerics.spfq import aligned_weights
from keras_compress.numerics.statistics import CompressedSamples, LayerStatistics
from keras_compress.quantization.alphabets import FITTED, AlphabetSetting, Radius
from keras_compress.quantization.quantizers import GreedyQuantizer, RefinedQuantizer, Statistics, follow_path

TARGETS = ("weights", "corrected")
REGULARIZERS = ("l1", "l0")


@keras.saving.register_keras_serializable(package="keras_compress")
class SPFQ(RefinedQuantizer):
    """Stochastic path following quantization (Zhang, Zhou & Saab, 2023, arXiv 2309.10975).

    First the weights are aligned: replaced by ones that give on the compressed network's inputs the outputs that the
    given ones give on the analog network's. Then they are quantized as by GPFQ, with stochastic rounding under the seed
    of `quantize`.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Ternary`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        alignment: r, passes of the alignment. 1 is the same as GPFQ with stochastic rounding.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".
        refine: sweeps of coordinate descent afterwards.
        compensate_skip: whether a layer whose outputs are added to skip inputs makes up for their residual mismatch.

    Raises:
        InputError: a setting out of range, or both bits and an alphabet.
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
        compensate_skip: bool = False,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order, refine, compensate_skip)
        check_integer("alignment", alignment, 1)
        self.alignment = alignment

    @property
    def copies_statistics(self) -> bool:
        return super().copies_statistics or self.alignment > 1

    @property
    def matrices(self) -> int:
        return super().matrices + 2 * (self.alignment > 1)

    def first_codes(self, matrix, statistics, alphabet, keep, generator, centered):  # type: ignore[no-untyped-def]
        noise = generator.random(matrix.shape)
        if self.alignment > 1:
            matrix = aligned_weights(matrix, statistics, self.alignment)
            gram_form = isinstance(statistics, LayerStatistics)
            statistics = statistics.of_compressed() if gram_form else CompressedSamples(statistics)
        return follow_path(matrix, statistics, alphabet, keep, centered, noise=noise)


@keras.saving.register_keras_serializable(package="keras_compress")
class SparseGPFQ(GreedyQuantizer):
    """GPFQ with a price on levels that are not zero (Zhang, Zhou & Saab, 2023, section 4): more zeros.

    With "l1" each step minimises 1/2 ||u + w_t X_t - p X~_t||^2 + lambda ||X~_t||^2 |p|, whose solution is the value
    nearest to the softly thresholded argument; the alphabet is the same. With "l0" arguments up to lambda become zero,
    and the others go to values from lambda to the radius R: {0, +-(lambda + k d')} with d' = (R - lambda) / K and
    k = 0 ... K, where K is the alphabet's largest level. These are 2 K + 3 levels, two more than without; the report
    states them, and no TFLite file can hold them.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Ternary`, `Equispaced` or `Midtread` with a zero among its levels, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        regularizer: "l1" or "l0".
        regularization: lambda, in units of weights.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".

    Raises:
        InputError: a setting out of range, both bits and an alphabet, or an alphabet that does not suit.
    """

    def __init__(
        self,
        bits: int | None = None,
        *,
        alphabet: AlphabetSetting | None = None,
        radius: Radius | None = None,
        regularizer: str = "l1",
        regularization: float = 0.1,
        centered: bool = True,
        bias_correction: bool = False,
        order: str = "natural",
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order)
        if regularizer not in REGULARIZERS:
            raise InputError(f"regularizer must be one of {', '.join(REGULARIZERS)}. Received: {regularizer!r}.")
        number = isinstance(regularization, (int, float)) and not isinstance(regularization, bool)
        if not number or not 0 <= regularization < np.inf:
            raise InputError(f"regularization must be a number from 0 upwards. Received: {regularization!r}.")
        levels = self.setting.levels_array
        if not self.setting.has_zero:
            raise InputError(f"SparseGPFQ needs a zero among the levels. Received: {self.setting!r}.")
        if regularizer == "l0" and (not self.setting.symmetric or not np.array_equal(levels, -levels[::-1])):
            raise InputError(f"regularizer='l0' needs an alphabet that is symmetric. Received: {self.setting!r}.")
        if radius in FITTED:
            raise InputError(f"radius={radius!r} takes the zeros back that the regularization makes.")
        self.regularizer = regularizer
        self.regularization = regularization

    @property
    def num_levels(self) -> int:
        return self.setting.num_levels + 2 * (self.regularizer == "l0")

    def layer_alphabet(self, matrices: np.ndarray, statistics: list[Statistics] | None) -> Alphabet:
        alphabet = super().layer_alphabet(matrices, statistics)
        if self.regularizer == "l1":
            return alphabet
        largest = int(alphabet.levels[-1])
        step = np.maximum((alphabet.radius - self.regularization) / largest, np.finfo(np.float32).tiny)
        levels = np.arange(-largest - 1, largest + 2)
        gap = (self.regularization - step).astype(np.float32)
        return Alphabet(levels, step, gap=gap, group_size=alphabet.group_size)

    def fit(self, matrix, statistics, alphabet, keep, generator, centered):  # type: ignore[no-untyped-def]
        threshold = float(self.regularization) if self.regularizer == "l1" else None
        return follow_path(matrix, statistics, alphabet, keep, centered, threshold=threshold), alphabet


class _LeastSquaresQuantizer(RefinedQuantizer):
    """A quantizer whose later weights make up for the error of each code, by means of the inverse of G."""

    damping: float

    @property
    def has_direct_form(self) -> bool:
        return False

    @property
    def copies_statistics(self) -> bool:
        return True

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
        alphabet: `Integer`, `Ternary`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        target: "weights", as published, aims at the outputs of the given weights on the compressed network's
            inputs; "corrected" at the analog network's outputs, from the weights that come closest to them.
        damping: added to the diagonal of X~^T X~, as a fraction of its mean.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".
        refine: sweeps of coordinate descent afterwards.
        compensate_skip: whether a layer whose outputs are added to skip inputs makes up for their residual mismatch.

    Raises:
        InputError: a setting out of range, or both bits and an alphabet.
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
        compensate_skip: bool = False,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order, refine, compensate_skip)
        if target not in TARGETS:
            raise InputError(f"target must be one of {', '.join(TARGETS)}. Received: {target!r}.")
        self.target = target
        self.damping = damping
        self._check_damping()

    def first_codes(self, matrix, statistics, alphabet, keep, generator, centered):  # type: ignore[no-untyped-def]
        return optq(matrix, statistics, alphabet, target=self.target, damping=self.damping, keep=keep)


@keras.saving.register_keras_serializable(package="keras_compress")
class Qronos(_LeastSquaresQuantizer):
    """Qronos (Zhang et al., 2025, arXiv 2505.11695): OPTQ towards the analog network's outputs.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Ternary`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        damping: added to the diagonals of X~^T X~ and X~^T X, as a fraction of the former's mean.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.
        order: of features: "natural" or "descending_diagonal".
        refine: sweeps of coordinate descent afterwards.
        compensate_skip: whether a layer whose outputs are added to skip inputs makes up for their residual mismatch.

    Raises:
        InputError: a setting out of range, or both bits and an alphabet.
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
        compensate_skip: bool = False,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order, refine, compensate_skip)
        self.damping = damping
        self._check_damping()

    def first_codes(self, matrix, statistics, alphabet, keep, generator, centered):  # type: ignore[no-untyped-def]
        return optq(matrix, statistics, alphabet, target="qronos", damping=self.damping, keep=keep)


@keras.saving.register_keras_serializable(package="keras_compress")
class Beacon(GreedyQuantizer):
    """Beacon (arXiv 2508.20293): codes by the direction of the outputs alone, then the best scale for each channel.

    Inputs without any direction, with the energy of one row in all, are added to those of the calibration: few rows
    would leave a direction free in which codes and scale cost nothing.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Ternary`, `Equispaced` or `Midtread` with a scale for each channel, in place of `bits`;
            its radius and scalar are of no consequence.
        sweeps: passes over the features.
        centered: as for `GPFQ`.
        bias_correction: whether the bias takes the mean error of uncentred codes.

    Raises:
        InputError: a setting out of range, both bits and an alphabet, or one scale for the whole layer.
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
        if not self.setting.per_channel or not self.setting.symmetric or self.setting.group_size is not None:
            raise InputError(
                f"Beacon needs one scale for each channel, and a symmetric alphabet. Received: {self.setting!r}."
            )
        self.sweeps = sweeps

    @property
    def has_direct_form(self) -> bool:
        return False

    @property
    def copies_statistics(self) -> bool:
        return True

    @property
    def matrices(self) -> int:
        return super().matrices + 3  # G and H once more, and the ridge

    def fit(self, matrix, statistics, alphabet, keep, generator, centered):  # type: ignore[no-untyped-def]
        return beacon(matrix, statistics.held(), alphabet.levels, sweeps=self.sweeps, keep=keep)
