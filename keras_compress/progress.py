"""What a terminal shows: a bar with the time left (plain lines elsewhere), and not what C++ code writes."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def tasks(title: str, total: int, *, enabled: bool = True) -> Iterator[Callable[[str], None]]:
    """Yields a function to call with the name of each task when it is done."""
    if not enabled:
        yield lambda name: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=total)
            yield lambda name: progress.update(task, advance=1, description=name)
    else:
        started, done = time.perf_counter(), 0

        def line(name: str) -> None:
            nonlocal done
            done += 1
            print(f"{title} {done}/{total} {name} {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)

        yield line


@contextlib.contextmanager
def quiet_stderr(unless: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Keeps what is written to standard error off the terminal, also by C++ code, which `contextlib` does not reach.

    Args:
        unless: an error after which it is shown.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        stderr = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except unless:
            sink.seek(0)
            os.write(stderr, sink.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
