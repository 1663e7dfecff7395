import itertools

import pytest

import keras_compress as kc
from keras_compress.errors import InputError
from keras_compress.sweep.grid import Configuration, Grid


def test_a_grid_is_the_product_of_its_lists_each_configuration_once():
    grid = Grid(
        methods=["gpfq", "msq", "msq"], bits=[2, 4], levels=[3, 5], alphabets=["integer", "equispaced"],
        scalars=[1, 2.5], num_samples=[10, 20],
    )  # fmt: skip
    settings = [(c.method, c.bits, c.levels, c.alphabet, c.scalar, c.num_samples) for c in grid]
    widths = [(2, None), (4, None), (None, 3), (None, 5)]
    expected = [
        (method, *width, alphabet, scalar, count)
        for method, width, alphabet, scalar, count in itertools.product(
            ["gpfq", "msq"], widths, ["integer", "equispaced"], [1.0, 2.5], [10, 20]
        )
    ]
    assert sorted(map(str, settings)) == sorted(map(str, expected))
    assert len(grid) == 64


def test_configurations_with_the_same_samples_follow_each_other():
    counts = [configuration.num_samples for configuration in Grid(bits=[2, 3], num_samples=[30, 10, 20])]
    assert counts == sorted(counts, key=[30, 10, 20].index)


def test_dense_scalars_are_paired_unless_they_are_given():
    paired = {(c.scalar, c.dense_scalar) for c in Grid(bits=[2], scalars=[1, 2])}
    product = {(c.scalar, c.dense_scalar) for c in Grid(bits=[2], scalars=[1, 2], dense_scalars=[3, 4])}
    assert paired == {(1, 1), (2, 2)}
    assert product == {(1, 3), (1, 4), (2, 3), (2, 4)}


def test_prices_are_swept_for_the_sparse_method_alone():
    grid = Grid(methods=["gpfq", "sparse_gpfq"], bits=[3], regularizer="l0", regularizations=[0.1, 0.3])
    settings = [(c.method, c.regularizer, c.regularization) for c in grid]
    assert settings == [("gpfq", None, None), ("sparse_gpfq", "l0", 0.1), ("sparse_gpfq", "l0", 0.3)]
    assert str(list(grid)[1]) == "sparse_gpfq l0 0.1 integer 3 bits C 1 500 samples"


@pytest.mark.parametrize(
    ("configuration", "quantizer"),
    [
        (Configuration("gpfq", "integer", 3, None, 2.0, 2.0, 5), kc.GPFQ(alphabet=kc.Integer(3, scalar=2.0))),
        (
            Configuration("gpfq_uncentered", "midtread", 1, None, 1.0, 1.0, 5, "max", "per_channel"),
            kc.GPFQ(alphabet=kc.Midtread(1, scalar=1.0), radius="max", centered=False, patches="per_channel"),
        ),
        (
            Configuration("gpfq_bias", "integer_full", 2, None, 1.0, 1.0, 5),
            kc.GPFQ(
                alphabet=kc.Integer(2, narrow_range=False, scalar=1.0), centered=False, bias_correction=True
            ),
        ),
        (
            Configuration("msq_bias", "equispaced", None, 3, 1.5, 1.5, 5, 0.9),
            kc.MSQ(alphabet=kc.Equispaced(levels=3, scalar=1.5), radius=0.9, bias_correction=True),
        ),
        (
            Configuration("sparse_gpfq", "integer", 3, None, 1.0, 1.0, 5, None, "joint", "l0", 0.2),
            kc.SparseGPFQ(alphabet=kc.Integer(3, scalar=1.0), regularizer="l0", regularization=0.2),
        ),
        (Configuration("msq", "midtread", None, 17, 1.0, 1.0, 5), kc.MSQ(alphabet=kc.Midtread(4, scalar=1.0))),
    ],
)  # fmt: skip
def test_a_configuration_builds_its_quantizer(configuration, quantizer):
    assert configuration.quantizer() == quantizer


def test_dense_layers_have_a_quantizer_with_their_scalar():
    configuration = Configuration("msq", "integer", 4, None, 1.0, 3.0, 5)
    assert configuration.quantizer().setting.scalar == 1.0
    assert configuration.quantizer(dense=True).setting.scalar == 3.0


def test_integer_full_has_two_to_the_power_of_bits_levels():
    quantizer = Configuration("msq", "integer_full", 2, None, 1.0, 1.0, 5).quantizer()
    assert quantizer.setting.levels_array.tolist() == [-2, -1, 0, 1]


def test_aliases_stand_for_their_methods():
    grid = Grid(methods=["fast", "best", "gpfq"], bits=[2])
    assert [configuration.method for configuration in grid] == ["gpfq", "optq_distilled"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["gptq"]}, "Unknown method: 'gptq'. Known: best, fast, optq_distilled,"),
        ({"alphabets": ["float"]}, "Unknown alphabet: 'float'. Known: integer,"),
        ({"form": "dense"}, "form must be one of auto, gram, direct. Received: 'dense'."),
        ({"bits": []}, "A grid needs bits or levels"),
        ({"bits": [1]}, "bits of Integer must be an integer from 2 to 16. Received: 1."),
        ({"bits": [17]}, "Received: 17."),
        ({"levels": [1]}, "levels must be an integer from 2 to 65536. Received: 1."),
        ({"alphabets": ["midtread"], "levels": [4]}, "3, 5, 9, 17, ... Received: 4."),
        ({"alphabets": ["midtread"], "levels": [2]}, "3, 5, 9, 17, ... Received: 2."),
        ({"scalars": [0.0]}, "scalar must be a positive number. Received: 0.0."),
        ({"dense_scalars": [float("nan")]}, "scalar must be a positive number. Received: nan."),
        ({"num_samples": [0]}, "num_samples must be at least 1. Received: 0."),
        ({"num_samples": []}, "at least one entry in num_samples"),
        ({"dense_scalars": []}, "at least one entry in dense_scalars"),
        ({"radius": "widest"}, "radius must be one of"),
        ({"patches": "separate"}, "patches must be 'joint' or 'per_channel'. Received: 'separate'."),
    ],
)
def test_a_bad_value_is_refused_when_the_grid_is_made(settings, message):
    with pytest.raises(InputError) as error:
        Grid(**({"bits": [4]} | settings))
    assert message in str(error.value)
