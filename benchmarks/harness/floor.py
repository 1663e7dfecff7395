"""The floor under a whole quantization: one pass of each network over the images, and the Gram statistics."""

import time
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.calibration.gather import Gatherer
from keras_compress.layers.graph import Graph


class Recorder:
    """Both networks, and what their layers with kernels read.

    Args:
        analog, compressed: models of equal architecture with one input.
        paths: layers whose inputs are recorded.
    """

    def __init__(self, analog: Any, compressed: Any, paths: list[str]):
        self.graphs = Graph(analog), Graph(compressed)
        self.views = {path: self.graphs[1].views[path] for path in paths}
        self.forwards = [
            tf.function(lambda images, model=model: model(images, training=False), reduce_retracing=True)
            for model in (analog, compressed)
        ]
        self.inputs = tf.function(self._inputs, reduce_retracing=True)

    def _inputs(self, images: Any) -> dict[str, list[tuple[Any, Any]]]:
        values: list[dict[int, Any]] = []
        for graph in self.graphs:
            known = {graph.inputs[0]: images}
            for call in graph.calls:
                known.update(zip(call.outputs, call.run(known), strict=True))
            values.append(known)
        sources = {
            path: [self.graphs[0].calls[i].inputs[0] for i in self.graphs[0].linear_calls(path)] for path in self.views
        }
        return {path: [(values[0][t], values[1][t]) for t in tensors] for path, tensors in sources.items()}

    def same(self, images: Any) -> dict[str, bool]:
        """Whether both networks give a layer the same inputs."""
        return {
            path: all(np.array_equal(analog, compressed) for analog, compressed in pairs)
            for path, pairs in self.inputs(images).items()
        }


def floor(recorder: Recorder, images: np.ndarray, batch_size: int, same: dict[str, bool]) -> dict[str, float]:
    """Seconds of the analog network's pass, of the compressed one's, and of all layers' statistics.

    What the layers read is recorded batch by batch between the measurements, and is not timed.
    """
    seconds = {"analog pass": 0.0, "compressed pass": 0.0, "statistics": 0.0}
    gatherers = {path: Gatherer(view, gram=True, same=same[path], name=path) for path, view in recorder.views.items()}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        for name, forward in zip(("analog pass", "compressed pass"), recorder.forwards, strict=True):
            started = time.perf_counter()
            forward(tf.convert_to_tensor(batch)).numpy()
            seconds[name] += time.perf_counter() - started
        recorded = recorder.inputs(tf.convert_to_tensor(batch))
        started = time.perf_counter()
        for path, pairs in recorded.items():
            for analog, compressed in pairs:
                gatherers[path].add(analog if same[path] else compressed, analog)
        seconds["statistics"] += time.perf_counter() - started
    started = time.perf_counter()
    for gatherer in gatherers.values():
        gatherer.result()
    seconds["statistics"] += time.perf_counter() - started
    return seconds | {"floor": sum(seconds.values())}
