"""The walk over a host model: it lets through what the compiler writes, and nothing that could name a file.

HYPOTHESIS_PROFILE=nightly runs the fuzz tests 25 times as long as ``ci`` does.
"""

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekern.artifact.host_model import FIELDS, MAX_DEPTH, MAX_FIELDS, check_host_model
from edgekern.errors import ArtifactError

from host_models import MEMORY_MARKER, PLACES, SIZE, array, endless, external, messages, model

SOUND = model([helper.make_node("Add", ["x", "w"], ["y"])], [array("w", np.ones(SIZE))])
LOCATIONS = ["secret.bin", "../secret.bin", "/etc/passwd", MEMORY_MARKER, ""]


def encoded(made: onnx.ModelProto) -> bytes:
    return bytes(made.SerializeToString())


def refused(content: bytes) -> str:
    """Why, or nothing."""
    try:
        check_host_model(content, "host.0")
    except ArtifactError as error:
        return str(error)
    return ""


def names_files(made: onnx.ModelProto) -> bool:
    tensors = [message for message in messages(made) if isinstance(message, TensorProto)]
    return any(len(tensor.external_data) or tensor.data_location != TensorProto.DEFAULT for tensor in tensors)


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_refused_wherever_a_tensor_can_be(place, location):
    assert "not one that edgekern writes" in refused(encoded(PLACES[place](external(location=location))))


@pytest.mark.parametrize("place", [place for place in PLACES if "sparse" in place])
def test_external_indices_are_refused(place):
    assert "it has external data" in refused(encoded(PLACES[place](external(kind=TensorProto.INT64))))


def test_one_sign_of_external_data_is_enough():
    only_place, only_name, both = external(), external(), external()
    only_place.ClearField("external_data")
    only_name.ClearField("data_location")
    for tensor in (only_place, only_name, both):
        assert "it has external data" in refused(encoded(PLACES["initializer"](tensor)))


@pytest.mark.parametrize("place", [place for place in PLACES if "function" not in place and place != "training"])
def test_tensors_that_hold_their_data_pass(place):
    made = PLACES[place](array("w", np.ones(SIZE)))
    assert check_host_model(encoded(made), "host.0") == ("branch" in place or "graphs" in place)
    assert check_host_model(memoryview(encoded(made)), "host.0") == check_host_model(encoded(made), "host.0")


def test_models_with_subgraphs_are_told_apart():
    assert check_host_model(encoded(SOUND), "host.0") is False
    assert check_host_model(encoded(endless("nested")), "host.0") is True


def test_many_numbers_in_an_attribute_pass():
    """A forest of decision trees has millions of them, each a field of its own."""
    numbers = {"ints": list(range(-5, MAX_FIELDS)), "floats": np.arange(1000.0).tolist()}
    made = model([helper.make_node("Trees", ["x"], ["y"], **numbers)])
    assert refused(encoded(made)) == ""


def _with(change) -> bytes:
    made = onnx.ModelProto()
    made.CopyFrom(SOUND)
    change(made)
    return encoded(made)


def nested(depth: int) -> bytes:
    """A graph's node's attribute's graph's node's ..."""
    content = b""
    for _ in range(depth):
        for key in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            content = key + varint(len(content)) + content
    return b"\x3a" + varint(len(content)) + content


def varint(number: int) -> bytes:
    head = bytearray()
    while number > 0x7F:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*head, number])


