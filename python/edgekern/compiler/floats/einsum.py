"""Einsum: sums over axes of one operand, then products of two, left to right, on tensors as they lie."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.contractions import product
from edgekern.compiler.floats.maps import emit_map
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, type_reason
from edgekern.compiler.floats.picks import pick_places
from edgekern.compiler.floats.reductions import SUM, reduce_axes
from edgekern.compiler.floats.strides import BATCH_AXES, dense_steps, read_strided
from edgekern.compiler.formula_step import MapStep, Operand
from edgekern.compiler.layout import MOST_AXES, transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.values import is_constant, known_shape, label, text_attribute

Letters = tuple[str, ...]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Equation:
    """What an equation says of shapes: a letter for each axis, digits for those of an ellipsis."""

    terms: tuple[Letters, ...]
    result: Letters
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class _Term:
    """A whole tensor, or a constant, by the letters of its axes in the order of memory; none has one element."""

    letters: Letters
    content: Tensor | FloatArray


def _read(node: ir.Node) -> _Equation | str:
    """The equation of a node, or what is wrong with it."""
    shapes = [known_shape(value) for value in node.inputs]
    text = text_attribute(node, "equation", "").replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(shapes):
        return f"its equation '{text}' has {len(parts)} operands, and it reads {len(shapes)}"
    terms, sizes, hidden = [], dict[str, int](), 0
    for part, shape in zip(parts, shapes, strict=True):
        extra = len(shape) - len(part.replace("...", ""))
        if extra < 0 or (extra > 0 and "..." not in part):
            return f"'{part}' of its equation '{text}' does not fit {len(shape)} dimensions"
        letters = _spelled(part, extra)
        hidden = max(hidden, extra if "..." in part else 0)
        for letter, size in zip(letters, shape, strict=True):
            if 1 not in (size, known := sizes.get(letter, size)) and size != known:
                return f"'{letter}' of its equation '{text}' has sizes {known} and {size}"
            sizes[letter] = max(size, sizes.get(letter, 1))
        terms.append(letters)
    count = Counter(letter for term in terms for letter in term)
    once = "".join(sorted(letter for letter, times in count.items() if times == 1 and not letter.isdigit()))
    result = _spelled(right if arrow else "..." + once, hidden)
    if set(result) - sizes.keys() or len(set(result)) != len(result):
        return f"the result of its equation '{text}' is no selection of its letters"
    if not set("".join(map("".join, terms))) <= set(string.ascii_letters + string.digits):
        return f"its equation '{text}' has signs that are no letters"
    return _Equation(tuple(terms), result, sizes)


def _spelled(part: str, hidden: int) -> Letters:
    """Letters of a term, its ellipsis as digits that count axes from the last one."""
    before, dots, after = part.partition("...")
    return (*before, *(str(at) for at in reversed(range(hidden if dots else 0))), *after)


def reason(node: ir.Node) -> str | None:
    wrong = type_reason(node, FLOAT)
    if wrong is not None:
        return wrong
    equation = _read(node)
    if isinstance(equation, str):
        return equation
    if 0 in equation.sizes.values():
        return "an Einsum of nothing has no kernel"
    many = len(equation.sizes) > MOST_AXES
    return f"an Einsum over more than {MOST_AXES} letters has no kernel" if many else None


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    equation = _read(node)
    assert not isinstance(equation, str)
    work = _Einsum(lowering, node, equation.sizes)
    wanted = [tuple(letter for letter in term if equation.sizes[letter] > 1) for term in equation.terms]
    result = tuple(letter for letter in equation.result if equation.sizes[letter] > 1)
    done: _Term | None = None
    for at, (operand, term) in enumerate(zip(node.inputs, equation.terms, strict=True)):
        assert operand is not None
        later = {*result, *(letter for term in wanted[at + 1 :] for letter in term)}
        before = () if done is None else done.letters
        other = work.operand(operand, term, keep=later | set(before))
        if done is not None and len(wanted) > at + 1:  # in between, as it comes
            kept = [letter for letter in (*before, *other.letters) if letter in later]
            done = work.contract(done, other, tuple(dict.fromkeys(kept)))
        else:
            done = other if done is None else work.contract(done, other, result)
    assert done is not None
    y = work.tensor(work.lying(done, result))
    shape = known_shape(value)
    if y.view_of is not None or y.shape != shape or len(node.inputs) == 1:
        return view(y, name=str(value.name), shape=shape, order=())
    y.name = str(value.name)
    return y


class _Einsum:
    """The steps of one node."""

    def __init__(self, lowering: Lowering, node: ir.Node, sizes: Mapping[str, int]) -> None:
        self.lowering, self.name, self.sizes = lowering, label(node), sizes

    def shape(self, letters: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.sizes[letter] for letter in letters)

    def operand(self, value: ir.Value, letters: Letters, *, keep: set[str]) -> _Term:
        """An operand without repeated letters and without those that only it has, over which it is summed."""
        if is_constant(value):
            array = self.lowering.constant(value).astype(np.float32)
            left = [x for x in dict.fromkeys(letters) if x in keep and array.shape[letters.index(x)] > 1]
            names = dict(zip(dict.fromkeys(letters), string.ascii_letters, strict=False))  # for NumPy, no digits
            equation = "".join(names[x] for x in letters) + "->" + "".join(names[x] for x in left)
            return _Term(tuple(left), np.asarray(np.einsum(equation, array), np.float32))
        x = read_strided(self.lowering, value)
        axes = sorted((at for at, side in enumerate(x.shape) if side > 1), key=lambda at: -x.steps[at])
        term = _Term(tuple(letters[at] for at in axes), x.tensor)
        for letter in [letter for letter, times in Counter(term.letters).items() if times > 1]:
            term = self._diagonal(term, letter)
        alone = [at for at, letter in enumerate(term.letters) if letter not in keep]
        if not alone:
            return term
        lying = view(self.tensor(term), shape=self.shape(term.letters), order=())
        y = reduce_axes(self.lowering, lying, alone, (SUM, SUM), self.name, "Einsum")
        return _Term(tuple(letter for letter in term.letters if letter in keep), y)

    def _diagonal(self, term: _Term, letter: str) -> _Term:
        """The elements at which all axes of a letter have one index."""
        rest, times = tuple(other for other in term.letters if other != letter), term.letters.count(letter)
        first = [at for at, other in enumerate(term.letters) if other != letter]
        last = [at for at, other in enumerate(term.letters) if other == letter]
        x = view(self.tensor(term), shape=self.shape(term.letters), order=())
        x = transposed(self.lowering, x, (*first, *last), (), self.name)
        side = self.sizes[letter]
        along = np.arange(side) * sum(side**power for power in range(times))
        x = view(x, shape=(math.prod(self.shape(rest)), side**times))
        y = pick_places(self.lowering, x, [np.arange(x.shape[0]), along], self.name, "Einsum")
        return _Term((*rest, letter), y)

    def lying(self, term: _Term, letters: Letters) -> _Term:
        """The same with its axes in another order of memory."""
        if term.letters == letters:
            return term
        perm = tuple(term.letters.index(letter) for letter in letters)
        if isinstance(term.content, np.ndarray):
            return _Term(letters, term.content.transpose(perm))
        x = view(term.content, shape=self.shape(term.letters), order=())
        return _Term(letters, transposed(self.lowering, x, perm, (), self.name))

    def tensor(self, term: _Term) -> Tensor:
        if isinstance(term.content, Tensor):
            return term.content
        y = Tensor(self.name, DType.F32, term.content.shape)
        content = np.ascontiguousarray(term.content).tobytes()
        return self.lowering.emit(KernelStep(StepKind.CONSTANT, self.name, "Constant", [], y, [content]))

    def contract(self, a: _Term, b: _Term, want: Letters) -> _Term:
        """The product of two, summed over what ``want`` has not; in its order where that costs nothing."""
        shared = [letter for letter in a.letters if letter in b.letters]
        k = tuple(letter for letter in shared if letter not in want)
        batch = tuple(letter for letter in want if letter in shared)
        if not k:
            return self._elementwise(a, b, want)
        rows, columns = (tuple(x for x in want if x in term.letters and x not in shared) for term in (a, b))
        if isinstance(a.content, np.ndarray) or (want[-1:] == rows[-1:] and isinstance(b.content, Tensor)):
            a, b, rows, columns = b, a, columns, rows
        result = (*batch, *rows, *columns)
        if isinstance(b.content, np.ndarray) and not batch:
            x = self.tensor(self.lying(a, (*rows, *k)))
            weights = np.asarray(self.lying(b, (*columns, *k)).content)
            flat = weights.reshape(math.prod(self.shape(columns)), -1)
            y = Tensor(self.name, DType.F32, self.shape(result))
            return _Term(result, product(self.lowering, x, flat, None, y, self.name, "Einsum"))
        for order in (want, result):
            step = self._product(a, b, (batch, rows, columns, k), order)
            if step is not None:
                return _Term(order, self.lowering.emit(step))
        a, b = self.lying(a, (*batch, *rows, *k)), self.lying(b, (*batch, *k, *columns))
        for order in (want, result):
            step = self._product(a, b, (batch, rows, columns, k), order)
            if step is not None:
                break
        assert step is not None
        return _Term(order, self.lowering.emit(step))

    def _elementwise(self, a: _Term, b: _Term, want: Letters) -> _Term:
        y = Tensor(self.name, DType.F32, self.shape(want))
        operands: list[Tensor | npt.NDArray[np.float32]] = []
        for term in (a, b):
            lying = self.lying(term, tuple(letter for letter in want if letter in term.letters))
            shape = tuple(self.sizes[letter] if letter in term.letters else 1 for letter in want)
            x = lying.content
            operands.append(view(x, shape=shape, order=()) if isinstance(x, Tensor) else x.reshape(shape))
        step = MapStep(StepKind.MAP, self.name, "Einsum", [], y, operands=operands)
        return _Term(want, emit_map(self.lowering, step, [(MapOp.MUL, (Operand(0), Operand(1)))]))

    def _product(
        self, a: _Term, b: _Term, letters: tuple[Letters, Letters, Letters, Letters], order: Letters
    ) -> KernelStep | None:
        """A product that reads both where they lie and writes ``order``; None where no strides say that."""
        batch, rows, columns, k = letters
        inner = _runs(k, a.letters, b.letters)
        by_row, by_column = _runs(rows, order, a.letters), _runs(columns, order, b.letters)
        last = by_column.pop() if by_column else ()
        first = max(by_row, key=lambda run: math.prod(self.shape(run)), default=())
        around = [*_runs(batch, order, a.letters, b.letters), *(run for run in by_row if run is not first), *by_column]
        around.sort(key=lambda run: order.index(run[0]))
        if len(inner) != 1 or len(around) > BATCH_AXES or order[len(order) - len(last) :] != last:
            return None

        def steps(runs: Sequence[Letters], along: Letters) -> list[int]:
            by_letter = dict(zip(along, dense_steps(self.shape(along), 1), strict=True))
            return [by_letter.get(run[-1], 0) if run else 0 for run in runs]

        filled = [*[()] * (BATCH_AXES - len(around)), *around]
        arguments = {
            "batch": [math.prod(self.shape(run)) for run in filled],
            "rows": math.prod(self.shape(first)),
            "k": math.prod(self.shape(k)),
            "columns": math.prod(self.shape(last)),
            "a_batch": steps(filled, a.letters),
            "b_batch": steps(filled, b.letters),
            "c_batch": steps(filled, order),
            "a_row": steps([first], a.letters)[0],
            "a_k": steps(inner, a.letters)[0],
            "b_k": steps(inner, b.letters)[0],
            "b_column": steps([last], b.letters)[0],
            "c_row": steps([first], order)[0],
            "scale": 1.0,
        }
        y = Tensor(self.name, DType.F32, self.shape(order))
        inputs = [self.tensor(a), self.tensor(b)]
        return KernelStep(StepKind.MATMUL_F32, self.name, "Einsum", inputs, y, arguments=arguments)


def _runs(letters: Letters, *orders: Letters) -> list[Letters]:
    """Letters in runs that lie side by side, in this order, in all of some orders: each is one axis there."""
    runs: list[Letters] = []
    for letter in letters:
        last = runs[-1][-1] if runs else None
        if last is not None and all(order.index(letter) == order.index(last) + 1 for order in orders):
            runs[-1] = (*runs[-1], letter)
        else:
            runs.append((letter,))
    return runs


OPERATOR = FloatOperator(frozenset({"Einsum"}), reason, lower)
