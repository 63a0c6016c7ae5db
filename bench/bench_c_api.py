"""A model without Python: ``python -m bench c_api MODEL.ekm ... [--runs 30] [--json run.json]``.

``ekrun`` is started anew for each figure, from files that the system has in memory: ``open_ms`` is opening with every
byte verified and a session prepared, ``first_ms`` the first run, ``process_ms`` all of it from the start of the program
to its end, loading of the library included. Each figure is the middle of the runs. Results are held to the bits of
Python's session on the same noise.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edgekern as ek
from bench.harness import Row, machine, print_table, write_json
from edgekern import _core

EKRUN = Path(_core.__file__).parent / "bin" / "ekrun"
COLUMNS = {"model": "s", "bytes": ",d", "open_ms": ".2f", "first_ms": ".3f", "process_ms": ".2f"}
_TOLD = re.compile(r"opened in ([0-9.]+) ms; 1 runs: shortest ([0-9.]+) ms")


def measure(model: Path, runs: int, folder: Path) -> Row:
    program, rng = ek.Program.load(model), np.random.default_rng(7)
    feeds = {one.name: rng.normal(size=one.shape).astype(one.dtype) for one in program.inputs}
    expected = ek.InferenceSession(program).run(None, feeds)
    words: list[str | Path] = [EKRUN, model]
    for number, array in enumerate(feeds.values()):
        np.save(folder / f"in{number}.npy", array)
        words.append(folder / f"in{number}.npy")
    results = [folder / f"out{number}.npy" for number in range(len(expected))]
    written = [word for path in results for word in ("-o", path)]
    subprocess.run([*words, *written], env={}, capture_output=True, check=True)
    for array, path in zip(expected, results, strict=True):
        if np.load(path).tobytes() != array.tobytes():
            raise AssertionError(f"{model}: ekrun gave other bits than Python")
    times = [_once(words) for _ in range(runs)]
    opened, first, process = (statistics.median(column) for column in zip(*times, strict=True))
    size = model.stat().st_size
    return {"model": model.stem, "bytes": size, "open_ms": opened, "first_ms": first, "process_ms": process}


def _once(words: Sequence[str | Path]) -> tuple[float, float, float]:
    begin = time.perf_counter()
    child = subprocess.run(words, env={}, capture_output=True, text=True, check=True)
    process_ms = (time.perf_counter() - begin) * 1e3
    told = _TOLD.match(child.stdout)
    if told is None:
        raise AssertionError(f"ekrun said {child.stdout!r}")
    return float(told[1]), float(told[2]), process_ms


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench c_api", description=__doc__)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.ekm")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error(f"--runs must be at least 1, got {options.runs}")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(model, options.runs, Path(folder)) for model in options.models]
    print_table(rows, COLUMNS)
    write_json(options.json, ({"bench": "c_api", **machine(), **row} for row in rows))
