"""Quantizers: what decides the numbers. `quantize()` decides how the work is done."""

import abc
from typing import Any, Self

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.numerics.alphabet import Alphabet
from keras_compress.numerics.gpfq import gpfq, gpfq_direct
from keras_compress.numerics.statistics import LayerSamples, LayerStatistics, Moments
from keras_compress.quantization.alphabets import AlphabetSetting, Configured, Integer, Radius, check_radius

Evidence = Moments | LayerStatistics | LayerSamples


class Quantizer(Configured, abc.ABC):
    """Gives a layer's weights their codes.

    Attributes:
        bits: bits of the alphabet `Integer`, if no alphabet is given; None is 4.
        alphabet: where the letters come from.
        radius: "median", "max", "mse" (grid search, weighted by the inputs' second moments where they are known),
            "quantile", a quantile of |w| in (0, 1], or None for the alphabet's own rule.
        bias_correction: whether the bias takes the mean of the error that the codes leave.
    """

    def __init__(
        self, bits: int | None, alphabet: AlphabetSetting | None, radius: Radius | None, bias_correction: bool
    ):
        if alphabet is not None and not isinstance(alphabet, AlphabetSetting):
            raise InputError(
                f"alphabet is kc.Integer(...), kc.Equispaced(...), kc.Midtread(...) or None. Received: {alphabet!r}."
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
    def evidence(self) -> str:
        """What `codes` needs of the calibration data: "nothing", "moments" or "gram"."""

    @property
    def centers(self) -> bool:
        """Whether the codes themselves count on a bias that takes the mean error."""
        return False

    def layer_alphabet(self, matrices: np.ndarray, evidence: list[Evidence] | None) -> Alphabet:
        """Letters for (groups, N, units) weights, given the evidence of each group."""
        weights = None if evidence is None else np.stack([group.diagonal for group in evidence])
        return self.setting.for_layer(matrices, self.radius, weights)

    @abc.abstractmethod
    def codes(
        self,
        matrix: np.ndarray,
        evidence: Evidence | None,
        alphabet: Alphabet,
        *,
        keep: np.ndarray | None = None,
        centered: bool = False,
        channels: list[np.ndarray] | None = None,
    ) -> np.ndarray:
        """Integer codes (N, units) of one group's weights.

        Args:
            matrix: (N, units).
            evidence: of the layer's inputs.
            alphabet: letters.
            keep: (N, units) boolean, false where the weight must be zero.
            centered: whether the mean error is left to the bias.
            channels: indices of the features of each input channel, for convolutions.
        """

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
    """Memoryless scalar quantization: each weight goes to the nearest letter.

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        bias_correction: whether the bias takes the mean error; needs calibration data.

    Raises:
        InputError: a setting out of range, or bits beside an alphabet.
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

    @property
    def evidence(self) -> str:
        weighted = (self.setting.default_radius if self.radius is None else self.radius) == "mse"
        return "moments" if self.bias_correction or weighted else "nothing"

    def codes(self, matrix, evidence, alphabet, *, keep=None, centered=False, channels=None):  # type: ignore[no-untyped-def]
        codes = alphabet.nearest(matrix)
        return codes if keep is None else np.where(keep, codes, alphabet.zero_code)


@keras.saving.register_keras_serializable(package="keras_compress")
class GPFQ(Quantizer):
    """Greedy path following quantization (Lybrand & Saab, 2021, eq. 2; Zhang, Zhou & Saab, 2023, eq. 7 and 8).

    Args:
        bits: bits a weight of the alphabet `Integer`; None is 4, or what `alphabet` has.
        alphabet: `Integer`, `Equispaced` or `Midtread`, in place of `bits`.
        radius: rule for the alphabet's radius; None is the alphabet's own.
        centered: whether to minimise the error around its mean, which the layer's bias then takes (or a BatchNorm that
            follows; a layer with neither is quantized uncentred).
        bias_correction: whether the bias takes the mean error of uncentred codes; `centered` includes it.
        patches: "joint" quantizes a convolution's neuron over whole patches; "per_channel" one input channel at a time,
            as in the experiments of 2021.

    Raises:
        InputError: a setting out of range, or bits beside an alphabet.
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
    ):
        super().__init__(bits, alphabet, radius, bias_correction)
        if patches not in ("joint", "per_channel"):
            raise InputError(f"patches must be 'joint' or 'per_channel'. Received: {patches!r}.")
        self.centered = centered
        self.patches = patches

    @property
    def evidence(self) -> str:
        return "gram"

    @property
    def centers(self) -> bool:
        return self.centered

    def codes(self, matrix, evidence, alphabet, *, keep=None, centered=False, channels=None):  # type: ignore[no-untyped-def]
        if self.patches == "joint" or channels is None:
            return _follow(matrix, evidence, alphabet, keep, centered)
        codes = np.empty(matrix.shape, alphabet.nearest(matrix[:1]).dtype)
        for index in channels:
            part = None if keep is None else keep[index]
            codes[index] = _follow(matrix[index], evidence.features(index), alphabet, part, centered)
        return codes


def _follow(
    matrix: np.ndarray, evidence: Any, alphabet: Alphabet, keep: np.ndarray | None, centered: bool
) -> np.ndarray:
    if isinstance(evidence, LayerStatistics):
        return gpfq(matrix, evidence, alphabet, centered=centered, keep=keep)
    codes, _ = gpfq_direct(matrix, evidence, alphabet, centered=centered, keep=keep)
    return codes
