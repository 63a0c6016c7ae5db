"""How large a program is that runs models: ``python -m bench binary_size [MODEL.ekm ...] [--isa avx2]``.

Builds the model runner of tests/downstream from this checkout in a temporary folder, and weighs it stripped:
with one instruction set and the kinds of steps of each model; with one and all kinds; with all of both. libstdc++ is in
it, the C library is not (``--static``: is). Each build that is for a model runs it once. Minutes, all together.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edgekern as ek
from bench.harness import Row
from edgekern import quickstart
from edgekern.cli.session import kinds
from edgekern.runtime import random_feeds

REPOSITORY = Path(__file__).resolve().parents[1]
RUNNER = "small_runner"


def tool(name: str) -> str:
    """A program that pip may have put beside Python."""
    return shutil.which(name, path=Path(sys.executable).parent) or name


def build(folder: Path, isa: str = "", steps: Path | None = None, *, jobs: int = 2, static: bool = False) -> Path:
    """Configure and build the runner in ``folder``; returns it, stripped.

    Parameters
    ----------
    isa : instruction sets to keep, apart by ``;``; "": all
    steps : a file of the kinds of steps to keep, one a line; None: all
    static : with the C library in it
    """
    configure = [
        *(tool("cmake"), "-S", REPOSITORY, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
        *("-DCMAKE_BUILD_TYPE=MinSizeRel", "-DEDGEKERN_BUILD_PYTHON=OFF", f"-DEDGEKERN_ISA={isa}"),
        *(f"-DEDGEKERN_STEPS={steps or ''}", f"-DCMAKE_EXE_LINKER_FLAGS={'-static' if static else ''}"),
    ]
    make = [tool("cmake"), "--build", folder, "--target", RUNNER, "--parallel", str(jobs)]
    for command in (configure, make, ["strip", folder / RUNNER]):
        child = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if child.returncode != 0:
            raise RuntimeError(f"{command[0]} failed:\n{child.stdout[-4000:]}{child.stderr[-4000:]}")
    return folder / RUNNER


def same_bytes(runner: Path, model: Path, isa: str) -> None:
    """Raise AssertionError unless the runner gives the bytes that Python does."""
    session = ek.InferenceSession(model, isa=isa)
    feeds = random_feeds(session.program.inputs)
    expected = b"".join(np.ascontiguousarray(array).tobytes() for array in session.run(None, feeds))
    given = b"".join(feeds[info.name].tobytes() for info in session.program.inputs)
    child = subprocess.run([runner, model], input=given, capture_output=True, check=False)
    assert child.stdout == expected, f"{model.name}: {child.stderr.decode() or 'other bytes than in Python'}"


def weigh(models: Sequence[Path], isa: str, folder: Path, *, jobs: int, static: bool) -> list[Row]:
    """A row for each model, one for all kinds of steps, one for all instruction sets, too."""
    rows: list[Row] = []

    def add(who: str, which: str, steps: Path | None = None) -> Path:
        runner = build(folder / str(len(rows)), which, steps, jobs=jobs, static=static)
        rows.append({"steps": who, "isa": which or "all", "bytes": runner.stat().st_size})
        print("{steps:<28} {isa:<12} {bytes:>10,} bytes".format(**rows[-1]), flush=True)
        return runner

    for model in models:
        steps = folder / f"{len(rows)}.steps"
        steps.write_text(kinds(model) + "\n")
        same_bytes(add(model.stem, isa, steps), model, isa)
    add("all", isa)
    add("all", "")
    return rows


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench binary_size", description=__doc__)
    parser.add_argument("models", type=Path, nargs="*", help="compiled models; default: the embedded digits")
    parser.add_argument("--isa", default=ek.cpu_info()["isa"], help="the one that is kept; default: this CPU's best")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--static", action="store_true", help="link the C library, too")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.models:
            options.models = [folder / "digits.ekm"]
            quickstart.run(save=options.models[0])
        rows = weigh(options.models, options.isa, folder, jobs=options.jobs, static=options.static)
    if options.json is not None:
        with options.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
