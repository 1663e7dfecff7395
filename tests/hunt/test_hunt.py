"""Files of random networks compute what is simulated: 300 by `make hunt`, 20 by `make evidence`, three by `make test`.

A network that fails is printed as the call that builds it.
"""

import functools
import os
import random
import zlib

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import keras_compress as kc
from keras_compress.export.checking import NUDGES
from keras_compress.export.simulation import run_graph
from keras_compress.export.tflite import exported
from keras_compress.layers.graph import Graph
from keras_compress.measurement.tflite import Runner
from tests.hunt.networks import Network, networks

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("HUNT_NETWORKS", "0"))  # 0: a few networks, each in one mode and width
MODES = ("float", "dynamic", "ranges of ours", "measured", "plain")
BITS = (8, 4, 2)
# Of outputs on samples that no check has seen, relative, and at most where ties decide; or two steps of 8 bits.
LIMIT, CHAOTIC = 0.05, 0.2


def drawn(count: int) -> list[Network]:
    distinct: dict[Network, None] = {}  # hypothesis also repeats itself

    @settings(
        max_examples=2 * count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(networks())
    def note(network: Network) -> None:
        distinct[network] = None

    note()
    return list(distinct)[:count]


NETWORKS = drawn(COUNT or (20 if "ALL_CASES" in os.environ else 3))


def near(output: np.ndarray, expected: np.ndarray, step: float, tolerance: float, moved: float) -> bool:
    error, norm = (float(np.linalg.norm(each.astype(np.float64))) for each in (output - expected, expected))
    return error <= max(tolerance * norm, 2 * step * np.sqrt(output.size), min(2 * moved, CHAOTIC * norm), 1e-30)


def moved_by_ties(model: keras.Model, x: list[np.ndarray]) -> list[float]:
    """How far outputs move where rounding goes the other way near the middle between two steps."""
    graph = Graph(model)
    runs = [run_graph(graph, x, nudge=nudge) for nudge in (0.0, *NUDGES)]
    outputs = [[np.asarray(values[tensor]) for tensor in graph.outputs] for values in runs]
    return [max(float(np.linalg.norm(each - column[0])) for each in column) for column in zip(*outputs, strict=True)]


def outputs_of(model: keras.Model, x: object) -> list[np.ndarray]:
    return keras.tree.flatten(model.predict(x, verbose=0))


@functools.lru_cache(1)
def built(network: Network) -> keras.Model:
    return network.model()


@functools.lru_cache(len(BITS))
def quantized(network: Network, bits: int) -> kc.Result:
    return kc.quantize(built(network), kc.GPFQ(bits=bits), network.samples(48))


def check(network: Network, mode: str, bits: int, folder) -> None:
    """One file: written, and its outputs on new samples those of the simulation."""
    model, x, new = built(network), network.samples(48), network.samples(16, 1)
    path = folder / "net.tflite"
    choice = random.Random(zlib.crc32(repr((network, mode, bits)).encode()))
    settings = {"storage": choice.choice(["fast", "small"]), "static_batch": choice.choice([None, 1, 4])}
    if mode == "plain":  # TensorFlow's own file; its simulation is made by the check
        kc.export_tflite(model, path, activations="int8", calibration=x, static_batch=settings["static_batch"])
        return
    result = quantized(network, bits)
    if mode in ("float", "dynamic"):
        kc.export_tflite(result, path, activations=mode, **settings)
        simulated = result.model
    else:
        chosen = mode == "ranges of ours"
        source = kc.quantize_activations(result, x) if chosen else result
        _, simulated = exported(source, path, None if chosen else x, activations="int8", **settings)
    if mode == "dynamic":  # compared by the check with a simulation that rounds at each call
        return
    runner = Runner(path.read_bytes())
    outputs = runner.outputs(new if isinstance(new, list) else [new])
    inputs = new if isinstance(new, list) else [new]
    moved = moved_by_ties(simulated, inputs) if mode != "float" else [0.0] * network.outputs
    columns = zip(outputs, outputs_of(simulated, new), runner.output_scales, moved, strict=True)
    for output, expected, step, least in columns:
        assert near(output, expected, step, 1e-4 if mode == "float" else LIMIT, least), (network, mode, bits)


@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_files_compute_what_is_simulated(index, tmp_path):
    network = NETWORKS[index]
    every = [(mode, bits) for mode in MODES for bits in BITS if mode != "plain" or bits == 8]
    chosen = every if COUNT else [every[index % len(every)]]
    for mode, bits in chosen:
        try:
            check(network, mode, bits, tmp_path)
        except kc.InputError as error:
            if "cannot be converted" not in str(error):  # what TensorFlow's converter refuses is refused in one line
                raise AssertionError(f"{network}, {mode}, {bits} bits: {error}") from error
            print("refused:", network, mode, bits, error)
