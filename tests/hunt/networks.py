"""Random networks of the kinds that people ship: drawn by hypothesis, so that a failure shrinks to a small one."""

import dataclasses
from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st

L = keras.layers

ACTIVATIONS = (
    None, "relu", "relu6", "relu2", "leaky_relu", "prelu", "hard_swish", "silu", "gelu", "elu", "tanh", "sigmoid",
    "hard_sigmoid", "softplus",
)  # fmt: skip
KINDS = ("conv", "depthwise", "separable", "transposed", "pointwise")
LINKS = ("chain", "residual", "concatenation", "squeeze_and_excitation", "shared", "constant")
INPUTS = ("normal", "unit", "bytes", "shifted", "outliers")
FRONTS = ("none", "rescaling", "rescaling_offset", "normalization", "constant")
STATISTICS = ("ordinary", "zero_gamma", "negative_gamma", "tiny_gamma", "tiny_variance", "no_scale")
WEIGHTS = ("ordinary", "dead", "outlier", "tiny")


@dataclasses.dataclass(frozen=True)
class Block:
    """One stage of a network."""

    kind: str
    link: str
    filters: int
    kernel: int
    stride: int
    dilation: int
    groups: int
    multiplier: int
    same: bool
    bias: bool
    norm: str  # "", "before" or "after" the activation
    statistics: str
    activation: str | None
    weights: str
    pool: str


@dataclasses.dataclass(frozen=True)
class Network:
    """How a network is built; `model()` and `samples()` are the same for the same description."""

    rank: int  # 2: images, 1: sequences, 0: vectors
    size: int
    channels: int
    inputs: str
    front: str
    blocks: tuple[Block, ...]
    head: str
    outputs: int
    second_input: bool
    trained: bool
    seed: int

    def samples(self, count: int, seed: int = 0) -> Any:
        rng = np.random.default_rng([self.seed, seed])
        shape = (count, *[self.size] * self.rank, self.channels)
        values = {
            "normal": lambda: rng.normal(size=shape),
            "unit": lambda: rng.random(shape),
            "bytes": lambda: rng.integers(0, 256, shape),
            "shifted": lambda: 100 + 3 * rng.normal(size=shape),
            "outliers": lambda: rng.normal(size=shape) * np.where(rng.random(shape) < 0.001, 100, 1),
        }[self.inputs]()
        x = values.astype(np.float32)
        return [x, rng.normal(size=(count, 5)).astype(np.float32)] if self.second_input else x

    def model(self) -> keras.Model:
        keras.utils.set_random_seed(self.seed % 2**31)
        rng = np.random.default_rng(self.seed)
        inputs = keras.Input((*[self.size] * self.rank, self.channels), name="x")
        x = self._front(inputs, rng)
        for number, block in enumerate(self.blocks):
            x = _stage(x, block, self.rank, f"b{number}")
        if self.rank:
            pooled = {2: L.GlobalAveragePooling2D, 1: L.GlobalAveragePooling1D}[self.rank]()
            x = L.Flatten()(x) if self.head == "flatten" else pooled(x)
        every = [inputs]
        if self.second_input:
            every.append(keras.Input((5,), name="other"))
            x = L.Concatenate()([x, L.Dense(4, "relu", name="side")(every[1])])
        ends = [
            L.Dense(5, "softmax", name="classes")(x),
            L.Dense(2, name="box")(x),
            L.Dense(1, "sigmoid", name="is")(x),
        ]
        model = keras.Model(every, ends[: self.outputs] if self.outputs > 1 else ends[0], name="drawn")
        if self.trained:
            self._train(model)
        _draw(model, rng, {f"b{number}": block for number, block in enumerate(self.blocks)}, keep=self.trained)
        return model

    def _front(self, x: Any, rng: np.random.Generator) -> Any:
        if self.front == "rescaling":
            return L.Rescaling(1 / 255)(x)
        if self.front == "rescaling_offset":
            return L.Rescaling(1 / 127.5, offset=-1.0)(x)
        if self.front == "constant":
            return x * 0.5 + 1.0
        if self.front == "normalization":
            mean, variance = rng.normal(size=self.channels), rng.uniform(0.5, 2, self.channels)
            return L.Normalization(mean=mean, variance=variance)(x)
        return x

    def _train(self, model: keras.Model) -> None:
        outputs = model.outputs
        x = self.samples(32, 7)
        x = [each / (1 + np.abs(each).max()) for each in (x if isinstance(x, list) else [x])]
        rng = np.random.default_rng(self.seed)
        y = [rng.random((32, *output.shape[1:])).astype(np.float32) for output in outputs]
        model.compile(keras.optimizers.SGD(0.01), ["mse"] * len(y) if len(y) > 1 else "mse")
        for _ in range(3):
            model.train_on_batch(x, y if len(y) > 1 else y[0])


