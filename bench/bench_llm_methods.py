"""What methods save of a language model's perplexity: ``python -m bench llm_methods [--model FOLDER] [--json FILE]``.

stories260K is scored on the first 50 stories of tinystories.txt, cut to 512 tokens, and calibrated on the last ones.
``--model`` names a folder that ``examples/train_decoder.py`` has written; it is scored on the second half of its
``held_out.txt`` and calibrated on the first. No method sees what is scored. KV is float32.

``taken back`` is the part of the plain rounding's loss of perplexity, of the same weights, that a method undoes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import edgekern as ek
from bench.datasets import DATA_ROOT
from bench.harness import Row, machine, print_table, write_json
from edgekern.calibration.progress import progress_bar
from edgekern.llm.evaluation import evaluate
from edgekern.llm.methods.rounding import Method

SEPARATOR = "<|endoftext|>"
SCORED_STORIES, STORY_TOKENS = 50, 512
METHODS: tuple[tuple[Method, bool], ...] = (
    ("nearest", False),
    ("hqq", False),
    ("awq", False),
    ("gptq", False),
    ("awq+gptq", False),
    ("nearest", True),
    ("gptq", True),
)
FORMS: tuple[tuple[Literal["int8", "int4", "int2"], int | None], ...] = (
    ("int8", None),
    ("int4", 32),
    ("int4", 128),
    ("int2", 64),
    ("int2", 128),
)
COLUMNS = {
    "model": "s",
    "weights": "s",
    "method": "s",
    "perplexity": ".4f",
    "taken back": "+.1%",
    "KL": ".5f",
    "matrices kB": ".1f",
    "file kB": ".1f",
    "seconds": ".1f",
}
# Perplexities on WikiText-2 that others have published: what the methods give on models of billions of weights.
PUBLISHED = (
    {
        "model": "Llama-3-8B-Instruct, g128",
        "by": "pytorch/ao, README of awq",
        "nearest": 12.380,
        "hqq": 11.905,
        "awq": 11.409,
    },
    {"model": "LLaMA-7B, 4 bits", "by": "README of GPTQ", "float": 5.68, "nearest": 6.29, "gptq": 6.09},
    {"model": "Llama-3.1-8B, g128", "by": "llm-compressor", "nearest": 6.96, "gptq": 6.92, "awq": 6.89},
)
PUBLISHED_COLUMNS = {
    "model": "s",
    "float": ".2f",
    "nearest": ".3f",
    "hqq": ".3f",
    "awq": ".3f",
    "gptq": ".3f",
    "by": "s",
}


@dataclass(frozen=True)
class Subject:
    """A model, the texts that it is scored on, and those that methods may read."""

    name: str
    path: Path
    tokenizer: Path | None
    scored: Sequence[str]
    calibration: Sequence[str]
    most_tokens: int


def stories(text: Path) -> list[str]:
    parts = (part.strip() for part in text.read_text(encoding="utf-8").split(SEPARATOR))
    return [part for part in parts if part]


def subjects(model: Path | None) -> list[Subject]:
    folder, text = DATA_ROOT / "llm", DATA_ROOT / "text" / "tinystories.txt"
    found = []
    if folder.is_dir():
        parts = stories(text)
        scored, calibration = parts[:SCORED_STORIES], parts[:SCORED_STORIES:-1]
        tokenizer = folder / "tok512.bin"
        found.append(Subject("stories260K", folder / "stories260K.bin", tokenizer, scored, calibration, STORY_TOKENS))
    else:
        print(f"stories260K: left out, {DATA_ROOT} is absent")
    if model is not None:
        parts = stories(model / "held_out.txt")
        calibration, scored = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        found.append(Subject(model.name, model, None, scored, calibration, 256))
    return found


def go_through(subject: Subject, tokens: int, quick: bool) -> list[Row]:
    exact = ek.llm.load(subject.path, tokenizer=subject.tokenizer, weights="float32", kv="float32")
    texts = [exact.encode(part)[: subject.most_tokens] for part in subject.scored[: 3 if quick else None]]
    calibration = [exact.encode(part)[: subject.most_tokens] for part in subject.calibration]
    cases = [
        (kind, group, method, rotate)
        for kind, group in FORMS
        for method, rotate in METHODS
        if (kind == "int4" or method != "hqq") and (kind != "int8" or (method, rotate) == METHODS[0])
    ]
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar(subject.name, len(cases), enabled=sys.stderr.isatty()) as advance,
    ):
        decoders, made = {}, {}
        for index, (kind, group, method, rotate) in enumerate(cases):
            out = Path(folder) / f"{index}.ekllm"
            made[str(index)] = ek.llm.quantize(
                subject.path,
                out,
                weights=kind,
                group_size=group,
                method=method,
                rotate=rotate,
                tokens=calibration,
                max_tokens=tokens,
                tokenizer=subject.tokenizer,
                progress=False,
            )
            decoders[str(index)] = ek.llm.load(out, kv="float32")
            advance()
        scores = {score.name: score for score in evaluate(exact, decoders, texts)}
    base = scores.pop("reference")
    rows.append(
        {
            "model": subject.name,
            "weights": "float32",
            "perplexity": base.perplexity,
            "matrices kB": base.weight_bytes / 1e3,
        }
    )
    plain: dict[str, float] = {}
    for name, score in scores.items():
        file = made[name]
        lost = score.perplexity - base.perplexity
        plain.setdefault(file.weights, lost)
        rows.append(
            {
                "model": subject.name,
                "weights": file.weights,
                "method": file.method,
                "perplexity": score.perplexity,
                "taken back": 1 - lost / plain[file.weights] if file.weights != "int8" else None,
                "KL": score.kl_divergence,
                "matrices kB": file.weight_bytes / 1e3,
                "file kB": file.nbytes / 1e3,
                "seconds": file.seconds,
                "predictions": score.tokens,
                "calibration tokens": file.tokens,
            }
        )
    return rows


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser(prog="python -m bench llm_methods", description=__doc__)
    options.add_argument("--model", type=Path, help="a folder of examples/train_decoder.py")
    options.add_argument("--calibration-tokens", type=int, default=65536)
    options.add_argument("--quick", action="store_true", help="three texts, little calibration: does it work")
    options.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    given = options.parse_args(argv)
    rows: list[Row] = []
    for subject in subjects(given.model):
        found = go_through(subject, 2048 if given.quick else given.calibration_tokens, given.quick)
        print_table([{"method": "-", **row} for row in found], COLUMNS)
        rows += found
    print("published, perplexity on WikiText-2:")
    print_table(PUBLISHED, PUBLISHED_COLUMNS)
    write_json(given.json, [{"record": "run", "bench": "llm_methods", **machine()}, *rows])
    return 0
