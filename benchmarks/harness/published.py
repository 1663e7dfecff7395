"""Published numbers: E. Lybrand and R. Saab, "A Greedy Algorithm for Quantizing Neural Networks", JMLR 22(156), 2021,
as in the file model_metrics of its code (github.com/elybrand/quantized_neural_networks)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table. `top1` maps (levels, C) to the accuracies of GPFQ and of MSQ."""

    dataset: str
    architecture: str
    num_samples: int
    float_top1: float
    top1: dict[tuple[int, float], tuple[float, float]]

    @property
    def levels(self) -> list[int]:
        return sorted({levels for levels, _ in self.top1})

    @property
    def scalars(self) -> list[float]:
        return sorted({scalar for _, scalar in self.top1})


def _table(
    levels: int, scalars: range, gpfq: list[float], msq: list[float]
) -> dict[tuple[int, float], tuple[float, float]]:
    return {(levels, float(scalar)): pair for scalar, pair in zip(scalars, zip(gpfq, msq, strict=True), strict=True)}


EXPERIMENTS = {
    "mnist_mlp": Experiment(
        "mnist",
        "mlp",
        25_000,
        0.9824,
        _table(
            3,
            range(1, 11),
            [0.5156, 0.9548, 0.9739, 0.9734, 0.9693, 0.9688, 0.9582, 0.9462, 0.9302, 0.9231],
            [0.7272, 0.9330, 0.9069, 0.7285, 0.6000, 0.2235, 0.1347, 0.1135, 0.1135, 0.1135],
        ),
    ),
    "cifar10_cnn": Experiment(
        "cifar10",
        "cnn",
        5_000,
        0.8922,
        _table(3, range(2, 7), [0.7487, 0.7350, 0.6919, 0.5627, 0.3515], [0.1347, 0.1464, 0.0991, 0.1000, 0.1000])
        | _table(4, range(2, 7), [0.7522, 0.8036, 0.7489, 0.6748, 0.5365], [0.2209, 0.2800, 0.1742, 0.1835, 0.1390])
        | _table(8, range(2, 7), [0.7942, 0.8670, 0.8710, 0.8567, 0.8600], [0.4173, 0.3754, 0.5014, 0.5652, 0.5360])
        | _table(16, range(2, 7), [0.8124, 0.8778, 0.8879, 0.8888, 0.8810], [0.4525, 0.7776, 0.8443, 0.8291, 0.7831]),
    ),
}
# The same architecture, trained as there: raw pixels, Adam, 100 epochs, a fifth of the training images for validation;
# the second one with a constant learning rate too.
EXPERIMENTS["mnist_mlp_raw"] = EXPERIMENTS["mnist_mlp_raw_constant"] = EXPERIMENTS["mnist_mlp"]