def _activation(x: Any, name: str | None, axes: int) -> Any:
    if name is None:
        return x
    layers = {
        "relu2": lambda: L.ReLU(2.0),
        "relu6": lambda: L.ReLU(6.0),
        "relu": L.ReLU,
        "leaky_relu": lambda: L.LeakyReLU(0.1),
        "prelu": lambda: L.PReLU(shared_axes=list(range(1, axes + 1)) or None),
        "elu": L.ELU,
    }
    return layers[name]()(x) if name in layers else L.Activation(name)(x)


def _product(block: Block, rank: int, channels: int, name: str) -> Any:
    padding = "same" if block.same else "valid"
    shared = {"use_bias": block.bias, "name": name}
    if rank == 0:
        return L.Dense(block.filters, **shared)
    stride = 1 if block.dilation > 1 else block.stride
    conv, depthwise, separable, transposed = (
        (L.Conv1D, L.DepthwiseConv1D, L.SeparableConv1D, L.Conv1DTranspose)
        if rank == 1
        else (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D, L.Conv2DTranspose)
    )
    if block.kind == "pointwise":
        return conv(block.filters, 1, **shared)
    if block.kind == "transposed":
        return transposed(block.filters, block.kernel, strides=block.stride, padding=padding, **shared)
    if block.kind == "separable":
        return separable(block.filters, block.kernel, strides=stride, padding=padding, **shared)
    if block.kind == "depthwise":
        settings = shared | {"dilation_rate": block.dilation, "depth_multiplier": block.multiplier}
        return depthwise(block.kernel, strides=stride, padding=padding, **settings)
    groups = block.groups if channels % block.groups == 0 else 1
    return conv(block.filters, block.kernel, strides=stride, padding=padding, dilation_rate=block.dilation,
                groups=groups, **shared)  # fmt: skip


def _stage(x: Any, block: Block, rank: int, name: str) -> Any:
    reach = block.dilation * (block.kernel - 1) + 1
    if rank and min(x.shape[1:-1]) < reach + 1:
        block = dataclasses.replace(block, kind="pointwise", pool="")
    before = x
    x = _normalized(_product(block, rank, x.shape[-1], name)(x), block, rank, name)
    if block.link == "residual":
        if x.shape != before.shape and rank:
            kind = L.Conv2D if rank == 2 else L.Conv1D
            same = x.shape[1:-1] == before.shape[1:-1]
            x = L.Add()([x, kind(x.shape[-1], 1, name=f"{name}_skip")(before)]) if same else x
        elif x.shape == before.shape:
            x = L.Add()([x, before])
    elif block.link == "concatenation" and x.shape[:-1] == before.shape[:-1]:
        x = L.Concatenate()([x, before])
    elif block.link == "squeeze_and_excitation" and rank == 2:
        weights = L.GlobalAveragePooling2D(keepdims=True)(x)
        weights = L.Conv2D(2, 1, activation="relu", name=f"{name}_squeeze")(weights)
        weights = L.Conv2D(x.shape[-1], 1, activation="hard_sigmoid", name=f"{name}_excite")(weights)
        x = L.Multiply()([x, weights])
    elif block.link == "shared":
        layer = _product(
            dataclasses.replace(block, kind="pointwise", filters=x.shape[-1]), rank, x.shape[-1], f"{name}_s"
        )
        x = L.Add()([layer(x), layer(L.ReLU()(x))])
    elif block.link == "constant":
        x = x * 0.5 + 0.25
    if block.pool and rank and min(x.shape[1:-1]) >= 2:
        pools = (L.MaxPooling1D, L.AveragePooling1D) if rank == 1 else (L.MaxPooling2D, L.AveragePooling2D)
        x = pools[block.pool == "average"](2)(x)
    return x


