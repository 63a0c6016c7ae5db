"""Programs and this machine: commands that work in the base install."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core, files, runtime
from edgekern.artifact import Program
from edgekern.artifact.buckets import Buckets
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.sources import files_of
from edgekern.calibration.sources.arrays import data_files, read_feeds
from edgekern.cli.sources import PLAIN, DataOptions, are_arrays, feeds_for
from edgekern.cli.sources import told as how
from edgekern.cli.terminal import printable, quiet_bar
from edgekern.errors import ArgumentValueError
from edgekern.machine import cpu_info

Array = npt.NDArray[Any]


def run(
    model: Path,
    data: Sequence[Path],
    *,
    output: Path | None,
    num_threads: int | None,
    isa: str | None,
    allow_host: bool,
    host_timeout_s: float,
    mode: str | None = None,
    given: DataOptions = PLAIN,
) -> str:
    arrays = are_arrays(data, given)
    sources = list(data_files(data)) if arrays else files_of(data)
    inputs = [model, *sources]
    if output is not None:
        files.check_target(output, function="run", inputs=inputs)
    session = runtime.InferenceSession(
        model, num_threads=num_threads, isa=isa, allow_host=allow_host, host_timeout_s=host_timeout_s, mode=mode
    )
    names = [node.name for node in session.get_outputs()]
    shapes = {node.name: node.shape for node in session.get_inputs()}
    lines: list[str] = []
    outputs: dict[str, Array] = {}
    number = 0
    rows = _rows(session.program)
    parts: list[tuple[str, Iterable[Mapping[str, Any]]]] = (
        [
            (prefix, read_feeds([source], shapes, batch=rows))
            for source, prefix in zip(sources, _prefixes(sources), strict=True)
        ]
        if arrays
        else [("", feeds_for(session, data, given, rows))]
    )
    for prefix, feeds in parts:
        kept: dict[str, list[Array]] = {name: [] for name in names}
        for feed in feeds:
            results = session.run(names, feed)
            for name, result in zip(names, results, strict=True):
                with np.printoptions(threshold=12, precision=5, suppress=True):
                    lines.append(f"[{number}] {name} {result.dtype}{list(result.shape)}\n{result}")
                if output is not None:
                    kept[name].append(result)
            number += 1
        outputs |= {prefix + name: _joined(name, pieces) for name, pieces in kept.items()} if output else {}
    if not number:
        raise ArgumentValueError("run: the data holds no rows")
    if output is not None:
        with files.atomic_write(output, function="run", inputs=inputs) as file:
            np.savez(file, allow_pickle=False, **outputs)
    return printable("\n".join(lines))


def _prefixes(sources: Sequence[Path]) -> list[str]:
    """What the outputs of each file are named by, where there are several: its name, its path where names repeat."""
    if len(sources) == 1:
        return [""]
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        names = [str(source) for source in sources]
    if len(set(names)) != len(names):
        raise ArgumentValueError("run: a file is given twice; give it once")
    return [f"{name}/" for name in names]


def profile(
    model: Path,
    data: Sequence[Path],
    *,
    runs: int,
    top: int,
    trace: Path | None,
    num_threads: int | None,
    isa: str | None,
    allow_host: bool,
    as_json: bool,
    save: Path | None = None,
    paths: Path | None = None,
    mode: str | None = None,
    given: DataOptions = PLAIN,
) -> str:
    """On the first feeds of ``data``, or random ones."""
    arrays = bool(data) and are_arrays(data, given)
    sources = list(data_files(data)) if arrays else files_of(data)
    if trace is not None and save is not None and trace.resolve() == save.resolve():
        raise ArgumentValueError(f"profile: --trace and --save are both {trace}; write to two files")
    used = [model, *sources, *([paths] if paths is not None else [])]
    for target in (trace, save):
        if target is not None:
            files.check_target(target, function="profile", inputs=used)
    session = runtime.InferenceSession(
        model, num_threads=num_threads, isa=isa, allow_host=allow_host, paths=paths, mode=mode
    )
    feeds = runtime.random_feeds(session.program.inputs)
    if sources:
        shapes = {node.name: node.shape for node in session.get_inputs()}
        rows = None if session.program.buckets is None else 0  # a whole file has one of the sizes
        read = read_feeds(sources, shapes, batch=rows) if arrays else feeds_for(session, data, given, rows)
        first = next(iter(read), None)
        if first is None:
            raise ArgumentValueError("profile: the data holds no rows; give one, or none for random numbers")
        feeds = first
    measured = session.profile(feeds, runs=runs)
    if trace is not None:
        measured.save_trace(trace)
    told = f"{model}: {measured.table(top, bar=_bar())}"
    if save is not None:
        found = _measured_paths(session, feeds, runs)
        found.save(save)
        told += f"\n\n{save}: {found}"
    return measured.to_json() if as_json else printable(told)


def _measured_paths(session: runtime.InferenceSession, feeds: Any, runs: int) -> runtime.MeasuredPaths:
    with quiet_bar("ways to run", 2 * runtime.ROUNDS) as advance:
        return runtime.measure_paths(session, feeds, runs=runs, advance=advance)


def stress(
    model: Path,
    *,
    concurrency: int,
    runs: int,
    arenas: int,
    budget: str,
    num_threads: int,
    isa: str | None,
    allow_host: bool,
    as_json: bool,
) -> tuple[str, bool]:
    """The figures, and whether all is as it must be."""
    runtime.memory_budget("stress", budget)
    session = runtime.InferenceSession(model, num_threads=num_threads, isa=isa, allow_host=allow_host, arenas=arenas)
    with progress_bar("percent of the runs", runtime.STEPS, enabled=sys.stderr.isatty()) as advance:
        measured = runtime.stress(session, concurrency=concurrency, runs=runs, budget=budget, advance=advance)
    told = measured.to_json() if as_json else printable(f"{model}: {measured}")
    return told, not measured.failures


def _rows(program: Program) -> int | None:
    """Of a feed: as many as the largest size, and a whole file where the first dimension may not be cut."""
    first = (
        {axis.dimension for axes in program.buckets.inputs.values() for axis in axes if axis.axis == 0}
        if program.buckets
        else set()
    )
    if not first or program.buckets is None:
        return None
    cut = [program.buckets.dimensions[number] for number in first]
    return cut[0].sizes[-1] if len(cut) == 1 and cut[0].rows else 0


def _bar() -> str:
    """What bars are drawn of, where the terminal has it."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "█"


