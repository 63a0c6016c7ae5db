"""Recognizing an attention that is written out, as exporters do it: the nodes before a product with probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekern.graph.values import constant_or_dequantized, int_attribute, is_constant, known_shape, sole_consumer

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze")
# What takes the place of scores that are not to be seen is at most this; a score so low has no exponential.
_UNSEEN = -1e4


@dataclass(frozen=True)
class Mask:
    """What is added to scores of a shape, or the place where they stay, and what is elsewhere."""

    value: ir.Value
    scores: tuple[int, ...]
    kept: bool | None = None  # of a condition: the truth of what stays
    fill: float = 0.0


@dataclass(frozen=True)
class Found:
    """The parts of an attention that ends with a product."""

    q: ir.Value
    k: ir.Value  # as the second operand of its product: (..., depth, keys)
    scores: tuple[int, ...]  # the shape of their product
    scale: float
    factors: list[ir.Value]  # constants that scale the scores of a head, besides
    masks: list[Mask]
    frame: tuple[int, ...]  # of the shapes that the scores have on their way, that of most axes
    guarded: bool  # a row that sees nothing mixes nothing, instead of NaN
    operators: str


def match(node: ir.Node) -> Found | None:
    """The parts of what a MatMul ends, each of whose nodes is read by the next alone; None where it ends none."""
    walk = _Walk(node)
    probabilities = known_shape(node.inputs[0])
    guarded = walk.through_nan_guard()
    reshaped = not guarded and walk.take(*_RESHAPES) is not None
    softmax = walk.softmax if guarded else walk.take("Softmax")
    if softmax is None or int_attribute(softmax, "axis", -1) not in (-1, len(known_shape(softmax.outputs[0])) - 1):
        return None
    if reshaped:  # as Softmax of before opset 13 is written: on a matrix, whose rows are those of the probabilities
        rows = known_shape(softmax.outputs[0])[-1:]
        if walk.take("Flatten", *_RESHAPES) is None or known_shape(walk.value)[-1:] != rows:
            return None
        if known_shape(walk.value) != probabilities:
            return None
    masks: list[Mask] = []
    factors: list[ir.Value] = []
    frame, scale = probabilities, 1.0
    while (product := walk.take("MatMul")) is None:
        if walk.value is None:
            return None
        shape = known_shape(walk.value)
        if walk.take(*_RESHAPES) is not None:
            inner = known_shape(walk.value)
            if inner[-2:] != shape[-2:]:
                return None
            frame = max(frame, inner, key=len)
        elif (factor := walk.factor()) is not None:
            scale *= factor
        elif (head_factor := walk.head_factor(shape)) is not None:
            factors.append(head_factor)
        elif scale == 1.0 and not factors and (mask := walk.mask(shape)) is not None:
            masks.append(mask)
        else:
            return None
    q, k = product.inputs[:2]
    if q is None or k is None or is_constant(q) or is_constant(k):
        return None
    scores = known_shape(product.outputs[0])
    q, of_q = _unscaled(q, product)
    k, of_k = _unscaled(k, product)
    scale = float(np.float32(scale * of_q * of_k))
    if scale == 0 or not math.isfinite(scale):
        return None
    if not all(_fits(known_shape(factor)[:-2], known_shape(q)[:-2]) for factor in factors):
        return None
    return Found(q, k, scores, scale, factors, masks, frame, guarded, "+".join(walk.names[::-1]))


class _Walk:
    """From a product towards what it reads first, node by node."""

    def __init__(self, node: ir.Node) -> None:
        self.value, self._reader = node.inputs[0], node
        self.names = [node.op_type]
        self.softmax: ir.Node | None = None  # behind a guard

    def _producer(self) -> ir.Node | None:
        return _sole_producer(self.value, self._reader)

    def _enter(self, node: ir.Node, at: int) -> None:
        self.names.append(node.op_type)
        self.value, self._reader = node.inputs[at], node

    def take(self, *types: str) -> ir.Node | None:
        """Go through the next node, if it is one of these."""
        node = self._producer()
        if node is None or node.op_type not in types:
            return None
        self._enter(node, 0)
        return node

    def through_nan_guard(self) -> bool:
        """Go through Where(IsNaN(p), 0, p), as torch writes it behind masks of truths."""
        guard = self._producer()
        if guard is None or guard.op_type != "Where" or _number(guard.inputs[1]) != 0:
            return False
        test, p = guard.inputs[0], guard.inputs[2]
        asks = _sole_producer(test, guard)
        if asks is None or asks.op_type != "IsNaN" or p is None or asks.inputs[0] is not p or p.is_graph_output():
            return False
        softmax = p.producer()
        if softmax is None or softmax.op_type != "Softmax" or {use.node for use in p.uses()} != {guard, asks}:
            return False
        self.names += ["Where", "IsNaN"]
        self.softmax = softmax
        self._enter(softmax, 0)
        return True

    def factor(self) -> float | None:
        """Go through a product with a number, or a quotient by one."""
        node = self._producer()
        at = None if node is None else _numbered(node)
        if node is None or at is None:
            return None
        factor = _number(node.inputs[1 - at])
        assert factor is not None
        self._enter(node, at)
        return factor if node.op_type == "Mul" else float(np.float32(1) / np.float32(factor))

    def head_factor(self, shape: tuple[int, ...]) -> ir.Value | None:
        """Go through a product with constants that are one number for all scores of a head."""
        node = self._producer()
        at = (
            None
            if node is None or node.op_type != "Mul"
            else next((i for i in (0, 1) if is_constant(node.inputs[i])), None)
        )
        if node is None or at is None:
            return None
        factor = node.inputs[at]
        if factor is None or factor.dtype != ir.DataType.FLOAT or known_shape(factor)[-2:] != (1, 1):
            return None
        if len(known_shape(factor)) > len(shape) or known_shape(node.inputs[1 - at]) != shape:
            return None
        self._enter(node, 1 - at)
        return factor

    def mask(self, shape: tuple[int, ...]) -> Mask | None:
        """Go through a sum with a mask, or a choice between scores and a number that hides them."""
        node = self._producer()
        if node is None or node.op_type not in ("Add", "Where"):
            return None
        sides = [at for at, value in enumerate(node.inputs) if self._leads_to_product(value, node)]
        if not sides or known_shape(node.inputs[sides[0]]) != shape:
            return None
        at = sides[0]
        if node.op_type == "Add":
            other = node.inputs[1 - at]
            self._enter(node, at)
            return None if other is None else Mask(other, shape)
        condition, fill = node.inputs[0], _number(node.inputs[3 - at])
        if at == 0 or condition is None or fill is None or not fill <= _UNSEEN:
            return None
        self._enter(node, at)
        return Mask(condition, shape, kept=at == 1, fill=fill)

    @staticmethod
    def _leads_to_product(value: ir.Value | None, reader: ir.Node) -> bool:
        """Whether a value is made of a MatMul by what a walk goes through."""
        while (node := _sole_producer(value, reader)) is not None and node.op_type != "MatMul":
            if node.op_type in ("Add", "Where"):
                return any(_Walk._leads_to_product(operand, node) for operand in node.inputs)
            at = 0 if node.op_type in _RESHAPES else _scaled(node)
            if at is None:
                return False
            value, reader = node.inputs[at], node
        return node is not None and not any(is_constant(operand) for operand in node.inputs)


def _numbered(node: ir.Node) -> int | None:
    """Which operand a Mul multiplies, or a Div divides, by a number that is not 0."""
    if node.op_type not in ("Mul", "Div"):
        return None
    at = next((i for i in (0, 1) if not is_constant(node.inputs[i])), None)
    number = None if at is None else _number(node.inputs[1 - at])
    return None if number in (None, 0.0) or (node.op_type == "Div" and at == 1) else at


def _scaled(node: ir.Node) -> int | None:
    """Which operand a node scales, by one number or one a head."""
    if node.op_type == "Mul" and is_constant(node.inputs[0]) != is_constant(node.inputs[1]):
        return 1 if is_constant(node.inputs[0]) else 0
    return _numbered(node)


def _fits(sides: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Whether a tensor may be broadcast to what has the others."""
    return len(sides) <= len(others) and all(a in (1, b) for a, b in zip(sides[::-1], others[::-1], strict=False))


