"""Program: the compiled model, in memory as it lies on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core, files
from edgekern._arguments import file_path, isa_name
from edgekern.artifact import container
from edgekern.artifact.container import Blob, Container, Verify
from edgekern.artifact.host_model import check_host_model
from edgekern.artifact.manifest import HostStep, Manifest
from edgekern.artifact.model_metadata import ModelMetadata
from edgekern.artifact.nodes import NodePlace, counted, table
from edgekern.errors import ArgumentValueError, ArtifactError
from edgekern.files import ByteArray

DTYPES: dict[_core.DType, npt.DTypeLike] = {
    _core.DType.U8: np.uint8,
    _core.DType.S8: np.int8,
    _core.DType.I32: np.int32,
    _core.DType.F32: np.float32,
    _core.DType.I64: np.int64,
    _core.DType.BOOL: np.bool_,
    _core.DType.F64: np.float64,
    _core.DType.F16: np.float16,
}
_CODES = (_core.DType.U8, _core.DType.S8)
# What quantizes the rows that it reads by itself.
_ROWS = (_core.StepKind.GEMM_DYNAMIC, _core.StepKind.RECURRENT_DYNAMIC, _core.StepKind.GEMM_GROUPS)
# What does so with 16 bits.
_WIDE = (_core.StepKind.CONV_WIDE, _core.StepKind.DEPTHWISE_WIDE, _core.StepKind.GEMM_WIDE)


def numpy_dtype(dtype: _core.DType) -> np.dtype[np.generic]:
    """The dtype of arrays of a tensor. That of bfloat16 is ml_dtypes', which comes with onnx."""
    if dtype != _core.DType.BF16:
        return np.dtype(DTYPES[dtype])
    try:
        import ml_dtypes
    except ImportError as error:
        raise ArgumentValueError(
            "Program: a tensor is bfloat16, which NumPy has from ml_dtypes alone; pip install ml_dtypes"
        ) from error
    bfloat16: np.dtype[np.generic] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its name, shape and dtype as the user sees them.

    Attributes
    ----------
    scale, zero_point : what 8-bit codes stand for, ``(code - zero_point) * scale``: 1 and 0 where they are the numbers
        themselves, None of other types
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class StepInfo:
    """One kernel step.

    Attributes
    ----------
    name : name of the first ONNX node in it
    op : the ONNX operators it does, such as "Conv+Relu+Add"
    kind : the kernel, such as "CONV"
    shape : of its result, in the order of memory (images: NHWC)
    dtype : of its result
    macs : multiply-adds
    nbytes : of its tensors and constants, that it reads or writes
    offset : of its result in the arena, in bytes
    """

    name: str
    op: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    macs: int
    nbytes: int
    offset: int


@dataclass(frozen=True)
class ArenaPlan:
    """Where tensors lie.

    Attributes
    ----------
    arena_bytes : size of the arena
    lower_bound : most bytes alive at one time: no plan is smaller
    method : the order that gave the plan
    offsets : bytes from the arena's start, by tensor id
    """

    arena_bytes: int
    lower_bound: int
    method: str
    offsets: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A compiled model: kernel steps over one planned arena, host steps where there is no kernel.

    Made by :func:`edgekern.compile` and :meth:`load`. Two programs are equal when their files are. A copy is the
    program itself; a pickle holds its bytes (out of band with protocol 5), all of which are checked again.

    ``nodes`` is what :func:`edgekern.compile` has made of each node of the model: a file does not hold it, and a
    program that was read has none.
    """

    container: Container
    manifest: Manifest
    nodes: tuple[NodePlace, ...] = ()

    @staticmethod
    def build(
        index: _core.ProgramIndex,
        blobs: list[tuple[str, Blob]],
        manifest: Manifest,
        model_metadata: ModelMetadata | None = None,
    ) -> Program:
        """Assemble a program, which takes ``blobs`` over; the result has passed the same checks as a file."""
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
        for step in program.host_steps:
            check_host_model(program.host_model(step), step.name)
        _ = program.model_metadata  # which is as it was written, too
        return program

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
            found.append("16 bits" if step.kind in _WIDE else "8 bits" if on_bytes else "float32")
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
