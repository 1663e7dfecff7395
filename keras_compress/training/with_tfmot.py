"""`quantization_aware_training(engine="tfmot")`: tfmot's own graph, in Keras 2, behind the bridge."""

import collections
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.bridge import training as bridge
from keras_compress.bridge.compiling import compile_for
from keras_compress.bridge.conversion import Conversion, convert, copy_weights, different_output
from keras_compress.bridge.keeping import Kept, keeping
from keras_compress.bridge.libraries import import_tf_keras, keras_2
from keras_compress.bridge.tfmot import begin_ranges, import_tfmot, restore_states, rounding, without_rounding
from keras_compress.errors import InputError
from keras_compress.fitting import loop
from keras_compress.fitting.compiling import compile_as
from keras_compress.fitting.strategies import scope
from keras_compress.fitting.training import Fitting
from keras_compress.layers.folding import fold, foldable
from keras_compress.layers.graph import ACTIVATION, LINEAR, Graph, is_linear
from keras_compress.layers.kernels import views_by_path
from keras_compress.layers.paths import layers_by_path
from keras_compress.layers.rewrite import Change, clone_model, copy_layer, rebuild
from keras_compress.layers.selection import Patterns, select
from keras_compress.numerics.alphabet import integer_levels
from keras_compress.report import Step
from keras_compress.result import QuantizedKernel, Result, VariableState

# Exact type: axes over output channels of its kernel, for each of which tfmot has a scale; () for one a layer.
QUANTIZED: dict[type, tuple[int, ...]] = {
    keras.layers.Conv2D: (3,),
    keras.layers.Conv2DTranspose: (),
    keras.layers.Dense: (),
    keras.layers.DepthwiseConv2D: (3,),
}
KNOWN_ACTIVATIONS = (  # of tfmot, in layers with kernels
    keras.activations.gelu, keras.activations.linear, keras.activations.relu, keras.activations.sigmoid,
    keras.activations.silu, keras.activations.softmax, keras.activations.tanh,
)  # fmt: skip
KNOWN_ALONE = (  # of tfmot, in Activation layers
    keras.activations.relu, keras.activations.sigmoid, keras.activations.softmax, keras.activations.tanh,
)  # fmt: skip
FOLDED_FIRST = (keras.layers.Conv2DTranspose,)  # since tfmot would round what is between it and its BatchNorm
OUTPUTS_ONLY = (  # computed in floating point, with rounded outputs: the layer behind is one of integers in a file
    keras.layers.BatchNormalization, keras.layers.ELU, keras.layers.LayerNormalization, keras.layers.Multiply,
    keras.layers.PReLU, keras.layers.Rescaling,
)  # fmt: skip
ACTIVATION_BITS = 8
RANGE_BATCHES = 16  # that ranges of activations begin with


def trained_by_tfmot(
    source: Result,
    fitting: Fitting,
    bits: int,
    layers: Patterns | None,
    step: Step,
) -> Result:
    """See `quantization_aware_training`; what tfmot left in floating point is `step.figures["reasons"]`."""
    feed, tested, strategy = fitting.feed, fitting.tested, fitting.training.strategy
    base, folds, _ = fold(source.model, FOLDED_FIRST)
    clusters = {path: numbers for path, numbers in source.clusters.items() if path not in folds}
    chosen, reasons = _chosen(base, layers)
    fused = _with_own_activations(base, chosen)

    def fake_quantized() -> tuple[Conversion, dict[str, str]]:
        return _fake_quantized(fused, chosen, bits, set(clusters))

    def begin() -> None:
        # Of a model that belongs to no strategy: the distributed one runs by `fit` only.
        alone = conversion if strategy is None else fake_quantized()[0]
        begin_ranges(
            alone.model, (batch[0] for batch in feed.shuffled(fitting.training.seed, 0, 1).take(RANGE_BATCHES))
        )
        if strategy is not None:
            conversion.model.set_weights(alone.model.get_weights())

    with scope(strategy):
        conversion, left = fake_quantized()
        compile_for(conversion.model, source.model, feed.labels)
        plain = clone_model(source.model)
        compile_as(plain, source.model, feed.labels)
        step.figures |= loop.figures("before", plain, tested)
        kept = _kept(conversion, source.masks, clusters)
        bridge.fit(conversion.model, fitting, keeping(kept), begin)
        step.figures |= bridge.figures("after", conversion.model, tested)
    trained, kernels = _returned(base, conversion, bits)
    assert kernels.keys() == chosen
    step.figures["reasons"] = reasons | left
    changed = {path: VariableState(kernel) for path, kernel in kernels.items()}
    return source.after(trained, step, changed=changed).folded()[0].without_broken(step)


