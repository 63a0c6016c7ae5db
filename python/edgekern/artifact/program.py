"""Program: the compiled model, in memory as it lies on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgekern import _core, files
from edgekern._arguments import file_path, isa_name
from edgekern.artifact import container
from edgekern.artifact.axes import find_axes
from edgekern.artifact.buckets import Buckets, holds
from edgekern.artifact.container import Blob, Container, Verify
from edgekern.artifact.host_model import check_host_model
from edgekern.artifact.infos import ArenaPlan, StepInfo, TensorInfo, numpy_dtype
from edgekern.artifact.manifest import HostStep, Manifest, Variant
from edgekern.artifact.model_metadata import ModelMetadata
from edgekern.artifact.nodes import NodePlace, counted, table
from edgekern.artifact.precisions import precisions_of
from edgekern.artifact.summary import summarized, told_shape
from edgekern.artifact.variants import index_of, told_by
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.files import ByteArray


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A compiled model: kernel steps over one planned arena, host steps where there is no kernel.

    Made by :func:`edgekern.compile` and :meth:`load`. Two programs are equal when their files are. A copy is the
    program itself; a pickle holds its bytes (out of band with protocol 5), all of which are checked again.

    ``nodes`` is what :func:`edgekern.compile` has made of each node of the model: a file does not hold it, and a
    program that was read has none.

    Where inputs have several sizes, it is the program of the smallest; ``buckets`` tells the sizes, and ``variants``
    has the programs of all, itself the first. Where there are several modes, it is that of the first; ``modes`` has
    their names, and ``by_mode`` the programs. All are views of one file, of which they are the ``number``-th.
    """

    container: Container
    manifest: Manifest
    nodes: tuple[NodePlace, ...] = ()
    others: tuple[Program, ...] = ()
    alternatives: tuple[Program, ...] = ()
    number: int = 0

    @staticmethod
    def build(
        index: _core.ProgramIndex,
        blobs: list[tuple[str, Blob]],
        manifest: Manifest,
        others: Sequence[tuple[_core.ProgramIndex, Manifest]] = (),
        model_metadata: ModelMetadata | None = None,
    ) -> Program:
        """Assemble a program, which takes ``blobs`` over; the result has passed the same checks as a file.

        Parameters
        ----------
        others : of the other sizes that ``manifest.buckets`` has, over the same blobs; then of the next mode's sizes
        model_metadata : what the ONNX model said of itself
        """
        variants, every = [], [(index, manifest), *others]
        for number, (other, story) in enumerate(others, 1):
            first, its = every[_first_of(number, manifest)]
            told = told_by(first, other)
            variants.append(Variant(_blob_of(number, manifest), len(told), its.changes(story)))
            blobs.append((variants[-1].blob, told))
        manifest = replace(manifest, variants=tuple(variants))
        metadata = {"ekm.producer": index.producer, "ekm.manifest": manifest.to_json()}
        if model_metadata is not None:
            metadata["ekm.model"] = model_metadata.to_json()
        return Program.load(container.build(index, blobs, metadata))

    @staticmethod
    def load(source: str | os.PathLike[str] | bytes | ByteArray, *, verify: Verify = "full") -> Program:
        """Read an .ekm file, or its bytes.

        Parameters
        ----------
        source : path, or the file's bytes
            A path is mapped, not read.
        verify : "full" or "lazy"
            "lazy" leaves the hashes of weights unchecked; header, index, memory plan and the models of host steps are
            always checked.

        Raises
        ------
        ArtifactError
            When a byte is not as it was written, or the model of a host step is not one that the compiler writes.
        """
        if not isinstance(verify, str) or verify not in ("full", "lazy"):
            raise ArgumentValueError(f"Program.load: verify must be 'full' or 'lazy', got {verify!r}")
        if isinstance(source, os.PathLike):
            source = file_path("Program.load", "source", source)
        opened = container.read(source, verify=verify)
        if opened.metadata.get("ekm.producer") != opened.index.producer or "ekm.manifest" not in opened.metadata:
            raise ArtifactError("artifact: header and index name different producers; write the file again")
        program = Program(opened, Manifest.from_json(opened.metadata["ekm.manifest"], opened.index))
        program = program._with_all()
        for one in program.all:
            for step in one.host_steps:
                check_host_model(one.host_model(step), step.name)
        _ = program.model_metadata  # which is as it was written, too
        return program

    def _with_all(self) -> Program:
        """The program with those of its other sizes and modes, which are held to each other."""
        sizes, buckets = self.manifest.sizes, self.buckets
        every = [self]
        for number in range(1, len(self.manifest.variants) + 1):
            every.append(self._view(number, every[_first_of(number, self.manifest)]))
        modes = [
            replace(
                every[at],
                manifest=replace(every[at].manifest, buckets=buckets),
                others=tuple(every[at + 1 : at + sizes]),
            )
            for at in range(0, len(every), sizes)
        ]
        first, *alternatives = modes
        first = replace(first, manifest=self.manifest, alternatives=tuple(alternatives))
        if buckets is not None:
            first._check_sizes(buckets)
        for number, one in enumerate(every):
            if one._shapes() != every[number % sizes]._shapes():
                raise ArtifactError("artifact: two modes take or give arrays of other shapes; write the file again")
        return first

    def _shapes(self) -> list[tuple[int, ...]]:
        return [info.shape for info in (*self.inputs, *self.outputs)]

    def _view(self, number: int, first: Program) -> Program:
        """Another program of the file, of which it tells in what it is not as ``first``."""
        variant = self.manifest.variants[number - 1]
        blob = self.container.checked(variant.blob)[: variant.blob_bytes]
        index = index_of(first.index, blob, self.container.blobs.size)
        other = Program(
            replace(self.container, index=index), first.manifest.changed(variant.changes, index), number=number
        )
        mine, others = (
            [(info.name, info.dtype, info.scale, info.zero_point) for info in (*one.inputs, *one.outputs)]
            for one in (self, other)
        )
        if mine != others:
            raise ArtifactError(
                f"artifact: '{variant.blob}' has other inputs or outputs than the first; write the file again"
            )
        return other

    def _check_sizes(self, buckets: Buckets) -> None:
        """Hold what the manifest says of sizes to the programs' shapes."""
        inputs = [{info.name: info.shape for info in one.inputs} for one in self.variants]
        outputs = [{info.name: info.shape for info in one.outputs} for one in self.variants]
        try:
            found, _ = find_axes(buckets.dimensions, inputs, outputs, buckets.pads)
        except ValueError:
            found = replace(buckets, inputs={})
        types = {info.name: info.dtype for info in self.inputs}
        sound = (found.inputs, found.outputs) == (buckets.inputs, buckets.outputs)
        sound = sound and all(name in types and holds(types[name], value) for name, value in buckets.pads.items())
        sound = sound and all(
            (most.padded or not one.padded) and (most.rows or not one.rows)
            for one, most in zip(buckets.dimensions, found.dimensions, strict=True)
        )
        if not sound or not all(buckets.fits(shapes, number) for number, shapes in enumerate(inputs)):
            raise ArtifactError(
                "artifact: the programs have not the sizes that the manifest says; write the file again"
            )

    @property
    def buckets(self) -> Buckets | None:
        """The sizes of its inputs, where they are several."""
        return self.manifest.buckets

    def with_buckets(self, buckets: Buckets) -> Program:
        """The program with other words on what lies between its sizes."""
        names = {variant.blob for variant in self.manifest.variants}
        blobs: list[tuple[str, Blob]] = [
            (blob.name, self.container.stored(blob.name)) for blob in self.index.blobs if blob.name not in names
        ]
        others = [(other.index, other.manifest) for other in self.all[1:]]
        made = Program.build(self.index, blobs, replace(self.manifest, buckets=buckets), others, self.model_metadata)
        return replace(made, nodes=self.nodes)

    @property
    def variants(self) -> tuple[Program, ...]:
        """The programs of all sizes, over the same weights."""
        return (self, *self.others)

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of the precisions that it has, the first one first; none where there is one. See docs/modes.md."""
        return self.manifest.modes

    @property
    def by_mode(self) -> Mapping[str, Program]:
        """The program of each mode, over the same blobs; empty where there is one precision."""
        return dict(zip(self.modes, (self, *self.alternatives), strict=True)) if self.modes else {}

    @property
    def all(self) -> tuple[Program, ...]:
        """The programs of all sizes of all modes, as a file numbers them."""
        return tuple(one for mode in (self, *self.alternatives) for one in mode.variants)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program as an .ekm file, atomically. Raises as :func:`edgekern.files.atomic_write`."""
        with files.atomic_write(file_path("Program.save", "path", path), function="Program.save") as file:
            file.write(self.container.data.data)

    @property
    def index(self) -> _core.ProgramIndex:
        """The binary index, decoded."""
        return self.container.index

    @cached_property
    def model_metadata(self) -> ModelMetadata:
        """What the ONNX model said of itself; of a file from before this, nothing."""
        text = self.container.metadata.get("ekm.model")
        return ModelMetadata() if text is None else ModelMetadata.from_json(text)

    @cached_property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """How files became the inputs on which the model was calibrated, for ``preprocessing`` of
        :func:`edgekern.samples`; None where arrays were given, or nobody said."""
        return self.manifest.preprocessing

    @cached_property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._borders(self.manifest.inputs)

    @cached_property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._borders(self.manifest.outputs)

    @property
    def host_steps(self) -> tuple[HostStep, ...]:
        """Runs of nodes that onnxruntime does, with reason and cost."""
        return self.manifest.host_steps

    def host_model(self, step: HostStep) -> memoryview:
        """The ONNX model of a host step, encoded, where it lies in the file."""
        return self.container.view(step.blob)[: step.blob_bytes]

    @cached_property
    def steps(self) -> tuple[StepInfo, ...]:
        """Kernel steps in the order in which they run."""
        tensors = self.index.tensors
        steps = []
        for number, step in enumerate(self.index.steps):
            result = tensors[step.outputs[0]]
            shape, dtype = tuple(result.shape), numpy_dtype(result.dtype)
            macs, nbytes = self.index.work(number)
            steps.append(StepInfo(step.name, step.op, step.kind.name, shape, dtype, macs, nbytes, result.offset))
        return tuple(steps)

    def paths(self, *, isa: str | None = None) -> tuple[str, ...]:
        """The code that each kernel step runs on this machine: "tile", "thin", "shallow", "gemv", "int4", "depthwise",
        "lookup", "move", ... It is asked of the core, which prepares the program for that.

        Parameters
        ----------
        isa : one of ``cpu_info()["available"]``; None is the best

        Raises
        ------
        UnsupportedIsaError
            When this CPU lacks ``isa``.
        MemoryBudgetError
            When the arena is larger than the memory that this process can have.
        """
        core = _core.Session(self.index, self.container.blobs.data, isa_name("Program.paths", isa), 1)
        return tuple(core.path(step) for step in range(len(self.steps)))

    @cached_property
    def memory_plan(self) -> ArenaPlan:
        index, manifest = self.index, self.manifest
        offsets = tuple(tensor.offset for tensor in index.tensors)
        return ArenaPlan(index.arena_bytes, manifest.lower_bound, manifest.method, offsets)

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return int(self.container.data.size)

    def summary(self, *, isa: str | None = None) -> str:
        """A table of the steps with the paths they take on this machine, and what the program costs.

        Parameters
        ----------
        isa : as of :meth:`paths`, which raises the same errors
        """
        return summarized(self, self.paths(isa=isa))

    def explain(self) -> str:
        """A table of the model's nodes: where each runs, the price of the alternatives, why, and what would change it.

        A price is the bytes that the node would read and write there, with the conversions between 8 bits and float32
        that it would need.

        Raises
        ------
        ArgumentValueError
            When the program was read from a file, which holds steps and no nodes.
        """
        if not self.nodes:
            raise ArgumentValueError(
                "Program.explain: a file holds steps and no nodes; call it on what edgekern.compile returns"
            )
        return f"{len(self.nodes)} nodes, constants folded: {counted(self.nodes)}\n\n{table(self.nodes)}"

    @property
    def multiply_adds(self) -> dict[str, int]:
        """How many are done in "8 bits", with activations of "16 bits", in "float32", and on the "host"."""
        macs = {"8 bits": 0, "16 bits": 0, "float32": 0, "host": sum(step.macs for step in self.host_steps)}
        for precision, info in zip(self.precisions, self.steps, strict=True):
            macs[precision] += info.macs
        return macs

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """In which numbers each kernel step does its work: "8 bits", "16 bits", "float32"."""
        return precisions_of(self.index)

    def _borders(self, pairs: tuple[tuple[str, int], ...]) -> tuple[TensorInfo, ...]:
        tensors, infos = self.index.tensors, []
        for name, number in pairs:
            tensor = tensors[number]
            dtype = numpy_dtype(tensor.dtype)
            stands_for = (tensor.scale, tensor.zero_point) if dtype in (np.uint8, np.int8) else (None, None)
            infos.append(TensorInfo(name, tuple(tensor.shape), dtype, *stands_for))
        return tuple(infos)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program) or self.number != other.number:
            return False
        return bool(np.array_equal(self.container.data, other.container.data))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_view_of, (self.container.data, self.number)) if self.number else (Program.load, (self.container.data,))

    def __copy__(self) -> Program:
        return self

    def __deepcopy__(self, memo: object) -> Program:
        return self

    def __hash__(self) -> int:
        return hash(self.index.header_sha256)

    def __repr__(self) -> str:
        borders = [" ".join(f"{i.name}{told_shape(i.shape)}" for i in side) for side in (self.inputs, self.outputs)]
        counts = f"{len(self.steps)} steps, {len(self.host_steps)} host steps, arena {self.index.arena_bytes} bytes"
        return f"Program({borders[0]} -> {borders[1]}; {counts})"


def _view_of(data: ByteArray, number: int) -> Program:
    """A program of a size or mode, as it was pickled."""
    return Program.load(data).all[number]


def _first_of(number: int, manifest: Manifest) -> int:
    """The program by which another one is told: of a size the smallest, of a mode the first."""
    size = number % manifest.sizes
    return number - size if size else 0


def _blob_of(number: int, manifest: Manifest) -> str:
    """What the blob of the program of another size or mode is called."""
    mode, size = divmod(number, manifest.sizes)
    return ".".join([*([f"mode.{mode}"] if mode else []), *([f"size.{size}"] if size else [])])
