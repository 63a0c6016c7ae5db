"""What a program says about itself beside its index: its borders as the user sees them, and its host steps.

JSON inside the container's header. It is as untrusted as the rest of the file: every id, name and number is checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgekern import _core, files
from edgekern.artifact.buckets import MOST_PROGRAMS, Buckets, is_name
from edgekern.errors import ArtifactError

# Under it quantize writes into the metadata of a QDQ model what it did; compile carries that into the program, where
# compare reads the hash, and commands read how sample data was made.
QUANTIZATION_KEY = "edgekern.quantization"
_OF_ALL = ("buckets", "variants", "modes")  # fields that are of all programs of a file
_MOST_TOLD = 1 << 22  # values that a quantizer may have written down: every channel of a large model


@dataclass(frozen=True)
class HostStep:
    """A run of ONNX nodes without a kernel: onnxruntime does them between two segments of the program.

    Attributes
    ----------
    name : str
    nodes : names of the ONNX nodes, or of their first output where a node has no name
    operators : their ONNX operators
    reason : why they have no kernel
    elements : elements that cross the border, in and out, per run
    macs : multiply-adds per run
    macs_share : part of the program's multiply-adds that this step does, 0..1
    inputs, outputs : (name in the ONNX sub-model, tensor id)
    blob : the sub-model's blob
    """

    name: str
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    reason: str
    elements: int
    macs: int
    macs_share: float
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    blob: str
    blob_bytes: int

    def __str__(self) -> str:
        nodes = ", ".join(f"{op} '{node}'" for op, node in zip(self.operators, self.nodes, strict=True))
        return f"{nodes}: {self.reason} ({self.elements} elements moved, {self.macs_share:.1%} of the multiply-adds)"


@dataclass(frozen=True)
class Variant:
    """The program of another size or mode: where its index lies, and what its manifest has that the first has not.

    Attributes
    ----------
    blob, blob_bytes : of :func:`edgekern.artifact.variants.told_by`
    changes : JSON of the fields of its manifest that are others
    """

    blob: str
    blob_bytes: int
    changes: str


@dataclass(frozen=True)
class Manifest:
    """The program's story for people and for Python's runtime.

    Attributes
    ----------
    inputs, outputs : (name, tensor id), in the order of the ONNX graph
    order : what runs when: ("segment", i) or ("host", i)
    host_steps : tuple of HostStep
    layers : tensor id -> names of the float tensors of the QDQ model that it holds
    plan : "lower_bound" and "method" of the memory plan
    quantization : what the quantizer left in the model's metadata, as JSON text
    buckets : the sizes that the program has, where they are several
    variants : the programs of the other sizes, in the order of ``buckets``; then those of the next mode, and so on
    modes : names of the precisions that the program has, where they are several
    """

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    order: tuple[tuple[str, int], ...]
    host_steps: tuple[HostStep, ...] = ()
    layers: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    lower_bound: int = 0
    method: str = ""
    quantization: str = ""
    buckets: Buckets | None = None
    variants: tuple[Variant, ...] = ()
    modes: tuple[str, ...] = ()

    @property
    def sizes(self) -> int:
        """How many sizes, and programs, each mode has."""
        return 1 if self.buckets is None else self.buckets.combinations

    @property
    def float_model_hash(self) -> str | None:
        """Identity of the float model that was quantized, as ``edgekern.calibration.model_hash`` gives it; None where
        another tool, or an edgekern before this, did that."""
        found = told_by_quantizer(self.quantization, "model_hash")
        return found if isinstance(found, str) else None

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How files became inputs where the model was calibrated, as ``Ranges.preprocessing`` has it; None where nobody
        said. Its values are as untrusted as the file."""
        found = told_by_quantizer(self.quantization, "preprocessing")
        return found if isinstance(found, dict) else None

    def to_json(self) -> str:
        fields = asdict(self)
        if not self.modes:  # as it was before there were any
            del fields["modes"]
            if self.buckets is None:
                del fields["buckets"], fields["variants"]
        return json.dumps(fields, separators=(",", ":"))

    def changes(self, other: Manifest) -> str:
        """The fields that ``other`` has and this has not, as JSON."""
        mine, others = asdict(self), asdict(other)
        found = {name: value for name, value in others.items() if value != mine[name] and name not in _OF_ALL}
        return json.dumps(found, separators=(",", ":"))

    def changed(self, changes: str, index: _core.ProgramIndex) -> Manifest:
        """The manifest that :meth:`changes` was made of; raises as :meth:`from_json`."""
        try:
            fields = files.parse_json(changes.encode(), most_values=_most_values(index))
            mine = json.loads(self.to_json())
            text = json.dumps(
                {name: fields.pop(name, mine[name]) for name in mine if name not in _OF_ALL}, separators=(",", ":")
            )
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ArtifactError("artifact: the manifest is not what edgekern writes; write the file again") from error
        found = Manifest.from_json(text, index)
        if fields or self.changes(found) != changes:
            raise ArtifactError("artifact: the manifest is not what edgekern writes; write the file again")
        return found

    @staticmethod
    def from_json(text: str, index: _core.ProgramIndex) -> Manifest:
        """Read and check a manifest against the index it belongs to.

        Raises
        ------
        ArtifactError
            When it is not what :meth:`to_json` wrote, or names what the index does not have.
        """
        try:
            fields = files.parse_json(text.encode(), most_values=_most_values(index))
            hosts = tuple(_host_step(entry) for entry in fields.pop("host_steps"))
            layers = {int(key): _names(value) for key, value in fields.pop("layers").items()}
            inputs, outputs, order = (_pairs(fields.pop(name)) for name in ("inputs", "outputs", "order"))
            if (buckets := fields.pop("buckets", None)) is not None:
                buckets = Buckets.from_json(buckets)
            variants = tuple(_variant(entry) for entry in fields.pop("variants", ()))
            modes = _names(fields.pop("modes", []))
            manifest = Manifest(
                inputs, outputs, order, hosts, layers, **fields, buckets=buckets, variants=variants, modes=modes
            )
            sound = manifest._sound(index) and manifest.to_json() == text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError("artifact: the manifest is not what edgekern writes; write the file again") from error
        if not sound:
            raise ArtifactError("artifact: the manifest does not fit the index; write the file again")
        return manifest

    def _sound(self, index: _core.ProgramIndex) -> bool:
        tensors, blobs = len(index.tensors), {blob.name: blob.bytes for blob in index.blobs}
        borders = [*self.inputs, *self.outputs]
        for step in self.host_steps:
            borders += [*step.inputs, *step.outputs]
        wanted = sorted(("segment", i) for i in range(len(index.segments)))
        wanted += [("host", i) for i in range(len(self.host_steps))]
        segments = [pair for pair in self.order if pair[0] == "segment"]
        return (
            all(len({name for name, _ in side}) == len(side) for side in (self.inputs, self.outputs))
            and [number for _, number in self.inputs] == list(index.inputs)
            and [number for _, number in self.outputs] == list(index.outputs)
            and all(0 <= number < tensors for _, number in borders)
            and sorted(self.order) == sorted(wanted)
            and segments == sorted(segments)
            and all(0 <= number < tensors for number in self.layers)
            and all(0 <= step.blob_bytes <= blobs.get(step.blob, -1) for step in self.host_steps)
            and all(len(step.nodes) == len(step.operators) for step in self.host_steps)
            and all(len(dict(side)) == len(side) for step in self.host_steps for side in (step.inputs, step.outputs))
            and all(step.outputs for step in self.host_steps)
            and len({step.blob for step in self.host_steps}) == len(self.host_steps)  # each is checked, once
            and all(type(value) is str for value in (self.method, self.quantization))
            and type(self.lower_bound) is int
            and len(self.variants) == max(len(self.modes), 1) * self.sizes - 1
            and len(self.variants) < MOST_PROGRAMS
            and len(self.modes) != 1
            and len(set(self.modes)) == len(self.modes)
            and all(map(is_name, self.modes))
            and all(0 <= variant.blob_bytes <= blobs.get(variant.blob, -1) for variant in self.variants)
            and len({variant.blob for variant in self.variants}) == len(self.variants)
        )


