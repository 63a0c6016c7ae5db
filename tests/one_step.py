"""A program of one step, to hold a kind to its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from edgekern.artifact import Manifest

from reference.program import DTYPES, run_program

Array = npt.NDArray[Any]
ALIGNMENT = 64


def one_step(
    kind: StepKind,
    inputs: Sequence[Array],
    output: tuple[tuple[int, ...], npt.DTypeLike],
    /,
    blobs: Sequence[Array | bytes] = (),
    *,
    quants: Mapping[int, tuple[float, int]] | None = None,
    **arguments: Any,
) -> ek.Program:
    """A program that reads arrays like ``inputs`` and gives one of the shape and type ``output``.

    ``quants``: scale and zero point of some of these tensors.
    """
    borders = [(x.shape, x.dtype) for x in inputs] + [output]
    tensors, at = [], 0
    for number, (shape, dtype) in enumerate(borders):
        code = _core.DType(DTYPES.index(np.dtype(dtype).type))
        scale, zero = (quants or {}).get(number, (1.0, 0))
        tensors.append(
            _core.TensorDef(name=f"t{number}", dtype=code, shape=list(shape), offset=at, scale=scale, zero_point=zero)
        )
        at += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
    contents = [blob if isinstance(blob, bytes) else np.ascontiguousarray(blob).tobytes() for blob in blobs]
    last = len(inputs)
    step = _core.Step(
        kind=kind,
        name="step",
        op=kind.name,
        inputs=list(range(last)),
        outputs=[last],
        blobs=list(range(len(contents))),
        arguments=arguments,
    )
    index = _core.ProgramIndex(
        producer="test",
        tensors=tensors,
        steps=[step],
        segments=[_core.Segment(begin=0, end=1)],
        inputs=list(range(last)),
        outputs=[last],
        arena_bytes=at,
    )
    names = tuple((f"x{number}", number) for number in range(last))
    manifest = Manifest(inputs=names, outputs=(("y", last),), order=(("segment", 0),))
    return ek.Program.build(index, [(f"{number}.blob", content) for number, content in enumerate(contents)], manifest)


def assert_equals_reference(program: ek.Program, inputs: Sequence[Array]) -> Array:
    """Run it on every instruction set, by one thread and by three; the result, which is the reference's to the bit.

    A NaN is a NaN: which one is not promised.
    """
    [expected] = run_program(program.index, program.container.blobs, inputs)
    feeds = {f"x{number}": x for number, x in enumerate(inputs)}
    for isa in _core.available_isas():
        for threads in (1, 3):
            [found] = ek.InferenceSession(program, isa=isa, num_threads=threads).run(None, feeds)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            same = (
                (found == expected) & (np.signbit(found) == np.signbit(expected))
                if _is_real(found)
                else found == expected
            )
            both_nan = np.isnan(found) & np.isnan(expected) if _is_real(found) else False
            wrong = ~(same | both_nan)
            assert not wrong.any(), f"{isa}, {threads} threads: {wrong.sum()} of {wrong.size} differ"
    return expected


def _is_real(x: Array) -> bool:
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"
