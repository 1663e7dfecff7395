"""HDF5 files of others: what they hold is in them, and no more than their size."""

import dataclasses
import math
from typing import Any

import h5py

MOST_OBJECTS = 30_000  # groups, datasets and attributes; the largest networks of Keras have ten thousand
LARGEST_ATTRIBUTES = 64 << 20  # bytes of texts of any length, which may all be one and the same text in the file


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a file has of weights.

    Attributes:
        numbers: in all of its arrays.
        arrays: how many of them.
    """

    numbers: int = 0
    arrays: int = 0


def stored_in(file: h5py.File, size: int) -> Stored:
    """What all datasets of a file hold, after each was held against the size of the file.

    Args:
        file: open; nothing but its headers is read.
        size: of the file in bytes.

    Raises:
        ValueError: links to other files, data outside of the file or packed, texts of any length, sizes that the file
            cannot hold, or more parts than any network has.
    """
    seen: set[Any] = set()
    places: list[Any] = [file]
    datasets: list[h5py.Dataset] = []
    groups: list[h5py.Group] = [file]
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"a link to another place or file, {name[:80]!r}")
            place = group[name]
            address = h5py.h5o.get_info(place.id).addr
            if address in seen:
                continue
            seen.add(address)
            places.append(place)
            if len(places) > MOST_OBJECTS:
                raise ValueError(f"more than {MOST_OBJECTS:,} groups and datasets")
            if isinstance(place, h5py.Group):
                groups.append(place)
            elif isinstance(place, h5py.Dataset):
                datasets.append(place)
            else:
                raise ValueError(f"something that is neither a group nor a dataset, {name[:80]!r}")
    claimed = sum(map(_claimed_bytes, datasets))
    if claimed > size:
        raise ValueError(f"datasets that claim {claimed:,} bytes in a file of {size:,}")
    if len(places) + sum(h5py.h5a.get_num_attrs(place.id) for place in places) > MOST_OBJECTS:
        raise ValueError(f"more than {MOST_OBJECTS:,} groups, datasets and attributes")
    for place in places:
        _check_attributes(place, size - claimed)
    return Stored(sum(_numbers(dataset.id) for dataset in datasets), len(datasets))


def _claimed_bytes(dataset: h5py.Dataset) -> int:
    """Bytes of a dataset, all of which must lie in the file as they are."""
    name = str(dataset.name)[-80:]
    settings, kind = dataset.id.get_create_plist(), dataset.id.get_type()
    if settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise ValueError(f"data that lie in other files, {name!r}")
    if settings.get_nfilters():
        raise ValueError(f"packed data, {name!r}; h5repack -f NONE unpacks them")
    if kind.get_class() in (h5py.h5t.VLEN, h5py.h5t.REFERENCE, h5py.h5t.COMPOUND, h5py.h5t.ARRAY) or (
        kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    ):
        raise ValueError(f"a dataset of something other than numbers, {name!r}")
    claimed = _numbers(dataset.id) * kind.get_size()
    if claimed > dataset.id.get_storage_size():
        raise ValueError(f"a dataset that claims {claimed:,} bytes and has {dataset.id.get_storage_size():,}, {name!r}")
    return claimed


def _check_attributes(place: Any, size: int) -> None:
    """Holds the texts and numbers of a group or dataset against the bytes of the file that are not data."""
    for index in range(h5py.h5a.get_num_attrs(place.id)):
        attribute = h5py.h5a.open(place.id, index=index)
        kind = attribute.get_type()
        variable = kind.get_class() == h5py.h5t.VLEN or (kind.get_class() == h5py.h5t.STRING and kind.is_variable_str())
        numbers = _numbers(attribute)
        claimed = size if variable else kind.get_size()
        if numbers * claimed > (max(size, LARGEST_ATTRIBUTES) if variable else size):
            raise ValueError(f"an attribute that claims more than the file has, {attribute.name[:80]!r}")


def _numbers(place: Any) -> int:
    """Of a dataset or an attribute."""
    space = place.get_space()
    return math.prod(space.get_simple_extent_dims() or ()) if space.get_simple_extent_type() != h5py.h5s.NULL else 0
