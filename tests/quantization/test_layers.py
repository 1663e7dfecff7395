"""Every method on every layer type that has a kernel view, and on layers within layers."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.operations import KINDS
from tests.quantization.contracts import QUANTIZERS

L = keras.layers


class Block(L.Layer):
    """A layer of the user's own, with layers in attributes and in a list."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.inner = [L.Dense(5, "relu"), L.Dense(4)]
        self.norm = L.LayerNormalization()

    def build(self, shape):
        self.inner[0].build(shape)
        self.inner[1].build((*shape[:-1], 5))
        self.norm.build((*shape[:-1], 4))
        super().build(shape)

    def get_config(self):
        return super().get_config()  # Keras leaves the name out for a class without a get_config of its own

    def call(self, x):
        return self.norm(self.inner[1](self.inner[0](x)) + x)


def images(*layers):
    return keras.Sequential([keras.Input((8, 8, 4)), *layers, L.Flatten(), L.Dense(3, name="logits")])


def sequences(*layers):
    return keras.Sequential([keras.Input((6, 4)), *layers, L.Flatten(), L.Dense(3, name="logits")])


def attention():
    inputs = keras.Input((6, 4))
    attended = L.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    return keras.Model(inputs, L.Dense(3, name="logits")(L.Flatten()(attended + inputs)))


def words(*layers):
    inputs = keras.Input((6,), dtype="int32")
    features = L.Embedding(9, 4, mask_zero=bool(layers), name="words")(inputs)
    for layer in layers:
        features = layer(features)
    return keras.Model(inputs, L.Dense(3, name="logits")(L.Flatten()(features)))


MODELS = {
    "dense": lambda: keras.Sequential([keras.Input((8,)), L.Dense(6, "relu"), L.Dense(3, name="logits")]),
    "einsum": lambda: sequences(L.EinsumDense("abc,cde->abde", (6, 2, 5), bias_axes="de", activation="relu")),
    "conv1d": lambda: sequences(L.Conv1D(5, 3, padding="causal", activation="relu")),
    "conv2d_grouped": lambda: images(L.Conv2D(6, 3, groups=2, activation="relu")),
    "depthwise": lambda: images(
        L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), L.BatchNormalization(), L.ReLU()
    ),
    "depthwise1d": lambda: sequences(L.DepthwiseConv1D(3, padding="same", activation="relu")),
    "separable": lambda: images(L.SeparableConv2D(5, 3, strides=2, activation="relu")),
    "separable1d": lambda: sequences(L.SeparableConv1D(5, 3, activation="relu")),
    "transposed": lambda: images(L.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu")),
    "transposed1d": lambda: sequences(L.Conv1DTranspose(3, 3, strides=2, activation="relu")),
    "embedding": lambda: words(),
    "simple_rnn": lambda: sequences(L.SimpleRNN(5, return_sequences=True)),
    "gru": lambda: sequences(L.Bidirectional(L.GRU(4, return_sequences=True))),
    "lstm": lambda: sequences(L.LSTM(5)),
    "attention": attention,
    "own_layer": lambda: sequences(Block(name="block")),
    "time_distributed": lambda: sequences(L.TimeDistributed(L.Dense(5, "relu"))),
    "masked": lambda: words(L.LSTM(4)),
}  # fmt: skip
FIRSTS = {type(quantizer): name for name, quantizer in reversed(QUANTIZERS.items())}.values()


def samples_of(model, count=24):
    rng = np.random.default_rng(3)
    (tensor,) = model.inputs
    if tensor.dtype == "int32":
        return rng.integers(0, 9, (count, *tensor.shape[1:]))
    return rng.normal(0.3, 1, (count, *tensor.shape[1:])).astype(np.float32)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    keras.utils.set_random_seed(5)
    model = MODELS[request.param]()
    rng = np.random.default_rng(0)
    for weight in model.weights:  # biases too, and no zeros
        if weight.dtype == "float32" and weight.name not in ("moving_variance", "gamma"):
            weight.assign(np.asarray(weight) + rng.normal(0, 0.1, weight.shape))
    return model


@pytest.mark.slow
def test_every_known_layer_is_in_one_of_the_models():
    kinds = {type(view.layer) for build in MODELS.values() for view in views_by_path(build()).values()}
    assert kinds == {kind for kind, row in KINDS.items() if row.views}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRSTS)
