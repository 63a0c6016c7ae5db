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
from edgekern.llm.mapped import is_packed
from edgekern.llm.methods.rounding import Method
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
    weights: Weights | None,
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


def read_texts(function: str, path: Path, separator: str | None) -> list[str]:
    """The texts of a file, without the blanks around them."""
    with naming_kind(path, "a text"):
        try:
            read = files.read_bytes(path, function=function, limit=_MAX_TEXT_BYTES).decode()
        except UnicodeDecodeError as error:
            raise ArgumentValueError(f"{function}: {path} is not UTF-8: {error}") from error
    whole = read.replace("\r\n", "\n").replace("\r", "\n")
    parts = [part.strip() for part in (whole.split(separator) if separator else [whole])]
    return [part for part in parts if part]


def llm_quantize(
    model: Path,
    output: Path,
    *,
    weights: Literal["int4", "int8", "int2"],
    group_size: int | None,
    method: Method,
    rotate: bool,
    calibration: Path | None,
    separator: str | None,
    max_tokens: int,
    tokenizer: Path | None,
) -> str:
    used = [path for path in (calibration, tokenizer) if path is not None]
    files.check_target(output, function="llm-quantize", inputs=used)
    texts = None if calibration is None else read_texts("llm-quantize", calibration, separator)
    made = llm.quantize(
        model,
        output,
        weights=weights,
        group_size=group_size,
        method=method,
        rotate=rotate,
        texts=texts,
        max_tokens=max_tokens,
        tokenizer=_tokenizer(model, tokenizer),
    )
    return str(made)


def perplexity(
    model: Path,
    text: Path,
    *,
    tokenizer: Path | None,
    weights: Sequence[str],
    kv: Sequence[str],
    reference: Path | None = None,
    window: int | None,
    sinks: int | None,
    separator: str | None,
    texts: int | None,
    tokens: int | None,
    num_threads: int | None,
) -> str:
    parts = read_texts("perplexity", text, separator)
    if is_packed(model) != (reference is not None):
        raise ArgumentValueError(
            f"perplexity: reference is for a .ekllm file: the float model that it was made of; got {str(model)!r} with "
            f"{'none' if reference is None else repr(str(reference))}"
        )
    if weights and reference is not None:
        raise ArgumentValueError(f"perplexity: the weights of a .ekllm file are what they are, got {[*weights]}")

    def load(path: Path, form: str | None, storage: str) -> llm.Decoder:
        return llm.load(
            path,
            weights=None if form is None else weight_kind(form),
            kv=storage,
            window=window,
            sinks=sinks,
            tokenizer=_tokenizer(path, tokenizer),
            num_threads=num_threads,
        )

    exact = load(reference or model, "float32", "float32")
    if reference is None:
        pairs = [(form, storage) for form in weights or ["int8"] for storage in kv]
        pairs = [pair for pair in pairs if pair != ("float32", "float32")]
        candidates = {f"{form} weights, {storage} KV": load(model, form, storage) for form, storage in pairs}
    else:
        packed = {storage: load(model, None, storage) for storage in kv}
        candidates = {f"{decoder.weights} packed, {storage} KV": decoder for storage, decoder in packed.items()}
    ids = [exact.encode(part)[:tokens] for part in parts[:texts]]
    with progress_bar("texts", len(ids), enabled=sys.stderr.isatty()) as advance:
        rows = evaluate(exact, candidates, ids, advance=advance)
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
