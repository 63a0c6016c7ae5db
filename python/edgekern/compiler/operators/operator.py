"""What an operator's file says of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from edgekern.compiler.lowering import Lower
from edgekern.compiler.roles import Placement


@dataclass(frozen=True)
class Operator:
    """A family of ONNX operators that kernels compute, with the right operands.

    Attributes
    ----------
    types : their names in ONNX's own domain
    role : gives the node's outputs a role, or says why no kernel computes it. All its constant results, and nodes that
        read nothing at run time, are out already
    lower : the step or steps that compute one of its values
    """

    types: Collection[str]
    role: Callable[[Placement, ir.Node], str | None]
    lower: Lower
