"""What a host step hands to onnxruntime, read before onnxruntime reads it.

An ONNX model can name files: onnxruntime reads a tensor with external data from wherever the model says, from the
process's own memory too. The model in an .ekm is a stranger's, so this walk goes over its protobuf wire format, with
nothing but the standard library, and lets through only what the compiler writes. It knows every field of the messages
on the way to a tensor; of a field that it does not know nobody can say what another onnxruntime reads there.
"""

from __future__ import annotations

import re

from edgekern.errors import ArtifactError

MAX_DEPTH = 100  # of nested messages; protobuf's own limit
MAX_FIELDS = 1 << 22

_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
_NUMBERED, _WIDTH = (_VARINT, BYTES), {_FIXED64: 8, _FIXED32: 4}
# `floats` and `ints` of an attribute: a field each, and a forest of decision trees has millions.
_NUMBERS = re.compile(rb"(?:\x3d[\x00-\xff]{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f])++")
# By message and field number: the message that the field holds, "" for what is passed over, or what no host model
# has. tests/test_host_model.py holds the table to onnx's.
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {
        **dict.fromkeys((1, 2, 3, 4, 5, 6, 8), ""),
        7: "GraphProto",
        14: "metadata",  # with ORT_LOAD_CONFIG_FROM_MODEL a session takes its options from there
        20: "training graphs",
        25: "functions",  # thirty that call each other twice are a billion nodes once onnxruntime has inlined them
        26: "devices",
    },
    "GraphProto": {
        **dict.fromkeys((2, 10, 11, 12, 13, 14, 16), ""),
        1: "NodeProto",
        5: "TensorProto",
        15: "SparseTensorProto",
    },
    "NodeProto": {**dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9, 10), ""), 5: "AttributeProto"},
    "AttributeProto": {
        **dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 20, 21), ""),
        **dict.fromkeys((5, 10), "TensorProto"),
        **dict.fromkeys((6, 11), "GraphProto"),
        **dict.fromkeys((22, 23), "SparseTensorProto"),
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto", 3: ""},
    "TensorProto": {**dict.fromkeys((*range(1, 13), 16), ""), 13: "external data", 14: "location"},
}


class _Unsound(Exception):
    """What is wrong, as the end of a sentence about the model."""


def check_host_model(model: bytes | memoryview, name: str) -> bool:
    """Hold an ONNX model to what the compiler writes.

    Parameters
    ----------
    model : the encoded ModelProto
    name : of the host step, for errors

    Returns
    -------
    bool
        Whether it has subgraphs, so that a run may turn in a Loop.

    Raises
    ------
    ArtifactError
        When it names data outside the file, carries functions, metadata, or fields that ONNX does not have, or is no
        sound protobuf message. Nothing else is raised, whatever the bytes are.
    """
    try:
        if bytes(model[4:8]) == b"ORTM":  # such bytes can be both, and onnxruntime takes them for its own format
            raise _Unsound("it is in onnxruntime's own format")
        return _walk(model)
    except _Unsound as fact:
        raise ArtifactError(
            f"artifact: the ONNX model of {name!r} is not one that edgekern writes: {fact}; do not use the file, or "
            "compile it again from a model that you trust"
        ) from None


def _walk(model: bytes | memoryview) -> bool:
    at, fields, subgraphs = 0, 0, False
    message, known, end = "ModelProto", FIELDS["ModelProto"], len(model)
    outer: list[tuple[str, int]] = []
    while True:
        while at == end:
            if not outer:
                return subgraphs
            message, end = outer.pop()
            known = FIELDS[message]
        if message == "AttributeProto" and (numbers := _NUMBERS.match(model, at, end)):
            at = numbers.end()
            continue
        fields += 1
        if fields > MAX_FIELDS:
            raise _Unsound(f"it has more than {MAX_FIELDS} fields")
        number, wire, value, content, after = field_at(model, at, end)
        kind = known.get(number)
        if kind == "":
            at = after
        elif kind is None:
            raise _Unsound(f"ONNX has no field {number} in a {message}")
        elif kind in FIELDS:
            if wire != BYTES:
                raise _Unsound(f"field {number} of a {message} is no message")
            if len(outer) == MAX_DEPTH:
                raise _Unsound(f"its messages are nested more than {MAX_DEPTH} deep")
            subgraphs |= kind == "GraphProto" and message == "AttributeProto"
            outer.append((message, end))
            message, known, at, end = kind, FIELDS[kind], content, after
        elif kind == "location" and wire == _VARINT and value == 0:
            at = after
        else:
            raise _Unsound(f"it has {'external data' if kind == 'location' else kind}, and a host model has none")


def field_at(model: bytes | memoryview, at: int, end: int) -> tuple[int, int, int, int, int]:
    """The field that begins at a byte: its number, wire type, value or size, and where its content begins and ends."""
    key, at = (model[at], at + 1) if model[at] < 0x80 else _varint(model, at, end)
    number, wire = key >> 3, key & 7
    if wire in _NUMBERED:
        value, content = (model[at], at + 1) if at < end and model[at] < 0x80 else _varint(model, at, end)
        after = content + value if wire == BYTES else content
    elif wire in _WIDTH:
        value, content, after = 0, at, at + _WIDTH[wire]
    else:
        raise _Unsound(f"the field before byte {at} has wire type {wire}, which ONNX does not use")
    if after > end:
        raise _Unsound(f"the field before byte {at} passes the end of what holds it")
    return number, wire, value, content, after


def _varint(model: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
    """A number of at most 64 bits in the shortest form, and where it ends."""
    value = 0
    for place in range(at, min(end, at + 10)):
        byte = model[place]
        value |= (byte & 0x7F) << 7 * (place - at)
        if byte < 0x80:
            if (byte == 0 and place > at) or value >= 1 << 64:
                break
            return value, place + 1
    raise _Unsound(f"byte {at} begins no number")
