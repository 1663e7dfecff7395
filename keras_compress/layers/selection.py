"""Which layers a setting means: names, paths, regular expressions, or a function."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from keras_compress.errors import InputError

Pattern = str | re.Pattern[str] | Callable[[str], bool]
Patterns = Pattern | Iterable[Pattern]


def select(patterns: Patterns | None, paths: list[str], argument: str, done: str = "quantized") -> set[str]:
    """Those of `paths` that a pattern means.

    A string is a path (`encoder/conv1`), or the name of a layer wherever it is (`conv1`), or else a regular expression
    for a whole path (`block.*/conv[12]`). A function gets the path and says yes or no.

    Args:
        patterns: one or several; None means all paths.
        paths: of the layers to choose from.
        argument: name of the setting, for the message.
        done: what happens to the layers, for the message.

    Raises:
        InputError: a pattern that means no layer, or is no pattern.
    """
    if patterns is None:
        return set(paths)
    if isinstance(patterns, (str, re.Pattern)) or callable(patterns):
        patterns = [patterns]
    chosen: set[str] = set()
    for pattern in patterns:
        matches = {path for path in paths if _predicate(pattern, paths, argument)(path)}
        if not matches:
            raise InputError(
                f"{argument}: the pattern {_text(pattern)} matches no layer that can be {done}. "
                f"These can: {', '.join(paths) or 'none'}."
            )
        chosen |= matches
    return chosen


def _predicate(pattern: Any, paths: list[str], argument: str) -> Callable[[str], bool]:
    if isinstance(pattern, re.Pattern):
        return lambda path: pattern.fullmatch(path) is not None
    if isinstance(pattern, str):
        if pattern in paths or any(path.endswith("/" + pattern) for path in paths):
            return lambda path: path == pattern or path.endswith("/" + pattern)
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"{argument}: {pattern!r} is neither a layer nor a regular expression ({error})."
            ) from error
        return lambda path: expression.fullmatch(path) is not None
    if callable(pattern):
        return lambda path: bool(pattern(path))
    raise InputError(
        f"{argument} takes names, paths, regular expressions or a function. Received: {type(pattern).__name__}."
    )


def _text(pattern: Any) -> str:
    return repr(pattern.pattern) if isinstance(pattern, re.Pattern) else repr(pattern)
