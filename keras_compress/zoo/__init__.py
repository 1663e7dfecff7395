"""Data sets, architectures and the training of baselines, for commands, tests and benchmarks."""

import importlib
from typing import Any

_MODULES = {  # public name: the module that defines it
    "Batches": "batches",
    "Dataset": "samples",
    "ModelCard": "cards",
    "Preprocessing": "preprocessing",
    "TableEncoding": "encoding",
    "build_architecture": "architectures",
    "load_dataset": "datasets",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    # Looked up when used: data sets and cards are also needed where Keras takes too long to load.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
