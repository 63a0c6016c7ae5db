"""The precisions of a program, by the names that callers have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekern._arguments import string
from edgekern.artifact import Program
from edgekern.errors import ArgumentValueError

if TYPE_CHECKING:
    from edgekern.runtime.runner import Runner


def mode_number(function: str, program: Program, mode: str) -> int:
    """The how-manieth of a program's modes has a name.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When it is no text, or no mode of the program.
    """
    modes = program.modes
    if string(function, "mode", mode) in modes:
        return modes.index(mode)
    if not modes:
        raise ArgumentValueError(
            f"{function}: mode must be None, as the program has one precision, got {mode!r}; edgekern.compile_modes "
            "makes programs of several"
        )
    raise ArgumentValueError(f"{function}: mode must be one of {list(modes)}, got {mode!r}")


class Modes:
    """The precisions of a session, between which its owner switches; see docs/modes.md."""

    _program: Program
    _mode: int
    _firsts: tuple[Runner, ...]  # of each mode, that of the smallest size
    _runner: Runner  # one of them

    @property
    def mode(self) -> str | None:
        """The precision of runs, of a program that has several; None of one that has not.

        Another name switches: runs that begin from now on, of whichever thread, are in that mode; those that have
        begun, and calls of :meth:`run_async`, stay in theirs. Nothing is loaded, and nothing allocated.
        """
        return self._program.modes[self._mode] if self._program.modes else None

    @mode.setter
    def mode(self, mode: str) -> None:
        number = mode_number("mode", self._program, mode)
        self._mode, self._runner = number, self._firsts[number]

    @property
    def program_of_mode(self) -> Program:
        """The part of :attr:`program` that runs now: the whole where it has no modes."""
        return (self._program, *self._program.alternatives)[self._mode]
