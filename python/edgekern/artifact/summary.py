"""A program as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekern import _core

if TYPE_CHECKING:
    from edgekern.artifact.program import Program

Row = tuple[str, str, str, str, str, str]


def summary(program: Program, paths: Sequence[str]) -> str:
    """Steps with the paths that they take, and what the program costs."""
    rows: list[Row] = [("step", "operators", "path", "output", "MACs", "offset")]
    for place in program.manifest.order:
        rows += _rows(program, *place, paths)
    width = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        f"{row[0]:<{width[0]}}  {row[1]:<{width[1]}}  {row[2]:<{width[2]}}  {row[3]:<{width[3]}}"
        f"  {row[4]:>{width[4]}}  {row[5]:>{width[5]}}"
        for row in rows
    ]
    steps, hosts, plan = program.steps, program.host_steps, program.memory_plan
    macs = sum(step.macs for step in steps) + sum(step.macs for step in hosts)
    lines = [_precision(program), _fusions(program), "", *lines]
    lines += [
        "",
        f"{len(steps)} steps, {len(hosts)} host steps, {macs:,} MACs, {program.nbytes:,} bytes",
        f"arena {plan.arena_bytes:,} bytes ({plan.lower_bound:,} alive at the peak; {plan.method})",
        *_sizes(program),
        *(f"host step: {step}" for step in hosts),
    ]
    return "\n".join(lines)


def shape_text(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _sizes(program: Program) -> list[str]:
    """The other sizes, and the arena that all share."""
    buckets, variants = program.buckets, program.variants
    if buckets is None:
        return []
    names = [one.name for one in buckets.dimensions]
    told = [
        ", ".join(f"{name} {size}" for name, size in zip(names, buckets.sizes(number), strict=True))
        for number in range(len(variants))
    ]
    arenas = [one.index.arena_bytes for one in variants]
    return [
        f"sizes: {buckets}; above is {told[0]}; one arena for all, {max(arenas):,} bytes",
        *(f"  {size}: {arena:,} bytes of it" for size, arena in zip(told, arenas, strict=True)),
    ]


def _fusions(program: Program) -> str:
    """How many operators became how many steps, and what was done in passing."""
    done = [step.op.split("+") for step in program.steps]
    fused = Counter(op for ops in done for op in ops[1:] if op != "...")
    moved = [step.name for step in program.steps if step.kind in ("TRANSPOSE", "PERMUTE")]
    added = sum(name.endswith((" to NHWC", " to NCHW")) for name in moved)
    told = [f"{count} {op}" for op, count in fused.most_common()]
    lines = f"{sum(map(len, done))} operators in {len(done)} steps"
    lines += f", fused {', '.join(told)}" if told else ""
    return f"{lines}; {len(moved)} transpositions, {added} of them between orders of images"


def _precision(program: Program) -> str:
    """In which numbers the work is done."""
    codes = any(tensor.dtype in (_core.DType.U8, _core.DType.S8) for tensor in program.index.tensors)
    if not codes and set(program.precisions) <= {"float32"}:
        return "float32: nothing is quantized"
    macs = program.multiply_adds
    total = sum(macs.values()) or 1
    shares = {what: f"{count / total:.1%}" for what, count in macs.items()}
    wide = f"{shares['16 bits']} in 16 bits, " if macs["16 bits"] else ""
    return f"multiply-adds: {shares['8 bits']} in 8 bits, {wide}{shares['float32']} in float32, {shares['host']} on the host"


def _rows(program: Program, what: str, number: int, paths: Sequence[str]) -> list[Row]:
    if what == "host":
        step = program.host_steps[number]
        shapes = " ".join(shape_text(program.index.tensors[i].shape) for _, i in step.outputs)
        return [(step.name, "+".join(step.operators), "host", shapes, f"{step.macs:,}", "")]
    segment = program.index.segments[number]
    steps, paths = program.steps[segment.begin : segment.end], paths[segment.begin : segment.end]
    return [
        (info.name, info.op, path, f"{info.dtype}{shape_text(info.shape)}", f"{info.macs:,}", f"{info.offset}")
        for info, path in zip(steps, paths, strict=True)
    ]
