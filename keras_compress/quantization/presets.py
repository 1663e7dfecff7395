"""The methods by name: one row each, which tables, pictures, flags and `kc.quantize(model, "best", ...)` read.

Without Keras, so that `--help` can list them.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_compress.errors import InputError

if TYPE_CHECKING:
    from keras_compress.quantization.quantizers import Quantizer

# Scales by the alphabet's rule, "mse" for integers; chosen on training images (docs/decisions.md, 44).
REFINED_MSE: dict[str, Any] = {"refine": 6, "compensate_skip": True}
REFINED: dict[str, Any] = {"radius": "search", **REFINED_MSE}
CORRECTED: dict[str, Any] = {"target": "corrected"}
ORDERED: dict[str, Any] = {**CORRECTED, "order": "descending_diagonal"}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A method: a quantizer's class and its settings, and how tables and pictures show it.

    Attributes:
        quantizer: name of the class.
        settings: of its constructor, other than the alphabet.
        label: in tables and legends.
        color: hexadecimal; told apart by the colour-blind (Okabe & Ito; Tol).
        marker: Matplotlib's.
        distilled: whether `distill_scales` follows.
    """

    quantizer: str
    settings: Mapping[str, Any]
    label: str
    color: str
    marker: str
    distilled: bool = False

    def build(self, **settings: Any) -> "Quantizer":
        """The quantizer, with these settings over its own, such as `bits=3`."""
        from keras_compress.quantization import greedy, quantizers  # loads Keras

        built: Quantizer = {**vars(quantizers), **vars(greedy)}[self.quantizer](**{**self.settings, **settings})
        return built


PRESETS: dict[str, Preset] = {  # in the order of tables and legends
    "optq_distilled": Preset(
        "OPTQ", ORDERED | REFINED, "OPTQ, corrected, refined, distilled", "#CC3311", "8", distilled=True
    ),
    "optq_refined": Preset("OPTQ", ORDERED | REFINED, "OPTQ, corrected, refined", "#332288", "*"),
    "gpfq_refined": Preset("GPFQ", REFINED, "GPFQ, refined", "#661100", "P"),
    "optq_refined_mse": Preset(
        "OPTQ", ORDERED | REFINED_MSE, "OPTQ, corrected, refined, MSE scales", "#6699CC", "$\\spadesuit$"
    ),
    "gpfq_refined_mse": Preset("GPFQ", REFINED_MSE, "GPFQ, refined, MSE scales", "#AA4466", "$\\clubsuit$"),
    "optq_corrected": Preset("OPTQ", CORRECTED, "OPTQ, corrected", "#117733", ">"),
    "qronos": Preset("Qronos", {}, "Qronos", "#AA4499", "<"),
    "beacon": Preset("Beacon", {}, "Beacon", "#999933", "h"),
    "optq": Preset("OPTQ", {}, "OPTQ", "#44AA99", "d"),
    "gpfq": Preset("GPFQ", {"centered": True}, "GPFQ, centred", "#0072B2", "o"),
    "gpfq_uncentered": Preset("GPFQ", {"centered": False}, "GPFQ, uncentred", "#56B4E9", "s"),
    "gpfq_bias": Preset("GPFQ", {"centered": False, "bias_correction": True}, "GPFQ, bias corrected", "#009E73", "D"),
    "spfq": Preset("SPFQ", {}, "SPFQ", "#CC79A7", "p"),
    "spfq_aligned": Preset("SPFQ", {"alignment": 3}, "SPFQ, aligned", "#DDCC77", "H"),
    "sparse_gpfq": Preset("SparseGPFQ", {}, "Sparse GPFQ", "#882255", "X"),
    "msq_bias": Preset("MSQ", {"bias_correction": True}, "MSQ, bias corrected", "#E69F00", "^"),
    "msq": Preset("MSQ", {}, "MSQ", "#D55E00", "v"),
}
ALIASES = {"best": "optq_distilled", "fast": "gpfq"}


def preset_of(name: str) -> Preset:
    """The row of a method, by its name or an alias.

    Raises:
        InputError: an unknown name.
    """
    known = {**{alias: PRESETS[method] for alias, method in ALIASES.items()}, **PRESETS}
    if name not in known:
        raise InputError(f"Unknown method: {name!r}. Known: {', '.join(known)}.")
    return known[name]
