"""What quantization has made of each product, as the file that it wrote says."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from edgekern.artifact.manifest import QUANTIZATION_KEY
from edgekern.errors import ArgumentValueError
from edgekern.graph.model import parse_model

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike
    from edgekern.quantization.config import Recipe


@dataclass(frozen=True)
class Choice:
    """The recipe of one product.

    Attributes
    ----------
    node, op : its name, or that of its result, and its operator
    recipe : how it is computed
    w8a8_db : signal to noise of its result, in dB, if its input, in the one range that calibration chose, and its
        weights alone were rounded to 8 bits; None where calibration has not seen it, or nothing is lost
    """

    node: str
    op: str
    recipe: Recipe
    w8a8_db: float | None


@dataclass(frozen=True)
class Plan:
    """The recipe of every Conv, Gemm and MatMul by constant weights, in the order of the model; ``str`` is a table."""

    choices: tuple[Choice, ...]

    def counts(self) -> dict[str, int]:
        """How many products each recipe has."""
        return dict(Counter(choice.recipe for choice in self.choices))

    def __str__(self) -> str:
        width = max((len(choice.node) for choice in self.choices), default=4)
        lines = [f"{'node':<{width}}  {'operator':<8}  {'recipe':<12}  {'dB in w8a8':>10}"]
        for choice in self.choices:
            db = "-" if choice.w8a8_db is None else f"{choice.w8a8_db:.1f}"
            lines.append(f"{choice.node:<{width}}  {choice.op:<8}  {choice.recipe:<12}  {db:>10}")
        return "\n".join(lines)


def plan_of(model: ModelLike) -> Plan:
    """The plan that :func:`edgekern.quantize` followed when it wrote a model.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When the model is not ONNX, or not one that :func:`edgekern.quantize` wrote.
    """
    entries = parse_model(model, function="plan_of").proto.metadata_props
    held = next((entry.value for entry in entries if entry.key == QUANTIZATION_KEY), None)
    try:
        return Plan(tuple(Choice(**choice) for choice in json.loads(held or "")["plan"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentValueError(
            "plan_of: model must be one that edgekern.quantize wrote, and its metadata holds no plan; quantize it again"
        ) from error


def written(choices: Sequence[Choice]) -> list[dict[str, object]]:
    """For the file; JSON has no infinity."""
    finite = [replace(c, w8a8_db=None) if c.w8a8_db == math.inf else c for c in choices]
    return [asdict(choice) for choice in finite]
