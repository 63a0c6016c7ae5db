"""What a user may choose about quantization."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgekern.errors import ArgumentTypeError, ArgumentValueError

Activations = Literal["u8", "s8"]
Granularity = Literal["channel", "tensor"]
Rounding = Literal["filter_sum", "nearest", "gptq", "adaround"]
GroupScales = Literal["max", "mse", "hqq"]
GroupRecipe = Literal["w4a8-g32", "w4a8-g64", "w4a8-g128", "w4a16-g32", "w4a16-g64", "w4a16-g128"]
Recipe = Literal["w8a8", "w4a8", "w8a16", "w8a8-dynamic", GroupRecipe, "float32"]
RoleRecipe = Literal["mixed", "performance", "accuracy"]
ModelRecipe = Literal["auto", RoleRecipe, Recipe]
Border = Literal["float32", "uint8", "int8"]
Borders = Border | Mapping[str, Border]


@dataclass(frozen=True)
class QuantConfig:
    """How :func:`edgekern.quantize` writes a model.

    Parameters
    ----------
    activations : "u8" or "s8"
        ``"u8"``: asymmetric, zero point from the range. ``"s8"``: symmetric, zero point 0, which spends half of its
        levels on values that a ReLU never gives. The same for 16 bits.
    rounding : "filter_sum", "nearest", "gptq" or "adaround"
        ``"filter_sum"`` rounds the taps of one filter together, so that their sum is the rounded sum;
        ``"nearest"`` rounds each weight alone. They differ for convolutions larger than 1x1 only. ``"gptq"`` and
        ``"adaround"`` make the error of a layer's results small, as samples show its inputs: :func:`edgekern.quantize`
        wants ``samples`` (Frantar et al., arXiv 2210.17323; Nagel et al., arXiv 2004.10568; docs/repair.md). They leave
        ConvTranspose, LSTM, GRU and RNN at the nearest.

    granularity : "channel" or "tensor"
        Whether each output channel of a Conv, Gemm or MatMul has a scale for its weights, or all of them one, as some
        accelerators want it. That loses much where channels differ; :func:`edgekern.equalize` makes them alike.
        Recipes of rows keep a scale a column.
    group_scales : "max", "mse" or "hqq"
        How groups of 4-bit weights get their scales and zero points. ``"max"`` leaves no weight out; ``"mse"`` searches
        for the range that leaves the smallest squared error of the weights; ``"hqq"`` makes a norm of them small that
        minds outliers less (:mod:`edgekern.quantization.methods.hqq`).
    bias_correction : bool
        Take the mean error that rounding the weights makes back in the bias, with the channel means that calibration
        kept (Nagel et al., arXiv 1906.04721, with measured means).
    recipe : str
        How nodes are computed that no rule names. ``"w8a8"``: on 8-bit weights and activations. ``"w4a8"``: the same
        on 4-bit weights, -7 to 7 with a scale an output channel. ``"w8a16"``: on 8-bit
        weights and activations of 16 bits, which all tensors have that such a node makes or reads. ``"w8a8-dynamic"``:
        on 8-bit weights and rows of activations that each get their own scale as they come, which no calibration
        foresees (Gemm and MatMul by constants, Convs whose windows lie side by side, LSTM, GRU and RNN; all else in
        float32). ``"w4a8-g32"``: the same by 4-bit weights with a scale for each group of 32 along the depth (also
        ``-g64``, ``-g128``); recurrent layers have 8-bit weights, and other Convs are ``"w8a8"`` where there are
        ranges. ``"w4a16-g128"`` (``-g32``, ``-g64``): the same with rows of 16 bits. ``"float32"``.
        ``"auto"``: ``"w8a8"``, but ``"w8a8-dynamic"`` or ``"float32"`` where calibration saw that one scale a tensor
        would lose too much (:mod:`edgekern.quantization.choose_recipes`).
        ``"mixed"``, ``"performance"``, ``"accuracy"``: by what a layer is in its model
        (:mod:`edgekern.quantization.roles`).
    overrides : mapping
        A recipe for the nodes that a rule names: ``{"/head/*": "float32", "LSTM": "float32"}``. A rule is the type
        of an operator, or a pattern of node names, as :mod:`fnmatch` reads it (a node without a name is called by its
        first output). Where several rules name a node, the last one counts.
    keep_float : sequence of str
        Rules for nodes that stay float32, whatever ``overrides`` say, and read tensors as they were before rounding.
    first_layer, last_layer : str, optional
        A recipe for the first and the last layer with constant weights, in the order of the model, where no rule names
        it.
    inputs, outputs : "float32", "uint8", "int8", or a mapping
        What callers give and take: floats, or codes of 8 bits whose scale and zero point the session states. One type
        for all float inputs (outputs), or a mapping from names to types, which leaves the others float32. An input
        whose values calibration saw between 0 and 255, some above 127, holds pixels: it gets scale 1.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When a value is not one of those listed.
    """

    activations: Activations = "u8"
    rounding: Rounding = "filter_sum"
    granularity: Granularity = "channel"
    group_scales: GroupScales = "max"
    bias_correction: bool = True
    recipe: ModelRecipe = "auto"
    overrides: Mapping[str, Recipe] = field(default_factory=dict, hash=False)
    keep_float: Sequence[str] = ()
    first_layer: Recipe | None = None
    last_layer: Recipe | None = None
    inputs: Borders = field(default="float32", hash=False)
    outputs: Borders = field(default="float32", hash=False)

    def __post_init__(self) -> None:
        _require_choice(self.activations, "activations", get_args(Activations))
        _require_choice(self.rounding, "rounding", get_args(Rounding))
        _require_choice(self.granularity, "granularity", get_args(Granularity))
        _require_choice(self.group_scales, "group_scales", get_args(GroupScales))
        if not isinstance(self.bias_correction, bool):
            raise ArgumentTypeError(f"QuantConfig: bias_correction must be a bool, got {self.bias_correction!r}")
        _require_choice(self.recipe, "recipe", get_args(ModelRecipe))
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
        for argument in ("first_layer", "last_layer"):
            if (layer := getattr(self, argument)) is not None:
                _require_choice(layer, argument, get_args(Recipe))
        for argument in ("inputs", "outputs"):
            object.__setattr__(self, argument, _checked_borders(getattr(self, argument), argument))
        object.__setattr__(self, "overrides", dict(self.overrides))
        object.__setattr__(self, "keep_float", tuple(self.keep_float))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "overrides": dict(self.overrides), "keep_float": list(self.keep_float)}


def _checked_borders(given: object, argument: str) -> object:
    """A copy of a mapping; a type as it is."""
    if not isinstance(given, Mapping):
        _require_choice(given, argument, get_args(Border))
        return given
    for name, border in given.items():
        if not isinstance(name, str):
            raise ArgumentTypeError(f"QuantConfig: {argument} must map names to types, got the name {name!r}")
        _require_choice(border, f"{argument}[{name!r}]", get_args(Border))
    return dict(given)


def _require_rule(rule: object, argument: str) -> None:
    if not isinstance(rule, str) or not rule:
        raise ArgumentTypeError(
            f"QuantConfig: a rule of {argument} must be an operator's type or a pattern of node names, got {rule!r}"
        )


def _require_choice(value: object, argument: str, choices: tuple[object, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ArgumentValueError(f"QuantConfig: {argument} must be one of {list(choices)}, got {value!r}")