def _chosen(model: keras.Model, layers: Patterns | None) -> tuple[set[str], dict[str, str]]:
    """Paths of the layers whose kernels are rounded, and why other kernels are not."""
    graph = Graph(model)
    possible, reasons = [], {}
    with_kernels = {id(view.layer) for view in views_by_path(model).values()}
    for path, layer in layers_by_path(model).items():
        if type(layer) not in QUANTIZED:
            if id(layer) in with_kernels:
                reasons[path] = f"tfmot rounds no kernel of {type(layer).__name__}"
        elif len(graph.linear_calls(path)) > 1:
            reasons[path] = "it is called more than once, which tfmot does not know"
        else:
            possible.append(path)
    if not possible:
        raise InputError(
            f"Model {model.name!r} has no kernel that tfmot rounds. It rounds those of "
            f"{', '.join(kind.__name__ for kind in QUANTIZED)}."
        )
    chosen = select(layers, possible, "layers")
    return chosen, reasons | {path: "not chosen" for path in possible if path not in chosen}


def _with_own_activations(model: keras.Model, chosen: set[str]) -> keras.Model:
    """A copy in which layers have the ReLU that stands behind them as their activation, and no others tfmot refuses.

    Where a ReLU layer follows, tfmot 0.8 rounds its outputs, and no kernel. An activation that it does not know becomes
    a layer of its own, in floating point.
    """
    graph = Graph(model)
    layers = layers_by_path(model)
    counts = collections.Counter(call.path for call in graph.calls if call.part != LINEAR)
    activations: dict[str, str] = {}
    apart: dict[int, Any] = {}  # a tensor -> the function that makes it
    gone = []
    for call in graph.calls:
        if call.path not in chosen or call.part != ACTIVATION:
            continue
        if not is_linear(call.operation):
            if call.operation.activation not in KNOWN_ACTIVATIONS:
                activations[call.path] = "linear"
                apart[id(graph.symbols[call.outputs[0]])] = call.operation.activation
            continue
        readers = [each for each in graph.calls if call.outputs[0] in each.inputs]
        if len(readers) != 1 or counts[readers[0].path] != 1 or call.outputs[0] in graph.outputs:
            continue
        if _is_relu(readers[0].operation):
            activations[call.path] = "relu"
            gone.append(readers[0].path)

    def behind(tensor: keras.KerasTensor) -> list[keras.Layer]:
        return [keras.layers.Activation(apart[id(tensor)])] if id(tensor) in apart else []

    changes = {path: Change() for path in gone}
    changes |= {path: Change([copy_layer(layers[path], activation=each)]) for path, each in activations.items()}
    return rebuild(model, changes, insert=behind).model


def _is_relu(operation: Any) -> bool:
    if type(operation) is keras.layers.Activation:
        return bool(operation.activation is keras.activations.relu)
    plain = type(operation) is keras.layers.ReLU and operation.max_value is None
    return plain and not operation.negative_slope and not operation.threshold


def _fake_quantized(
    model: keras.Model, chosen: set[str], bits: int, clustered: set[str]
) -> tuple[Conversion, dict[str, str]]:
    """tfmot's model of a model, the layers of both, and why other layers stay in floating point.

    Clustered kernels have one scale: equal weights then have equal codes, whatever their channel.
    """
    quantization = import_tfmot().quantization.keras
    ways = rounding(bits, ACTIVATION_BITS, clustered)
    paths = {id(layer): path for path, layer in layers_by_path(model).items()}
    kernels = {id(view.layer) for view in views_by_path(model).values()}
    graph = Graph(model)
    counts = collections.Counter(call.path for call in graph.calls if call.part != ACTIVATION)
    after_kernels = {  # where tfmot would leave the kernel alone: see `_with_own_activations`
        call.path
        for call in graph.calls
        if type(call.operation) in (keras.layers.ReLU, keras.layers.Activation)
        and any(graph.calls[graph.producer[each]].path in chosen for each in call.inputs if each in graph.producer)
    }
    normalizations = {
        each.batch_normalization for path, each in foldable(model).items() if path in chosen
    }  # behind kernels: their outputs are rounded, or those of the ReLU that follows
    left: dict[str, str] = {}

    class Float(import_tf_keras().layers.Activation):  # type: ignore[misc]
        """tfmot rounds the outputs of every Activation before a layer that it rounds, and fails where it cannot."""

    def annotate(layer: keras.Layer, converted: Any) -> Any:
        path = paths[id(layer)]
        own = path in chosen if id(layer) in kernels else counts[path] == 1 and path not in after_kernels
        if type(layer) is keras.layers.Activation and layer.activation not in KNOWN_ALONE:
            plain = Float(converted.activation, name=converted.name, dtype=converted.dtype_policy)
            return quantization.quantize_annotate_layer(plain, ways.outputs_only()) if counts[path] == 1 else plain
        if path in normalizations or (own and ways.registry.supports(converted)):
            return quantization.quantize_annotate_layer(converted)
        if layer.weights and id(layer) not in kernels:
            left[path] = f"tfmot rounds nothing in {type(layer).__name__}"
        if type(layer) in OUTPUTS_ONLY and counts[path] == 1:
            return quantization.quantize_annotate_layer(converted, ways.outputs_only())
        return converted

    annotated = convert(model, annotate, flat=True)
    try:
        with quantization.quantize_scope({"Float": Float}):
            converted = quantization.quantize_apply(annotated.model, ways.scheme, quantized_layer_name_prefix="")
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"tfmot cannot train model {model.name!r} with fake quantization ({' '.join(str(error).split())[:200]}). "
            "Replace operations between layers by layers, or choose fewer layers."
        ) from error
    restore_states(converted)
    with without_rounding():
        output = different_output(annotated.model, converted, keras_2(), keras_2())
    if output is not None:
        raise InputError(
            f"tfmot's copy of model {model.name!r} gives other outputs, before anything is rounded (output {output}). "
            "Leave the layers out that it copies badly: those that keep more than their weights, such as preprocessing."
        )
    by_name = {getattr(layer, "layer", layer).name: layer for layer in converted.layers}
    pairs = [(layer, by_name[paths[id(layer)]]) for layer, _ in annotated.pairs if paths[id(layer)] in by_name]
    return Conversion(converted, pairs), left


