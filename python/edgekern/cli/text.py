"""Language models: text out, and what each storage format costs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgekern import files, llm
from edgekern.calibration.progress import progress_bar
from edgekern.errors import ArgumentValueError
from edgekern.file_kinds import naming_kind
from edgekern.llm.evaluation import Evaluation, evaluate
from edgekern.llm.packing import weight_kind

_MAX_TEXT_BYTES = 1 << 28

Weights = Literal["int8", "int4", "int2", "float32"]


def _tokenizer(model: Path, tokenizer: Path | None) -> Path | None:
    """The file that was named; beside a llama2.c model, its tokenizer.bin."""
    beside = model.parent / "tokenizer.bin"
    return beside if tokenizer is None and model.suffix == ".bin" and beside.exists() else tokenizer


def generate(
    model: Path,
    prompt: str,
    *,
    tokenizer: Path | None,
    weights: Weights,
    group_size: int | None,
    kv: str,
    window: int | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    num_threads: int | None,
    memory_budget: str | None,
) -> str:
    decoder = llm.load(
        model,
        weights=weights,
        group_size=group_size,
        kv=kv,
        window=window,
        tokenizer=_tokenizer(model, tokenizer),
        num_threads=num_threads,
        memory_budget=memory_budget,
    )
    ids = decoder.encode(prompt)
    if decoder.tokenizer is None or not ids:
        raise ArgumentValueError("generate: the prompt has no token; pass a text")
    text = llm.TextStream(decoder.tokenizer, ids)
    print(prompt, end="", flush=True)
    for token in decoder.generate(
        ids, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    ):
        print(text.push(token), end="", flush=True)
    print(text.finish(), flush=True)
    figures = decoder.figures
    assert figures is not None
    limit = decoder.read_bandwidth()
    return f"{figures}, {figures.read_bandwidth / limit:.0%} of the read bandwidth"


def perplexity(
    model: Path,
    text: Path,
    *,
    tokenizer: Path | None,
    weights: Sequence[str],
    kv: Sequence[str],
    window: int | None,
    sinks: int | None,
    separator: str | None,
    texts: int | None,
    tokens: int | None,
    num_threads: int | None,
) -> str:
    with naming_kind(text, "a text"):
        try:
            read = files.read_bytes(text, function="perplexity", limit=_MAX_TEXT_BYTES).decode()
        except UnicodeDecodeError as error:
            raise ArgumentValueError(f"perplexity: {text} is not UTF-8: {error}") from error
    whole = read.replace("\r\n", "\n").replace("\r", "\n")

    def load(form: str, storage: str) -> llm.Decoder:
        return llm.load(
            model,
            weights=weight_kind(form),
            kv=storage,
            window=window,
            sinks=sinks,
            tokenizer=_tokenizer(model, tokenizer),
            num_threads=num_threads,
        )

    reference = load("float32", "float32")
    pairs = [(form, storage) for form in weights for storage in kv if (form, storage) != ("float32", "float32")]
    candidates = {f"{form} weights, {storage} KV": load(form, storage) for form, storage in pairs}
    parts = [part.strip() for part in (whole.split(separator) if separator else [whole])]
    ids = [reference.encode(part)[:tokens] for part in [part for part in parts if part][:texts]]
    with progress_bar("texts", len(ids), enabled=sys.stderr.isatty()) as advance:
        rows = evaluate(reference, candidates, ids, advance=advance)
    return _table(rows)


def _table(rows: Sequence[Evaluation]) -> str:
    names = ["float32 weights, float32 KV", *(row.name for row in rows[1:])]
    width = max(len(name) for name in names)
    lines = [f"{'format':{width}}  perplexity  KL divergence  same top-1  weights MB     KV MB"]
    lines += [
        f"{name:{width}}  {row.perplexity:10.4f}  {row.kl_divergence:13.6f}  {row.same_top1:10.2%}"
        f"  {row.weight_bytes / 1e6:10.2f}  {row.kv_bytes / 1e6:8.3f}"
        for name, row in zip(names, rows, strict=True)
    ]
    return "\n".join([*lines, f"{rows[0].tokens} predictions"])
