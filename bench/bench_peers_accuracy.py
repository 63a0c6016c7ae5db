"""Accuracy beside onnxruntime and NNCF: ``python -m bench peers_accuracy [FOLDER ...] [--only ...] [--engines ...]``.

The classifiers of ``bench accuracy``, and every ``.onnx`` file below the folders (wheels, MiniLM, what ``bench
small_nets`` has trained), are quantized by every recipe of edgekern, by onnxruntime's ``quantize_static`` (MinMax,
Entropy, Percentile) and ``quantize_dynamic``, and, where it is installed, by NNCF: its two presets, and the first one
with MinMax ranges. All get the same samples to calibrate with and are judged on others. Tables have a row a model: the
signal to noise of the worst output in dB, points of top-1 (or of Spearman's correlation, times 100) lost to float,
agreement of top-1 with float, and bytes. Then come the models where our ``w8a8`` is below the best peer, and who
refused what. ``--json`` keeps all, and ``--kept`` prints the tables of such files, together.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.accuracy_cases import Array, Case, makers
from bench.accuracy_engines import CONTROL, DEFAULT, OURS, PEERS, Engine, Job, Quantized, engines, job_folder, quantize
from bench.bench_quantized import worst_db
from bench.harness import Row, machine, print_table, write_json
from edgekern._onnxruntime import open_session


def _first(answers: Sequence[Sequence[Array]]) -> Array:
    return np.concatenate([answer[0] for answer in answers])


def measure_case(name: str, case: Case, chosen: Mapping[str, Engine]) -> list[Row]:
    """A row for each engine."""
    truth = open_session(str(case.path), num_threads=1, as_written=True)
    wanted = [truth.run(None, dict(feeds)) for feeds in case.judged]
    first = _first(wanted)
    known = {
        "model": name,
        "inputs": case.inputs,
        "calibration": len(case.calibration),
        "judged": len(case.judged),
        "float": None if case.figure is None else case.figure(first),
        "float_bytes": _size(case.path),
    }
    rows: list[Row] = []
    with job_folder() as folder:
        job = Job(case, Path(folder))
        for who, engine in chosen.items():
            start = time.monotonic()
            made = quantize(case, engine, job)
            row: dict[str, Any] = {**known, "engine": who, "refused": made if isinstance(made, str) else None}
            if isinstance(made, Quantized):
                answers = [made.run(feeds) for feeds in case.judged]
                row |= {"sqnr_db": worst_db(wanted, answers), **_judged(case, first, _first(answers), known["float"])}
                row |= {"onnx_bytes": made.onnx_bytes, "program_bytes": made.program_bytes}
            rows.append({**row, "seconds": time.monotonic() - start})
    return rows


def _size(path: Path) -> int:
    """With its weights where they lie in a file beside it."""
    return path.stat().st_size + sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))


def _judged(case: Case, wanted: Array, found: Array, before: Any) -> dict[str, float]:
    judged: dict[str, float] = {}
    if case.axis is not None:
        judged["agree"] = 100 * float((wanted.argmax(axis=case.axis) == found.argmax(axis=case.axis)).mean())
    if case.figure is not None:
        judged["figure"] = case.figure(found)
        judged["lost"] = before - judged["figure"]
    return judged


def print_pivot(title: str, rows: Sequence[Row], key: str, spec: str, more: Mapping[str, str]) -> None:
    """A row a model, a column an engine: the figures of one key, where any row has it."""
    names = dict.fromkeys(str(row["engine"]) for row in rows)
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get(key) is not None:
            into = table.setdefault(str(row["model"]), {column: row[column] for column in ("model", *more)})
            into[str(row["engine"])] = row[key]
    if table:
        print(f"\n{title}")
        print_table(list(table.values()), {"model": "", **more, **dict.fromkeys(names, spec)})


def best_peers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each model: our 8-bit rows, that of the default recipe, and the best peer of 8 bits."""
    found: list[dict[str, Any]] = []
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        decibels = {
            str(r["engine"]): r["sqnr_db"] for r in rows if r["model"] == model and r.get("sqnr_db") is not None
        }
        peers = {name: value for name, value in decibels.items() if name.startswith(PEERS)}
        mine = {name: decibels[name] for name in dict.fromkeys((*OURS, DEFAULT)) if name in decibels}
        if peers and mine:
            best = max(peers, key=lambda name: peers[name])
            gains = {f"{name} gains": value - peers[best] for name, value in mine.items()}
            found.append({"model": model, "peer": best, "peer_db": peers[best], **gains})
    return found


