"""Learning rates of trainings that change the model while they go on."""

from typing import Any

import keras


def constant_then_cosine(rate: float, constant: int, steps: int) -> Any:
    """A learning rate that stays for some steps of a training, and then falls to zero in half a cosine."""
    if constant >= steps:
        return rate
    return keras.optimizers.schedules.CosineDecay(
        rate, steps - constant, warmup_target=rate if constant else None, warmup_steps=constant
    )