def told_by_quantizer(text: str, name: str) -> Any:
    """One value of what :func:`edgekern.quantize` wrote under :data:`QUANTIZATION_KEY`; None where there is none."""
    try:
        told = files.parse_json(text.encode(), most_values=_MOST_TOLD)
    except (ValueError, RecursionError):
        return None
    return told.get(name) if isinstance(told, dict) else None


def _most_values(index: _core.ProgramIndex) -> int:
    """What a manifest may tell of an index: names of its tensors, order of its segments, the host's nodes and single
    channels, which all lie in blobs."""
    told = len(index.tensors) + len(index.segments) + len(index.inputs) + len(index.outputs)
    return 4096 + 32 * told + sum(blob.bytes for blob in index.blobs) // 8


def _host_step(fields: dict[str, Any]) -> HostStep:
    for name in ("nodes", "operators"):
        fields[name] = _names(fields[name])
    for name in ("inputs", "outputs"):
        fields[name] = _pairs(fields[name])
    step = HostStep(**fields)
    texts, numbers = (step.name, step.reason, step.blob), (step.elements, step.macs, step.blob_bytes)
    if not all(type(value) is str for value in texts) or not all(type(value) is int for value in numbers):
        raise TypeError
    if type(step.macs_share) not in (int, float):
        raise TypeError
    return step


def _variant(fields: dict[str, Any]) -> Variant:
    variant = Variant(**fields)
    if not all(type(text) is str for text in (variant.blob, variant.changes)) or type(variant.blob_bytes) is not int:
        raise TypeError
    return variant


def _names(value: list[str]) -> tuple[str, ...]:
    if type(value) is not list or not all(type(name) is str for name in value):
        raise TypeError
    return tuple(value)


def _pairs(value: list[list[Any]]) -> tuple[tuple[str, int], ...]:
    pairs = tuple((name, number) for name, number in value)
    if not all(type(name) is str and type(number) is int for name, number in pairs):
        raise TypeError
    return pairs