def _number(value: ir.Value | None) -> float | None:
    """What all elements of a constant are."""
    array = constant_or_dequantized(value)
    if array is None or array.size == 0 or array.dtype.kind != "f" or array.min() != array.max():
        return None
    return float(array.reshape(-1)[0])


def _unscaled(value: ir.Value, reader: ir.Node) -> tuple[ir.Value, float]:
    """What an operand of the scores is a number times, and the number."""
    node = _sole_producer(value, reader)
    at = None if node is None else _numbered(node)
    if node is None or at is None:
        return value, 1.0
    inner, factor = node.inputs[at], _number(node.inputs[1 - at])
    if inner is None or factor is None or known_shape(inner) != known_shape(value):
        return value, 1.0
    return inner, factor if node.op_type == "Mul" else 1 / factor


def _sole_producer(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """What makes a value that one node alone reads."""
    if value is None or is_constant(value) or sole_consumer(value) is not reader:
        return None
    producer = value.producer()
    return producer if producer is not None and producer.domain == "" else None


def hiding(fill: float) -> float:
    """What is added instead of a choice: with the least number, too, the sum is one for all scores, as the fill is."""
    return fill if fill == -math.inf else float(np.finfo(np.float32).min)


def split_axes(coarse: Sequence[int], fine: Sequence[int]) -> list[list[int]] | None:
    """Which sides of ``fine`` each of ``coarse`` falls into; None where they do not."""
    groups, at = [], 0
    for side in coarse:
        group: list[int] = []
        while at < len(fine) and (math.prod(group) < side or (not group and fine[at] == 1)):
            group.append(fine[at])
            at += 1
        if math.prod(group) != side:
            return None
        groups.append(group)
    if any(side != 1 for side in fine[at:]) or (fine[at:] and not groups):
        return None
    if groups:
        groups[-1] += fine[at:]
    return groups
