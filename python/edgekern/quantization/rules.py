"""How each node is computed as far as a configuration says so, and the front end that stays float32."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import get_args

import onnx_ir as ir

from edgekern.errors import QuantizationError
from edgekern.graph.dynamic import weight_inputs
from edgekern.graph.families import COMPRESSIONS, LEARNED, POWERS, PRODUCTS, RECURRENT
from edgekern.graph.values import is_constant, is_float_constant, label, scalar
from edgekern.quantization.config import GroupRecipe, QuantConfig, Recipe

_RECIPE = "edgekern.recipe"
_NAMED = "edgekern.named"
_STATIC = ("w8a8", "w4a8", "w8a16")


def give(node: ir.Node, recipe: Recipe, *, named: bool = False) -> None:
    """Mark how a node is computed, and whether it was a rule that said so."""
    node.meta[_RECIPE] = recipe
    if named:
        node.meta[_NAMED] = True


def recipe_of(node: ir.Node) -> Recipe:
    """How a node is to be computed."""
    recipe: Recipe = node.meta.get(_RECIPE, "w8a8")
    return recipe


def is_named(node: ir.Node) -> bool:
    """Whether a rule has given a node its recipe."""
    return _NAMED in node.meta


def is_kept(node: ir.Node) -> bool:
    """Whether no calibrated integers are read or given by a node."""
    return recipe_of(node) not in _STATIC


def stays_float(node: ir.Node) -> bool:
    """Whether a node is to compute in float32."""
    return recipe_of(node) == "float32"


def is_of_rows(recipe: str) -> bool:
    """Whether products by a recipe quantize the rows that they multiply as they come."""
    return recipe == "w8a8-dynamic" or recipe in get_args(GroupRecipe)


def is_dynamic(node: ir.Node) -> bool:
    """Whether a node is to quantize the rows that it multiplies by itself; it is kept, too."""
    return is_of_rows(recipe_of(node))


def is_wide(node: ir.Node) -> bool:
    """Whether a node is to read and give activations of 16 bits."""
    return recipe_of(node) == "w8a16"


def weight_bits(node: ir.Node) -> int:
    """How many bits the weights of a static product get, which have a scale an output channel."""
    return 4 if recipe_of(node) == "w4a8" else 8


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
    for node, recipe in recipes.items():
        give(node, recipe, named=True)
    # The recipe of a model that is no recipe of a node gives them theirs once the graph is prepared.
    default: Recipe = config.recipe if config.recipe in get_args(Recipe) else "w8a8"  # type: ignore[assignment]
    front = (
        [node for node in _front_end(graph) if node not in recipes]
        if default in (*_STATIC, *get_args(GroupRecipe))
        else []
    )
    recipes |= dict.fromkeys(front, "float32")
    for node in graph:
        give(node, recipes.get(node, default))
    return front


def apply_ends(graph: ir.Graph, config: QuantConfig, *, function: str) -> None:
    """Mark the first and the last layer of a prepared graph as a configuration wants them, where no rule names them.

    Raises
    ------
    QuantizationError
        When the model has no layer with constant weights.
    """
    for argument, at in (("first_layer", 0), ("last_layer", -1)):
        recipe: Recipe | None = getattr(config, argument)
        if recipe is None:
            continue
        layers = [node for node in graph if has_weights(node)]
        if not layers:
            raise QuantizationError(
                f"{function}: {argument} is {recipe!r}, and model has no layer with constant weights"
            )
        if not is_named(layers[at]):
            give(layers[at], recipe, named=True)


def has_weights(node: ir.Node) -> bool:
    """Whether a node is a product, or a recurrent layer, by constant floats."""
    known = node.domain == "" and node.op_type in PRODUCTS | RECURRENT
    return known and all(is_float_constant(node.inputs[at]) for at in weight_inputs(node))


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
