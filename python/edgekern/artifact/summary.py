"""What a program tells of itself in words: its steps with their paths, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from edgekern import _core
from edgekern.artifact.buckets import Buckets
from edgekern.artifact.infos import ArenaPlan, StepInfo
from edgekern.artifact.manifest import HostStep, Manifest
from edgekern.artifact.precisions import CODES, ROWS, WIDE, by_four_bits


class Summarized(Protocol):
    """What it takes of a program."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def index(self) -> _core.ProgramIndex: ...
    @property
    def steps(self) -> tuple[StepInfo, ...]: ...
    @property
    def host_steps(self) -> tuple[HostStep, ...]: ...
    @property
    def memory_plan(self) -> ArenaPlan: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def multiply_adds(self) -> dict[str, int]: ...
    @property
    def buckets(self) -> Buckets | None: ...
    @property
    def variants(self) -> tuple[Self, ...]: ...
    @property
    def modes(self) -> tuple[str, ...]: ...
    @property
    def by_mode(self) -> Mapping[str, Self]: ...
    @property
    def all(self) -> tuple[Self, ...]: ...


def summarized(program: Summarized, paths: Sequence[str]) -> str:
    """The table of :meth:`Program.summary`."""
    rows = [("step", "operators", "path", "output", "MACs", "offset")]
    for place in program.manifest.order:
        rows += _rows(program, *place, paths)
    width = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        f"{row[0]:<{width[0]}}  {row[1]:<{width[1]}}  {row[2]:<{width[2]}}  {row[3]:<{width[3]}}"
        f"  {row[4]:>{width[4]}}  {row[5]:>{width[5]}}"
        for row in rows
    ]
    macs = sum(step.macs for step in program.steps) + sum(step.macs for step in program.host_steps)
    plan = program.memory_plan
    lines = [_precision(program), _fusions(program), "", *lines]
    lines += [
        "",
        f"{len(program.steps)} steps, {len(program.host_steps)} host steps, {macs:,} MACs, {program.nbytes:,} bytes",
        f"arena {plan.arena_bytes:,} bytes ({plan.lower_bound:,} alive at the peak; {plan.method}): {_told(plan)}",
        *_sizes(program),
        *_modes(program),
        *(f"host step: {step}" for step in program.host_steps),
    ]
    return "\n".join(lines)


def _told(plan: ArenaPlan) -> str:
    if plan.proved:
        return "proved, no plan is smaller"
    share = 100 * plan.gap_bytes / plan.arena_bytes
    return f"{plan.gap_bytes:,} bytes ({share:.1f}%) above its bound, not proved"


def _sizes(program: Summarized) -> list[str]:
    """The other sizes, and the arena that all share."""
    if program.buckets is None:
        return []
    arenas = [one.index.arena_bytes for one in program.variants]
    names = [one.name for one in program.buckets.dimensions]
    told = [
        ", ".join(f"{name} {size}" for name, size in zip(names, program.buckets.sizes(number), strict=True))
        for number in range(len(program.variants))
    ]
    return [
        f"sizes: {program.buckets}; above is {told[0]}; one arena for all, {max(arenas):,} bytes",
        *(f"  {size}: {arena:,} bytes of it" for size, arena in zip(told, arenas, strict=True)),
    ]


def _modes(program: Summarized) -> list[str]:
    """The other precisions, and the arena that all share."""
    if not program.modes:
        return []
    arena = max(one.index.arena_bytes for one in program.all)
    told = f"modes: {', '.join(program.modes)}; above is {program.modes[0]}; one arena for all, {arena:,} bytes"
    return [told, *(f"  {name}: {_precision(one)}" for name, one in program.by_mode.items())]


def _fusions(program: Summarized) -> str:
    """How many operators became how many steps, and what was done in passing."""
    done = [step.op.split("+") for step in program.steps]
    fused = Counter(op for ops in done for op in ops[1:] if op != "...")
    moved = [step.name for step in program.steps if step.kind in ("TRANSPOSE", "PERMUTE")]
    added = sum(name.endswith((" to NHWC", " to NCHW")) for name in moved)
    told = [f"{count} {op}" for op, count in fused.most_common()]
    lines = f"{sum(map(len, done))} operators in {len(done)} steps"
    lines += f", fused {', '.join(told)}" if told else ""
    return f"{lines}; {len(moved)} transpositions, {added} of them between orders of images"


def _precision(program: Summarized) -> str:
    """In which numbers the work is done."""
    codes = any(tensor.dtype in CODES for tensor in program.index.tensors)
    if not codes and all(step.kind not in (*ROWS, *WIDE) for step in program.index.steps):
        return "float32: nothing is quantized"
    macs = program.multiply_adds
    total = sum(macs.values()) or 1
    shares = {what: f"{count / total:.1%}" for what, count in macs.items()}
    wide = f"{shares['16 bits']} in 16 bits, " if macs["16 bits"] else ""
    four = sum(info.macs for info, few in zip(program.steps, by_four_bits(program.index), strict=True) if few)
    return (
        f"multiply-adds: {shares['8 bits']} in 8 bits, {wide}{shares['float32']} in float32, {shares['host']} on "
        f"the host{f'; {four / total:.1%} by weights of 4 bits' if four else ''}"
    )


def _rows(
    program: Summarized, what: str, number: int, paths: Sequence[str]
) -> list[tuple[str, str, str, str, str, str]]:
    if what == "host":
        step = program.host_steps[number]
        shapes = " ".join(told_shape(program.index.tensors[i].shape) for _, i in step.outputs)
        return [(step.name, "+".join(step.operators), "host", shapes, f"{step.macs:,}", "")]
    segment = program.index.segments[number]
    return [
        (info.name, info.op, path, f"{info.dtype}{told_shape(info.shape)}", f"{info.macs:,}", f"{info.offset}")
        for info, path in zip(
            program.steps[segment.begin : segment.end], paths[segment.begin : segment.end], strict=True
        )
    ]


def told_shape(shape: list[int] | tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
