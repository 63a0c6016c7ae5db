"""Which code each step of a program runs, as it was measured on one machine, in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints

from edgekern import _core, files
from edgekern._arguments import file_path
from edgekern.artifact import Program
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError
from edgekern.file_kinds import naming_kind
from edgekern.machine import cpu_model

Choice = tuple[str, bool]  # key of a path, or "" for the one by rule; whether on one thread
BY_RULE: Choice = ("", False)

_Kind = TypeVar("_Kind", "StepPath", "MeasuredPaths")

_FORMAT, _VERSION = "edgekern.paths", 1
_MAX_BYTES = 64 << 20
_FEW_VALUES, _BYTES_PER_VALUE = 32, 8


@dataclass(frozen=True)
class StepPath:
    """A step that is faster otherwise than by rule.

    Attributes
    ----------
    step : its number in the program; ``name`` is its name
    path : "thin", "gemv", "shallow", "spread" or "tile"; "" is the one by rule
    alone : whether it runs on one thread
    rule_us, us : what it took by rule and so, medians of rounds
    """

    step: int
    name: str
    path: str
    alone: bool
    rule_us: float
    us: float

    def __str__(self) -> str:
        how = ", ".join([*([self.path] if self.path else []), *(["one thread"] if self.alone else [])])
        return f"{self.name} ({how}): {self.us:.1f} us instead of {self.rule_us:.1f}"


@dataclass(frozen=True)
class MeasuredPaths:
    """What :func:`edgekern.runtime.measure_paths` has found; ``InferenceSession(paths=)`` takes it, or its file.

    It is of one program, instruction set, number of threads and CPU; results have the same bits with and without it.

    Attributes
    ----------
    program : sha256 of the program's index, in hex
    isa, num_threads, cpu : of what was measured
    steps : that run otherwise than by rule
    tried : steps that could
    rule_us, us : of a run by rule and so, medians of rounds
    """

    program: str
    isa: str
    num_threads: int
    cpu: str
    tried: int
    rule_us: float
    us: float
    steps: tuple[StepPath, ...]

    def __str__(self) -> str:
        gain = f"a run takes {self.us:.1f} us instead of {self.rule_us:.1f}" if self.steps else "nothing is gained"
        lines = [f"{len(self.steps)} of {self.tried} steps with a choice run otherwise than by rule; {gain}"]
        return "\n".join([*lines, *map(str, self.steps)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically. Raises as :func:`edgekern.files.atomic_write`."""
        text = json.dumps({"format": _FORMAT, "version": _VERSION} | asdict(self), indent=1, allow_nan=False) + "\n"
        target = file_path("MeasuredPaths.save", "path", path)
        with files.atomic_write(target, function="MeasuredPaths.save") as file:
            file.write(text.encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MeasuredPaths:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ArtifactError
            When the file is not one that :meth:`save` wrote.
        ArgumentTypeError, ArgumentValueError, OSError
            When ``path`` is none, or names no regular file.
        """
        file = file_path("MeasuredPaths.load", "path", path)
        with naming_kind(file, "a file of measured paths", "paths"):
            text = files.read_bytes(file, function="MeasuredPaths.load", limit=_MAX_BYTES)
            try:
                content = files.parse_json(text, most_values=_FEW_VALUES + len(text) // _BYTES_PER_VALUE)
                if content.pop("format") != _FORMAT or content.pop("version") != _VERSION:
                    raise ValueError("another format or version")
                content["steps"] = tuple(_typed(StepPath, step) for step in content["steps"])
                return _typed(cls, content)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise ArtifactError(
                    f"MeasuredPaths.load: {str(file)!r} is not a version {_VERSION} file of measured paths "
                    f"({error!r}); write it with MeasuredPaths.save"
                ) from error


def _typed(kind: type[_Kind], content: dict[str, Any]) -> _Kind:
    """Of the very fields and types that the class has."""
    types = get_type_hints(kind)
    if content.keys() != {field.name for field in fields(kind)}:
        raise ValueError(f"its fields are {sorted(content)}")
    for name, value in content.items():
        wanted = tuple if name == "steps" else types[name]
        if type(value) is not wanted:
            raise TypeError(f"{name} is {value!r}")
    return kind(**content)


def identity(program: Program) -> str:
    """sha256 of the program's index, which has the hashes of all that the file holds."""
    return hashlib.sha256(program.index.encode()).hexdigest()


def choices_for(
    paths: MeasuredPaths | str | os.PathLike[str] | None, program: Program, isa: str, num_threads: int
) -> dict[int, Sequence[Choice]]:
    """What the core shall run of each step of the program that was measured, by its number in the file; nothing where
    all is by rule.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, ArtifactError
        When ``paths`` is neither None nor MeasuredPaths nor such a file, or was measured on another program,
        instruction set, number of threads or CPU, or names a step that the program has not.
    """
    if paths is None:
        return {}
    if not isinstance(paths, MeasuredPaths):
        if not isinstance(paths, (str, os.PathLike)):
            raise ArgumentTypeError(
                f"InferenceSession: paths must be a path or MeasuredPaths, got {type(paths).__name__}"
            )
        paths = MeasuredPaths.load(paths)
    modes = {identity(one): one for one in (program, *program.alternatives)}
    program = modes.get(paths.program, program)
    here = (identity(program), _core.resolve_isa(isa), num_threads or _core.num_threads(), cpu_model())
    measured = (paths.program, paths.isa, paths.num_threads, paths.cpu)
    names = ("program", "instruction set", "number of threads", "CPU")
    for what, found, wanted in zip(names, measured, here, strict=True):
        if found != wanted:
            raise ArgumentValueError(
                f"InferenceSession: paths were measured with the {what} {found!r}, and this session has {wanted!r}; "
                "measure them again, with edgekern profile --save"
            )
    choices, steps = [BY_RULE] * len(program.steps), program.steps
    for chosen in paths.steps:
        if not 0 <= chosen.step < len(steps) or steps[chosen.step].name != chosen.name:
            raise ArgumentValueError(
                f"InferenceSession: paths name a step {chosen.step} {chosen.name!r}, which the program has not"
            )
        if not chosen.path.isascii():
            raise ArgumentValueError(
                f"InferenceSession: paths give step {chosen.step} the path {chosen.path!r}, which is none"
            )
        choices[chosen.step] = (chosen.path, chosen.alone)
    return {program.number: choices}