TENSOR = b"\x3a\x04\x2a\x02"  # a graph's initializer of two bytes
UNSOUND = {
    "functions": (_with(lambda m: m.functions.add(name="F")), "it has functions"),
    "metadata": (_with(lambda m: m.metadata_props.add(key="ort_config", value="{}")), "it has metadata"),
    "training graphs": (_with(lambda m: m.training_info.add()), "it has training graphs"),
    "external, then not": (b"\x3a\x06\x2a\x04\x70\x01\x70\x00", "it has external data"),
    "location past 32 bits": (b"\x3a\x08\x2a\x06\x70\x81\x80\x80\x80\x10", "it has external data"),
    "location of an odd type": (TENSOR + b"\x72\x00", "it has external data"),
    "onnxruntime's own format": (b"\x12\x06AAORTM" + encoded(SOUND), "in onnxruntime's own format"),
    "flatbuffer": (b"\x1c\x00\x00\x00ORTM", "in onnxruntime's own format"),
    "field of another age": (b"\xf8\x01\x00" + encoded(SOUND), "ONNX has no field 31 in a ModelProto"),
    "field zero": (b"\x00\x00", "ONNX has no field 0"),
    "group": (b"\x0b\x0c", "wire type 3"),
    "end of a group": (b"\x0c", "wire type 4"),
    "wire type 7": (b"\x0f\x00", "wire type 7"),
    "graph that is a number": (b"\x38\x01", "field 7 of a ModelProto is no message"),
    "truncated": (encoded(SOUND)[:-1], "passes the end"),
    "length of the whole file": (b"\x3a\xff\xff\xff\xff\x0f", "passes the end"),
    "tensor longer than its graph": (b"\x3a\x02\x2a\x09" + bytes(9), "passes the end"),
    "number without an end": (b"\x08" + b"\xff" * 11, "begins no number"),
    "number past 64 bits": (b"\x08" + b"\xff" * 9 + b"\x7f", "begins no number"),
    "number that is longer than it must be": (b"\x08\x80\x00", "begins no number"),
    "key alone": (b"\x08", "begins no number"),
    "too deep": (nested(2000), f"nested more than {MAX_DEPTH} deep"),
    "too many fields": (b"\x08\x01" * (MAX_FIELDS + 1), f"more than {MAX_FIELDS} fields"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_the_compiler_does_not_write_is_refused(name):
    content, reason = UNSOUND[name]
    with pytest.raises(
        ArtifactError, match=f"the ONNX model of 'host.0' is not one that edgekern writes: .*({reason})"
    ):
        check_host_model(content, "host.0")


def test_merged_models_are_refused_in_either_order():
    """protobuf merges a message that comes twice: each part counts."""
    bad = encoded(PLACES["initializer"](external()))
    assert "it has external data" in refused(encoded(SOUND) + bad)
    assert "it has external data" in refused(bad + encoded(SOUND))
    assert refused(encoded(SOUND) + encoded(SOUND)) == ""


def test_every_field_of_onnx_is_known():
    """A newer onnx with another way to a tensor fails here, not at a user's door."""

    def reaches_tensor(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
        below = [f.message_type for f in descriptor.fields if f.message_type and f.message_type.name not in seen]
        seen |= {descriptor.name}
        return descriptor.name == "TensorProto" or any(reaches_tensor(message, seen) for message in below)

    for name, fields in FIELDS.items():
        for field in getattr(onnx, name).DESCRIPTOR.fields:
            kind = fields[field.number]
            if field.message_type is not None and reaches_tensor(field.message_type):
                assert kind == field.message_type.name or kind in ("functions", "training graphs"), field.full_name
            else:
                assert kind not in FIELDS, field.full_name


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Tensors in all places at once, with and without their data."""
    made = onnx.ModelProto()
    for place in draw(st.lists(st.sampled_from(sorted(PLACES)), max_size=3)):
        outside = draw(st.booleans())
        location = draw(st.sampled_from(LOCATIONS))
        made.MergeFrom(PLACES[place](external(location=location) if outside else array("w", np.ones(SIZE))))
    if draw(st.booleans()):
        made.ClearField("functions")
        made.ClearField("training_info")
    return made


@given(models())
def test_walk_and_onnx_agree_on_what_is_outside(made):
    reason = refused(encoded(made))
    assert bool(reason) == (names_files(made) or len(made.functions) + len(made.training_info) > 0), reason


def mutated(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    data = bytearray(content)
    for kind, at, length, new in edits:
        at %= len(data) + 1
        if kind == "replace":
            data[at : at + len(new)] = new
        elif kind == "insert":
            data[at:at] = new
        elif kind == "delete":
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "repeat"]),
        st.integers(0, 4096),
        st.integers(1, 64),
        st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\x70\x01", b"\x6a\x00", b"\xca\x01\x00"])),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=10 * settings.default.max_examples)
@given(models(), EDITS)
def test_nothing_passes_that_onnx_would_read_from_outside(made, edits):
    """Whatever the bytes are, only ArtifactError is raised; and what passes is harmless as protobuf reads it."""
    content = mutated(encoded(made), edits)
    if refused(content):
        return
    try:
        seen = onnx.ModelProto.FromString(content)
    except DecodeError:
        return
    assert not names_files(seen)
    assert not seen.functions
    assert not seen.training_info
    assert not seen.metadata_props
    graphs = [message for message in messages(seen) if isinstance(message, onnx.GraphProto)]
    assert len(graphs) <= 1 or check_host_model(content, "host.0")
