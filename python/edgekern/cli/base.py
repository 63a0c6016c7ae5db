"""The five commands of the base install, parsed with the standard library where typer is absent."""

import argparse
from pathlib import Path

from edgekern import _core
from edgekern.cli import bench, session
from edgekern.runtime import HOST_TIMEOUT_S

COMMANDS = ("run", "verify", "profile", "bench", "stress", "info")


def knows(arguments: list[str]) -> bool:
    """Whether this command line can be served without the toolkit extra (asking for help can, too)."""
    return not arguments or arguments[0] in (*COMMANDS, "-h", "--help", "--version")


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="edgekern",
        description="Run and check compiled models.",
        epilog="More commands (calibrate, quantize, compile, evaluate, inspect, ...): pip install 'edgekern[toolkit]'",
    )
    parser.add_argument("--version", action="version", version=f"edgekern {_core.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run an .ekm on arrays")
    runs.add_argument("model", type=Path)
    runs.add_argument("data", type=Path, nargs="+", help=".npz, .npy, or a folder of them")
    runs.add_argument(
        "-o", "--output", type=Path, help="write the outputs to this .npz; of several files as FILE/OUTPUT"
    )
    runs.add_argument("--threads", type=int)
    runs.add_argument("--isa")
    runs.add_argument("--host-timeout", type=float, default=HOST_TIMEOUT_S, help="seconds that a host step may take")
    verifies = commands.add_parser("verify", help="check every byte of an .ekm, and name its host steps")
    verifies.add_argument("model", type=Path)
    profiles = commands.add_parser("profile", help="time every step of an .ekm")
    profiles.add_argument("model", type=Path)
    profiles.add_argument("data", type=Path, nargs="*", help=".npz, .npy, or a folder of them; default: random numbers")
    profiles.add_argument("--runs", type=int, default=100)
    profiles.add_argument("--top", type=int, default=20, help="steps that are shown")
    profiles.add_argument("--trace", type=Path, help="write a trace for Perfetto and Chrome here")
    profiles.add_argument("--save", type=Path, help="try every way to run steps, and write the fastest here")
    profiles.add_argument("--paths", type=Path, help="run steps as such a file says")
    profiles.add_argument("--json", action="store_true", help="all figures, as JSON")
    profiles.add_argument("--threads", type=int)
    profiles.add_argument("--isa")
    benches = commands.add_parser("bench", help="time an .ekm")
    benches.add_argument("model", type=Path)
    benches.add_argument("data", type=Path, nargs="*", help=".npz, .npy, or a folder of them; default: random numbers")
    benches.add_argument("--threads", type=int, action="append", default=[])
    benches.add_argument("--runs", type=int)
    benches.add_argument("--seconds", type=float)
    benches.add_argument("--json", action="store_true", help="all figures, as JSON")
    benches.add_argument("--isa")
    stresses = commands.add_parser("stress", help="let many callers run an .ekm for long")
    stresses.add_argument("model", type=Path)
    stresses.add_argument("--concurrency", type=int, default=100, help="callers")
    stresses.add_argument("--runs", type=int, default=1000, help="of each caller")
    stresses.add_argument("--arenas", type=int, default=2, help="how many run at a time")
    stresses.add_argument("--threads", type=int, default=1, help="of each run")
    stresses.add_argument("--budget", default="60%", help="memory: a share of what this process can have, or a size")
    stresses.add_argument("--json", action="store_true", help="all figures, as JSON")
    stresses.add_argument("--isa")
    for command in (runs, verifies, profiles, benches, stresses):
        command.add_argument("--allow-host", action=argparse.BooleanOptionalAction, default=True)
    commands.add_parser("info", help="what edgekern sees of this machine")
    try:
        given = parser.parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    if given.command == "run":
        result = session.run(
            given.model,
            given.data,
            output=given.output,
            num_threads=given.threads,
            isa=given.isa,
            allow_host=given.allow_host,
            host_timeout_s=given.host_timeout,
        )
        print(result)
    elif given.command == "profile":
        result = session.profile(
            given.model,
            given.data,
            runs=given.runs,
            top=given.top,
            trace=given.trace,
            save=given.save,
            paths=given.paths,
            num_threads=given.threads,
            isa=given.isa,
            allow_host=given.allow_host,
            as_json=given.json,
        )
        print(result)
    elif given.command == "bench":
        result = bench.bench(
            given.model,
            given.data,
            versus=None,
            threads=given.threads,
            batch="1",
            shapes=None,
            runs=given.runs,
            seconds=given.seconds,
            weights=[],
            isa=given.isa,
            allow_host=given.allow_host,
            as_json=given.json,
        )
        print(result)
    elif given.command == "stress":
        told, well = session.stress(
            given.model,
            concurrency=given.concurrency,
            runs=given.runs,
            arenas=given.arenas,
            budget=given.budget,
            num_threads=given.threads,
            isa=given.isa,
            allow_host=given.allow_host,
            as_json=given.json,
        )
        print(told)
        return 0 if well else 1
    elif given.command == "verify":
        print(session.verify(given.model, allow_host=given.allow_host))
    else:
        print(session.info())
    return 0