def _normalized(x: Any, block: Block, rank: int, name: str) -> Any:
    norm = L.BatchNormalization(scale=block.statistics != "no_scale", name=f"{name}_norm")
    if block.norm == "before":
        x = norm(x)
    x = _activation(x, block.activation, rank)
    return norm(x) if block.norm == "after" else x


def _draw(model: keras.Model, rng: np.random.Generator, blocks: dict[str, Block], *, keep: bool) -> None:
    """Weights of all layers: random or as trained, then spoiled as the blocks say."""
    for layer in model.layers:
        block = blocks.get(layer.name.split("_")[0])
        for variable in layer.weights:
            values = np.asarray(variable)
            if isinstance(layer, L.BatchNormalization):
                values = _statistics(
                    variable.name, values.shape, "ordinary" if block is None else block.statistics, rng
                )
            elif not keep:
                fan_in = max(1, int(np.prod(values.shape[:-1])))
                values = rng.normal(size=values.shape) / np.sqrt(fan_in) * (1 if values.ndim > 1 else 0.3)
            if block is not None and values.ndim > 1:
                last = values.reshape(-1, values.shape[-1])
                if block.weights == "dead":
                    last[:, : max(1, values.shape[-1] // 3)] *= rng.choice([0, 1e-15, 1e-6])
                elif block.weights == "outlier":
                    last.flat[rng.integers(last.size)] *= 1e4
                elif block.weights == "tiny":
                    last *= 1e-4
            if values.dtype.kind == "f" and "seed" not in variable.name:
                variable.assign(values.astype(np.float32))


def _statistics(name: str, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    if name == "gamma":
        gamma = rng.uniform(0.5, 1.5, shape)
        some = rng.random(shape) < 0.4
        factor = {"zero_gamma": 0, "negative_gamma": -1, "tiny_gamma": 1e-8}.get(kind, 1)
        return np.where(some, gamma * factor, gamma)
    if name == "moving_variance":
        return rng.uniform(0.5, 1.5, shape) * np.where(
            rng.random(shape) < 0.4, 1e-6 if kind == "tiny_variance" else 1, 1
        )
    return 0.3 * rng.normal(size=shape)


def blocks() -> st.SearchStrategy[Block]:
    return st.builds(
        Block,
        kind=st.sampled_from(KINDS),
        link=st.sampled_from(LINKS),
        filters=st.sampled_from([2, 4, 6]),
        kernel=st.integers(1, 3),
        stride=st.integers(1, 2),
        dilation=st.sampled_from([1, 1, 2]),
        groups=st.sampled_from([1, 1, 2]),
        multiplier=st.integers(1, 2),
        same=st.booleans(),
        bias=st.booleans(),
        norm=st.sampled_from(["", "before", "after"]),
        statistics=st.sampled_from(STATISTICS),
        activation=st.sampled_from(ACTIVATIONS),
        weights=st.sampled_from(["ordinary", "ordinary", *WEIGHTS]),
        pool=st.sampled_from(["", "", "max", "average"]),
    )


def networks() -> st.SearchStrategy[Network]:
    return st.builds(
        Network,
        rank=st.sampled_from([2, 2, 2, 1, 0]),
        size=st.integers(6, 10),
        channels=st.sampled_from([1, 2, 4]),
        inputs=st.sampled_from(INPUTS),
        front=st.sampled_from(FRONTS),
        blocks=st.lists(blocks(), min_size=1, max_size=4).map(tuple),
        head=st.sampled_from(["flatten", "mean"]),
        outputs=st.integers(1, 3),
        second_input=st.booleans(),
        trained=st.booleans(),
        seed=st.integers(0, 2**31 - 1),
    )
