"""This build beside another: ``python -m bench versus --other PYTHON [--benches gemm models call] [--rounds 10]``.

``PYTHON`` is the interpreter of an environment that holds the other build; both run this folder's cases. Each round
starts a child process of one and then of the other, who goes first alternates, and a row's ratio is that of the
medians over all rounds: drift of the machine, and what one process happens to get of memory, hit both alike. Cases
whose weights come from memory are left out: copies that fill the caches eight times take longer to make than to time.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import peers
from bench.harness import measure, print_table, write_json
from bench.suite import geometric_mean, is_ours
from edgekern.calibration.progress import progress_bar

BENCHES = ("gemm", "models", "call")
SAMPLES = 5


def child(bench: str, threads: int, only: Sequence[str]) -> dict[str, float]:
    """Median seconds a call of our own contenders, by group, case and contender."""
    peers.PEERS = dict.fromkeys(peers.PEERS, "no package of this name")  # no time goes into peers' set-up
    found = {}
    for name, build in importlib.import_module(f"bench.bench_{bench}").cases(threads, quick=False):
        if only and not any(text in name for text in only):
            continue
        case = build()
        if case.rotated:
            continue
        ours = [c for c in case.contenders if is_ours(c.name) and c.name not in case.references]
        for contender, timing in measure(ours, seconds=0, min_rounds=SAMPLES).items():
            found[f"{case.group}: {case.name}, {contender}"] = timing.median
    return found


def _start(python: str, bench: str, options: argparse.Namespace, threads: int) -> dict[str, float]:
    command = [python, "-m", "bench", "versus", "--child", bench, "--threads", str(threads)]
    command += ["--only", *options.only] if options.only else []
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(bench: str, threads: int, options: argparse.Namespace) -> list[dict[str, object]]:
    """One row a case that both know."""
    pythons = {"other": options.other, "this": sys.executable}
    rounds: dict[str, list[dict[str, float]]] = {who: [] for who in pythons}
    with progress_bar(f"{bench}, {threads} thread(s)", options.rounds, enabled=True, ticking=False) as step:
        for number in range(options.rounds):
            for who in list(pythons)[:: 1 if number % 2 else -1]:
                rounds[who].append(_start(pythons[who], bench, options, threads))
            step()
    rows = []
    for name in rounds["this"][0]:
        if name in rounds["other"][0]:
            times = {who: median(found[name] for found in rounds[who]) for who in pythons}
            rows.append(
                {
                    "bench": bench,
                    "threads": threads,
                    "case": name,
                    **{f"{who}_us": 1e6 * time for who, time in times.items()},
                    "this/other": times["this"] / times["other"],
                }
            )
    return rows


def main(argv: Sequence[str]) -> int:
    arguments = argparse.ArgumentParser(prog="python -m bench versus", description=__doc__)
    arguments.add_argument("--other", help="the interpreter of the other build's environment")
    arguments.add_argument("--benches", nargs="+", default=BENCHES, choices=BENCHES)
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--threads", type=int, nargs="+", default=[1])
    arguments.add_argument("--only", nargs="+", metavar="TEXT", help="only cases whose name contains one of these")
    arguments.add_argument("--json", type=Path, help="append one JSON object a case to this file")
    arguments.add_argument("--child", choices=BENCHES, help=argparse.SUPPRESS)
    options = arguments.parse_args(argv)
    if options.child:
        print(json.dumps(child(options.child, options.threads[0], options.only or ())))
        return 0
    if not options.other or options.rounds < 1:
        arguments.error("--other must name an interpreter, and --rounds be at least 1")
    for bench in options.benches:
        for threads in options.threads:
            rows = compare(bench, threads, options)
            write_json(options.json, rows)
            print_table(rows, {"case": "", "other_us": ".2f", "this_us": ".2f", "this/other": ".3f"})
            mean = geometric_mean([float(str(row["this/other"])) for row in rows])
            said = "no case" if mean is None else f"geometric mean of this/other {mean:.3f} over {len(rows)} rows"
            print(f"{bench}, {threads} thread(s): {said}\n")
    return 0
