"""The last page of the compiler: stages and offsets become a Program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekern import _core
from edgekern.artifact import HostStep, Manifest
from edgekern.artifact.container import Blob
from edgekern.compiler.halves import narrowed
from edgekern.compiler.layout import MOST_AXES
from edgekern.compiler.memory import Plan
from edgekern.compiler.nibbles import in_four_bits
from edgekern.compiler.passes.extract_hosts import HostRun
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.steps import NHWC, KernelStep, Tensor
from edgekern.errors import CompileError

_MAX_LABEL_BYTES = 4096  # of an index, as csrc/program has it
_MOST_NAMES = 16  # of the operators that a step lists


class BlobStore:
    """The blobs of a file, whose programs share them.

    Attributes
    ----------
    halves : the types that constants may be stored in
    """

    def __init__(self) -> None:
        self.blobs: list[tuple[str, Blob]] = []
        self.halves: Sequence[str] = ()
        self._same: dict[bytes, int] = {}  # equal tables and constants are stored once

    def numbers(self, step: KernelStep) -> list[int]:
        """The places of what a step has."""
        return [self._number(content, step, at) for at, content in enumerate(step.blobs)]

    def _number(self, content: bytes, step: KernelStep, at: int) -> int:
        if content not in self._same:
            self._same[content] = len(self.blobs)
            blob = narrowed(content, self.halves)
            if at == 0 and blob is content:
                blob = in_four_bits(content, step.kind, step.arguments)
            self.blobs.append((f"{len(self.blobs)}.{step.kind.name.lower()}", blob))
        return self._same[content]

    def take(self) -> list[tuple[str, Blob]]:
        """All of them; they belong to the caller now."""
        self._same.clear()
        return self.blobs


def emit_program(
    stages: Sequence[Stage],
    runs: Sequence[HostRun],
    plan: Plan,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    quantization: str,
    store: BlobStore,
    size: int,
) -> tuple[_core.ProgramIndex, Manifest]:
    """Number tensors and blobs, and write index and manifest. ``size``: the how-manieth program of the file it is."""
    number = {tensor: at for at, tensor in enumerate(plan.tensors)}
    steps: list[_core.Step] = []
    segments: list[_core.Segment] = []
    order: list[tuple[str, int]] = []
    hosts: list[HostStep] = []
    for stage in stages:
        if stage.hosts:
            run = runs[len(hosts)]
            order.append(("host", len(hosts)))
            name = f"host.{len(hosts)}" if size == 0 else f"host.{len(hosts)}.size.{size}"
            hosts.append(_host_step(run, name, number))
            continue
        order.append(("segment", len(segments)))
        segments.append(_core.Segment(begin=len(steps), end=len(steps) + len(stage.steps)))
        for step in stage.steps:
            steps.append(_step(step, number, store.numbers(step)))
            step.blobs.clear()  # they belong to the store now
    store.blobs += [(host.blob, run.model) for host, run in zip(hosts, runs, strict=True)]
    index = _core.ProgramIndex(
        producer=f"edgekern {_core.__version__}",
        tensors=[_tensor(tensor, plan, number) for tensor in plan.tensors],
        steps=steps,
        segments=segments or [_core.Segment(begin=0, end=0)],
        inputs=[number[tensor] for tensor in inputs.values()],
        outputs=[number[tensor] for tensor in outputs.values()],
        arena_bytes=plan.peak,
    )
    macs = sum(step.macs for step in steps) + sum(run.macs for run in runs)
    hosts = [replace(host, macs_share=host.macs / macs if macs else 0.0) for host in hosts]
    manifest = Manifest(
        inputs=tuple((name, number[tensor]) for name, tensor in inputs.items()),
        outputs=tuple((name, number[tensor]) for name, tensor in outputs.items()),
        order=tuple(order if segments else [("segment", 0), *order]),
        host_steps=tuple(hosts),
        layers=_layers(stages, number),
        lower_bound=plan.lower_bound,
        method=plan.method,
        quantization=quantization,
    )
    return index, manifest


def _step(step: KernelStep, number: dict[Tensor, int], blobs: list[int]) -> _core.Step:
    return _core.Step(
        kind=step.kind,
        name=_label(step.name),
        op=_label(_shortened(step.op)),
        inputs=[number[x] for x in step.inputs],
        outputs=[number[step.output]],
        blobs=blobs,
        arguments=step.arguments,
    )


def _shortened(op: str) -> str:
    """Operators of a step, those in the middle left out where they are more than anybody reads."""
    names = op.split("+")
    return op if len(names) <= _MOST_NAMES else "+".join([*names[: _MOST_NAMES - 2], "...", names[-1]])


def _label(text: str) -> str:
    """A name for people; an index holds so much of one."""
    return text if len(text.encode()) <= _MAX_LABEL_BYTES else text[: _MAX_LABEL_BYTES // 8] + "..."


def _tensor(tensor: Tensor, plan: Plan, number: dict[Tensor, int]) -> _core.TensorDef:
    quant = tensor.quant
    if len(tensor.shape) > MOST_AXES:
        raise CompileError(
            f"compile: '{tensor.name}' has {len(tensor.shape)} dimensions, and a program holds {MOST_AXES} at most"
        )
    below = tensor.view_of or plan.over.get(tensor)
    return _core.TensorDef(
        name=_label(tensor.name),
        dtype=tensor.dtype,
        shape=list(tensor.shape),
        scale=1.0 if quant is None else quant.scale,
        zero_point=0 if quant is None else quant.zero_point,
        offset=plan.offsets[tensor.root],
        alias_of=-1 if below is None else number[below],
    )


def _host_step(run: HostRun, blob: str, number: dict[Tensor, int]) -> HostStep:
    return HostStep(
        name=blob,
        nodes=tuple(host.node.name or str(host.node.outputs[0].name) for host in run.nodes),
        operators=tuple(host.node.op_type for host in run.nodes),
        reason="; ".join(dict.fromkeys(host.reason for host in run.nodes)),
        elements=run.elements,
        macs=run.macs,
        macs_share=0.0,  # of all, once the index knows them
        inputs=tuple((name, number[tensor]) for name, tensor in run.inputs),
        outputs=tuple((name, number[tensor]) for name, tensor in run.outputs),
        blob=blob,
        blob_bytes=len(run.model),
    )


def _layers(stages: Sequence[Stage], number: dict[Tensor, int]) -> dict[int, tuple[str, ...]]:
    """The float tensors of the model that steps leave in the arena, by the id of the tensor that a step writes."""
    layers = {}
    for stage in stages:
        for step in stage.steps:
            y = step.output
            image = len(y.shape) == 4
            elsewhere = (y.quant is not None and y.order != NHWC) if image else y.order != ()
            if y.names and y.flat is None and not elsewhere:
                layers[number[y]] = tuple(dict.fromkeys(y.names))
    return layers
