"""Program: the compiled model, in memory as it lies on disk."""

from __future__ import annotations

import os
from collections import Counter
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
from edgekern.artifact.variants import index_of, told_by
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.files import ByteArray

_CODES = (_core.DType.U8, _core.DType.S8)
# What quantizes the rows that it reads by itself.
_ROWS = (_core.StepKind.GEMM_DYNAMIC, _core.StepKind.RECURRENT_DYNAMIC, _core.StepKind.GEMM_GROUPS)
# What does so with 16 bits.
_WIDE = (_core.StepKind.CONV_WIDE, _core.StepKind.DEPTHWISE_WIDE, _core.StepKind.GEMM_WIDE)


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A compiled model: kernel steps over one planned arena, host steps where there is no kernel.

    Made by :func:`edgekern.compile` and :meth:`load`. Two programs are equal when their files are. A copy is the
    program itself; a pickle holds its bytes (out of band with protocol 5), all of which are checked again.

    ``nodes`` is what :func:`edgekern.compile` has made of each node of the model: a file does not hold it, and a
    program that was read has none.

    Where inputs have several sizes, it is the program of the smallest; ``buckets`` tells the sizes, and ``variants``
    has the programs of all, itself the first.
    """

    container: Container
    manifest: Manifest
    nodes: tuple[NodePlace, ...] = ()
    others: tuple[Program, ...] = ()

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
        others : of the other sizes that ``manifest.buckets`` has, over the same blobs
        model_metadata : what the ONNX model said of itself
        """
        variants = []
        for number, (other, story) in enumerate(others, 1):
            told = told_by(index, other)
            variants.append(Variant(f"size.{number}", len(told), manifest.changes(story)))
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
        program = replace(program, others=tuple(map(program._of_size, range(len(program.manifest.variants)))))
        if program.buckets is not None:
            program._check_sizes(program.buckets)
        for one in program.variants:
            for step in one.host_steps:
                check_host_model(one.host_model(step), step.name)
        _ = program.model_metadata  # which is as it was written, too
        return program

    def _of_size(self, number: int) -> Program:
        variant = self.manifest.variants[number]
        blob = self.container.checked(variant.blob)[: variant.blob_bytes]
        index = index_of(self.index, blob, self.container.blobs.size)
        other = Program(replace(self.container, index=index), self.manifest.changed(variant.changes, index))
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
        others = [(other.index, other.manifest) for other in self.others]
        made = Program.build(self.index, blobs, replace(self.manifest, buckets=buckets), others, self.model_metadata)
        return replace(made, nodes=self.nodes)

    @property
    def variants(self) -> tuple[Program, ...]:
        """The programs of all sizes, over the same weights."""
        return (self, *self.others)

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
        rows, paths = [("step", "operators", "path", "output", "MACs", "offset")], self.paths(isa=isa)
        for place in self.manifest.order:
            rows += self._rows(*place, paths)
        width = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = [
            f"{row[0]:<{width[0]}}  {row[1]:<{width[1]}}  {row[2]:<{width[2]}}  {row[3]:<{width[3]}}"
            f"  {row[4]:>{width[4]}}  {row[5]:>{width[5]}}"
            for row in rows
        ]
        macs = sum(step.macs for step in self.steps) + sum(step.macs for step in self.host_steps)
        plan = self.memory_plan
        lines = [self._precision(), self._fusions(), "", *lines]
        lines += [
            "",
            f"{len(self.steps)} steps, {len(self.host_steps)} host steps, {macs:,} MACs, {self.nbytes:,} bytes",
            f"arena {plan.arena_bytes:,} bytes ({plan.lower_bound:,} alive at the peak; {plan.method})",
            *self._sizes(),
            *(f"host step: {step}" for step in self.host_steps),
        ]
        return "\n".join(lines)

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

    def _sizes(self) -> list[str]:
        """The other sizes, and the arena that all share."""
        if self.buckets is None:
            return []
        arenas = [one.index.arena_bytes for one in self.variants]
        names = [one.name for one in self.buckets.dimensions]
        told = [
            ", ".join(f"{name} {size}" for name, size in zip(names, self.buckets.sizes(number), strict=True))
            for number in range(len(self.variants))
        ]
        return [
            f"sizes: {self.buckets}; above is {told[0]}; one arena for all, {max(arenas):,} bytes",
            *(f"  {size}: {arena:,} bytes of it" for size, arena in zip(told, arenas, strict=True)),
        ]

    def _fusions(self) -> str:
        """How many operators became how many steps, and what was done in passing."""
        done = [step.op.split("+") for step in self.steps]
        fused = Counter(op for ops in done for op in ops[1:] if op != "...")
        moved = [step.name for step in self.steps if step.kind in ("TRANSPOSE", "PERMUTE")]
        added = sum(name.endswith((" to NHWC", " to NCHW")) for name in moved)
        told = [f"{count} {op}" for op, count in fused.most_common()]
        lines = f"{sum(map(len, done))} operators in {len(done)} steps"
        lines += f", fused {', '.join(told)}" if told else ""
        return f"{lines}; {len(moved)} transpositions, {added} of them between orders of images"

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
        tensors, found = self.index.tensors, []
        for step in self.index.steps:
            on_bytes = step.kind in _ROWS or (bool(step.inputs) and tensors[step.inputs[0]].dtype in _CODES)
            found.append("16 bits" if _is_wide(step) else "8 bits" if on_bytes else "float32")
        return tuple(found)

    def _precision(self) -> str:
        """In which numbers the work is done."""
        codes = any(tensor.dtype in _CODES for tensor in self.index.tensors)
        if not codes and all(step.kind not in _ROWS + _WIDE for step in self.index.steps):
            return "float32: nothing is quantized"
        macs = self.multiply_adds
        total = sum(macs.values()) or 1
        shares = {what: f"{count / total:.1%}" for what, count in macs.items()}
        wide = f"{shares['16 bits']} in 16 bits, " if macs["16 bits"] else ""
        return (
            f"multiply-adds: {shares['8 bits']} in 8 bits, {wide}{shares['float32']} in float32, {shares['host']} on "
            "the host"
        )

    def _rows(self, what: str, number: int, paths: Sequence[str]) -> list[tuple[str, str, str, str, str, str]]:
        if what == "host":
            step = self.host_steps[number]
            shapes = " ".join(_shape(self.index.tensors[i].shape) for _, i in step.outputs)
            return [(step.name, "+".join(step.operators), "host", shapes, f"{step.macs:,}", "")]
        segment = self.index.segments[number]
        return [
            (info.name, info.op, path, f"{info.dtype}{_shape(info.shape)}", f"{info.macs:,}", f"{info.offset}")
            for info, path in zip(
                self.steps[segment.begin : segment.end], paths[segment.begin : segment.end], strict=True
            )
        ]

    def _borders(self, pairs: tuple[tuple[str, int], ...]) -> tuple[TensorInfo, ...]:
        tensors, infos = self.index.tensors, []
        for name, number in pairs:
            tensor = tensors[number]
            dtype = numpy_dtype(tensor.dtype)
            stands_for = (tensor.scale, tensor.zero_point) if dtype in (np.uint8, np.int8) else (None, None)
            infos.append(TensorInfo(name, tuple(tensor.shape), dtype, *stands_for))
        return tuple(infos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and bool(np.array_equal(self.container.data, other.container.data))

    def __reduce__(self) -> tuple[Any, ...]:
        return Program.load, (self.container.data,)

    def __copy__(self) -> Program:
        return self

    def __deepcopy__(self, memo: object) -> Program:
        return self

    def __hash__(self) -> int:
        return hash(self.index.header_sha256)

    def __repr__(self) -> str:
        borders = [" ".join(f"{i.name}{_shape(i.shape)}" for i in side) for side in (self.inputs, self.outputs)]
        counts = f"{len(self.steps)} steps, {len(self.host_steps)} host steps, arena {self.index.arena_bytes} bytes"
        return f"Program({borders[0]} -> {borders[1]}; {counts})"


def _shape(shape: list[int] | tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _is_wide(step: _core.Step) -> bool:
    """Whether what a step multiplies has 16 bits."""
    return step.kind in _WIDE or (step.kind == _core.StepKind.GEMM_GROUPS and step.arguments["activation_bits"] == 16)
