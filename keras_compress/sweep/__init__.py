"""Grids of quantizations: one record for each configuration, a table and pictures; what dies is resumed.

from keras_compress import sweep

grid = sweep.Grid(methods=["gpfq", "msq"], bits=[2, 3, 4], num_samples=[500])
samples = sweep.DataSplits(x_train, y_train, x_test, y_test)  # as the network expects them
rows = sweep.run(model, grid, samples, name="my_network", metrics_dir="model_metrics")
print(sweep.table(rows))
sweep.draw(rows, "model_metrics/my_network")
"""

import importlib
from typing import Any

_MODULES = {  # public name: the module that defines it; no name may be that of a module
    "COLUMNS": "records",
    "Configuration": "grid",
    "Grid": "grid",
    "DataSplits": "runner",
    "ExportRow": "exports",
    "Records": "records",
    "compare_exports": "exports",
    "draw": "pictures",
    "draw_exports": "exports",
    "draw_layers": "layer_pictures",
    "exports_table": "exports",
    "quantized": "runner",
    "record_training": "training",
    "run": "runner",
    "table": "tables",
    "write_exports": "exports",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    # Looked up when used: a program that only reads records need not load TensorFlow.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
