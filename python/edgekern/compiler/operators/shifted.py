"""Products by weights whose zero point int8 does not take in: two products of int32, and what a product ends with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekern._core import DType, MapOp, StepKind
from edgekern.compiler.floats.maps import emit_map
from edgekern.compiler.formula_step import Instruction, MapStep, Operand, Result
from edgekern.compiler.layout import view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.weights import Product
from edgekern.compiler.operators.zero_points import fits_float, without_zero
from edgekern.compiler.steps import KernelStep, Tensor, dtype_of
from edgekern.graph.values import Quant, int_attribute, known_shape, label

# The step of a product whose result has a shape, without its multiplier and its limits.
Make = Callable[[Product, tuple[int, ...]], KernelStep]


def lower(
    lowering: Lowering, value: ir.Value, product: Product, quant: Quant | None, make: Make, unlimited: dict[str, Any]
) -> Tensor:
    """The result of a chain, rounded as one step rounds it: the sums of weights, less those of codes by zero points.

    ``unlimited``: the arguments of a product that nothing follows.
    """
    chain, shape = lowering.placement.chain[value], known_shape(value)
    node, zero = chain.nodes[0], product.zero
    assert zero is not None

    def whole(part: Product, shape: tuple[int, ...]) -> Tensor:
        step = make(part, shape)
        step.name, step.op, step.output.name, step.output.dtype = label(node), node.op_type, label(node), DType.I32
        step.arguments |= {"lo": -math.inf, "hi": math.inf} | unlimited
        step.blobs.append(np.ones(len(step.blobs[-1]) // 4, np.float32).tobytes())  # multipliers, as many as biases
        return lowering.emit(step)

    groups = int_attribute(node, "group", 1)
    if product.weights.ndim > 2:  # an image
        own_shape = (shape[0], groups, *shape[2:])
    else:  # a vector is a matrix of one column, which the result lacks
        own_shape = shape if len(known_shape(node.inputs[1])) == 1 else (*shape[:-1], 1)
    ones = np.ones((groups, *product.weights.shape[1:]), np.int8)
    sums = whole(product, shape)
    own = whole(replace(product, weights=ones, bias=np.zeros(groups, np.int64)), own_shape)
    y = Tensor(str(value.name), DType.F32, sums.shape, order=sums.order)
    if quant is not None:
        y.dtype, y.quant = dtype_of(quant), replace(quant, scale=1.0)
    left = without_zero(lowering, node, sums, own, zero, real=fits_float(product.weights, zero, 0, product.bias))
    last = MapStep(StepKind.MAP, label(node), chain.op, [], y, operands=[left, product.multiplier(quant)])
    limits = chain.limits(quant)
    code: list[Instruction] = [(MapOp.MUL, (Operand(0), Operand(1)))]
    y = emit_map(lowering, last, [*code, (MapOp.CLIP, (Result(0), limits["lo"], limits["hi"]))])
    return y if quant is None else view(y, quant=quant)
