"""How sparse a kernel is to be at which step of a training: tfmot's schedules, without tfmot until they are used.

Zhu & Gupta, 2017, "To prune, or not to prune", eq. 1:
sparsity(t) = final + (initial - final) (1 - (t - begin) / (end - begin))^power.
"""

import abc
import inspect
from typing import Any

import keras

from keras_compress.bridge.tfmot import import_tfmot
from keras_compress.errors import InputError, check_integer


class PruningSchedule(abc.ABC):
    """Settings of a schedule; `keras.saving` writes and reads it, and equal settings are equal."""

    begin_step: int
    end_step: int | None
    frequency: int | None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        return cls(**config)

    @property
    @abc.abstractmethod
    def final(self) -> float:
        """The fraction of zeros in the end."""

    @abc.abstractmethod
    def last_step(self, steps: int) -> int:
        """The step of the last masks, in a training of so many steps."""

    @abc.abstractmethod
    def for_steps(self, steps: int) -> Any:
        """tfmot's schedule for a training of so many steps.

        Raises:
            InputError: a training that is over before the schedule is.
        """

    def _check(self) -> None:
        check_integer("begin_step", self.begin_step, 0)
        if self.end_step is not None:
            check_integer("end_step", self.end_step, self.begin_step + 1)
        if self.frequency is not None:
            check_integer("frequency", self.frequency, 1)

    def _end(self, steps: int) -> int:
        return self.end_step if self.end_step is not None else max(self.begin_step + 1, round(0.75 * steps))

    def _frequency(self, steps: int) -> int:
        return self.frequency or max(1, (self._end(steps) - self.begin_step) // 100)

    def _check_length(self, steps: int, last: int) -> None:
        if not self.begin_step < last <= steps:
            raise InputError(
                f"{self!r} works from step {self.begin_step} to step {last}, and the training has {steps} steps. Train "
                "for more epochs, or let the schedule begin and end earlier."
            )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.get_config() == self.get_config()

    def __hash__(self) -> int:
        return hash((type(self), *self.get_config().values()))

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items() if value is not None)
        return f"{type(self).__name__}({settings})"


def _check_fraction(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InputError(f"{name} must be a fraction of the weights, 0 <= {name} < 1. Received: {value!r}.")


@keras.saving.register_keras_serializable(package="keras_compress")
class PolynomialDecay(PruningSchedule):
    """More and more zeros, quickly at first (Zhu & Gupta, 2017, eq. 1).

    Args:
        initial_sparsity: fraction of zeros from `begin_step` on.
        final_sparsity: fraction of zeros from `end_step` on.
        begin_step: step of the training, from 0.
        end_step: None for three quarters of the training: the last quarter trains the weights that are left.
        power: of the decay.
        frequency: steps between two updates of the masks; None for a hundred updates or so.

    Raises:
        InputError: fractions out of range, or the first above the last.
    """

    def __init__(
        self,
        initial_sparsity: float = 0.5,
        final_sparsity: float = 0.8,
        begin_step: int = 0,
        end_step: int | None = None,
        power: float = 3,
        frequency: int | None = None,
    ):
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.power = power
        self.frequency = frequency
        self._check()
        _check_fraction("initial_sparsity", initial_sparsity)
        _check_fraction("final_sparsity", final_sparsity)
        if initial_sparsity > final_sparsity:
            raise InputError(
                f"initial_sparsity must not exceed final_sparsity. Received: {initial_sparsity} and {final_sparsity}."
            )
        if not power > 0:
            raise InputError(f"power must be above 0. Received: {power!r}.")

    @property
    def final(self) -> float:
        return self.final_sparsity

    def last_step(self, steps: int) -> int:
        # tfmot updates masks at whole multiples of the frequency only: the last one must be the end.
        length, frequency = self._end(steps) - self.begin_step, self._frequency(steps)
        return self.begin_step + max(1, length // frequency) * min(frequency, length)

    def for_steps(self, steps: int) -> Any:
        end = self._end(steps)
        self._check_length(steps, end)
        return import_tfmot().sparsity.keras.PolynomialDecay(
            self.initial_sparsity,
            self.final_sparsity,
            self.begin_step,
            self.last_step(steps),
            self.power,
            min(self._frequency(steps), end - self.begin_step),
        )


@keras.saving.register_keras_serializable(package="keras_compress")
class ConstantSparsity(PruningSchedule):
    """The same fraction of zeros from `begin_step` on.

    Args:
        target_sparsity: fraction of zeros.
        begin_step: step of the training, from 0.
        end_step: the last step at which the masks may change; None for three quarters of the training.
        frequency: steps between two updates of the masks; None for a hundred updates or so.

    Raises:
        InputError: a fraction out of range.
    """

    def __init__(
        self,
        target_sparsity: float = 0.8,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int | None = None,
    ):
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._check()
        _check_fraction("target_sparsity", target_sparsity)

    @property
    def final(self) -> float:
        return self.target_sparsity

    def last_step(self, steps: int) -> int:
        return self._end(steps)

    def for_steps(self, steps: int) -> Any:
        end = self._end(steps)
        self._check_length(steps, end)
        frequency = min(self._frequency(steps), end - self.begin_step)
        return import_tfmot().sparsity.keras.ConstantSparsity(self.target_sparsity, self.begin_step, end, frequency)
