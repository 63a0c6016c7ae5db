"""See GELU where element-wise instructions write it out: one instruction then, which a product can finish with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from edgekern._core import MapOp, StepKind
from edgekern.compiler.formula_step import Instruction, MapStep, Ref, Result
from edgekern.compiler.steps import Item

# Exporters round their constants, to float16 at worst.
_CLOSE = 2e-3


def recognize_gelu(items: Sequence[Item]) -> None:
    """Replace ``x/2 * (1 + erf(x / sqrt(2)))``, and the same with tanh, in any order of its factors, in place."""
    for item in items:
        if isinstance(item, MapStep) and item.kind == StepKind.MAP:
            for at in range(len(item.code)):
                found = _Written(item.code).gelu(at)
                if found is not None:
                    item.code[at] = found
            item.code = _without_unread(item.code)


class _Written:
    """Instructions, read backwards."""

    def __init__(self, code: list[Instruction]) -> None:
        self.code = code

    def gelu(self, at: int) -> Instruction | None:
        """The instruction that does what one ends, where that is a GELU."""
        if self.code[at][0] not in (MapOp.MUL, MapOp.DIV):
            return None
        number, others = self._product(Result(at))
        for gate in others:
            inner = self._without_one(gate)
            rest = [ref for ref in others if ref is not gate]
            if inner is None or len(rest) != 1 or not _is(number, 0.5):
                continue
            op, [argument, *_] = self._made(inner)
            if op == MapOp.ERF and self._is_scaled(argument, rest, math.sqrt(0.5)):
                return MapOp.GELU, (rest[0],)
            if op == MapOp.TANH and self._is_cubic(argument, rest[0]):
                return MapOp.GELU_TANH, (rest[0],)
        return None

    def _made(self, ref: Ref) -> tuple[MapOp, tuple[Ref, ...]]:
        return self.code[ref.number] if isinstance(ref, Result) else (MapOp.COPY, (ref,))

    def _product(self, ref: Ref) -> tuple[float, list[Ref]]:
        """A product as a number and all that is no number."""
        op, refs = self._made(ref)
        if isinstance(ref, int | float):
            return float(ref), []
        if op == MapOp.MUL:
            (a, left), (b, right) = map(self._product, refs)
            return a * b, left + right
        if op == MapOp.DIV and isinstance(refs[1], int | float) and refs[1] != 0:
            number, others = self._product(refs[0])
            return number / refs[1], others
        if op == MapOp.POW and refs[1] in (2.0, 3.0):
            number, others = self._product(refs[0])
            return number ** int(refs[1]), others * int(refs[1])
        return 1.0, [ref]

    def _without_one(self, ref: Ref) -> Ref | None:
        """What 1 is added to."""
        op, refs = self._made(ref)
        if op != MapOp.ADD or 1.0 not in refs:
            return None
        return refs[0] if refs[1] == 1.0 else refs[1]

    def _is_scaled(self, ref: Ref, x: list[Ref], factor: float) -> bool:
        number, others = self._product(ref)
        return others == x and _is(number, factor)

    def _is_cubic(self, ref: Ref, x: Ref) -> bool:
        """Whether it is sqrt(2 / pi) * (x + 0.044715 x^3), the x before the brackets or not."""
        number, others = self._product(ref)
        if not _is(number, math.sqrt(2 / math.pi)):
            return False
        sums = [other for other in others if other != x and self._made(other)[0] == MapOp.ADD]
        outside = [other for other in others if other not in sums]
        if len(sums) != 1:
            return False
        terms = sorted((self._product(term) for term in self._made(sums[0])[1]), key=lambda term: len(term[1]))
        powers = [len(others) + len(outside) for _, others in terms]
        all_x = all(other == x for _, others in terms for other in [*others, *outside])
        return all_x and powers == [1, 3] and _is(terms[0][0], 1.0) and _is(terms[1][0], 0.044715)


def _is(number: float, wanted: float) -> bool:
    return math.isclose(number, wanted, rel_tol=_CLOSE)


def _without_unread(code: list[Instruction]) -> list[Instruction]:
    reads = Counter(ref.number for _, refs in code for ref in refs if isinstance(ref, Result))
    for at in reversed(range(len(code) - 1)):
        if not reads[at]:
            reads.subtract(ref.number for ref in code[at][1] if isinstance(ref, Result))
    kept = [at for at in range(len(code)) if reads[at] or at == len(code) - 1]
    place = {at: Result(number) for number, at in enumerate(kept)}
    return [
        (op, tuple(place[ref.number] if isinstance(ref, Result) else ref for ref in refs))
        for op, refs in (code[at] for at in kept)
    ]
