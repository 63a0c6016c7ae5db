"""Products by constant matrices, whose inputs and outputs can be scaled and mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import int_attribute, label, sole_consumer
from edgekern.quantization.methods.float_model import float32_of, replace_constant

FloatArray = npt.NDArray[np.floating]
Change = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Linear:
    """A MatMul or Gemm by a constant matrix of float32, and the constant bias that is added to it.

    Attributes
    ----------
    node : the product
    depth : which axis of its weights is the input's
    bias : the node and the input that hold the bias; None where there is none
    result : what the layer gives, with its bias
    """

    node: ir.Node
    depth: int
    bias: tuple[ir.Node, int] | None
    result: ir.Value

    @property
    def input(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """(columns, k)."""
        found = float32_of(self.node.inputs[1])
        assert found is not None
        return found if self.depth == 1 else found.T

    @property
    def name(self) -> str:
        return label(self.node)

    def change_inputs(self, change: Change) -> None:
        """``change`` makes (columns, k) weights of those that there are."""
        made = change(self.weights)
        replace_constant(self.node, 1, made if self.depth == 1 else np.ascontiguousarray(made.T))

    def change_outputs(self, change: Change) -> None:
        """``change`` makes other outputs of what has them along its last axis: the weights of an input, the bias."""
        self.change_inputs(lambda weights: change(weights.T).T)
        if self.bias is not None:
            bias = float32_of(self.bias[0].inputs[self.bias[1]])
            assert bias is not None
            columns = len(self.weights)
            replace_constant(*self.bias, change(np.broadcast_to(bias, (*bias.shape[:-1], columns))))


def linear_of(node: ir.Node) -> Linear | None:
    """A product as a linear layer; None of others."""
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm") or node.inputs[0] is None:
        return None
    weights = float32_of(node.inputs[1])
    if weights is None or weights.ndim != 2 or float32_of(node.inputs[0]) is not None or not np.isfinite(weights).all():
        return None
    columns, result = weights.shape[1], node.outputs[0]
    if node.op_type == "Gemm":
        if int_attribute(node, "transA", 0):
            return None
        depth = 1 if int_attribute(node, "transB", 0) else 0
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        constant = float32_of(bias)
        if bias is not None and (constant is None or constant.ndim == 0):
            return None
        return Linear(node, depth, None if bias is None else (node, 2), result)
    behind = sole_consumer(result)
    if behind is not None and behind.domain == "" and behind.op_type == "Add":
        for at in (0, 1):
            addend = float32_of(behind.inputs[at])
            if addend is not None and addend.ndim and addend.shape[-1] == columns and addend.size == columns:
                return Linear(node, 0, (behind, at), behind.outputs[0])
    return Linear(node, 0, None, result)


def linear_giving(value: ir.Value) -> Linear | None:
    """The linear layer that gives a value, with its bias."""
    node = value.producer()
    if node is not None and node.op_type == "Add" and node.domain == "":
        for product in node.inputs:
            before = None if product is None else product.producer()
            found = None if before is None else linear_of(before)
            if found is not None and found.result is value:
                return found
        return None
    found = None if node is None else linear_of(node)
    return found if found is not None and found.result is value else None
