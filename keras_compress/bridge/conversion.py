"""`to_tf_keras()` and `from_tf_keras()`: a model of one Keras built again in the other, and checked against it.

The graph is walked call by call. Each layer gets its counterpart once, so that shared layers stay shared; weights are
copied; both models then run on random inputs, and a difference is an error.
"""

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.bridge import operations
from keras_compress.bridge.counterparts import IN_SETTINGS, NoCounterpartError, counterpart, name_of, objects
from keras_compress.bridge.effort import samples_to_run
from keras_compress.bridge.libraries import Library, keras_2, keras_3
from keras_compress.errors import InputError
from keras_compress.layers.paths import functional_graph, layers_by_path, model_in

MASKS = ("mask", "query_mask", "value_mask", "key_mask")  # arguments that both libraries fill in themselves
RECURRENT = ("Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "GRU", "LSTM", "RNN", "SimpleRNN")
TOLERANCE = 1e-4  # of outputs, relative to the largest one, or to 1
HALF_TOLERANCE = 0.05  # where layers compute in 16 bits
OPEN_SIZES = (8, 32, 128)  # of axes that a model leaves open, one after the other until it runs
CHECKED = 2  # samples


Wrap = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A model and its counterpart.

    Attributes:
        model: the counterpart.
        pairs: each layer of the model that is no model itself, and its counterpart.
    """

    model: Any
    pairs: list[tuple[Any, Any]]


def convert(model: keras.Model, wrap: Wrap | None = None, *, flat: bool = False) -> Conversion:
    """What `to_tf_keras` gives, and which layer became which.

    Args:
        model: see `to_tf_keras`.
        wrap: gets a layer of Keras 3 and its counterpart, not built yet; returns the layer of tf_keras that takes the
            counterpart's place in the graph: itself, or a wrapper around it that computes the same at first.
        flat: open models within the model: one Functional model, whose layers are called by their paths.

    Raises:
        InputError: see `to_tf_keras`.
    """
    functional_graph(model)  # refuses what is no Keras 3 model, or subclassed, or not built
    return _converted(model, keras_3(), keras_2(), wrap, flat)


def to_tf_keras(model: Any) -> Any:
    """The `tf_keras.Model` that computes the same as a Keras 3 model.

    Weights are bit-identical, names, shared layers, trainable flags and random seeds are kept, and so is how the model
    was compiled where Keras can say it; the state of its optimizer is not.

    Args:
        model: a built Functional or Sequential model, or the result of a step; not written to. Models within it are
            converted too.

    Returns:
        A model that shares nothing with `model`. `tf.keras` and the environment are as before.

    Raises:
        InputError: a subclassed model; a layer, setting, activation or operation that tf_keras does not have, by name;
            outputs that differ.
    """
    return convert(model_in(model)).model


def from_tf_keras(model: Any) -> keras.Model:
    """The Keras 3 model that computes the same as a `tf_keras.Model`; see `to_tf_keras`.

    Keras 3 allows no `/` in names: it becomes `_`.

    Raises:
        InputError: no built Functional or Sequential model of tf_keras; a layer, setting, activation or function that
            Keras 3 does not have, by name; outputs that differ.
    """
    return built_again(model)


def built_again(model: Any, *, bounded: bool = False) -> keras.Model:
    """See `from_tf_keras`.

    Args:
        model: of tf_keras.
        bounded: refuse a model whose tensors are out of proportion to its weights, as one from a file may have them.

    Raises:
        InputError: see `from_tf_keras`, or too large a model.
    """
    source = keras_2()
    if not isinstance(model, source.keras.Model):
        raise InputError(
            f"A tf_keras.Model is expected. Received: {type(model).__module__}.{type(model).__name__}. A model of "
            "Keras 3 needs no conversion."
        )
    if not source.is_graph(model):
        raise InputError(
            f"Model {model.name!r} ({type(model).__name__}) is subclassed or not built, so that the connections of its "
            "layers are not known. Build it with the Functional API, tf_keras.Model(inputs, outputs)."
        )
    converted = _converted(model, source, keras_3(), bounded=bounded).model
    assert isinstance(converted, keras.Model)
    return converted


def copy_weights(old: Any, new: Any) -> None:
    """Gives a layer the weights of its counterpart.

    Raises:
        NoCounterpartError: another number of weights, or other shapes.
    """
    for weight, converted in weight_pairs(old, new):
        if tuple(weight.shape) != tuple(converted.shape):
            raise NoCounterpartError(
                f"Layer {old.name!r} has a weight of shape {tuple(weight.shape)}, "
                f"its counterpart one of {tuple(converted.shape)}."
            )
        converted.assign(weight.numpy())
    if old.weights and hasattr(new, "finalize_state"):
        new.finalize_state()


def weight_pairs(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """The weights of a layer and those of its counterpart: by name where names are unique, else in their order.

    Raises:
        NoCounterpartError: another number of weights.
    """
    if type(old).__name__ in IN_SETTINGS:
        return []
    old_by_name, new_by_name = ({_base_name(each): each for each in layer.weights} for layer in (old, new))
    if old_by_name.keys() == new_by_name.keys() and len(old_by_name) == len(old.weights) == len(new.weights):
        return [(weight, new_by_name[name]) for name, weight in old_by_name.items()]
    if len(old.weights) != len(new.weights):
        raise NoCounterpartError(
            f"Layer {old.name!r} has {len(old.weights)} weights, its counterpart {len(new.weights)}."
        )
    return list(zip(old.weights, new.weights, strict=True))


def _converted(
    model: Any,
    source: Library,
    target: Library,
    wrap: Wrap | None = None,
    flat: bool = False,
    bounded: bool = False,
) -> Conversion:
    names = {id(layer): path for path, layer in layers_by_path(model).items()} if flat else {}
    conversion = _Conversion(source, target, wrap, names)
    converted = conversion.functional(model) if flat else conversion.graph(model)
    for old, new in conversion.pairs:
        copy_weights(old, new)
    output = different_output(model, converted, source, target, bounded)
    if output is not None:
        raise NoCounterpartError(
            f"Model {model.name!r} gives other outputs in {target.name} than in {source.name} (output {output}), so "
            "that some layer computes something else there. Convert parts of the model to find which."
        )
    _copy_compile_state(model, converted, target)
    return Conversion(converted, conversion.pairs)


class _Conversion:
    """One run: remembers the counterpart of every layer, so that what was shared stays shared."""

    def __init__(self, source: Library, target: Library, wrap: Wrap | None, names: dict[int, str]):
        self.source = source
        self.target = target
        self.wrap = wrap
        self.names = names  # of layers, where models within the model are opened
        self.converted_layers: dict[int, Any] = {}
        self.pairs: list[tuple[Any, Any]] = []

    def graph(self, model: Any) -> Any:
        if isinstance(model, self.source.keras.Sequential):
            return self.sequential(model)
        return self.functional(model)

    def sequential(self, model: Any) -> Any:
        (source,) = self.source.tensors(self.source.inputs(model))
        nodes = [node for node in self.source.nodes(model) if self._is_layer(node.operation)]
        layers = [self.layer_for(node.operation) for node in nodes]
        return self.target.keras.Sequential([self._input(source), *layers], name=self._name(model))

    def functional(self, model: Any) -> Any:
        tensors: dict[int, Any] = {}

        def input_for(tensor: Any) -> Any:
            tensors[id(tensor)] = self._input(tensor)
            return tensors[id(tensor)]

        inputs = tf.nest.map_structure(input_for, self.source.inputs(model))
        outputs = self._outputs(model, tensors)
        return self.target.keras.Model(inputs, outputs, name=self._name(model))

    def _outputs(self, model: Any, tensors: dict[int, Any]) -> Any:
        """Those of a model for its inputs, which are in `tensors` as all others will be."""
        nodes = self.source.nodes(model)
        outputs = self.source.outputs(model)
        needed = self._needed(nodes, outputs)
        for node in nodes:
            if not needed.intersection(map(id, node.outputs)):
                continue  # it makes a mask, which the other library makes itself
            args, kwargs = self._arguments(node, tensors)
            if self.names and self.source.is_graph(node.operation):
                inner = self.source.tensors(self.source.inputs(node.operation))
                passed = self.target.tensors(args)
                results = self._outputs(node.operation, {id(old): new for old, new in zip(inner, passed, strict=True)})
            else:
                results = self._call(node, args, kwargs)
            results = self.target.tensors(results)
            tensors |= {id(old): new for old, new in zip(node.outputs, results, strict=True)}
        return tf.nest.map_structure(lambda tensor: tensors[id(tensor)], outputs)

    def _needed(self, nodes: list[Any], outputs: Any) -> set[int]:
        """Tensors that outputs depend on otherwise than by masks."""
        needed = {id(tensor) for tensor in self.source.tensors(outputs)}
        for node in reversed(nodes):
            if needed.intersection(map(id, node.outputs)):
                others = {key: value for key, value in node.kwargs.items() if key not in MASKS}
                needed.update(id(tensor) for tensor in self.source.tensors((node.args, others)))
        return needed

    def _arguments(self, node: Any, tensors: dict[int, Any]) -> tuple[Any, dict[str, Any]]:
        def translated(value: Any) -> Any:
            return tf.nest.map_structure(lambda each: tensors[id(each)] if self.source.is_tensor(each) else each, value)

        kwargs = {
            key: translated(value)
            for key, value in node.kwargs.items()
            if value is not None
            and not (key == "training" and value == _default_training(node.operation))
            and not (key in MASKS and any(id(each) not in tensors for each in self.source.tensors(value)))
        }
        return translated(node.args), kwargs

    def _call(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_layer(node.operation):
            converted = self.layer_for(node.operation)
            if self.target.name == "Keras 3" and isinstance(args[0], (list, tuple)) and self._is_recurrent(converted):
                return converted(args[0][0], initial_state=list(args[0][1:]), **kwargs)
            return converted(*args, **kwargs)
        if self.source.name == "Keras 3":
            return operations.to_tf_keras(node.operation, args, kwargs, self.target)
        return operations.from_tf_keras(node.operation, args, kwargs)

    def layer_for(self, layer: Any) -> Any:
        if id(layer) not in self.converted_layers:
            if self.source.is_graph(layer):
                self.converted_layers[id(layer)] = self.graph(layer)
            else:
                self.converted_layers[id(layer)] = self._layer(layer)
        return self.converted_layers[id(layer)]

    def _layer(self, layer: Any) -> Any:
        new_layer = self._counterpart(layer)
        self.pairs.append((layer, new_layer))
        return new_layer if self.wrap is None else self.wrap(layer, new_layer)

    def _counterpart(self, layer: Any) -> Any:
        """Without weights: those of the layers that it holds are among its own."""
        return counterpart(layer, self.source, self.target, self._name(layer), self._held)

    def _held(self, layer: Any) -> Any:
        return self.layer_for(layer) if self.source.is_graph(layer) else self._counterpart(layer)

    def _is_layer(self, operation: Any) -> bool:
        return isinstance(operation, self.source.keras.layers.Layer) and not self.source.is_operation(operation)

    def _is_recurrent(self, converted: Any) -> bool:
        return not self.target.is_graph(converted) and name_of(converted, self.target) in RECURRENT

    def _input(self, tensor: Any) -> Any:
        name = self.source.input_name(tensor)
        if self.source.is_irregular(tensor):
            raise NoCounterpartError(f"Input {name!r} is sparse or ragged, and a dense one is expected.")
        return self.target.new_input(tuple(tensor.shape), _dtype_name(tensor), self._legal(name))

    def _name(self, layer: Any) -> str:
        return self._legal(self.names.get(id(layer), str(layer.name)))

    def _legal(self, name: str) -> str:
        return name.replace("/", "_") if self.target.name == "Keras 3" else name


def _default_training(operation: Any) -> Any:
    """What a layer takes where nothing is said; Keras 3 writes it into the graph as if it had been said."""
    parameter = inspect.signature(operation.call).parameters.get("training")
    return None if parameter is None else parameter.default


def _base_name(weight: Any) -> str:
    return str(weight.name).rpartition("/")[2].partition(":")[0]


def different_output(model: Any, converted: Any, source: Library, target: Library, bounded: bool = False) -> int | None:
    """Compares two models, of `source` and of `target`, on the same random inputs.

    Returns:
        The number of the first output that differs; None where all are equal but for rounding errors.

    Raises:
        InputError: `model` does not run, or is `bounded` and too large to be run.
    """
    inputs = source.tensors(source.inputs(model))
    generator = np.random.default_rng(0)
    failure: Exception | None = None
    for size in OPEN_SIZES:
        samples = samples_to_run(model, source, size, CHECKED) if bounded else CHECKED
        arrays = [
            _random((samples, *(each or size for each in tensor.shape[1:])), _dtype_name(tensor), generator)
            for tensor in inputs
        ]
        try:
            expected = _values(model, source, arrays)
            break
        except Exception as error:  # whatever a layer raises for a size that it cannot work with
            failure = error
    else:
        raise InputError(f"Model {model.name!r} does not run on random inputs: {_one_line(failure)}") from failure
    received = _values(converted, target, arrays)
    half = any("16" in str(layer.dtype_policy.name) for layer in model.layers)
    for number, (output, reference) in enumerate(zip(received, expected, strict=True)):
        if reference.dtype.kind != "f":
            same = np.array_equal(output, reference)
        else:
            limit = (HALF_TOLERANCE if half else TOLERANCE) * max(1.0, float(np.nanmax(np.abs(reference), initial=0)))
            same = np.allclose(output, reference, rtol=0, atol=limit, equal_nan=True)
        if not same:
            return number
    return None


def _values(model: Any, library: Library, arrays: list[np.ndarray]) -> list[np.ndarray]:
    values = model(tf.nest.pack_sequence_as(library.inputs(model), [*map(tf.constant, arrays)]), training=False)
    return [each.numpy() for each in tf.nest.flatten(values)]


def _dtype_name(tensor: Any) -> str:
    return str(tf.as_dtype(tensor.dtype).name)


def _random(shape: tuple[int, ...], dtype: str, generator: np.random.Generator) -> np.ndarray:
    """A few samples, with zeros in them for layers that mask; integers are 0 and 1, which every Embedding has."""
    if dtype == "string":
        return generator.choice(np.array(["a", "b"], object), shape)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if np.issubdtype(np.dtype(dtype if dtype != "bfloat16" else "float32"), np.integer):
        return generator.integers(0, 2, shape).astype(dtype)
    values = generator.normal(size=shape).astype("float32" if dtype == "bfloat16" else dtype)
    if len(shape) > 2:
        values[0, -1] = 0
    return values


def _copy_compile_state(model: Any, converted: Any, target: Library) -> None:
    """Compiles the counterpart as the model was, if Keras can say how, and the other library has all of it."""
    if not getattr(model, "optimizer", None):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a loss that is no object of Keras: see below
            config = dict(model.get_compile_config())
        names = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics", "run_eagerly")
        state = {name: objects(config[name], target, f"The {name}") for name in names if config.get(name) is not None}
        converted.compile(**state)
    except Exception:  # whatever the user's own loss, metric or optimizer raises when Keras serializes it
        return


def _one_line(error: Exception | None) -> str:
    return " ".join(str(error).split())[:200]
