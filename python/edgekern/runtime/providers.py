"""Execution providers, as programs for onnxruntime choose them: there is one, the CPU's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekern._arguments import integer
from edgekern._warn import warn_caller
from edgekern.errors import ArgumentTypeError, ArgumentValueError

CPU = "CPUExecutionProvider"

Providers = Sequence[str | tuple[str, Mapping[Any, Any]]]

_SEVERITIES = 5  # from verbose to fatal


def get_available_providers() -> list[str]:
    """Names of the execution providers: that of the CPU."""
    return [CPU]


def get_device() -> str:
    """What programs run on: "CPU"."""
    return "CPU"


def set_default_logger_severity(severity: int) -> None:
    """Checked, and without effect: edgekern writes no log.

    Parameters
    ----------
    severity : 0 (verbose) to 4 (fatal)

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When it is none of these.
    """
    if not 0 <= integer("set_default_logger_severity", "severity", severity) < _SEVERITIES:
        raise ArgumentValueError(
            f"set_default_logger_severity: severity must be 0 (verbose) to 4 (fatal), got {severity}"
        )


def check_providers(function: str, providers: Any, provider_options: Any = None) -> None:
    """Look at what a caller of onnxruntime asks for, in the form that it takes there.

    None and an empty list are the CPU. Others in the list are skipped, with an EdgekernWarning.

    Raises
    ------
    ArgumentTypeError
        When these are no lists of names and of dicts.
    ArgumentValueError
        When the CPU is not among them, or the lists have different lengths.
    """
    names = [_name(function, entry) for entry in _listed(function, "providers", providers)]
    if provider_options is not None:
        options = _listed(function, "provider_options", provider_options)
        if len(options) != len(names):
            raise ArgumentValueError(
                f"{function}: provider_options must have an entry for each of {len(names)} providers, got "
                f"{len(options)}"
            )
        if not all(isinstance(entry, Mapping) for entry in options) or not all(
            isinstance(entry, str) for entry in providers or ()
        ):
            raise ArgumentTypeError(
                f"{function}: provider_options must be a list of dicts beside a list of names; options stand in one "
                "of both lists"
            )
    if names and CPU not in names:
        raise ArgumentValueError(
            f"{function}: providers must have '{CPU}' among them, got {names}; edgekern has no other"
        )
    others = [name for name in names if name != CPU]
    if others:
        warn_caller(f"{function}: {', '.join(others)} of providers is skipped; edgekern has '{CPU}' alone")


def _listed(function: str, argument: str, value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ArgumentTypeError(f"{function}: {argument} must be a list, got {type(value).__name__} {value!r}")
    return value


def _name(function: str, entry: object) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], Mapping):
        return entry[0]
    raise ArgumentTypeError(f"{function}: providers must hold names or (name, dict), got {entry!r}")
