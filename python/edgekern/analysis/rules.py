"""Which layers a caller means: by type or by pattern of names, as rules of quantization do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from edgekern.errors import ArgumentTypeError, ArgumentValueError

L = TypeVar("L")


def chosen(
    function: str, layers: Sequence[L], rules: Sequence[str] | None, named: Callable[[L], tuple[str, str]]
) -> list[L]:
    """The layers that rules name, in their order; all where there are no rules.

    Parameters
    ----------
    named : gives the name and the operator of a layer

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When ``rules`` is no list of them, or a rule names no layer.
    """
    if rules is None:
        return list(layers)
    if isinstance(rules, str) or not isinstance(rules, Sequence) or not all(isinstance(rule, str) for rule in rules):
        raise ArgumentTypeError(f"{function}: layers must be a list of rules, got {rules!r}")
    names = [named(layer) for layer in layers]
    found: set[int] = set()
    for rule in rules:
        fits = [at for at, (name, op) in enumerate(names) if op == rule or fnmatchcase(name, rule)]
        if not fits:
            some = ", ".join(repr(name) for name, _ in names[:3])
            raise ArgumentValueError(
                f"{function}: each rule of layers must name a layer, and {rule!r} names none of the {len(layers)} "
                f"here; they are {', '.join(sorted({op for _, op in names}))}, and called {some}, ..."
            )
        found.update(fits)
    return [layer for at, layer in enumerate(layers) if at in found]
