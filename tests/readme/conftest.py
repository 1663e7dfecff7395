"""README's commands, all of them, as typed: minutes of training. Run by `make readme`, not by `make test`."""

import pathlib

import pytest


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """Leaves this folder out unless the command line names it."""
    named = any("readme" in argument for argument in config.args)
    return None if named else True
