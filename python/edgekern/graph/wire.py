"""Reading an ONNX file without its weights.

protobuf parses a message whole or not at all, and a model is one message. Its wire format is a flat list of
``key, length, bytes``, so the raw data of large initializers can be stepped over: what is left is parsed by protobuf as
ever, and the places of the data are known. Nothing is believed that protobuf does not check afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto, TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class Field(NamedTuple):
    """Where a field lies in its file: key and length from ``start``, content from ``body`` to ``stop``."""

    number: int
    wire: int
    start: int
    body: int
    stop: int


def strip_weights(file: BinaryIO, size: int, large: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """The encoded model without the raw data of its large initializers, and where these lie.

    Parameters
    ----------
    file : a ModelProto, encoded
    size : of the file, in bytes
    large : bytes of raw data from which on it is left out

    Returns
    -------
    bytes, and {place among the graph's initializers: (offset, length)}

    Raises
    ------
    ValueError
        When the file is no protobuf message.
    """
    found: dict[int, tuple[int, int]] = {}
    place, model = 0, bytearray()
    for part in _fields(file, 0, size):
        if part.number != _GRAPH or part.wire != _BYTES:
            model += _read(file, part.start, part.stop)
            continue
        graph = bytearray()
        for entry in _fields(file, part.body, part.stop):
            if entry.number != _INITIALIZER or entry.wire != _BYTES:
                graph += _read(file, entry.start, entry.stop)
                continue
            tensor = bytearray()
            for item in _fields(file, entry.body, entry.stop):
                if item.number == _RAW_DATA and item.wire == _BYTES and item.stop - item.body >= large:
                    found[place] = (item.body, item.stop - item.body)
                else:
                    tensor += _read(file, item.start, item.stop)
            graph += encode_field(_INITIALIZER, len(tensor)) + tensor
            place += 1
        model += encode_field(_GRAPH, len(graph)) + graph
    return bytes(model), found


def encode_initializers(headers: list[bytes], data_bytes: list[int]) -> list[bytes]:
    """What stands before the raw data of each initializer where they are written behind an encoded model.

    A message that is written in two pieces is merged when it is read, and repeated fields are joined: so a model may
    be followed by a second piece of its graph, which holds these initializers.

    Parameters
    ----------
    headers : each TensorProto without its raw data, encoded
    data_bytes : size of the raw data of each
    """
    keys = [encode_field(_RAW_DATA, size) for size in data_bytes]
    parts = [header + key for header, key in zip(headers, keys, strict=True)]
    sizes = [len(part) + size for part, size in zip(parts, data_bytes, strict=True)]
    parts = [encode_field(_INITIALIZER, size) + part for size, part in zip(sizes, parts, strict=True)]
    total = sum(len(part) for part in parts) + sum(data_bytes)
    return [encode_field(_GRAPH, total) * (at == 0) + part for at, part in enumerate(parts)]


def encode_field(number: int, length: int) -> bytes:
    """Key and length of a field of bytes."""
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(length)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _fields(file: BinaryIO, at: int, end: int) -> Iterator[Field]:
    while at < end:
        start = at
        file.seek(at)
        key = _varint(file)
        number, wire = key >> 3, key & 7
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire in (_VARINT, _BYTES):
            value = _varint(file)
            length = value if wire == _BYTES else 0
        elif wire not in (_FIXED64, _FIXED32):
            raise ValueError(f"wire type {wire} at byte {start}")
        body = file.tell()
        at = body + length
        if number == 0 or at > end:
            raise ValueError(f"field {number} at byte {start} ends at {at}, past {end}")
        yield Field(number, wire, start, body, at)


def _varint(file: BinaryIO) -> int:
    value = 0
    for at in range(_LONGEST_VARINT):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << (7 * at)
        if byte[0] < 0x80:
            return value
    raise ValueError(f"a number has more than {_LONGEST_VARINT} bytes")


def _read(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)
