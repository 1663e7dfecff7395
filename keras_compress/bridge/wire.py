"""Protocol buffers, read field by field: a few texts of a SavedModel, and nothing built of the rest."""

from collections.abc import Iterator

MOST_FIELDS = 1 << 20  # of one message
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def messages(content: memoryview, *numbers: int) -> Iterator[memoryview]:
    """The messages or texts at the end of a path of field numbers.

    Args:
        content: a message.
        numbers: of the field, of the field within it, and so on.

    Raises:
        ValueError: no message, or one with more fields than any of ours has.
    """
    first, *rest = numbers
    for number, value in _fields(content):
        if number == first:
            if rest:
                yield from messages(value, *rest)
            else:
                yield value


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has a length: messages, texts."""
    place, count = 0, 0
    while place < len(content):
        count += 1
        if count > MOST_FIELDS:
            raise ValueError(f"a message of more than {MOST_FIELDS:,} fields")
        key, place = _varint(content, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _varint(content, place)
        elif kind in (_EIGHT, _FOUR):
            place += 8 if kind == _EIGHT else 4
        elif kind == _BYTES:
            length, place = _varint(content, place)
            if length > len(content) - place:
                raise ValueError("a field longer than its message")
            yield key >> 3, content[place : place + length]
            place += length
        else:
            raise ValueError(f"a field of kind {kind}")


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(content) and shift < 64:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number without its end")
