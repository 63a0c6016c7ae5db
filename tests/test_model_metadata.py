"""What a model says of itself is there when its program is opened, as onnxruntime tells it of the model."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern.artifact import ModelMetadata, container
from edgekern.artifact.model_metadata import MOST_BYTES
from edgekern.errors import ArtifactError, EdgekernWarning

from float_models import ranges_of, samples, small_cnn
from graphs import Graph

FIELDS = [name for name in dir(onnxruntime.ModelMetadata) if name[0] != "_"]


def told_model(**told):
    g = Graph()
    model = g.model(g.op("Relu", g.input("x", (2, 3))))
    custom = told.pop("custom_metadata_map", {})
    onnx.helper.set_model_props(model, custom)
    for name, value in told.items():
        owner, field = {
            "graph_name": (model.graph, "name"),
            "graph_description": (model.graph, "doc_string"),
            "description": (model, "doc_string"),
            "version": (model, "model_version"),
        }.get(name, (model, name))
        setattr(owner, field, value)
    return model


def both(model):
    program = ek.Program.load(ek.compile(model).container.data.tobytes())
    theirs = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.get_modelmeta() for session in (ek.InferenceSession(program), theirs)]


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(
    st.fixed_dictionaries(
        {"graph_name": st.text("abc_", min_size=1)},
        optional={
            **dict.fromkeys(("producer_name", "domain", "description", "graph_description"), text),
            "version": st.integers(-(2**63), 2**63 - 1),
            "custom_metadata_map": st.dictionaries(text, text, max_size=3),
        },
    )
)
def test_a_session_tells_what_onnxruntime_tells(told):
    ours, theirs = both(told_model(**told))
    for name in FIELDS:
        assert getattr(ours, name) == getattr(theirs, name), name


def test_the_quantizers_words_are_there_too(rng):
    model, x = small_cnn(), samples(rng, 4)
    model.metadata_props.add(key="names", value="{0: 'cat', 1: 'dog'}")
    qdq = ek.quantize(model, ranges_of(model, x))
    ours, theirs = both(qdq)
    assert ours.custom_metadata_map == theirs.custom_metadata_map
    assert ours.custom_metadata_map["names"] == "{0: 'cat', 1: 'dog'}"
    assert json.loads(ours.custom_metadata_map["edgekern.quantization"])["model_hash"]


def test_programs_of_several_sizes_have_them_too():
    g = Graph()
    model = g.model(g.op("Relu", g.input("x", ("rows", 8))))
    model.doc_string = "Rows."
    program = ek.compile(model, shapes={"rows": [2, 4]})
    assert program.model_metadata.description == "Rows."
    assert program.with_buckets(program.buckets).model_metadata == program.model_metadata


def test_words_that_a_program_has_no_room_for_are_left_out_and_said():
    names = {"names": "n" * 9, "log": "l" * MOST_BYTES, "description": "d" * (MOST_BYTES // 2)}
    model = told_model(description="é" * (MOST_BYTES // 2), custom_metadata_map=names)
    with pytest.warns(EdgekernWarning) as seen:
        program = ek.compile(model)
    assert [str(one.message).split("'")[1] for one in seen] == ["log", "description"]
    assert {one.filename for one in seen} == {__file__}
    found = ek.Program.load(program.container.data.tobytes()).model_metadata
    assert found.description == ""  # six bytes a character in a header
    assert found.custom_metadata_map == {"names": "n" * 9, "description": "d" * (MOST_BYTES // 2)}


GOOD = json.loads(ModelMetadata(graph_name="g", custom_metadata_map={"a": "b"}).to_json())
FORGED = {
    "no json": "{",
    "list": "[]",
    "spaces": json.dumps(GOOD),
    "unknown": {**GOOD, "color": "red"},
    "missing": {name: value for name, value in GOOD.items() if name != "domain"},
    "number": {**GOOD, "graph_name": 7},
    "text": {**GOOD, "version": "7"},
    "flag": {**GOOD, "version": True},
    "value": {**GOOD, "custom_metadata_map": {"a": 7}},
    "pairs": {**GOOD, "custom_metadata_map": [["a", "b"]]},
    "long": {**GOOD, "description": "d" * MOST_BYTES},
    "deep": '{"custom_metadata_map":' + "[" * 20_000,
}


def with_metadata(text):
    program = ek.compile(told_model())
    metadata = {name: program.container.metadata[name] for name in ("ekm.producer", "ekm.manifest")}
    metadata |= {} if text is None else {"ekm.model": text}
    blobs = [(blob.name, program.container.blob(blob.name)) for blob in program.index.blobs]
    return container.build(program.index, blobs, metadata).tobytes()


@pytest.mark.parametrize("name", FORGED)
def test_forged_words_are_refused(name):
    text = FORGED[name] if isinstance(FORGED[name], str) else json.dumps(FORGED[name], separators=(",", ":"))
    with pytest.raises(ArtifactError, match="the metadata of the model is not what edgekern writes"):
        ek.Program.load(with_metadata(text))


def test_a_file_without_them_is_read():
    session = ek.InferenceSession(with_metadata(None))
    assert session.get_modelmeta() == ModelMetadata()
    assert session.run(None, {"x": np.ones((2, 3), np.float32)})[0].all()
