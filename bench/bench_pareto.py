"""What accuracy costs: ``python -m bench pareto [MODEL ...] [--image FOLDER]``, of ``mobilenetv2`` and ``minilm``.

``ek.pareto`` of measured milliseconds, one thread: a table of plans with what was foretold and measured, SQNR of the
outputs on samples that did not calibrate, and the figure of the task: top-1 of MobileNetV2 on the 250 photos of
``bench accuracy`` that it is not calibrated on, Spearman's correlation of MiniLM on pairs of the STS benchmark
(``--pairs``). Each uniform recipe stands beside the curve. Then ``ek.search`` under a budget of milliseconds between
the ends, as often as ``--budgets`` says: what a run of the plan takes, over the budget; and with ``--max-drop``
``ek.quantize_to`` that drop of the task's figure. ``--image`` draws ``pareto-MODEL.svg``. MiniLM's folder
(``--minilm``) is that of ``bench sentences``.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgekern as ek
from bench.bench_sentences import load_pairs, spearman
from bench.datasets import DATA_ROOT, TASKS
from bench.harness import machine, print_table, write_json
from edgekern.errors import EdgekernWarning

LENGTH = 128
Feeds = dict[str, Any]
COLUMNS = {"budget_ms": ".3f", "measured_ms": ".3f", "of_budget": ".1%", "db": ".2f", "plans": "d", "layers": ""}


@dataclass(frozen=True)
class Case:
    """A model with samples to calibrate and to measure on, and how its task is scored."""

    model: Path
    calibration: Sequence[Feeds]
    samples: Sequence[Feeds]
    evaluate: Callable[[Callable[[Mapping[str, Any]], dict[str, Any]]], float]
    shapes: Mapping[str, tuple[int, ...]] | None = None


def mobilenetv2(options: argparse.Namespace) -> Case:
    task = TASKS["mobilenetv2"]
    fold = task.load()[0]

    def feeds(images: Any) -> list[Feeds]:
        return [{"input": image[None]} for image in images]

    scored = list(zip(feeds(fold.samples), fold.labels, strict=True))[: options.photos]

    def top(run: Callable[[Mapping[str, Any]], dict[str, Any]]) -> float:
        return float(np.mean([next(iter(run(fed).values())).argmax() == label for fed, label in scored]))

    return Case(task.model, feeds(fold.calibration), feeds(fold.samples[:: len(fold.samples) // 16]), top)


def minilm(options: argparse.Namespace) -> Case:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.minilm / "tokenizer.json"))
    tokenizer.no_padding()
    pairs, ratings = load_pairs(options.pairs + 64)

    def feeds(sentence: str) -> Feeds:
        ids = tokenizer.encode(sentence).ids[:LENGTH]
        mask = (np.arange(LENGTH) < len(ids)).astype(np.int64)
        return {"input_ids": np.array([ids + [0] * (LENGTH - len(ids))]), "attention_mask": mask[None]}

    scored = [(feeds(a), feeds(b)) for a, b in pairs[64:]]

    def correlation(run: Callable[[Mapping[str, Any]], dict[str, Any]]) -> float:
        def vector(fed: Feeds) -> Any:
            words = next(iter(run(fed).values()))[0, : int(fed["attention_mask"].sum())].mean(axis=0)
            return words / np.linalg.norm(words)

        return spearman(np.array([vector(a) @ vector(b) for a, b in scored]), ratings[64:])

    words = np.random.default_rng(0).integers(1000, 30000, (24, 1, LENGTH))
    noise = [{"input_ids": ids, "attention_mask": np.ones((1, LENGTH), np.int64)} for ids in words]
    given = [feeds(a) for a, _ in pairs[:32]]
    shapes = {"input_ids": (1, LENGTH), "attention_mask": (1, LENGTH)}
    return Case(options.minilm / "minilm_l6_v2.onnx", given + noise[:16], noise[16:], correlation, shapes)


CASES = {"mobilenetv2": mobilenetv2, "minilm": minilm}


def go_through(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    case = CASES[name](options)
    ranges = ek.Calibrator(case.model).collect_many(case.calibration).compute_ranges()
    common: dict[str, Any] = {"shapes": case.shapes, "num_threads": 1, "candidates": options.candidates}
    curve = ek.pareto(
        case.model, ranges, case.samples, points=options.points, evaluate=case.evaluate, method=options.method, **common
    )
    print(f"{name}, one thread:\n{curve}\n")
    if options.image is not None:
        curve.plot(options.image / f"pareto-{name}.svg")
    costs = [row.measured for row in curve.rows]
    rows = [{"model": name, "what": "curve", **row} for row in curve.to_dict()["rows"]]
    hits: list[dict[str, Any]] = []
    for budget in np.geomspace(min(costs), max(row.measured for row in curve.front), options.budgets + 2)[1:-1]:
        found = ek.search(case.model, ranges, case.samples, max_ms=float(budget), method=options.method, **common)
        hits.append({"budget_ms": float(budget), "measured_ms": found.cost, "of_budget": found.cost / float(budget)})
        hits[-1] |= {"db": found.db, "plans": len(found.rows), "layers": str(found.plan.counts())}
    if hits:
        print_table(hits, COLUMNS)
    rows += [{"model": name, "what": "budget", **hit} for hit in hits]
    if options.max_drop is not None:
        done = ek.quantize_to(
            case.model,
            ranges,
            case.samples,
            max_drop=options.max_drop,
            evaluate=case.evaluate,
            shapes=case.shapes,
            num_threads=1,
        )
        print(f"\n{done}\n")
        rows.append({"model": name, "what": "quantize_to", **done.to_dict()})
    return rows


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench pareto", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--points", type=int, default=10, help="budgets along the curve")
    parser.add_argument("--budgets", type=int, default=3, help="budgets that a search is to hit")
    parser.add_argument("--max-drop", type=float, help="of the task's figure, for quantize_to")
    parser.add_argument("--candidates", nargs="+", default=["w8a8", "w8a16", "w8a8-dynamic", "float32"])
    parser.add_argument("--method", choices=("ilp", "greedy"), default="ilp")
    parser.add_argument("--photos", type=int, default=250, help="that MobileNetV2 is scored on")
    parser.add_argument("--pairs", type=int, default=300, help="of sentences that MiniLM is scored on")
    parser.add_argument("--minilm", type=Path, default=DATA_ROOT / "minilm", help="folder with its weights")
    parser.add_argument("--image", type=Path, help="folder for the pictures")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    wrong = [name for name in options.models if name not in CASES]
    if wrong:
        parser.error(f"MODEL must be of {', '.join(CASES)}, got {wrong[0]!r}")
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        for name in options.models or CASES:
            rows += go_through(name, options)
    write_json(options.json, [{**row, **machine(["edgekern", "onnxruntime", "scipy"])} for row in rows])
    return 0
