"""Peak resident memory of this process."""

import contextlib
import pathlib
import resource
import sys

STATUS = pathlib.Path("/proc/self/status")
CLEAR = pathlib.Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Lets the peak start again from now, where the system can (Linux)."""
    with contextlib.suppress(OSError):  # then the peak since the process began is all there is
        CLEAR.write_text("5")  # man 5 proc: resets VmHWM


def peak_bytes() -> int:
    """The largest resident memory since `reset_peak`, or since the process began."""
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
