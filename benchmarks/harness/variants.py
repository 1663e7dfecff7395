"""Methods of the tables: those of `sweep.METHODS`, with scales by one rule for all, or with scales of their own."""

from typing import Any

RULE = "mse"  # the radius rule of all methods that take one

# Name in tables: name in `sweep.METHODS`, and the radius rule; None leaves the scales to the method. In the order of
# tables and pictures.
VARIANTS: dict[str, tuple[str, str | None]] = {
    "msq": ("msq", RULE),
    "msq_bias": ("msq_bias", RULE),
    "gpfq_uncentered": ("gpfq_uncentered", RULE),
    "gpfq_bias": ("gpfq_bias", RULE),
    "gpfq": ("gpfq", RULE),
    "spfq": ("spfq", RULE),
    "spfq_aligned": ("spfq_aligned", RULE),
    "sparse_gpfq": ("sparse_gpfq", RULE),
    "optq": ("optq", RULE),
    "qronos": ("qronos", RULE),
    "optq_corrected": ("optq_corrected", RULE),
    "gpfq_refined": ("gpfq_refined", RULE),
    "optq_refined": ("optq_refined", RULE),
    "beacon_fitted": ("beacon", None),
    "gpfq_refined_fitted": ("gpfq_refined", None),
    "optq_refined_fitted": ("optq_refined", None),
    "optq_distilled_fitted": ("optq_distilled", None),
}


def variant_of(row: dict[str, Any]) -> str:
    """The variant that a row of `sweep.run` belongs to."""
    return row["method"] if row["radius"] == RULE else f"{row['method']}_fitted"


def label(variant: str) -> str:
    """What tables and pictures call it."""
    from keras_compress.sweep import style  # loads Keras, which --help need not wait for

    method, radius = VARIANTS[variant]
    return style.LABELS[method] + ("" if radius else ", fitted scales")


def quantizer(variant: str, bits: int) -> Any:
    """The `kc.Quantizer` of a variant, with the alphabet `kc.Integer`."""
    from keras_compress import sweep

    method, radius = VARIANTS[variant]
    (configuration,) = sweep.Grid(methods=[method], bits=[bits], radius=radius)
    return configuration.quantizer()
