"""Run the fuzzers, two at a time, and add what they did to the totals.

    python -m tests.fuzz.run [--seconds 60] [--no-totals] [target ...]

Targets are the programs of ``cmake --preset clang-asan-ubsan`` (index, container, kv_state) and ``readers``. Inputs
that reach new code are kept in build/fuzz/<target>; with ``--merge``, the ones that the seeds do not cover go to
tests/fuzz/corpus. A crash leaves its input in build/fuzz/<target>-crash-*.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOTALS = HERE / "totals.json"
CORE = ("index", "container", "kv_state")
LONGEST_INPUT = {"index": 8192, "container": 8192, "kv_state": 4096}
STRAY = ["-rss_limit_mb=2048", "-malloc_limit_mb=1024", "-timeout=20"]  # past one of these, an input is a finding


def core(target: str, seconds: int, programs: Path, merge: bool) -> tuple[int, int, bool, str]:
    """Executions, accepted inputs, whether it found something, and what it said."""
    found = ROOT / "build" / "fuzz" / target
    found.mkdir(parents=True, exist_ok=True)
    seeds = HERE / "corpus" / target
    program = programs / f"fuzz_{target}"
    limits = [f"-max_len={LONGEST_INPUT[target]}", *STRAY]
    command = [program, *limits, f"-max_total_time={seconds}", "-print_final_stats=1", found, seeds]
    command.append(f"-artifact_prefix={found}-crash-")
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = done.stderr
    if merge and done.returncode == 0:
        subprocess.run([program, *limits, "-merge=1", seeds, found], capture_output=True, check=True)

    def stat(name: str) -> int:
        numbers = re.findall(rf"stat::{name}:\s*(\d+)", said)
        return int(numbers[-1]) if numbers else 0

    return stat("number_of_executed_units"), stat("accepted_inputs"), done.returncode != 0, said[-6000:]


def readers(seconds: int) -> tuple[int, int, bool, str]:
    """The same of the Python readers."""
    command = [sys.executable, "-m", "tests.fuzz.readers", "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    counts = [(int(a), int(b)) for a, b in re.findall(r"(\d+) inputs, (\d+) of them", done.stdout)]
    runs, accepted = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return runs, accepted, done.returncode != 0, done.stdout + done.stderr[-6000:]


def add_up(target: str, runs: int, accepted: int, seconds: int, crashes: int) -> None:
    """Add one run to the totals."""
    totals = json.loads(TOTALS.read_text()) if TOTALS.exists() else {}
    entry = totals.setdefault(target, {"executions": 0, "accepted": 0, "seconds": 0, "crashes": 0})
    for key, value in (("executions", runs), ("accepted", accepted), ("seconds", seconds), ("crashes", crashes)):
        entry[key] += value
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout
    entry["last"] = {"date": datetime.date.today().isoformat(), "commit": commit.strip()}
    TOTALS.write_text(json.dumps(dict(sorted(totals.items())), indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(CORE)}, readers; all when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--programs", type=Path, default=ROOT / "build" / "clang-asan-ubsan" / "tests" / "fuzz")
    parser.add_argument("--merge", action="store_true", help="keep what reaches new code in tests/fuzz/corpus")
    parser.add_argument("--no-totals", action="store_true", help="leave tests/fuzz/totals.json as it is")
    given = parser.parse_args()
    targets = given.targets or [*CORE, "readers"]
    if unknown := set(targets) - {*CORE, "readers"}:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")

    def run(target: str) -> tuple[int, int, bool, str, int]:
        start = time.monotonic()
        if target == "readers":
            one = readers(given.seconds)
        else:
            one = core(target, given.seconds, given.programs, given.merge)
        return *one, round(time.monotonic() - start)

    failed = False
    with ThreadPoolExecutor(2) as pool:
        for target, (runs, accepted, crashed, said, seconds) in zip(targets, pool.map(run, targets), strict=True):
            idle = accepted == 0  # nothing got past the first checks: the target tests nothing
            print(f"{target}: {runs} executions, {accepted} accepted, {seconds} s, {int(crashed)} crashes", flush=True)
            if crashed or idle:
                print(said, flush=True)
            if not given.no_totals:
                add_up(target, runs, accepted, seconds, int(crashed))
            failed = failed or crashed or idle
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