def _kept(conversion: Conversion, masks: dict[str, np.ndarray], clusters: dict[str, np.ndarray]) -> list[Kept]:
    kept = []
    for _, converted in conversion.pairs:
        path = getattr(converted, "layer", converted).name
        mask, numbers = masks.get(path), clusters.get(path)
        shapes = {each.shape for each in (mask, numbers) if each is not None}
        if shapes:
            kernel = next(weight for weight in converted.weights if tuple(weight.shape) in shapes)
            kept.append(Kept(kernel, mask, numbers))
    return kept


def _returned(model: keras.Model, conversion: Conversion, bits: int) -> tuple[keras.Model, dict[str, QuantizedKernel]]:
    """A copy with the trained weights, those of rounded kernels decoded from their codes."""
    trained = clone_model(model)
    layers, views = layers_by_path(trained), views_by_path(trained)
    kernels = {}
    for layer, converted in conversion.pairs:
        path = getattr(converted, "layer", converted).name
        if path not in layers:
            continue  # an activation that has become a layer of its own
        rounded = getattr(converted, "_weight_vars", [])
        if not rounded:
            copy_weights(getattr(converted, "layer", converted), layers[path])
            continue
        # tfmot puts tensors in the place of the variables that it rounds: the wrapper has them.
        ((kernel, _, ranges),) = rounded
        others = {weight.name.rpartition("/")[2].partition(":")[0]: weight for weight in converted.weights}
        for weight in layers[path].weights:
            if weight is not views[path].variable:
                weight.assign(others[weight.name].numpy())
        low, high = ranges["min_var"].numpy(), ranges["max_var"].numpy()
        kernels[path] = _codes(kernel.numpy(), low, high, bits, type(layer))
        views[path].variable.assign(kernels[path].decode())
    return trained, kernels


def _codes(kernel: np.ndarray, low: np.ndarray, high: np.ndarray, bits: int, kind: type) -> QuantizedKernel:
    """The integers of symmetric fake quantization: those of `kc.Integer(bits)`, times a scale."""
    levels = integer_levels(bits)
    scale = np.maximum((high - low).astype(np.float32) / (len(levels) - 1), np.float32(1e-9)).reshape(-1)
    # By the operation that training rounds with: at a tie a division could go the other way.
    fake_quantized = tf.quantization.fake_quant_with_min_max_vars
    if np.ndim(low):
        fake_quantized = tf.quantization.fake_quant_with_min_max_vars_per_channel
    rounded = fake_quantized(kernel, low, high, num_bits=bits, narrow_range=bits > 2).numpy()
    codes = np.clip(np.rint(rounded / scale), levels[0], levels[-1]).astype(np.int32)
    axes = QUANTIZED[kind]
    if scale.size == 1 and kind is not keras.layers.DepthwiseConv2D:
        axis: int | tuple[int, ...] = 2 if kind is keras.layers.Conv2DTranspose else kernel.ndim - 1
        return QuantizedKernel(codes, levels, scale, axis)
    if kind is keras.layers.DepthwiseConv2D:  # tfmot has a scale for each multiplier, and no channel of its own
        return QuantizedKernel(codes, levels, np.broadcast_to(scale, kernel.shape[2:]).copy(), (2, 3))
    return QuantizedKernel(codes, levels, scale, axes[0])
