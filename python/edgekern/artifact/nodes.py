"""What has become of the nodes of a model, as the compiler tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Cost(Protocol):
    """Of one run, with the conversions that it would need."""

    @property
    def macs(self) -> int:
        """Multiply-adds."""

    @property
    def nbytes(self) -> int:
        """Bytes read and written."""


@dataclass(frozen=True)
class NodePlace:
    """A node of the model once its constants are folded.

    Attributes
    ----------
    name : the node's, or that of its first output
    operator : its ONNX operator
    runs : "8 bits", "16 bits" (of activations), "float32", "host", or "fused": a Q or DQ that a kernel does in passing
    reason : why not on 8 bits, or why on the host; "" where there is nothing to say
    remedy : what would change that; "" where nothing would
    prices : by "8 bits", "float32" and "host", where that exists: what a run would cost there
    """

    name: str
    operator: str
    runs: str
    reason: str
    remedy: str
    prices: Mapping[str, Cost]


PLACES = ("8 bits", "float32", "host")
_SAID = {"8 bits": "on 8 bits", "16 bits": "on 16 bits", "float32": "in float32", "host": "on the host"}
_TEXTS = 3  # columns of a table that are no numbers


def counted(nodes: Sequence[NodePlace]) -> str:
    """How many run where."""
    counts = Counter(node.runs for node in nodes)
    told = [f"{counts[place]} {said}" for place, said in _SAID.items() if counts[place]]
    told += [f"{counts['fused']} Q and DQ that cost nothing"] if counts["fused"] else []
    return ", ".join(told)


def table(nodes: Sequence[NodePlace]) -> str:
    """A line a node, with the bytes that it would move in each place; below, why, and what to do."""
    whys: dict[tuple[str, str], list[NodePlace]] = {}
    rows: list[tuple[str, ...]] = [("operator", "node", "runs in", "MACs", *PLACES, "why")]
    for node in nodes:
        if node.runs == "fused":
            continue
        why = node.reason, node.remedy
        if node.reason:
            whys.setdefault(why, []).append(node)
        macs = max(cost.macs for cost in node.prices.values())
        moved = [f"{_short(node.prices[place].nbytes)}B" if place in node.prices else "-" for place in PLACES]
        note = str(list(whys).index(why) + 1) if node.reason else ""
        rows.append((node.operator, node.name, node.runs, _short(macs) if macs else "", *moved, note))
    width = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(f"{cell:<{width[at]}}" if at < _TEXTS else f"{cell:>{width[at]}}" for at, cell in enumerate(row))
        for row in rows
    ]
    notes = []
    for number, ((reason, remedy), held) in enumerate(whys.items(), 1):
        notes.append(f"{number:>3}  {len(held)} {'node' if len(held) == 1 else 'nodes'}: {reason}")
        notes += [f"     -> {remedy}"] if remedy else []
    return "\n".join([*(line.rstrip() for line in lines), *([""] if notes else []), *notes])


def _short(count: int) -> str:
    """Three digits and a prefix of powers of a thousand."""
    number, at = float(count), 0
    while number >= 999.5 and at < 5:
        number, at = number / 1000, at + 1
    digits = f"{number:.0f}" if at == 0 or number >= 99.95 else f"{number:.1f}"
    return digits + " kMGTP"[at].strip()
