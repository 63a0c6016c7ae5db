"""The memory planner on published hard problems: ``python -m bench planner [FILE.csv ...] [--seconds 60] [--nodes N]``.

Without files, those of ``memplan/`` in EDGEKERN_TEST_DATA. A row a problem: the greedy portfolio's peak, the peak after
the search, how far it is above what is proved, seconds of the processor and by the clock. The checker sees every plan.
"""

import argparse
import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness import Row, print_table, write_json
from edgekern import _core

COLUMNS = {
    "problem": "s",
    "buffers": "d",
    "bound": "d",
    "greedy": "d",
    "peak": "d",
    "gap": "d",
    "proved": "s",
    "method": "s",
    "nodes": "d",
    "cpu_s": ".2f",
    "clock_s": ".2f",
}


def read_problem(path: Path) -> tuple[list[int], list[int], list[int]]:
    """Starts, ends and sizes."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lower, upper, size = ([int(row[key]) for row in rows] for key in ("lower", "upper", "size"))
    return lower, upper, size


def planned(path: Path, nodes: int, seconds: float) -> Row:
    lower, upper, size = read_problem(path)
    cpu, clock = time.process_time(), time.perf_counter()
    plan = _core.plan_memory(lower, upper, size, 1, most_nodes=nodes, seconds=seconds)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    _core.check_plan(lower, upper, size, plan.offsets, 1, plan.peak)
    return {
        "problem": path.stem,
        "buffers": len(size),
        "bound": plan.lower_bound,
        "greedy": plan.greedy_peak,
        "peak": plan.peak,
        "gap": plan.peak - plan.least_peak,
        "proved": "yes" if plan.proved else "no",
        "method": plan.method,
        "nodes": plan.nodes,
        "cpu_s": cpu,
        "clock_s": clock,
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench planner", description=__doc__)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--nodes", type=int, default=2**40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    folder = Path(os.environ.get("EDGEKERN_TEST_DATA", "../shared/data")) / "memplan"
    rows = [planned(path, options.nodes, options.seconds) for path in options.files or sorted(folder.glob("*.csv"))]
    if not rows:
        parser.error(f"no problem in {folder}; name files")
    print_table(rows, COLUMNS)
    write_json(options.json, rows)
    return 0
