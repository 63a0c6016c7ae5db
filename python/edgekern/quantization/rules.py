"""Which nodes a configuration keeps in float32, or in float32 but for their products, and the front end that stays."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import onnx_ir as ir

from edgekern.errors import QuantizationError
from edgekern.graph.families import COMPRESSIONS, LEARNED, POWERS, PRODUCTS
from edgekern.graph.values import is_constant, label, scalar
from edgekern.quantization.config import QuantConfig, Recipe

_KEPT = "edgekern.keep_float"
_DYNAMIC = "edgekern.dynamic"
_NAMED = "edgekern.named"
_WIDE = "edgekern.wide"
_STATIC = ("w8a8", "w8a16")


def give(node: ir.Node, recipe: Recipe) -> None:
    """Mark how a node is computed."""
    if recipe not in _STATIC:
        node.meta[_KEPT] = True
    if recipe == "w8a16":
        node.meta[_WIDE] = True
    if recipe == "w8a8-dynamic":
        node.meta[_DYNAMIC] = True


def is_named(node: ir.Node) -> bool:
    """Whether a rule has given a node its recipe."""
    return _NAMED in node.meta


def is_kept(node: ir.Node) -> bool:
    return _KEPT in node.meta


def is_dynamic(node: ir.Node) -> bool:
    """Whether a node is to quantize the rows that it multiplies by itself; it is kept, too."""
    return _DYNAMIC in node.meta


def is_wide(node: ir.Node) -> bool:
    """Whether a node is to read and give activations of 16 bits."""
    return _WIDE in node.meta


def apply_rules(graph: ir.Graph, config: QuantConfig, *, function: str) -> list[ir.Node]:
    """Mark the nodes that stay float32; those of a front end, which no rule has named, are given.

    Raises
    ------
    QuantizationError
        When a rule names no node.
    """
    recipes: dict[ir.Node, Recipe] = {}
    for rule, recipe in config.overrides.items():
        recipes.update(dict.fromkeys(_named(graph, rule, "overrides", function), recipe))
    for rule in config.keep_float:
        recipes.update(dict.fromkeys(_named(graph, rule, "keep_float", function), "float32"))
    for node in recipes:
        node.meta[_NAMED] = True
    default: Recipe = "w8a8" if config.recipe == "mixed" else config.recipe
    front = [node for node in _front_end(graph) if node not in recipes] if default in _STATIC else []
    recipes |= dict.fromkeys(front, "float32")
    for node in graph:
        give(node, recipes.get(node, default))
    return front


def _named(graph: ir.Graph, rule: str, argument: str, function: str) -> list[ir.Node]:
    nodes = list(graph)
    found = [node for node in nodes if node.op_type == rule or fnmatchcase(label(node), rule)]
    if found:
        return found
    types = ", ".join(sorted({node.op_type for node in nodes}))
    names = ", ".join(repr(label(node)) for node in nodes[:3])
    raise QuantizationError(
        f"{function}: the rule {rule!r} of {argument} names no node of the model; it has operators {types}, and "
        f"nodes {names}{', ...' if len(nodes) > 3 else ''}"
    )


def _front_end(graph: ir.Graph) -> list[ir.Node]:
    """What leads to a logarithm or a root that no activation stands before and a product behind: a sound's spectrum.

    Its results span many powers of ten, which 255 equal steps do not.
    """
    products = [node for node in graph if node.domain == "" and node.op_type in PRODUCTS]
    before_products = set(_leading_to(graph, products))
    powers: set[ir.Value] = set()  # values that a square, a root or a norm leads to
    learned: set[ir.Value] = set()  # values behind an activation
    spread: list[ir.Node] = []
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if any(value in learned for value in inputs) or node.op_type in LEARNED:
            learned.update(node.outputs)
            continue
        if node.op_type in POWERS or any(value in powers for value in inputs) or len(set(inputs)) < len(inputs):
            powers.update(node.outputs)
        if _compresses(node) and node.inputs[0] in powers and node in before_products:
            spread.append(node)
    return _leading_to(graph, spread)


def _compresses(node: ir.Node) -> bool:
    """Whether a node is a logarithm, or a power below one, of what is computed."""
    if node.domain != "" or is_constant(node.inputs[0] if node.inputs else None):
        return False
    if node.op_type in COMPRESSIONS:
        return True
    exponent = scalar(node.inputs[1]) if node.op_type == "Pow" else None
    return exponent is not None and 0 < exponent < 1 and exponent != 0.5


def _leading_to(graph: ir.Graph, ends: Iterable[ir.Node]) -> list[ir.Node]:
    """Some nodes and all that they are computed from, in order."""
    found: set[ir.Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            makers = (value.producer() for value in node.inputs if value is not None)
            waiting += [maker for maker in makers if maker is not None and maker.graph is graph]
    return [node for node in graph if node in found]
