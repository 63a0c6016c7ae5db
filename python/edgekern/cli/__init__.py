"""The ``edgekern`` command: calls the rooms and holds no logic of its own.

Errors are one line on stderr. The exit status is 0 where all is well, 1 where what was asked about is not (a gate, a
damaged file), and 2 where the command could not be done: docs/command-line.md. What works on programs, on this machine
and on language models needs NumPy only; the other commands, and the help pages drawn by typer, come with the
``[toolkit]`` extra.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from edgekern._extras import missing
from edgekern.cli.terminal import printable
from edgekern.errors import ArtifactError, EdgekernError, HostStepError, MissingExtraError
from edgekern.machine import cpu_info

NOT_WELL, NOT_DONE, INTERRUPTED = 1, 2, 130


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(printable(f"edgekern: warning: {message}"), file=sys.stderr)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; never raises for a mistake of the user's."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        status = NOT_DONE
        try:
            cpu_info()  # an environment that cannot be followed is told before the work begins
            return _dispatch(list(arguments))
        except MissingExtraError as error:
            message = str(error)
        except ModuleNotFoundError as error:
            if (told := missing(f"'{arguments[0]}'" if arguments else "this", error)) is error:
                raise
            message = str(told)
        except (EdgekernError, OSError) as error:
            message = str(error)
            if arguments[:1] == ["verify"] and isinstance(error, (ArtifactError, HostStepError)):
                status = NOT_WELL  # it was verified, and that is the answer
        except KeyboardInterrupt:
            message, status = "interrupted", INTERRUPTED
        print(printable(f"edgekern: error: {message}"), file=sys.stderr)
        return status


def _dispatch(arguments: list[str]) -> int:
    from edgekern.cli import base

    try:
        from edgekern.cli.app import app
    except ModuleNotFoundError:
        if not base.knows(arguments):
            raise
        return base.run(arguments)
    try:
        app(arguments, prog_name="edgekern")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer ends with 1, which is a verdict here
            raise end.__context__ from None
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main() -> None:
    """Entry point of the ``edgekern`` command."""
    sys.exit(run(sys.argv[1:]))
