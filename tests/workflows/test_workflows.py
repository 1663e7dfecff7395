"""The recipes run as in the tutorials that they are named after."""

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.measurement import flatbuffer
from tests.pictures import bright_quarters


@pytest.fixture(scope="module")
def data():
    return bright_quarters(300, 8)


def test_the_names_are_there():
    assert kc.workflows.ModelPruning.__name__ == "ModelPruning"
    assert "workflows" in dir(kc)


@pytest.mark.slow
def test_pruning(data, tmp_path, capsys):
    recipe = kc.workflows.ModelPruning(input_shape=(8, 8), num_classes=4, epochs=6)
    recipe.train_baseline_model(*data)
    before = recipe.model.get_weights()
    assert recipe.evaluate_baseline(*data) > 0.8
    assert recipe.save_baseline_model(tmp_path / "net.keras") == str(tmp_path / "net.keras")
    with pytest.raises(kc.InputError, match=r"Call apply_pruning\(\) first"):
        recipe.train_pruned_model(*data)
    recipe.apply_pruning()
    with pytest.raises(kc.InputError, match=r"Call train_pruned_model\(\) first"):
        recipe.evaluate_pruned_model(*data)
    recipe.train_pruned_model(*data)
    assert recipe.evaluate_pruned_model(*data) > 0.7
    for weight, expected in zip(recipe.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
    for mask in recipe.pruned.masks.values():
        assert mask.mean() == pytest.approx(0.2, abs=0.01)
    printed = capsys.readouterr().out
    assert "Baseline test accuracy" in printed and "Pruned test accuracy" in printed and "after gzip" in printed
    assert kc.load_model(tmp_path / "net.keras").count_params() == recipe.model.count_params()


@pytest.mark.slow
def test_quantization_aware_training(data, capsys):
    recipe = kc.workflows.QuantizationAwareTraining(input_shape=(8, 8), num_classes=4, filters=6)
    recipe.train(*data, epochs=20)
    with pytest.raises(kc.InputError, match=r"Call apply_quantization_aware_training\(\) first"):
        recipe.train_q_aware_model(*data)
    recipe.apply_quantization_aware_training()
    recipe.train_q_aware_model(*data, batch_size=50, epochs=3)
    original, q_aware = recipe.evaluate(*data)
    assert original > 0.8 and q_aware > original - 0.1
    content = flatbuffer.parse(recipe.convert_to_tflite())
    assert any(flatbuffer.TYPES[tensor.type] == "INT8" for tensor in content.subgraphs[0].tensors)
    assert flatbuffer.parse(recipe.post_quantization()).subgraphs  # whose kernels are too small to be rounded
    printed = capsys.readouterr().out
    assert "Quantization-aware model" in printed and "Post-training model" in printed and "MB" in printed


@pytest.mark.parametrize("settings", [{"input_shape": (8,)}, {"validation_split": 0.0}])
def test_bad_settings(settings, data):
    with pytest.raises(kc.InputError, match=r"input_shape must be|validation_split must lie"):
        kc.workflows.ModelPruning(**settings).train_baseline_model(*data)
