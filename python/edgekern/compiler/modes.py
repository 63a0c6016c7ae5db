"""Several precisions of one model in one program, between which a session switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekern.artifact import Program
from edgekern.artifact.buckets import LONGEST_NAME, is_name
from edgekern.artifact.modes import join
from edgekern.compiler.compile_model import compile
from edgekern.compiler.sizes import AskedShapes
from edgekern.errors import ArgumentTypeError, ArgumentValueError

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike


def compile_modes(
    models: Mapping[str, ModelLike | Program],
    *,
    batch: int | Sequence[int] = 1,
    shapes: AskedShapes | None = None,
    pad: Mapping[str, float] | None = None,
    allow_host: bool = True,
) -> Program:
    """Turn several precisions of one model into one program, whose session switches between them.

    Parameters
    ----------
    models : mapping of names to models
        Two or more, such as ``{"performance": "w8a8.onnx", "accuracy": "w8a16.onnx"}``: what :func:`edgekern.compile`
        takes, or what it has made. A session begins with the first.
    batch, shapes, pad, allow_host : as of :func:`edgekern.compile`, for each of the models

    Returns
    -------
    Program
        ``modes`` has the names. Constants that two modes have in common are stored once.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When ``models`` is no mapping of two or more names to models; when two of them have inputs or outputs of other
        names, types, shapes, scales or zero points, or other sizes; when modes and sizes make more than 64 programs.
    HostStepError, CompileError
        As :func:`edgekern.compile`.

    Notes
    -----
    docs/modes.md.
    """
    if not isinstance(models, Mapping):
        raise ArgumentTypeError(
            f"compile_modes: models must be a mapping of names to models, got {type(models).__name__}"
        )
    if len(models) < 2:
        raise ArgumentValueError(
            f"compile_modes: models must have two modes or more, got {len(models)}; edgekern.compile compiles one"
        )
    for name in models:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"compile_modes: names of modes must be str, got {type(name).__name__}")
        if not name or not is_name(name):
            shown = name if len(name) <= LONGEST_NAME else f"one of {len(name)}"
            raise ArgumentValueError(
                f"compile_modes: names of modes must be 1 to {LONGEST_NAME} printable characters, got {shown!r}"
            )
    programs = {
        name: model
        if isinstance(model, Program)
        else compile(model, batch=batch, shapes=shapes, pad=pad, allow_host=allow_host)
        for name, model in models.items()
    }
    return join("compile_modes", programs)