@pytest.mark.sampled(18)
def test_every_method_quantizes_every_layer(model, name, tmp_path):
    samples, quantizer = samples_of(model), QUANTIZERS[name]
    before = [np.asarray(weight).copy() for weight in model.weights]
    result = kc.quantize(model, quantizer, samples)
    views = views_by_path(result.model)
    assert result.kernels.keys() == views.keys() == views_by_path(model).keys()
    for path, view in views.items():
        np.testing.assert_array_equal(view.kernel, result.kernels[path].decode())
        row = result.report.row(path)
        assert row.action == "quantized" and row.num_levels == len(result.kernels[path].levels)
        assert bool(row.reason) == bool(view.memoryless)
        assert (row.relative_error is None) == bool(view.memoryless)
        if not view.memoryless:
            assert 0 < row.relative_error < 1.5
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), value)
    assert np.isfinite(np.asarray(result.model(samples))).all()
    again = kc.quantize(model, quantizer, samples)
    for path, kernel in result.kernels.items():
        np.testing.assert_array_equal(again.kernels[path].codes, kernel.codes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedding", "lstm", "masked"])
@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.sampled(8)
def test_every_setting_rounds_what_is_rounded_weight_by_weight(kind, name):
    model = MODELS[kind]()
    result = kc.quantize(model, QUANTIZERS[name], samples_of(model))
    for path, view in views_by_path(result.model).items():
        np.testing.assert_array_equal(view.kernel, result.kernels[path].decode())


@pytest.mark.slow
@pytest.mark.sampled(5)
def test_following_the_path_beats_rounding(model):
    samples = samples_of(model, 64)
    views = views_by_path(model)
    errors = []
    for quantizer in (kc.MSQ(2, bias_correction=True), kc.GPFQ(2, refine=2)):
        report = kc.quantize(model, quantizer, samples).report
        errors.append([report.row(path).relative_error for path, view in views.items() if not view.memoryless])
    assert np.mean(errors[1]) < np.mean(errors[0])


@pytest.mark.slow
def test_a_result_comes_back_from_disk(model, tmp_path):
    if any(isinstance(layer, Block) for layer in model.layers):
        keras.saving.get_custom_objects()["Block"] = Block
    result = kc.quantize(model, kc.GPFQ(3), samples_of(model))
    result.save(tmp_path / "network")
    back = kc.load_result(tmp_path / "network")
    assert back.kernels.keys() == result.kernels.keys()
    for path, kernel in back.kernels.items():
        assert kernel.axis == result.kernels[path].axis
        np.testing.assert_array_equal(kernel.decode(), result.kernels[path].decode())
    counted = kc.measure(result)
    assert counted.ideal_bytes < kc.measure(model).ideal_bytes


@pytest.mark.slow
def test_a_scale_belongs_to_one_output_channel(model):
    """Multiplying an output channel of a kernel by a power of two multiplies its scale, and changes no code."""
    views = views_by_path(model)
    result = kc.quantize(model, kc.MSQ(3, radius="max"))
    for path, view in views.items():
        kernel, quantized = view.kernel, result.kernels[path]
        factors = 2.0 ** (np.arange(view.num_channels) % 3)
        shape = [size if axis in view.axes else 1 for axis, size in enumerate(kernel.shape)]
        assert quantized.scale.shape == tuple(kernel.shape[axis] for axis in view.axes)
        view.variable.assign(kernel * factors.reshape(shape))
        scaled = kc.quantize(model, kc.MSQ(3, radius="max")).kernels[path]
        view.variable.assign(kernel)
        np.testing.assert_array_equal(scaled.codes, quantized.codes)
        np.testing.assert_allclose(scaled.scale.ravel(), quantized.scale.ravel() * factors, rtol=1e-6)


class Own(keras.Model):
    def __init__(self, width=6, **settings):
        super().__init__(**settings)
        self.width = width
        self.features = L.Conv2D(width, 3, activation="relu")
        self.norm = L.BatchNormalization()
        self.blocks = [Block(), Block()]
        self.flat = L.Flatten()
        self.head = L.Dense(3)

    def build(self, shape):
        self.features.build(shape)
        shape = self.features.compute_output_shape(shape)
        self.norm.build(shape)
        for block in self.blocks:
            block.build(shape)
        self.head.build((None, int(np.prod(shape[1:]))))
        super().build(shape)

    def get_config(self):
        return super().get_config() | {"width": self.width}

    def call(self, x, training=False):
        x = self.norm(self.features(x), training=training)
        for block in self.blocks:
            x = block(x)
        return self.head(self.flat(x))


@pytest.fixture
def own():
    keras.utils.set_random_seed(1)
    model = Own(width=4, name="own")
    samples = np.random.default_rng(0).normal(size=(40, 6, 6, 2)).astype(np.float32)
    model(samples[:2])
    return model, samples


@pytest.mark.slow
def test_a_subclassed_model_is_quantized_by_observing_inputs(own):
    model, samples = own
    result = kc.quantize(model, kc.GPFQ(4), samples)
    assert type(result.model) is Own and result.model.width == 4
    paths = ["features", "blocks/0/inner/0", "blocks/0/inner/1", "blocks/1/inner/0", "blocks/1/inner/1", "head"]
    assert list(result.kernels) == paths
    assert "subclassed" in result.report.steps[0].figures["slow walk"]
    for path in paths:
        assert 0 < result.report.row(path).relative_error < 0.3
    assert result.report.row("norm").action == "float"
    assert "subclassed" in str(result.report)


@pytest.mark.slow
def test_a_subclassed_model_gets_the_codes_of_the_same_functional_one(own):
    """The observed inputs are the very ones that the flat walk shows."""
    model, samples = own
    inputs = keras.Input((6, 6, 2))
    x = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, activation="relu", name="features")(inputs))
    for block in range(2):
        hidden = L.Dense(5, "relu", name=f"block{block}_0")(x)
        x = L.LayerNormalization(name=f"layer_norm{block}")(L.Dense(4, name=f"block{block}_1")(hidden) + x)
    flat = keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))
    names = {"features": "features", "head": "head"}
    names |= {f"blocks/{block}/inner/{i}": f"block{block}_{i}" for block in range(2) for i in range(2)}
    views, own_views = views_by_path(flat), views_by_path(model)
    for path, name in names.items():
        views[name].variable.assign(own_views[path].kernel)
        views[name].layer.bias.assign(own_views[path].layer.bias)
    for method in (kc.GPFQ(3), kc.OPTQ(3, target="corrected", refine=1)):
        expected, result = kc.quantize(flat, method, samples), kc.quantize(model, method, samples)
        for path, name in names.items():
            np.testing.assert_array_equal(result.kernels[path].codes, expected.kernels[name].codes, err_msg=path)
            error, expected_error = (
                report.row(row).relative_error for report, row in ((result.report, path), (expected.report, name))
            )
            assert error == pytest.approx(expected_error, rel=1e-3)


