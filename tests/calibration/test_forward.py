"""One network over the samples: every tensor is shown as the network makes it, whatever the chunks."""

import os

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.calibration.forward import Stages, visit_tensors
from keras_compress.layers.graph import Graph
from keras_compress.layers.rewrite import clone_model
from keras_compress.samples import blocks
from tests import architectures
from tests.calibration.test_calibration import Counting, counted


@pytest.fixture(params=["residual", "two_inputs_and_outputs", "shared_nested"])
def model(request):
    return architectures.build(request.param)


def all_tensors(graph, samples):
    values = dict(zip(graph.inputs, [np.asarray(array) for array in keras.tree.flatten(samples)], strict=True))
    for call in graph.calls:
        values |= dict(zip(call.outputs, call.run(values), strict=True))
    return {tensor: np.asarray(value) for tensor, value in values.items()}


def shown(calibration, graph, tensors, **settings):
    parts = {tensor: [] for tensor in tensors}
    visit_tensors(
        calibration, graph, tensors, lambda tensor, values: parts[tensor].append(np.asarray(values)), **settings
    )
    return {tensor: np.concatenate(values) for tensor, values in parts.items()}


def assert_same(outputs, expected):
    assert outputs.keys() == expected.keys()
    for tensor, values in outputs.items():
        np.testing.assert_allclose(values, expected[tensor], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_every_tensor_is_shown_once_for_each_sample(model, batch_size):
    samples = architectures.samples(model, 20)
    graph = Graph(model)
    expected = all_tensors(graph, samples)
    with kc.Calibration(model, samples, batch_size=batch_size) as calibration:
        assert_same(shown(calibration, graph, expected.keys()), expected)


@pytest.mark.parametrize("stride", [2, 3, 19, 20])
def test_a_stride_takes_every_so_many_samples_across_the_chunks(model, stride):
    samples = architectures.samples(model, 20)
    graph = Graph(model)
    expected = {tensor: values[::stride] for tensor, values in all_tensors(graph, samples).items()}
    with kc.Calibration(model, samples, batch_size=7) as calibration:
        assert_same(shown(calibration, graph, expected.keys(), stride=stride), expected)


def test_few_samples_at_a_time_where_the_tensors_would_not_fit(model, monkeypatch):
    samples = architectures.samples(model, 20)
    graph = Graph(model)
    expected = all_tensors(graph, samples)
    sizes = []
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4)
    with kc.Calibration(model, samples, batch_size=7) as calibration:
        (output, *_) = graph.outputs
        visit_tensors(calibration, graph, expected.keys(), lambda tensor, values: sizes.append(len(values)))
        assert set(sizes) == {1}
        assert_same(shown(calibration, graph, [output]), {output: expected[output]})


def test_what_no_shown_tensor_needs_does_not_run():
    Counting.seen = {}
    model = counted(4)
    graph = Graph(model)
    (index,) = graph.linear_calls("dense1")
    with kc.Calibration(model, architectures.samples(model, 20)) as calibration:
        shown(calibration, graph, [graph.calls[index].inputs[0]])
    assert Counting.seen == {"count0": 20}


# Stage by stage


def stages_of(calibration, graph, tensors):
    stages = Stages(calibration, graph, tensors)

    def show(*targets):
        parts = {tensor: [] for tensor in targets}
        stages.show(targets, lambda tensor, values: parts[tensor].append(np.asarray(values)))
        return {tensor: np.concatenate(values) for tensor, values in parts.items()}

    return show


@pytest.mark.parametrize("on_disk", [False, True])
def test_tensors_are_those_of_the_network_stage_by_stage(model, tmp_path, on_disk):
    samples = architectures.samples(model, 20)
    graph = Graph(model)
    expected = all_tensors(graph, samples)
    with kc.Calibration(model, samples, batch_size=7, work_dir=tmp_path) as calibration:
        if on_disk:
            calibration.store.memory_budget = 0
        show = stages_of(calibration, graph, expected.keys())
        for tensor in sorted(expected):
            assert_same(show(tensor), {tensor: expected[tensor]})
    assert os.listdir(tmp_path) == []


def test_a_changed_layer_is_seen_by_all_that_come_after():
    model = architectures.build("residual")
    samples = architectures.samples(model, 20)
    compressed = clone_model(model)
    graph = Graph(compressed)
    (first,), (last,) = graph.linear_calls("inner"), graph.linear_calls("logits")
    sources = graph.calls[first].inputs[0], graph.calls[last].inputs[0]
    with kc.Calibration(model, samples, batch_size=7) as calibration:
        show = stages_of(calibration, graph, sources)
        before = show(sources[0])
        compressed.get_layer("inner").kernel.assign(2 * compressed.get_layer("inner").kernel.numpy())
        after = show(sources[1])
    expected = all_tensors(Graph(compressed), samples)
    assert_same(before | after, {tensor: expected[tensor] for tensor in sources})


def test_each_call_runs_once_however_many_stages():
    Counting.seen = {}
    model = counted(4)
    graph = Graph(model)
    sources = [graph.calls[graph.linear_calls(f"dense{index}")[0]].inputs[0] for index in (1, 2, 3)]
    with kc.Calibration(model, architectures.samples(model, 20), batch_size=7) as calibration:
        show = stages_of(calibration, graph, sources)
        for source in sources:
            show(source)
    assert Counting.seen == {"count0": 20, "count1": 20, "count2": 20}  # nothing behind the last one


def test_only_what_is_still_read_is_kept():
    model = counted(3)
    graph = Graph(model)
    sources = [graph.calls[graph.linear_calls(f"dense{index}")[0]].inputs[0] for index in (1, 2)]
    with kc.Calibration(model, architectures.samples(model, 20)) as calibration:
        show = stages_of(calibration, graph, sources)
        inputs = [*calibration.store]
        show(sources[0])
        assert len([*calibration.store]) == len(inputs) + 1
        show(sources[1])
        assert [*calibration.store] == inputs
