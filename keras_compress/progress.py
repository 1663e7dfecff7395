"""Progress: a bar with the time left on a terminal, plain lines elsewhere."""

import contextlib
import sys
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
