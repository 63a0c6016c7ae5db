"""An element-wise step while it is being made: a list of instructions on tensors, constants and earlier results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._core import MapOp, StepKind
from edgekern.compiler.layout import MOST_AXES, eight
from edgekern.compiler.steps import KernelStep, Tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Operand:
    """What a step reads: the number of a tensor or array."""

    number: int


@dataclass(frozen=True)
class Result:
    """What an earlier instruction gave."""

    number: int


Ref = Operand | Result | float
Instruction = tuple[MapOp, tuple[Ref, ...]]


@dataclass(eq=False)
class MapStep(KernelStep):
    """A MAP or MAP_I64 in the making; ``inputs``, ``blobs`` and ``arguments`` are those of :meth:`finish`.

    Attributes
    ----------
    operands : tensors in the order of the result, and constant arrays that broadcast to its shape
    code : the last instruction gives the result
    """

    operands: list[Tensor | Array] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)

    def read(self) -> None:
        """Say which tensors it reads, for the passes that count readers."""
        self.inputs = list(dict.fromkeys(x for x in self.operands if isinstance(x, Tensor)))

    def inline(self, tensor: Tensor, made: MapStep) -> None:
        """Compute a tensor that it reads by the instructions that made it."""
        operands: list[Tensor | Array] = list(made.operands)
        where: dict[int, Ref] = {}
        for number, x in enumerate(self.operands):
            if x is tensor:
                where[number] = Result(len(made.code) - 1)
                continue
            same = next((at for at, other in enumerate(operands) if other is x), None)
            if same is None:
                same = len(operands)
                operands.append(x)
            where[number] = Operand(same)

        def moved(ref: Ref) -> Ref:
            if isinstance(ref, Operand):
                return where[ref.number]
            return Result(ref.number + len(made.code)) if isinstance(ref, Result) else ref

        self.code = [*made.code, *((op, tuple(map(moved, refs))) for op, refs in self.code)]
        self.operands = operands
        self.op = f"{made.op}+{self.op}"
        self.read()

    def finish(self) -> None:
        """Fill in what an index holds of it."""
        wide = self.kind == StepKind.MAP_I64
        if wide:
            self._store_constants()
        self._drop_unread()
        tensors = [number for number, x in enumerate(self.operands) if isinstance(x, Tensor)]
        arrays = [number for number in range(len(self.operands)) if number not in tensors]
        place = {number: at for at, number in enumerate([*tensors, *arrays])}
        constants: dict[str, int] = {}  # 0.0 and -0.0 are two, NaN is one
        for _, refs in self.code:
            for ref in refs:
                if not isinstance(ref, Operand | Result):
                    constants.setdefault(repr(float(ref)), len(constants))

        def number_of(ref: Ref) -> int:
            if isinstance(ref, Operand):
                return place[ref.number]
            first = len(self.operands)
            if isinstance(ref, Result):
                return first + len(constants) + ref.number
            return first + constants[repr(float(ref))]

        code = [step for number in place for step in _steps(self.operands[number].shape)]
        for op, refs in self.code:
            numbers = [number_of(ref) for ref in refs]
            code += [int(op), *numbers, *[0] * (3 - len(numbers))]
        dtype = np.int64 if wide else np.float32
        self.inputs = [x for x in self.operands if isinstance(x, Tensor)]
        self.blobs = [np.ascontiguousarray(self.operands[number], dtype).tobytes() for number in arrays]
        self.arguments = {"shape": eight(self.output.shape), "operands": len(self.operands), "code": code}
        if not wide:
            self.arguments["constants"] = [float(constant) for constant in constants]

    def _drop_unread(self) -> None:
        """A product may have taken over what alone read an operand."""
        read = sorted({ref.number for _, refs in self.code for ref in refs if isinstance(ref, Operand)})
        place = {number: Operand(at) for at, number in enumerate(read)}
        self.operands = [self.operands[number] for number in read]
        self.code = [
            (op, tuple(place[ref.number] if isinstance(ref, Operand) else ref for ref in refs))
            for op, refs in self.code
        ]

    def _store_constants(self) -> None:
        """Make operands of the numbers among the instructions: an index holds none that are int64."""
        numbers = sorted({ref for _, refs in self.code for ref in refs if not isinstance(ref, Operand | Result)})
        place = {number: Operand(len(self.operands) + at) for at, number in enumerate(numbers)}
        self.operands += [np.array(number, np.int64) for number in numbers]
        self.code = [
            (op, tuple(ref if isinstance(ref, Operand | Result) else place[ref] for ref in refs))
            for op, refs in self.code
        ]


def _steps(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next along each of a result's axes: 0 where the operand is broadcast."""
    sides = eight(shape)
    steps, step = [0] * MOST_AXES, 1
    for axis in reversed(range(MOST_AXES)):
        steps[axis] = step if sides[axis] > 1 else 0
        step *= sides[axis]
    return steps
