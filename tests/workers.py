"""Processes that train together, on the loopback interface."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(
    arguments: Callable[[int], Sequence[object]], count: int = 2, **settings: object
) -> list[subprocess.Popen[str]]:
    """A Python command on each of `count` workers, which find each other by the variable TF_CONFIG."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    workers = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    started = []
    for index in range(count):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONPATH": str(ROOT)}
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, arguments(index))],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **settings,  # type: ignore[call-overload]
            )
        )
    return started


def finish(workers: Sequence[subprocess.Popen[str]], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Exit codes, outputs and messages; none outlives the call."""
    try:
        texts = [worker.communicate(timeout=timeout) for worker in workers]
        return [(worker.returncode, *text) for worker, text in zip(workers, texts, strict=True)]
    finally:
        for worker in workers:
            worker.kill()