def _joined(name: str, pieces: Sequence[Array]) -> Array:
    """The rows of all runs."""
    if len(pieces) == 1:
        return pieces[0]
    if not pieces or not pieces[0].ndim:
        raise ArgumentValueError(f"run: output '{name}' has no rows, so those of {len(pieces)} runs are not joined")
    return np.concatenate(pieces)


def verify(model: Path, *, allow_host: bool) -> str:
    """Reads the file alone: no session is made, so onnxruntime sees nothing of it."""
    program = Program.load(model, verify="full")
    if not allow_host:
        runtime.refuse_host_steps(program, "verify")
    lines = [f"{model}: every byte is as it was written ({program.nbytes} bytes)", *_made(program)]
    hosts = {step.name: step for one in (program, *program.alternatives) for step in one.host_steps}
    lines += [f"host step {name}, for onnxruntime: {step}" for name, step in hosts.items()]
    return printable("\n".join(lines))


def inspect(model: Path, *, as_json: bool = False) -> str:
    """Reads the file alone, like :func:`verify`."""
    program = Program.load(model)
    if as_json:
        return told(program)
    lines = [f"{model}: {program.nbytes} bytes, arena {program.memory_plan.arena_bytes} bytes"]
    lines += [f"input   {info.name} {info.dtype} {list(info.shape)}" for info in program.inputs]
    lines += [f"output  {info.name} {info.dtype} {list(info.shape)}" for info in program.outputs]
    return printable("\n".join([*lines, *_made(program), "", program.summary()]))


def kinds(model: Path) -> str:
    """The kinds of steps that a program needs, one a line, as a small build takes them (docs/small-builds.md)."""
    return "\n".join(sorted({step.kind.name for one in Program.load(model).all for step in one.index.steps}))


def _made(program: Program) -> list[str]:
    """How the data was made that the model was calibrated on, where the program says so."""
    return [] if program.preprocessing is None else [f"data    {how(program.preprocessing)}"]


def told(program: Program) -> str:
    """A program for other programs, as JSON; its nodes where it has just been compiled."""
    steps = [{**asdict(step), "dtype": str(step.dtype)} for step in program.steps]
    borders = {
        side: [{"name": info.name, "shape": info.shape, "dtype": str(info.dtype)} for info in infos]
        for side, infos in (("inputs", program.inputs), ("outputs", program.outputs))
    }
    hosts, nodes = ([asdict(part) for part in parts] for parts in (program.host_steps, program.nodes))
    whole = {"bytes": program.nbytes, "arena_bytes": max(one.index.arena_bytes for one in program.all)}
    sizes = [] if program.buckets is None else _sizes(program, program.buckets)
    modes = [
        {
            "name": name,
            "multiply_adds": one.multiply_adds,
            "arena_bytes": max(v.index.arena_bytes for v in one.variants),
        }
        for name, one in program.by_mode.items()
    ]
    made = {"sizes": sizes, "modes": modes, "preprocessing": program.preprocessing}
    return json.dumps({**whole, **made, **borders, "nodes": nodes, "steps": steps, "host_steps": hosts}, indent=1)


def _sizes(program: Program, buckets: Buckets) -> list[dict[str, Any]]:
    """The programs of several sizes, with their part of the arena that all share."""
    names = [one.name for one in buckets.dimensions]
    return [
        {"of": dict(zip(names, buckets.sizes(number), strict=True)), "arena_bytes": one.index.arena_bytes}
        for number, one in enumerate(program.variants)
    ]


def info() -> str:
    facts = {"edgekern": _core.__version__, "numpy": np.__version__, **cpu_info()}
    return "\n".join(
        f"{name:<12} {', '.join(fact) if isinstance(fact, list) else fact}" for name, fact in facts.items()
    )