def print_all(rows: Sequence[Row]) -> None:
    print_pivot("Signal to noise of the worst output, dB", rows, "sqnr_db", ".1f", {"inputs": "", "judged": "d"})
    print_pivot("Points lost to float", rows, "lost", "+.2f", {"float": ".2f", "judged": "d"})
    print_pivot("Agreement of top-1 with float, %", rows, "agree", ".1f", {})
    print_pivot("Bytes of the ONNX model", rows, "onnx_bytes", "d", {"float_bytes": "d"})
    print_pivot("Bytes of the program", rows, "program_bytes", "d", {"float_bytes": "d"})
    held = best_peers(rows)
    every = [f"{name} gains" for name in dict.fromkeys((*OURS, DEFAULT))]
    gains = [gain for gain in every if any(gain in row for row in held)]
    print("\nBeside the best peer of 8 bits, dB")
    print_table(held, {"model": "", "peer": "", "peer_db": ".1f", **dict.fromkeys(gains, "+.1f")})
    for gain in gains:
        below = [row["model"] for row in held if row.get(gain) is not None and row[gain] < 0]
        print(f"{gain.removesuffix(' gains')}: below the best peer on {len(below)} of {len(held)}: {', '.join(below)}")
    _print_refusals(rows)


def _print_refusals(rows: Sequence[Row]) -> None:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["refused"]:
            reasons.setdefault((str(row["engine"]), str(row["refused"])), []).append(str(row["model"]))
    for (engine, reason), models in reasons.items():
        print(f"{engine} refuses {', '.join(models)}: {reason}")


def measure(cases: Sequence[tuple[str, Callable[[], Case]]], chosen: Mapping[str, Engine]) -> Iterable[list[Row]]:
    """The rows of one case after another; standard error says what it took and what is left."""
    start = time.monotonic()
    for number, (name, make) in enumerate(cases, 1):
        begun = time.monotonic()
        yield measure_case(name, make(), chosen)
        now = time.monotonic()
        left = (now - start) / number * (len(cases) - number)
        print(f"{number} of {len(cases)}, {name}: {now - begun:.0f} s; some {left:.0f} s left", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    every = engines()
    logging.getLogger().setLevel(logging.ERROR)  # quantize_static advises on every run
    parser = argparse.ArgumentParser(prog="python -m bench peers_accuracy", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--only", nargs="+", metavar="TEXT", default=(), help="models whose name contains one of these")
    parser.add_argument("--engines", nargs="+", metavar="TEXT", default=(), help="those, or all whose first word it is")
    parser.add_argument("--calibrate", type=int, default=32, help="samples of models that have labels")
    parser.add_argument("--judge", type=int, default=250, help="others of them, to judge on")
    parser.add_argument("--samples", type=int, default=16, help="of the other models; half of them calibrate")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    parser.add_argument("--kept", type=Path, nargs="+", help="measure nothing: print what such files hold")
    options = parser.parse_args(argv)

    def is_asked(engine: str) -> bool:
        return not options.engines or bool({engine, engine.split()[0]} & {*options.engines})

    if options.kept:
        rows = [json.loads(line) for path in options.kept for line in path.read_text().splitlines()]
        print_all([row for row in rows if is_asked(row["engine"])])
        return 0
    chosen = {name: engine for name, engine in every.items() if is_asked(name)}
    if CONTROL not in options.engines:
        chosen.pop(CONTROL, None)
    cases = makers(options.folders, options.only, options.calibrate, options.judge, options.samples)
    if not cases or not chosen:
        parser.error(f"no model or no engine is left; engines are {', '.join(every)}")
    here, rows = machine(["edgekern", "onnxruntime", "onnx", "nncf"]), list[Row]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of every quantizer, on every model
        for found in measure(cases, chosen):
            write_json(options.json, [{**row, **here} for row in found])
            rows += found
    print_all(rows)
    return 0
