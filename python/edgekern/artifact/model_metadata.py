"""ModelMetadata: what an ONNX model says of itself, carried in the header of its program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from edgekern import files
from edgekern.errors import ArtifactError

UNSET_VERSION = 2**63 - 1  # what onnxruntime says of a model without one
MOST_BYTES = 1 << 15  # of its JSON: a header has 64 KB beside what it says of the index

_UNSOUND = "artifact: the metadata of the model is not what edgekern writes; write the file again"


@dataclass(frozen=True)
class ModelMetadata:
    """The model's own words.

    Attributes
    ----------
    producer_name, domain, description, version : of the model; 2**63 - 1 is no version
    graph_name, graph_description : of its graph
    custom_metadata_map : its other metadata, such as the names of classes
    """

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = UNSET_VERSION
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ModelMetadata:
        """What :meth:`to_json` wrote.

        Raises
        ------
        ArtifactError
            When it is not.
        """
        try:
            found = ModelMetadata(**files.parse_json(text.encode(), most_values=MOST_BYTES))
            custom = found.custom_metadata_map
            texts = [value for name, value in asdict(found).items() if name not in ("version", "custom_metadata_map")]
            texts += [*custom, *custom.values()]
            sound = all(type(one) is str for one in texts) and type(found.version) is int
            sound = sound and type(custom) is dict and len(text) <= MOST_BYTES and found.to_json() == text
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(_UNSOUND) from error
        if not sound:
            raise ArtifactError(_UNSOUND)
        return found
