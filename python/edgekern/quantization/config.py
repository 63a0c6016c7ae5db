"""What a user may choose about quantization."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgekern.errors import ArgumentTypeError, ArgumentValueError

Activations = Literal["u8", "s8"]
Rounding = Literal["filter_sum", "nearest"]
Recipe = Literal["w8a8", "w8a8-dynamic", "float32"]


@dataclass(frozen=True)
class QuantConfig:
    """How :func:`edgekern.quantize` writes a model.

    Parameters
    ----------
    activations : "u8" or "s8"
        ``"u8"``: asymmetric, zero point from the range. ``"s8"``: symmetric, zero point 0, which spends half of its
        levels on values that a ReLU never gives.
    rounding : "filter_sum" or "nearest"
        ``"filter_sum"`` rounds the taps of one filter together, so that their sum is the rounded sum;
        ``"nearest"`` rounds each weight alone. They differ for convolutions larger than 1x1 only.

    bias_correction : bool
        Take the mean error that rounding the weights makes back in the bias, with the channel means that calibration
        kept (Nagel et al., arXiv 1906.04721, with measured means).
    recipe : "w8a8", "w8a8-dynamic" or "float32"
        How nodes are computed that no rule names: on 8-bit weights and activations; on 8-bit weights and rows of
        activations that each get their own scale as they come, which no calibration foresees (Gemm and MatMul by
        constants and Convs whose windows lie side by side, all else in float32); or in float32.
    overrides : mapping
        A recipe for the nodes that a rule names: ``{"/head/*": "float32", "LSTM": "float32"}``. A rule is the type
        of an operator, or a pattern of node names, as :mod:`fnmatch` reads it (a node without a name is called by its
        first output). Where several rules name a node, the last one counts.
    keep_float : sequence of str
        Rules for nodes that stay float32, whatever ``overrides`` say.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When a value is not one of those listed.
    """

    activations: Activations = "u8"
    rounding: Rounding = "filter_sum"
    bias_correction: bool = True
    recipe: Recipe = "w8a8"
    overrides: Mapping[str, Recipe] = field(default_factory=dict, hash=False)
    keep_float: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require_choice(self.activations, "activations", get_args(Activations))
        _require_choice(self.rounding, "rounding", get_args(Rounding))
        if not isinstance(self.bias_correction, bool):
            raise ArgumentTypeError(f"QuantConfig: bias_correction must be a bool, got {self.bias_correction!r}")
        _require_choice(self.recipe, "recipe", get_args(Recipe))
        if not isinstance(self.overrides, Mapping):
            kind = type(self.overrides).__name__
            raise ArgumentTypeError(f"QuantConfig: overrides must be a mapping from rules to recipes, got {kind}")
        for rule, recipe in self.overrides.items():
            _require_rule(rule, "overrides")
            _require_choice(recipe, f"overrides[{rule!r}]", get_args(Recipe))
        if isinstance(self.keep_float, str) or not isinstance(self.keep_float, Sequence):
            raise ArgumentTypeError(f"QuantConfig: keep_float must be a list of rules, got {self.keep_float!r}")
        for rule in self.keep_float:
            _require_rule(rule, "keep_float")
        object.__setattr__(self, "overrides", dict(self.overrides))
        object.__setattr__(self, "keep_float", tuple(self.keep_float))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "overrides": dict(self.overrides), "keep_float": list(self.keep_float)}


def _require_rule(rule: object, argument: str) -> None:
    if not isinstance(rule, str) or not rule:
        raise ArgumentTypeError(
            f"QuantConfig: a rule of {argument} must be an operator's type or a pattern of node names, got {rule!r}"
        )


def _require_choice(value: object, argument: str, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ArgumentValueError(f"QuantConfig: {argument} must be one of {list(choices)}, got {value!r}")
