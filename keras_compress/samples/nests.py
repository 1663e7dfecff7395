"""Arrays, and tuples, lists and dictionaries of them. Loads neither TensorFlow nor Keras."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(nest: Any) -> Iterator[Any]:
    """What is in it, in its order."""
    if isinstance(nest, Mapping):
        for each in nest.values():
            yield from leaves(each)
    elif isinstance(nest, (tuple, list)):
        for each in nest:
            yield from leaves(each)
    else:
        yield nest


def mapped(function: Callable[..., Any], nest: Any, *others: Any) -> Any:
    """The same structure, with what the function makes of each leaf and of those in its place in the others."""
    if isinstance(nest, Mapping):
        return {key: mapped(function, nest[key], *(other[key] for other in others)) for key in nest}
    if isinstance(nest, (tuple, list)):
        return type(nest)([mapped(function, *parts) for parts in zip(nest, *others, strict=True)])
    return function(nest, *others)