@pytest.mark.slow
def test_a_shared_calibration_serves_a_subclassed_model(own):
    model, samples = own
    with kc.Calibration(model, samples) as calibration:
        results = [kc.quantize(model, kc.GPFQ(bits), calibration) for bits in (2, 3)]
    for result, bits in zip(results, (2, 3), strict=True):
        alone = kc.quantize(model, kc.GPFQ(bits), samples)
        for path, kernel in alone.kernels.items():
            np.testing.assert_array_equal(result.kernels[path].codes, kernel.codes)
            assert result.report.row(path).relative_error == alone.report.row(path).relative_error


@pytest.mark.slow
def test_a_projection_can_be_left_out():
    model = attention()
    result = kc.quantize(model, kc.GPFQ(4), samples_of(model), overrides={"attention/query_dense": None})
    assert "attention/query_dense" not in result.kernels and "attention/key_dense" in result.kernels
    assert "the settings leave it out" in result.report.row("attention/query_dense").reason


def test_depthwise_kernels_go_through_the_solver_at_once(monkeypatch):
    calls = []
    original = kc.GPFQ.solve
    monkeypatch.setattr(
        kc.GPFQ, "solve", lambda self, matrix, *a, **k: calls.append(matrix.shape) or original(self, matrix, *a, **k)
    )
    model = images(L.DepthwiseConv2D(3, depth_multiplier=2))
    kc.quantize(model, kc.GPFQ(4), samples_of(model))
    assert calls == [(4, 9, 2), (288, 3)]
