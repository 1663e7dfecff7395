"""Times of functions that are to be compared: measured in turn, so that a slow moment of the machine hits them all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def interleaved(functions: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median seconds of each function: after one call each to warm up, `repetitions` rounds of one call each."""
    for function in functions.values():
        function()
    rounds = [{name: seconds(function) for name, function in functions.items()} for _ in range(repetitions)]
    return medians(rounds)


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each entry over rounds that have the same entries."""
    return {name: statistics.median(values[name] for values in rounds) for name in rounds[0]}
