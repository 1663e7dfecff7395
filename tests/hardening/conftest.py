"""A process for each hostile file takes half an hour: `make hostile` does that, `make test` reads some in one."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "hostile" in config.option.markexpr:
        return
    kept = [item for item in items if not item.get_closest_marker("hostile")]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("hostile")])
    items[:] = kept
