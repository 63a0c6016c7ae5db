"""What each recipe makes of a model: ``python -m bench recipes MODEL.onnx [--recipes NAME ...] [--sentences N]``.

A row is a recipe: the signal to noise of the worst output on random inputs, those of ``bench coverage`` (random words
for MiniLM), after calibration on eight others by the largest values where the recipe has 16 bits and by mean square
error else; bytes of the QDQ file and of the compiled program; and the time of a run on one thread, all programs in
turns. ``--sentences``: how near the first so many pairs of the STS benchmark's development set come to what people say
of them, as ``bench sentences`` has it; MODEL then is MiniLM, with its ``tokenizer.json`` beside it.
"""

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import edgekern as ek
from bench.bench_coverage import feeds_of, inputs_of
from bench.bench_sentences import edgekern_runs, load_pairs, similarities, spearman
from bench.harness import Contender, machine, measure, print_table, sqnr_db, write_json
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernWarning
from edgekern.quantization.config import ModelRecipe

RECIPES = get_args(ModelRecipe)
_OF_16_BITS = ("w8a16", "accuracy")  # in ranges that leave nothing out
COLUMNS = {"recipe": "", "products": "", "db": ".1f", "qdq_mb": ".2f", "ekm_mb": ".2f", "ms": ".2f"}


def go_through(path: Path, recipes: Sequence[str], seconds: float, sentences: int) -> list[dict[str, Any]]:
    """A row for each recipe."""
    inputs = inputs_of(path)
    feeds, shapes = feeds_of(inputs, 0), {name: shape for name, (shape, _) in inputs.items()}
    expected = open_session(str(path), num_threads=1, as_written=True).run(None, feeds)
    calibrator = ek.Calibrator(path).collect_many(feeds_of(inputs, seed) for seed in range(1, 9))
    least, whole = calibrator.compute_ranges(), calibrator.compute_ranges(method="max")
    rows: list[dict[str, Any]] = []
    contenders = []
    for recipe in recipes:
        config = ek.QuantConfig(recipe=recipe)  # type: ignore[arg-type]
        qdq = ek.quantize(path, whole if recipe in _OF_16_BITS else least, config)
        program = ek.compile(qdq, shapes=shapes, allow_host=False)
        session = ek.InferenceSession(program, num_threads=1)
        found = session.run(None, feeds)
        with tempfile.TemporaryDirectory(prefix="edgekern-bench-") as room:
            program.save(Path(room) / "model.ekm")
            saved = (Path(room) / "model.ekm").stat().st_size
        chosen = sorted(ek.quantization.plan_of(qdq).counts().items())
        rows.append(
            {
                "recipe": recipe,
                "products": ", ".join(f"{count} {name}" for name, count in chosen),
                "db": min(sqnr_db(want, got) for want, got in zip(expected, found, strict=True)),
                "qdq_mb": len(qdq.SerializeToString()) / 1e6,
                "ekm_mb": saved / 1e6,
            }
        )
        if sentences:
            rows[-1]["spearman"] = _of_sentences(path, qdq, sentences)
        contenders.append(Contender(recipe, partial(session.run, None, feeds, out=found), lambda _: None))
    for row, timing in zip(rows, measure(contenders, seconds=seconds).values(), strict=True):
        row["ms"] = timing.best * 1e3
    return rows


def _of_sentences(path: Path, qdq: object, count: int) -> float:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
    tokenizer.no_padding()
    pairs, ratings = load_pairs(count)
    return spearman(similarities(pairs, tokenizer, edgekern_runs(qdq)), ratings)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench recipes", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--seconds", type=float, default=0.4, help="at least so long a recipe")
    parser.add_argument("--sentences", type=int, default=0, metavar="N", help="pairs of them, for MiniLM")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        rows = go_through(options.model, options.recipes, options.seconds, options.sentences)
    print_table(rows, COLUMNS | ({"spearman": ".4f"} if options.sentences else {}))
    write_json(options.json, [{**row, **machine(["edgekern", "onnxruntime", "onnx"])} for row in rows])
    return 0
