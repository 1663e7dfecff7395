"""Quantizers: what decides the numbers. `quantize()` decides how the work is done."""

import abc
from typing import Any, Self

import keras
import numpy as np

from keras_compress.errors import InputError, check_integer
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.descent import descend, fit_scale
from keras_compress.numerics.gpfq import gpfq, gpfq_direct
from keras_compress.numerics.objective import best_copy, excess, objective_of
from keras_compress.numerics.statistics import LayerSamples, LayerStatistics, Moments, centered_statistics
from keras_compress.quantization.alphabets import (
    FITTED,
    AlphabetSetting,
    Configured,
    Integer,
    Radius,
    check_radius,
)

Statistics = Moments | LayerStatistics | LayerSamples
ORDERS = ("natural", "descending_diagonal")
SEARCHED = (1.0, 0.9, 0.8, 0.7, 0.6, 1.1, 1.2, 1.35)  # first radii of the rule "search", as factors on that of "mse"


class Quantizer(Configured, abc.ABC):
    """Gives a layer's weights their codes.

    Attributes:
        compensate_skip: whether a layer whose outputs are added to skip inputs makes up for their residual mismatch.
        bits: bits of the alphabet `Integer`, if no alphabet is given; None is 4.
        alphabet: setting from which each layer gets its alphabet.
        radius: "median", "max", "mse" (grid search, weighted by the inputs' second moments where they are known),
            "quantile", a quantile of |w| in (0, 1], or None for the alphabet's own rule; for greedy quantizers also
            "alternating" (from that of "mse", scale and codes in turn) and "search" (the same from several radii).
        bias_correction: whether the bias takes the mean error that the codes leave.
    """

    compensate_skip = False

    def __init__(
        self, bits: int | None, alphabet: AlphabetSetting | None, radius: Radius | None, bias_correction: bool
    ):
        if alphabet is not None and not isinstance(alphabet, AlphabetSetting):
            raise InputError(
                "alphabet is kc.Integer(...), kc.Ternary(...), kc.Equispaced(...), kc.Midtread(...) or None. Received: "
                f"{alphabet!r}."
            )
        if bits is not None and alphabet is not None:
            raise InputError(
                f"Give bits or an alphabet, which has bits of its own. Received: {bits!r} and {alphabet!r}."
            )
        check_radius(radius)
        self.bits = bits
        self.alphabet = alphabet
        self.radius = radius
        self.bias_correction = bias_correction
        self.setting = alphabet or Integer(4 if bits is None else bits)

    @property
    @abc.abstractmethod
    def requires(self) -> str:
        """What `codes` needs of the calibration data: "nothing", "moments" or "gram"."""

    @property
    def centers(self) -> bool:
        """Whether the codes themselves count on a bias that takes the mean error."""
        return False

    @property
    def matrices(self) -> int:
        """N x N matrices that the solver holds besides G and H in the Gram form."""
        return 0

    @property
    def has_direct_form(self) -> bool:
        """Whether it can do without N x N matrices."""
        return True

    @property
    def num_levels(self) -> int:
        """Number of levels that a weight may take."""
        return self.setting.num_levels

    def layer_alphabet(self, matrices: np.ndarray, statistics: list[Statistics] | None) -> Alphabet:
        """The alphabet for (groups, N, units) weights, given the statistics of each group."""
        weights = (
            None if statistics is None else np.concatenate([np.atleast_2d(group.diagonal) for group in statistics])
        )
        return self.setting.for_layer(matrices, "mse" if self.radius in FITTED else self.radius, weights)

    @abc.abstractmethod
    def solve(
        self,
        matrix: np.ndarray,
        statistics: Statistics | None,
        alphabet: Alphabet,
        *,
        keep: np.ndarray | None = None,
        centered: bool = False,
        channels: list[np.ndarray] | None = None,
        generator: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, Alphabet]:
        """Integer codes (N, units) of one group's weights, and the alphabet, whose scale may have changed.

        Args:
            matrix: (N, units).
            statistics: of the layer's inputs.
            alphabet: of this group.
            keep: (N, units) boolean, false where the weight must be zero.
            centered: whether the mean error is left to the bias.
            channels: indices of the features of each input channel, for convolutions.
            generator: of random numbers, for stochastic quantizers.
        """

    def with_bits(self, bits: int) -> Self:
        """The same quantizer with another number of bits, and as many levels as its kind of alphabet then has."""
        config = Configured.get_config(self)
        if self.alphabet is None:
            return type(self)(**config | {"bits": bits})
        return type(self)(**config | {"alphabet": self.alphabet.with_bits(bits)})

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["alphabet"] = keras.saving.serialize_keras_object(self.alphabet) if self.alphabet else None
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        if isinstance(config.get("alphabet"), dict):
            config["alphabet"] = keras.saving.deserialize_keras_object(config["alphabet"])
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_compress")
class MSQ(Quantizer):
    """Memoryless scalar quantization: each weight goes to the nearest value of the alphabet.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Ternary`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        bias_correction: whether the bias takes the mean error; needs calibration data.

    Raises:
        InputError: a setting out of range, or both bits and an alphabet.
    """

    def __init__(
        self,
        bits: int | None = None,
        *,
        alphabet: AlphabetSetting | None = None,
        radius: Radius | None = None,
        bias_correction: bool = False,
    ):
        super().__init__(bits, alphabet, radius, bias_correction)
        if radius in FITTED:
            raise InputError(f"radius={radius!r} fits scales to codes that follow the data: use GPFQ or another one.")

    @property
    def requires(self) -> str:
        weighted = (self.setting.default_radius if self.radius is None else self.radius) == "mse"
        return "moments" if self.bias_correction or weighted else "nothing"

    def solve(self, matrix, statistics, alphabet, *, keep=None, centered=False, channels=None, generator=None):  # type: ignore[no-untyped-def]
        codes = alphabet.nearest(matrix)
        return codes if keep is None else np.where(keep, codes, alphabet.zero_code), alphabet


