"""What is known of the variables of a model, by their paths."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from keras_compress.result.quantized_kernel import QuantizedKernel


@dataclasses.dataclass(frozen=True, repr=False)
class VariableState:
    """What is known of one variable.

    Attributes:
        codes: the integers that it is decoded from, bit for bit; or None.
        mask: booleans of its shape, false where a zero must stay; or None.
        clusters: integers of its shape: weights with the same number are equal, and stay so; or None.
    """

    codes: QuantizedKernel | None = None
    mask: np.ndarray | None = None
    clusters: np.ndarray | None = None

    def __repr__(self) -> str:
        parts = [] if self.codes is None else [f"codes={self.codes!r}"]
        parts += [] if self.mask is None else [f"mask=<{1 - np.mean(self.mask):.1%} zeros>"]
        parts += [] if self.clusters is None else [f"clusters=<{len(np.unique(self.clusters))} values>"]
        return f"VariableState({', '.join(parts)})"

    def __bool__(self) -> bool:
        return bool(self.parts())

    def updated(self, other: "VariableState") -> "VariableState":
        """With the parts that `other` has in place of its own."""
        return dataclasses.replace(self, **{part: getattr(other, part) for part in other.parts()})

    def parts(self) -> list[str]:
        """Names of the attributes that are not None."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]

    def holds(self, other: "VariableState") -> bool:
        """Whether it has the very parts that `other` has."""
        return all(getattr(self, part) is getattr(other, part) for part in other.parts())

    def broken(self, value: np.ndarray | None) -> dict[str, str]:
        """The parts that a value does not agree with, and how; all of them where there is no such variable."""
        if value is None:
            return dict.fromkeys(self.parts(), "their layers are gone")
        reasons = {}
        if self.codes is not None and not np.array_equal(self.codes.decode(), value):
            reasons["codes"] = "weights changed"
        if self.mask is not None and (self.mask.shape != value.shape or value[~self.mask].any()):
            reasons["mask"] = "zeros were not kept"
        if self.clusters is not None and not _is_clustered(value, self.clusters):
            reasons["clusters"] = "weights of a cluster differ"
        return reasons

    def without(self, parts: Iterable[str]) -> "VariableState":
        """Without some parts."""
        return dataclasses.replace(self, **dict.fromkeys(parts))

    def scaled(self, factor: np.ndarray, path: str) -> "VariableState":
        """Of the variable with each output channel times a number: codes with other scales, the same zeros.

        Clusters stay as they are, and no longer hold where they reach over channels: see `broken`.

        Args:
            factor: (n_out,).
            path: of the layer, for the message.

        Raises:
            InputError: see `QuantizedKernel.multiplied`.
        """
        codes = None if self.codes is None else self.codes.multiplied(factor, path)
        return dataclasses.replace(self, codes=codes)

    def sliced(self, positions: np.ndarray, axis: int) -> "VariableState":
        """Of the variable without all but some positions of an axis, as `np.take` gives it.

        Raises:
            InputError: groups of features with a scale each, and an axis that cuts them.
        """
        codes = None if self.codes is None else self.codes.taken(positions, axis)
        parts = (None if part is None else np.take(part, positions, axis) for part in (self.mask, self.clusters))
        return VariableState(codes, *parts)


def merged(states: Mapping[str, VariableState], others: Mapping[str, VariableState]) -> dict[str, VariableState]:
    """By path: the parts of both, those of `others` where both have one."""
    return {**states, **{path: states.get(path, VariableState()).updated(other) for path, other in others.items()}}


def _is_clustered(value: np.ndarray, clusters: np.ndarray) -> bool:
    if clusters.shape != value.shape:
        return False
    order = np.argsort(clusters, axis=None, kind="stable")
    numbers, values = clusters.ravel()[order], value.ravel()[order]
    return bool((values[1:] == values[:-1])[numbers[1:] == numbers[:-1]].all())
