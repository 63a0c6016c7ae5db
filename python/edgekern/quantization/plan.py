"""What each layer is in a quantized model, as the file that quantization wrote says, or is to be, as a plan file."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, get_args

from edgekern import files
from edgekern._arguments import file_path
from edgekern.artifact.manifest import QUANTIZATION_KEY
from edgekern.errors import ArgumentValueError, QuantizationError
from edgekern.graph.model import model_hash, parse_model
from edgekern.quantization.config import ModelRecipe, QuantConfig, Recipe

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

_FORMAT, _VERSION = "edgekern.plan", 1
_MOST_BYTES, _MOST_VALUES = 64 << 20, 1 << 22
_PATTERN = str.maketrans({sign: f"[{sign}]" for sign in "*?["})  # what fnmatch takes for more than itself


@dataclass(frozen=True)
class Choice:
    """The recipe of one layer.

    Attributes
    ----------
    node, op : its name, or that of its result, and its operator
    recipe : how it is computed
    w8a8_db : signal to noise of its result, in dB, if its input, in the one range that calibration chose, and its
        weights alone were rounded to 8 bits; None where calibration has not seen it, or nothing is lost
    loss : power of the error that a search saw at the outputs, in powers of the outputs, with this layer alone in its
        recipe; None where none was looked for
    cost : of the layer in its recipe, in the unit of the plan's budget
    """

    node: str
    op: str
    recipe: Recipe
    w8a8_db: float | None = None
    loss: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Plan:
    """The recipe of every layer that was looked at, in the order of the model; ``str`` is a table.

    Attributes
    ----------
    choices : a :class:`Choice` each. Of :func:`plan_of` every Conv, Gemm and MatMul by constant weights; of a search
        what is quantized between them, too
    base : recipe of all that ``choices`` do not name
    model_hash : of the float model; None where nobody said
    budget : name and limit of the budget that was kept, such as ``{"max_ms": 3.2}``
    seen : figures of the whole that were measured, such as ``{"ms": 3.1, "db": 27.4}``
    """

    choices: tuple[Choice, ...]
    base: ModelRecipe = "w8a8"
    model_hash: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict, hash=False)
    seen: Mapping[str, float] = field(default_factory=dict, hash=False)

    def counts(self) -> dict[str, int]:
        """How many layers each recipe has."""
        return dict(Counter(choice.recipe for choice in self.choices))

    def config(self, model: ModelLike | None = None, **changes: Any) -> QuantConfig:
        """What :func:`edgekern.quantize` takes to write a model so.

        Parameters
        ----------
        model : the float model, to be compared with the one that the plan is of; None compares nothing.
            :func:`edgekern.quantize` itself refuses a plan with a node that its model lacks.
        **changes : other fields of :class:`~edgekern.QuantConfig`

        Raises
        ------
        QuantizationError
            When the plan is of another model.
        ArgumentTypeError, ArgumentValueError
            When ``changes`` hold a value that no config has.
        """
        if model is not None and self.model_hash is not None and (found := model_hash(model)) != self.model_hash:
            raise QuantizationError(
                f"Plan.config: plan is of another model (hash {self.model_hash[:12]}..., this model has "
                f"{found[:12]}...); search with this model, or leave model out where its nodes have the same names"
            )
        overrides = {_rule(choice.node): choice.recipe for choice in self.choices}
        return QuantConfig(**{"recipe": self.base, "overrides": overrides, **changes})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically: a line a layer, to be read and edited. :meth:`load` gives the same plan.

        Raises
        ------
        OSError, ArgumentTypeError, ArgumentValueError
            As :func:`edgekern.files.atomic_write`.
        """
        head = {"format": _FORMAT, "version": _VERSION, "model_hash": self.model_hash, "base": self.base}
        head |= {"budget": dict(self.budget), "seen": dict(self.seen)}
        lines = [f" {json.dumps(name)}: {json.dumps(value, allow_nan=False)}," for name, value in head.items()]
        rows = [json.dumps(row, allow_nan=False) for row in written(self.choices)]
        text = "\n".join(["{", *lines, ' "layers": [', ",\n".join(f"  {row}" for row in rows), " ]", "}", ""])
        with files.atomic_write(file_path("Plan.save", "path", path), function="Plan.save") as file:
            file.write(text.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote, edited or not: of a layer, ``node`` and ``recipe`` suffice.

        Raises
        ------
        QuantizationError
            When the file is no plan, or a layer has a recipe that there is none of.
        ArtifactError, ArgumentTypeError, ArgumentValueError
            When it is larger than any plan is, or no regular file.
        """
        file = file_path("Plan.load", "path", path)
        text = files.read_bytes(file, function="Plan.load", limit=_MOST_BYTES)
        try:
            content: Any = files.parse_json(text, most_values=_MOST_VALUES)
            if content["format"] != _FORMAT or content["version"] != _VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            found, choices = content.get("model_hash"), tuple(_choice(row) for row in content["layers"])
            recipes = {choice.node: choice.recipe for choice in choices}
            if (odd := next((c.node for c in choices if recipes[c.node] != c.recipe), None)) is not None:
                raise ValueError(f"layer {odd!r} has two recipes")
            return cls(
                choices,
                _recipe(content["base"], get_args(ModelRecipe), "base"),
                None if found is None else str(found),
                {str(name): _finite(value) for name, value in content.get("budget", {}).items()},
                {str(name): _finite(value) for name, value in content.get("seen", {}).items()},
            )
        except QuantizationError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise QuantizationError(
                f"Plan.load: {str(file)!r} is not a version {_VERSION} plan ({error!r}); write it with Plan.save"
            ) from error

    def __str__(self) -> str:
        width = max((len(choice.node) for choice in self.choices), default=4)
        searched = any(choice.loss is not None for choice in self.choices)
        head = f"{'loss in dB':>10}  {'cost':>10}" if searched else f"{'dB in w8a8':>10}"
        lines = [f"{'node':<{width}}  {'operator':<8}  {'recipe':<12}  {head}"]
        for choice in self.choices:
            shown = _searched(choice) if searched else _db(choice.w8a8_db)
            lines.append(f"{choice.node:<{width}}  {choice.op:<8}  {choice.recipe:<12}  {shown}")
        return "\n".join(line.rstrip() for line in lines)


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
        told = json.loads(held or "")
        choices = tuple(Choice(**choice) for choice in told["plan"])
        return Plan(choices, _recipe(told["config"]["recipe"], get_args(ModelRecipe), "base"), str(told["model_hash"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentValueError(
            "plan_of: model must be one that edgekern.quantize wrote, and its metadata holds no plan; quantize it again"
        ) from error


def written(choices: Sequence[Choice]) -> list[dict[str, object]]:
    """For the file; JSON has no infinity, and what a search has not seen is left out."""
    finite = [replace(c, w8a8_db=None) if c.w8a8_db == math.inf else c for c in choices]
    searched = ("loss", "cost")
    return [
        {name: value for name, value in asdict(choice).items() if value is not None or name not in searched}
        for choice in finite
    ]


def _rule(node: str) -> str:
    """What names a node alone, also one that is called like an operator."""
    rule = node.translate(_PATTERN)
    return f"[{rule[0]}]{rule[1:]}" if rule[0].isalpha() else rule


def _choice(row: Mapping[str, Any]) -> Choice:
    node = row["node"]
    if not isinstance(node, str) or not node:
        raise ValueError(f"a layer's node is {node!r}")
    figures = {name: row.get(name) for name in ("w8a8_db", "loss", "cost")}
    told = {name: None if value is None else _finite(value) for name, value in figures.items()}
    return Choice(node, str(row.get("op", "")), _recipe(row["recipe"], get_args(Recipe), f"layer {node!r}"), **told)


def _recipe(given: object, known: Sequence[str], whose: str) -> Any:
    if given not in known:
        raise QuantizationError(
            f"Plan: the recipe of {whose} must be one of {list(known)}, got {given!r}; edit the plan"
        )
    return given


def _finite(given: Any) -> float:
    value = float(given)
    if not math.isfinite(value):
        raise ValueError(f"a figure is {value}")
    return value


def _searched(choice: Choice) -> str:
    loss = 10 * math.log10(choice.loss) if choice.loss is not None and choice.loss > 0 else None
    cost = "-" if choice.cost is None else f"{choice.cost:.4g}"
    return f"{_db(loss)}  {cost:>10}"


def _db(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.1f'):>10}"