class GreedyQuantizer(Quantizer):
    """A quantizer that works from the layer's statistics G and H.

    Attributes:
        centered: whether to minimise the error around its mean, which the layer's bias then takes (or a BatchNorm that
            follows; a layer with neither is quantized uncentred).
        order: "natural", or "descending_diagonal": features with the largest second moment first.
    """

    def __init__(
        self,
        bits: int | None,
        alphabet: AlphabetSetting | None,
        radius: Radius | None,
        bias_correction: bool,
        centered: bool,
        order: str,
    ):
        super().__init__(bits, alphabet, radius, bias_correction)
        if order not in ORDERS:
            raise InputError(f"order must be one of {', '.join(ORDERS)}. Received: {order!r}.")
        if order != "natural" and self.setting.group_size is not None:
            raise InputError(f"group_size, of neighbouring features, goes with order='natural'. Received: {order!r}.")
        self.centered = centered
        self.order = order

    @property
    def requires(self) -> str:
        return "gram"

    @property
    def centers(self) -> bool:
        return self.centered

    @property
    def has_direct_form(self) -> bool:
        return self.order == "natural"

    @property
    def copies_statistics(self) -> bool:
        """Whether centring takes a copy of G and H."""
        return self.order != "natural"

    @property
    def matrices(self) -> int:
        return 2 * (self.centered and self.copies_statistics) + 2 * (self.order != "natural")

    @abc.abstractmethod
    def fit(
        self,
        matrix: np.ndarray,
        statistics: Any,
        alphabet: Alphabet,
        keep: np.ndarray | None,
        generator: np.random.Generator | None,
        centered: bool,
    ) -> tuple[np.ndarray, Alphabet]:
        """Codes (N, units) and alphabet, from `LayerStatistics` or `LayerSamples` in order.

        Where `copies_statistics`, the statistics are centred already, and `centered` is false.
        """

    def solve(self, matrix, statistics, alphabet, *, keep=None, centered=False, channels=None, generator=None):  # type: ignore[no-untyped-def]
        if centered and self.copies_statistics:
            statistics, centered = centered_statistics(statistics), False
        if self.order == "natural":
            return self.fit(matrix, statistics, alphabet, keep, generator, centered)
        index = np.argsort(-statistics.diagonal, kind="stable")
        rows = index[..., None]
        kept = None if keep is None else np.take_along_axis(keep, rows, axis=-2)
        ordered = np.take_along_axis(matrix, rows, axis=-2)
        ordered_codes, alphabet = self.fit(ordered, statistics.features(index), alphabet, kept, generator, centered)
        codes = np.empty_like(ordered_codes)
        np.put_along_axis(codes, rows, ordered_codes, axis=-2)
        return codes, alphabet


