"""What every technique returns: an ordinary model, what is known of its weights, and the report."""

import collections
import dataclasses
import os
from collections.abc import Mapping

import keras
import numpy as np

from keras_compress.errors import InputError
from keras_compress.layers.folding import Fold, fold
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import no_model
from keras_compress.layers.rewrite import Rewrite
from keras_compress.numerics.inputs import InputSamples
from keras_compress.report import Report, Step
from keras_compress.result.quantized_kernel import QuantizedKernel
from keras_compress.result.saving import save
from keras_compress.result.states import VariableState, merged

PLURALS = {"codes": "codes", "mask": "masks", "clusters": "clusters"}


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What flows between techniques.

    Attributes:
        model: an ordinary `keras.Model`.
        states: path of a kernel -> `VariableState`. The path is that of the layer, followed by the kernel's name where
            the layer has several: `separable/pointwise_kernel`.
        report: what was done.
        inputs: ranges of the inputs, and a few samples, of the last step that saw calibration data: what exported files
            are checked on.
    """

    model: keras.Model
    states: dict[str, VariableState] = dataclasses.field(default_factory=dict)
    report: Report = dataclasses.field(default_factory=Report)
    inputs: InputSamples | None = None

    def __repr__(self) -> str:
        counts = collections.Counter(part for state in self.states.values() for part in state.parts())
        known = ", ".join(f"{name} of {_counted(counts[part])}" for part, name in PLURALS.items() if counts[part])
        steps = ", ".join(step.technique for step in self.report.steps)
        return f"Result(model {self.model.name!r}: {known or 'nothing known of its weights'}; steps: {steps or 'none'})"

    @property
    def kernels(self) -> dict[str, QuantizedKernel]:
        """Path -> codes; the kernel in `model` equals their `decode()`, bit for bit."""
        return {path: state.codes for path, state in self.states.items() if state.codes is not None}

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Path -> booleans, false where a zero must stay."""
        return {path: state.mask for path, state in self.states.items() if state.mask is not None}

    @property
    def clusters(self) -> dict[str, np.ndarray]:
        """Path -> integers: weights with the same number are equal."""
        return {path: state.clusters for path, state in self.states.items() if state.clusters is not None}

    @classmethod
    def of(cls, model_or_result: "keras.Model | Result") -> "Result":
        """The result itself, or a model as a result to which nothing has been done.

        Raises:
            InputError: neither a Keras model nor a result, or weights that differ from the decoded codes.
        """
        if isinstance(model_or_result, Result):
            model_or_result.check()
            return model_or_result
        if isinstance(model_or_result, keras.Model):
            return cls(model_or_result)
        raise InputError(f"A keras.Model or a kc.Result is expected. Received: {no_model(model_or_result)}")

    def check(self) -> None:
        """Compares the model's kernels with the decoded codes.

        Raises:
            InputError: a kernel differs, or a path names no layer.
        """
        views = views_by_path(self.model) if self.states else {}
        for path, quantized in self.kernels.items():
            if path not in views:
                raise InputError(f"The result has codes for layer {path!r}, which its model does not have.")
            if not np.array_equal(views[path].kernel, quantized.decode()):
                raise InputError(
                    f"The kernel of layer {path!r} differs from its codes: somebody wrote to the model after it was "
                    "quantized. Quantize it again, or pass the model alone to drop the codes."
                )

    def after(
        self,
        model: keras.Model,
        step: Step,
        *,
        changed: Mapping[str, VariableState] | None = None,
        rewrite: Rewrite | None = None,
        inputs: InputSamples | None = None,
    ) -> "Result":
        """The result of a technique: all that was known before and still holds, and what the technique has found.

        What no longer holds goes, and `step.figures["dropped"]` says what and why.

        Args:
            model: what the technique made.
            step: what it did, for the report.
            changed: path -> what is known now, in place of those parts.
            rewrite: where kernels have moved; None for nowhere.
            inputs: as the attribute; None leaves it.
        """
        before = self.states if rewrite is None else rewrite.by_new_paths(self.states)
        if gone := len(self.states) - len(before):
            step.figures["dropped"] = f"states of {_counted(gone)}: their layers are gone"
        states = merged(before, changed or {})
        report = self.report.extended(step)
        result = Result(model, states, report, self.inputs if inputs is None else inputs).without_broken(step)
        for path, state in (changed or {}).items():
            assert result.states.get(path, VariableState()).holds(state), f"{step.technique}: {path} is not as it says"
        return result

    def without_broken(self, step: Step) -> "Result":
        """Without what its model's weights no longer agree with; `step.figures["dropped"]` says what and why."""
        views = views_by_path(self.model) if self.states else {}
        dropped: collections.Counter[tuple[str, str]] = collections.Counter()
        states = {}
        for path, state in self.states.items():
            reasons = state.broken(views[path].kernel if path in views else None)
            dropped.update((PLURALS[part], reason) for part, reason in reasons.items())
            if kept := state.without(reasons):
                states[path] = kept
        if dropped:
            before = [step.figures["dropped"]] if "dropped" in step.figures else []
            parts = [f"{part} of {_counted(count)}: {why}" for (part, why), count in dropped.items()]
            step.figures["dropped"] = "; ".join([*before, *parts])
        return dataclasses.replace(self, states=states)

    def folded(self) -> "tuple[Result, dict[str, Fold], dict[str, str]]":
        """The same with BatchNorm folded (`layers.folding.fold`); what was folded, and why other BatchNorms stay.

        One stays where a negative gamma would turn the signs of codes whose levels reach further down than up. Clusters
        may no longer hold: see `without_broken`.
        """
        kernels = self.kernels

        def left(fold: Fold) -> str | None:
            codes = kernels.get(fold.kernel)
            if codes is None or codes.turned(fold.factor) is not None:
                return None
            return (
                f"its gamma is negative for some channels of {fold.kernel}, whose {len(codes.levels)} levels are not "
                "symmetric: fold before quantizing"
            )

        model, folds, reasons = fold(self.model, left=left)
        states, views = dict(self.states), views_by_path(model)
        for path, each in folds.items():
            if each.kernel in states:
                states[each.kernel] = states[each.kernel].scaled(each.factor, path)
                if (codes := states[each.kernel].codes) is not None:
                    views[each.kernel].variable.assign(codes.decode())
        return dataclasses.replace(self, model=model, states=states), folds, reasons

    def save(self, path: str | os.PathLike[str], *, samples: bool = True) -> None:
        """Writes `NAME.keras`, `NAME.codes.npz` and `NAME.json`; `path` is `NAME`, with or without `.keras`.

        Args:
            path: of the files.
            samples: whether the samples in `inputs` (at most 32) are written too; False writes their ranges alone.

        Raises:
            StorageError: the folder cannot be written to, or the disk is full.
        """
        save(path, self.model, self.states, self.report, self.inputs, samples=samples)


def _counted(kernels: int) -> str:
    return f"{kernels} kernel{'' if kernels == 1 else 's'}"
