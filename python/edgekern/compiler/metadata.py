"""What a model says of itself, as far as a program has room for it."""

from __future__ import annotations

import onnx

from edgekern._warn import warn_caller
from edgekern.artifact import ModelMetadata
from edgekern.artifact.manifest import QUANTIZATION_KEY
from edgekern.artifact.model_metadata import MOST_BYTES, UNSET_VERSION


def metadata_of(proto: onnx.ModelProto) -> ModelMetadata:
    """The model's own words, the longest ones left out, with an EdgekernWarning, where they are too many."""
    texts = {"producer_name": proto.producer_name, "graph_name": proto.graph.name, "domain": proto.domain}
    texts |= {"description": proto.doc_string, "graph_description": proto.graph.doc_string}
    custom = {entry.key: entry.value for entry in proto.metadata_props if entry.key != QUANTIZATION_KEY}
    version = proto.model_version if proto.HasField("model_version") else UNSET_VERSION
    while len((told := ModelMetadata(**texts, version=version, custom_metadata_map=custom)).to_json()) > MOST_BYTES:
        tables = ((table, name) for table in (texts, custom) for name in table)
        table, longest = max(tables, key=lambda entry: len(entry[0][entry[1]]) + len(entry[1]))
        warn_caller(
            f"compile: {longest[:80]!r} of the model's metadata, {len(table.pop(longest))} characters, is left out; a "
            f"program holds {MOST_BYTES} bytes of it"
        )
    return told
