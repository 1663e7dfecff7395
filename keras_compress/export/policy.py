"""Which weight type of TFLite holds a kernel's codes, by operator, mode and storage.

The widths were found by running them (ai-edge-litert 2.3); `docs/guides/export.md` shows them as a table.
"""

import dataclasses

from keras_compress.result import QuantizedKernel

MODES = ("float", "dynamic", "int8")  # of the activations
STORAGES = ("fast", "small")

# Operator: for each mode how a kernel is read, and the widths that run correctly. "weight-only": an operator
# DEQUANTIZE stands before it; "dynamic": the operator quantizes its inputs on the fly; "static": integers all through.
RUNS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "FULLY_CONNECTED": {
        "float": ("weight-only", (2, 4, 8)),
        "dynamic": ("dynamic", (2, 4, 8)),
        "int8": ("static", (2, 4, 8)),
    },
    "CONV_2D": {
        "float": ("weight-only", (2, 4, 8)),
        "dynamic": ("dynamic", (4, 8)),  # 2 bits: NaN
        "int8": ("static", (4, 8)),  # 2 bits: refused when it is loaded
    },
    "DEPTHWISE_CONV_2D": {
        "float": ("weight-only", (2, 4, 8)),
        "dynamic": ("weight-only", (2, 4, 8)),  # dynamic: 8 bits slow, 4 and 2 refused
        "int8": ("static", (4, 8)),
    },
    "TRANSPOSE_CONV": {
        "float": ("weight-only", (2, 4, 8)),
        "dynamic": ("weight-only", (2, 4, 8)),
        "int8": ("static", (8,)),
    },
}
# Least bits with storage="fast", where they are not 8: XNNPACK's 4-bit kernels were faster than those of 8 bits on all
# processors that were tried, those of 2 bits on some.
FAST = {"FULLY_CONNECTED": 4}
# Steps of a bias, where they are not 2^30: XNNPACK multiplies by 4-bit weights times 16, and its sums by 16 too.
BIASES = {("FULLY_CONNECTED", 4): 2**26}


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a kernel goes into a file."""

    reads: str  # "weight-only", "dynamic", "static"
    storage_bits: int  # of the weight type


def placement(operator: str, mode: str, storage: str, needed: int) -> Placement:
    """How codes that need so many bits (2, 4 or 8) go into an operator."""
    reads, widths = RUNS[operator][mode]
    least = needed if storage == "small" else max(needed, FAST.get(operator, 8))
    return Placement(reads, next(bits for bits in widths if bits >= least))


def refusal(kernel: QuantizedKernel) -> str:
    """Why no TFLite weight type holds a kernel's codes, or ""."""
    if kernel.group_size is not None:
        return "TFLite has no scales for groups of inputs"
    if kernel.zero_point is not None:
        return "TFLite's weights have no zero point: pass symmetric=True"
    if kernel.gap is not None:
        return "the values of its alphabet (L0) are no multiples of one scale"
    if kernel.storage_bits is None:
        return f"its {len(kernel.levels)} levels, {kernel.levels[0]} to {kernel.levels[-1]}, do not fit into 8 bits"
    return ""
