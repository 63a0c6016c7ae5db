"""What a user may choose about quantization."""

from dataclasses import dataclass
from typing import Literal, get_args

from edgekern.errors import ArgumentTypeError, ArgumentValueError

Activations = Literal["u8", "s8"]
Rounding = Literal["filter_sum", "nearest"]


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

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When a value is not one of those listed.
    """

    activations: Activations = "u8"
    rounding: Rounding = "filter_sum"
    bias_correction: bool = True

    def __post_init__(self) -> None:
        _require_choice(self.activations, "activations", get_args(Activations))
        _require_choice(self.rounding, "rounding", get_args(Rounding))
        if not isinstance(self.bias_correction, bool):
            raise ArgumentTypeError(f"QuantConfig: bias_correction must be a bool, got {self.bias_correction!r}")


def _require_choice(value: object, argument: str, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ArgumentValueError(f"QuantConfig: {argument} must be one of {list(choices)}, got {value!r}")
