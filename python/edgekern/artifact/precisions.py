"""In which numbers the steps of a program do their work."""

from __future__ import annotations

from edgekern import _core

CODES = (_core.DType.U8, _core.DType.S8)
# What quantizes the rows that it reads by itself.
ROWS = (_core.StepKind.GEMM_DYNAMIC, _core.StepKind.RECURRENT_DYNAMIC, _core.StepKind.GEMM_GROUPS)
# What does so with 16 bits.
WIDE = (_core.StepKind.CONV_WIDE, _core.StepKind.DEPTHWISE_WIDE, _core.StepKind.GEMM_WIDE)


def precisions_of(index: _core.ProgramIndex) -> tuple[str, ...]:
    """Of each step: "8 bits", "16 bits", "float32"."""
    tensors, found = index.tensors, []
    for step in index.steps:
        on_bytes = step.kind in ROWS or (bool(step.inputs) and tensors[step.inputs[0]].dtype in CODES)
        found.append("16 bits" if _is_wide(step) else "8 bits" if on_bytes else "float32")
    return tuple(found)


def by_four_bits(index: _core.ProgramIndex) -> tuple[bool, ...]:
    """Whether each step multiplies by weights that the file has as 4 bits."""
    stored = [blob.stored == _core.Storage.INT4 for blob in index.blobs]
    return tuple(
        step.kind == _core.StepKind.GEMM_GROUPS or (bool(step.blobs) and stored[step.blobs[0]]) for step in index.steps
    )


def _is_wide(step: _core.Step) -> bool:
    """Whether what a step multiplies has 16 bits."""
    return step.kind in WIDE or (step.kind == _core.StepKind.GEMM_GROUPS and step.arguments["activation_bits"] == 16)
