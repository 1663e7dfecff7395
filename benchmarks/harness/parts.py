"""Where the time of one quantization goes, from a profile: cumulative seconds of the functions that do the parts."""

import cProfile
import pstats
from collections.abc import Callable, Iterator
from typing import Any

# part: functions (file, name) that do it
FUNCTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "read": (("calibration/calibration.py", "_read"),),
    "walk": (("calibration/walk.py", "_run"),),
    "trace": (("calibration/walk.py", "step"),),
    "store": (("calibration/store.py", "read"), ("calibration/store.py", "write")),
    "products": (("calibration/gather.py", "add"),),
    "assembly": (("calibration/gather.py", "result"),),
    "radius search": (("quantization/alphabets.py", "for_layer"),),
    "solver": (("numerics/gpfq.py", "gpfq"), ("numerics/gpfq.py", "gpfq_direct")),
    "copy of the model": (("layers/rewrite.py", "clone_model"),),
}
IN_WALK = ("trace", "store", "products")


def parts(function: Callable[[], Any]) -> dict[str, float]:
    """Seconds of each part of one call of `function`; the parts add up to the whole.

    Raises:
        LookupError: the library has no such function any more, or did not call it.
    """
    profile = cProfile.Profile()
    profile.runcall(function)
    stats: Any = pstats.Stats(profile)
    sums = {part: sum(_seconds(stats, part)) for part in FUNCTIONS}
    forward = sums["walk"] - sum(sums[part] for part in IN_WALK)
    result = {"read": sums["read"], "forward": forward, "trace": sums["trace"], "store": sums["store"]}
    result |= {"statistics": sums["products"] + sums["assembly"]}
    result |= {part: sums[part] for part in ("radius search", "solver", "copy of the model")}
    return result | {"rest": stats.total_tt - sum(result.values())}


def _seconds(stats: Any, part: str) -> Iterator[float]:
    """Cumulative seconds of the functions of a part; of the store's, only of calls by the walk."""
    called = False
    for (path, _, name), (_, _, _, total, callers) in stats.stats.items():
        place = path.replace("\\", "/")
        if not any(
            place.endswith(f"/keras_compress/{file}") and name == function for file, function in FUNCTIONS[part]
        ):
            continue
        called = True
        if part == "store":
            yield sum(times[3] for (_, _, caller), times in callers.items() if caller == "_run")
        else:
            yield total
    if not called:
        raise LookupError(f"no function of the part {part!r} was called: {FUNCTIONS[part]}")
