"""Weights of `.keras` files of Keras 2.12 to 2.15, whose groups later versions renamed.

| written by | group of the second Dense layer |
| --- | --- |
| today | `layers/dense_1` |
| Keras 2.12 | `_layer_checkpoint_dependencies/dense_1` |
| Keras 2.13, which counts a layer with weights twice | `_layer_checkpoint_dependencies/dense_2` |
| either, on Windows | one group `layers\\dense_1` |
"""

import io
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterable

import h5py

from keras_compress.bridge.configuration import WEIGHTS

OLD, NEW = "_layer_checkpoint_dependencies", "layers"
Numbering = Callable[[list[int]], dict[int, int]]


def are_old(groups: Iterable[str]) -> bool:
    """Whether groups at the top of the weights have names that Keras 2 no longer writes."""
    return any("\\" in name or name == OLD for name in groups)


def numberings(groups: Iterable[str]) -> list[Numbering]:
    """How the numbers of layers may be read; the first under which all weights are found is right.

    Each keeps the order of the layers. So no two of them give all layers weights, and not the same.
    """
    if not any(OLD in name for name in groups):
        return [_same]
    return [_half, _rank, _same]


def _same(numbers: list[int]) -> dict[int, int]:
    return {number: number for number in numbers}


def _half(numbers: list[int]) -> dict[int, int]:
    """All layers have weights and were counted twice; layers without groups keep their numbers free."""
    if any(number % 2 for number in numbers):
        return _rank(numbers)
    return {number: number // 2 for number in numbers}


def _rank(numbers: list[int]) -> dict[int, int]:
    return {number: rank for rank, number in enumerate(sorted(numbers))}


def renamed(path: pathlib.Path, target: pathlib.Path, numbering: Numbering) -> None:
    """Writes a `.keras` file again, with the names of groups that Keras 2 has today."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            copy.writestr(name, _renamed(content, numbering) if name == WEIGHTS else content)


def _renamed(content: bytes, numbering: Numbering) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(content), "r") as source, h5py.File(buffer, "w") as target:
        places: list[str] = []
        source.visit(places.append)
        new_paths = _new_paths(places, numbering)
        for place in places:
            if isinstance(source[place], h5py.Dataset):
                target.create_dataset(new_paths[place], data=source[place][()])
            else:
                target.require_group(new_paths[place])
        target.require_group("vars")  # of the model itself, which has none, but is asked
    return buffer.getvalue()


def _new_paths(places: list[str], numbering: Numbering) -> dict[str, str]:
    """Old path of each group and dataset -> new path."""
    split = {place: tuple(place.replace("\\", "/").split("/")) for place in places}
    layers: dict[tuple[str, ...], dict[str, set[int]]] = {}  # containers: kinds of layers: their numbers
    for parts in split.values():
        for place, part in enumerate(parts[:-1]):
            if part == OLD:
                kind, number = _kind_and_number(parts[place + 1])
                layers.setdefault(parts[: place + 1], {}).setdefault(kind, set()).add(number)
    new_numbers = {
        (container, kind): numbering(sorted(numbers))
        for container, kinds in layers.items()
        for kind, numbers in kinds.items()
    }

    def new(parts: tuple[str, ...]) -> str:
        names = []
        for place, part in enumerate(parts):
            if place and parts[place - 1] == OLD:
                kind, number = _kind_and_number(part)
                number = new_numbers[parts[:place], kind][number]
                names.append(f"{kind}_{number}" if number else kind)
            else:
                names.append(NEW if part == OLD else part)
        return "/".join(names)

    return {place: new(parts) for place, parts in split.items()}


def _kind_and_number(name: str) -> tuple[str, int]:
    """Such as "dense" and 2 of "dense_2"."""
    match = re.fullmatch(r"(.+?)(?:_(\d{1,9}))?", name, re.DOTALL)
    return (match[1], int(match[2] or 0)) if match else (name, 0)
