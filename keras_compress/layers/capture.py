"""What the layers within another layer are called on, observed while the outer one runs."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras


@contextlib.contextmanager
def observed_inputs(layers: Iterable[keras.Layer]) -> Iterator[list[tuple[keras.Layer, Any]]]:
    """Notes (layer, first argument) for each call of one of these layers, in order, while the block runs.

    Each layer's `call` is wrapped meanwhile, and is what it was afterwards.
    """
    noted: list[tuple[keras.Layer, Any]] = []
    wrapped: list[tuple[keras.Layer, Any]] = []

    def watch(layer: keras.Layer) -> None:
        call = layer.call

        def noting(*args: Any, **kwargs: Any) -> Any:
            noted.append((layer, args[0] if args else next(iter(kwargs.values()))))
            return call(*args, **kwargs)

        wrapped.append((layer, vars(layer).get("call")))
        object.__setattr__(layer, "call", noting)  # past Keras, which would track it

    try:
        for layer in {id(layer): layer for layer in layers}.values():
            watch(layer)
        yield noted
    finally:
        for layer, own in wrapped:
            if own is None:
                object.__delattr__(layer, "call")
            else:
                object.__setattr__(layer, "call", own)