class RefinedQuantizer(GreedyQuantizer):
    """A greedy quantizer that may go over its codes and scales again.

    Attributes:
        refine: sweeps of coordinate descent over the codes, each after a fit of the scales where the radius is
            "alternating" or "search"; none of them raises a layer's error.
        compensate_skip: whether a layer whose outputs are added to skip inputs, as at the end of a residual block,
            makes up for their residual mismatch. In the Gram form.
    """

    def __init__(
        self,
        bits: int | None,
        alphabet: AlphabetSetting | None,
        radius: Radius | None,
        bias_correction: bool,
        centered: bool,
        order: str,
        refine: int,
        compensate_skip: bool,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order)
        self.compensate_skip = compensate_skip
        check_integer("refine", refine, 0)
        if radius in FITTED and not self.setting.per_channel:
            raise InputError(f"radius={radius!r} needs a scale for each channel. Received: {self.setting!r}.")
        self.refine = refine

    @property
    def has_direct_form(self) -> bool:
        in_groups = self.radius in FITTED and self.setting.group_size is not None
        return super().has_direct_form and not in_groups

    @property
    def copies_statistics(self) -> bool:
        return super().copies_statistics or self.refines

    @property
    def refines(self) -> bool:
        """Whether anything follows the first codes."""
        return self.refine > 0 or self.radius in FITTED

    @abc.abstractmethod
    def first_codes(
        self,
        matrix: np.ndarray,
        statistics: Any,
        alphabet: Alphabet,
        keep: np.ndarray | None,
        generator: np.random.Generator | None,
        centered: bool,
    ) -> np.ndarray:
        """Codes (N, units) before any refinement; see `fit`."""

    def fit(self, matrix, statistics, alphabet, keep, generator, centered):  # type: ignore[no-untyped-def]
        """From one first radius, or from several side by side, as so many more channels."""
        if not self.refines:
            return self.first_codes(matrix, statistics, alphabet, keep, generator, centered), alphabet
        factors = SEARCHED if self.radius == "search" else (1.0,)
        objective, allowed = objective_of(matrix, statistics), keep
        if len(factors) > 1:
            alphabet, objective = alphabet.side_by_side(factors), objective.repeated(len(factors))
            allowed = None if keep is None else np.tile(keep, len(factors))
        codes = self.first_codes(np.tile(matrix, len(factors)), statistics, alphabet, allowed, generator, centered)
        objective.place(alphabet.decode(codes).astype(np.float64))
        if self.radius in FITTED:
            for _ in range(max(self.refine, 1)):
                alphabet = fit_scale(objective, alphabet, codes)
                codes = descend(objective, alphabet, codes, sweeps=1, keep=allowed)
        else:
            codes = descend(objective, alphabet, codes, sweeps=self.refine, keep=allowed)
        if len(factors) == 1:
            return codes, alphabet
        best = best_copy(excess(objective), len(factors))
        return np.take_along_axis(codes, best[..., None, :], axis=-1), alphabet.channels(best)


@keras.saving.register_keras_serializable(package="keras_compress")
class GPFQ(RefinedQuantizer):
    """Greedy path following quantization (Lybrand & Saab, 2021, eq. 2; Zhang, Zhou & Saab, 2023, eq. 7 and 8).

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Ternary`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        centered: whether to minimise the error around its mean, which the layer's bias then takes (or a BatchNorm that
            follows; a layer with neither is quantized uncentred).
        bias_correction: whether the bias takes the mean error of uncentred codes; `centered` includes it.
        patches: "joint" quantizes a convolution's neuron over whole patches; "per_channel" one input channel at a time,
            as in the experiments of 2021.
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
        centered: bool = True,
        bias_correction: bool = False,
        patches: str = "joint",
        order: str = "natural",
        refine: int = 0,
        compensate_skip: bool = False,
    ):
        super().__init__(bits, alphabet, radius, bias_correction, centered, order, refine, compensate_skip)
        if patches not in ("joint", "per_channel"):
            raise InputError(f"patches must be 'joint' or 'per_channel'. Received: {patches!r}.")
        if patches == "per_channel" and (order != "natural" or self.refines):
            raise InputError("patches='per_channel' goes without order, refine, and radius 'alternating' or 'search'.")
        self.patches = patches

    def first_codes(self, matrix, statistics, alphabet, keep, generator, centered):  # type: ignore[no-untyped-def]
        return follow_path(matrix, statistics, alphabet, keep, centered)

    def solve(self, matrix, statistics, alphabet, *, keep=None, centered=False, channels=None, generator=None):  # type: ignore[no-untyped-def]
        if self.patches == "joint" or channels is None:
            return super().solve(matrix, statistics, alphabet, keep=keep, centered=centered)
        codes = np.empty(matrix.shape, alphabet.nearest(matrix[:1]).dtype)
        for index in channels:
            part = None if keep is None else keep[index]
            codes[index] = follow_path(matrix[index], statistics.features(index), alphabet, part, centered)
        return codes, alphabet


def follow_path(
    matrix: np.ndarray,
    statistics: Any,
    alphabet: Alphabet,
    keep: np.ndarray | None,
    centered: bool,
    **rounding: Any,
) -> np.ndarray:
    """Codes (N, units) of GPFQ in the form that the statistics allow; `rounding` is noise or threshold."""
    if isinstance(statistics, LayerStatistics):
        return gpfq(matrix, statistics, alphabet, centered=centered, keep=keep, **rounding)
    samples = centered_statistics(statistics) if centered else statistics
    return gpfq_direct(matrix, samples, alphabet, keep=keep, **rounding)[0]
