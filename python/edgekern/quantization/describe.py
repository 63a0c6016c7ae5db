"""What is told about a quantized model: lists of nodes, and why they are as they are."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekern.graph.values import label, qualified
from edgekern.graph.wide import FIRST_WIDE_OPSET


def listed(nodes: Sequence[ir.Node]) -> str:
    names = ", ".join(f"{qualified(node)} '{label(node)}'" for node in nodes[:4])
    return f"{names} and {len(nodes) - 4} more" if len(nodes) > 4 else names


def describe_bodies(nodes: Sequence[ir.Node], *, all_of_it: bool) -> str:
    return (
        f"{'the model stays float32: all ' if all_of_it else ''}{len(nodes)} Conv, Gemm and MatMul stand in bodies of "
        f"If, Loop or Scan, which onnxruntime runs in float32: {listed(nodes)}; export the branch that you need as a "
        "model of its own"
    )


def describe_without_rows(nodes: Sequence[ir.Node]) -> str:
    stay = "1 product stays" if len(nodes) == 1 else f"{len(nodes)} products stay"
    return (
        f"{stay} float32, because recipes of rows are for a Gemm without transA, a MatMul by one matrix, a Conv whose "
        f"windows lie side by side and recurrent layers without peepholes: {listed(nodes)}; give them another recipe "
        "with overrides"
    )


def describe_eight_bits(nodes: Sequence[ir.Node]) -> str:
    have = "1 product has" if len(nodes) == 1 else f"{len(nodes)} products have"
    return (
        f"{have} 8-bit weights ('w8a8-dynamic'), because 4-bit ones are for no recurrent layers, nor, before opset "
        f"{FIRST_WIDE_OPSET}, for a depth that groups do not divide: {listed(nodes)}"
    )


def describe_widened(widened: dict[str, list[int]]) -> str:
    channels = sum(len(indices) for indices in widened.values())
    operators = ", ".join(f"{name!r} ({len(indices)})" for name, indices in widened.items())
    return (
        f"{channels} channels got a wider weight scale, so that no accumulator can pass 2**31: {operators}; "
        "their weights are tiny beside their bias, or sum over too many inputs"
    )
