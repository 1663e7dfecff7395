"""Grids: the product of lists of settings, as quantizers."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_compress.errors import InputError
from keras_compress.export.policy import MODES, STORAGES
from keras_compress.quantization.alphabets import AlphabetSetting, Equispaced, Integer, Midtread, Radius
from keras_compress.quantization.plan import FORMS
from keras_compress.quantization.presets import ALIASES, PRESETS, preset_of
from keras_compress.quantization.quantizers import Quantizer

EXPORTS = tuple(f"{mode}/{storage}" for mode in MODES for storage in STORAGES)
ALPHABETS: dict[str, Callable[..., AlphabetSetting]] = {
    "integer": Integer,
    "integer_full": functools.partial(Integer, narrow_range=False),
    "equispaced": Equispaced,
    "midtread": Midtread,
}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One point of a grid. `bits` or `levels` is None."""

    method: str
    alphabet: str
    bits: int | None
    levels: int | None
    scalar: float
    dense_scalar: float
    num_samples: int
    radius: Radius | None = None
    patches: str = "joint"
    regularizer: str | None = None
    regularization: float | None = None

    def quantizer(self, *, dense: bool = False) -> Quantizer:
        """The quantizer of convolutional layers, or of Dense layers."""
        preset = PRESETS[self.method]
        settings: dict[str, Any] = {"alphabet": self._alphabet(self.dense_scalar if dense else self.scalar)}
        if preset.quantizer == "GPFQ":
            settings["patches"] = self.patches
        if self.regularizer is not None:
            settings |= {"regularizer": self.regularizer, "regularization": self.regularization}
        if self.radius is not None:
            if "radius" not in preset.build().get_config():
                raise InputError(f"{self.method} finds its scales by itself. Received: the radius {self.radius!r}.")
            settings["radius"] = self.radius
        return preset.build(**settings)

    @property
    def distills(self) -> bool:
        """Whether the scales are trained afterwards, by `distill_scales`."""
        return PRESETS[self.method].distilled

    @property
    def width(self) -> str:
        """ "4 bits" or "3 levels"."""
        if self.levels is not None:
            return f"{self.levels} levels"
        return f"{self.bits} bit{'s' if self.bits != 1 else ''}"

    def __str__(self) -> str:
        scalars = f"C {self.scalar:g}" + (f" dense {self.dense_scalar:g}" if self.dense_scalar != self.scalar else "")
        price = "" if self.regularizer is None else f" {self.regularizer} {self.regularization:g}"
        return f"{self.method}{price} {self.alphabet} {self.width} {scalars} {self.num_samples} samples"

    def _alphabet(self, scalar: float) -> AlphabetSetting:
        build = ALPHABETS[self.alphabet]
        if self.levels is None:
            return build(self.bits, scalar=scalar)
        if build is not Midtread:
            return build(levels=self.levels, scalar=scalar)
        bits = (self.levels - 1).bit_length() - 1
        if self.levels != 2**bits + 1 or bits < 1:
            raise InputError(f"The alphabet midtread has 2^b + 1 levels: 3, 5, 9, 17, ... Received: {self.levels}.")
        return Midtread(bits, scalar=scalar)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The product of lists; each value is checked when the grid is made.

    Attributes:
        methods: names from `quantization.presets.PRESETS`, or their aliases.
        bits: bits of a weight.
        levels: numbers of levels; they join `bits`.
        alphabets: names from `ALPHABETS`; "integer_full" is the one with -2^(b-1).
        scalars: C, factors on the radius.
        dense_scalars: C of Dense layers; None is the same as that of the other layers, in pairs.
        num_samples: calibration samples.
        radius: rule for the radius; None is the alphabet's own.
        patches: of convolutions, for GPFQ: "joint" or "per_channel".
        regularizer: of sparse_gpfq: "l1" or "l0".
        regularizations: lambdas of sparse_gpfq.
        form: of the solvers, see `quantize`.
        fold: whether BatchNorm layers are folded first, wherever that is exact.
        ignore_layers: names, paths or regular expressions of layers that stay in floating point.
        exports: TFLite files to write of each network and to test on the same samples, from `EXPORTS`: the activations
            and the storage of `export_tflite`, such as "int8/small". Ranges of activations are those that
            `quantize_activations` finds on the calibration samples.

    Raises:
        InputError: a value out of range, an unknown name, or a list that leaves nothing.
    """

    methods: Sequence[str] = ("gpfq", "msq")
    bits: Sequence[int] = ()
    levels: Sequence[int] = ()
    alphabets: Sequence[str] = ("integer",)
    scalars: Sequence[float] = (1.0,)
    dense_scalars: Sequence[float] | None = None
    num_samples: Sequence[int] = (500,)
    radius: Radius | None = None
    patches: str = "joint"
    regularizer: str = "l1"
    regularizations: Sequence[float] = (0.1,)
    form: str = "auto"
    fold: bool = True
    ignore_layers: Sequence[str] = ()
    exports: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.methods:
            preset_of(name)  # checks
        object.__setattr__(self, "methods", tuple(ALIASES.get(name, name) for name in self.methods))
        for name in self.alphabets:
            if name not in ALPHABETS:
                raise InputError(f"Unknown alphabet: {name!r}. Known: {', '.join(ALPHABETS)}.")
        if not self.bits and not self.levels:
            raise InputError("A grid needs bits or levels, such as bits=[2, 3, 4] or levels=[3]. Received: neither.")
        for field in ("methods", "alphabets", "scalars", "dense_scalars", "num_samples", "regularizations"):
            if getattr(self, field) is not None and not getattr(self, field):
                raise InputError(f"A grid needs at least one entry in {field}. Received: none.")
        for number in self.num_samples:
            if number < 1:
                raise InputError(f"num_samples must be at least 1. Received: {number}.")
        if self.form not in FORMS:
            raise InputError(f"form must be one of {', '.join(FORMS)}. Received: {self.form!r}.")
        for export in self.exports:
            if export not in EXPORTS:
                raise InputError(f"exports must be among {', '.join(EXPORTS)}. Received: {export!r}.")
        for configuration in self:
            configuration.quantizer(), configuration.quantizer(dense=True)  # their constructors check

    def __iter__(self) -> Iterator[Configuration]:
        """Every configuration once; those that share their samples follow each other."""
        widths = [(bits, None) for bits in self.bits] + [(None, levels) for levels in self.levels]
        pairs = (
            [(scalar, scalar) for scalar in self.scalars]
            if self.dense_scalars is None
            else list(itertools.product(self.scalars, self.dense_scalars))
        )
        methods = [(method, price) for method in self.methods for price in self._prices(method)]
        product = itertools.product(self.num_samples, self.alphabets, widths, pairs, methods)
        yield from dict.fromkeys(
            Configuration(
                method,
                alphabet,
                bits,
                levels,
                float(conv),
                float(dense),
                count,
                self.radius,
                self.patches,
                None if price is None else self.regularizer,
                price,
            )
            for count, alphabet, (bits, levels), (conv, dense), (method, price) in product
        )

    def _prices(self, method: str) -> list[float] | list[None]:
        return [float(price) for price in self.regularizations] if PRESETS[method].quantizer == "SparseGPFQ" else [None]

    def __len__(self) -> int:
        return sum(1 for _ in self)
