"""A language model on this machine: tokens a second of prompts and of generation, and memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgekern import _core, llm
from edgekern._arguments import file_path
from edgekern.benchmark import others
from edgekern.benchmark.fresh import Fresh, Job, measured
from edgekern.benchmark.models import DEFAULT_SECONDS, Progress, no_progress, thread_counts
from edgekern.benchmark.others import Others
from edgekern.benchmark.rounds import Timing, timed
from edgekern.benchmark.text import aligned, megabytes, plural, wrapped
from edgekern.files import StrPath
from edgekern.llm.packing import weight_kind
from edgekern.machine import cpu_model
from edgekern.runtime.profile import positive

PROMPTS = (32, 128, 512)
_ROUNDS = 5  # of a prompt, which may take seconds
_RULE = (
    "rule: random tokens; a prompt in chunks, the median of five; behind it one token again and again, p50; 'of "
    "reading' is the share of the bytes a second at which this machine reads as many, measured in the same run"
)


@dataclass(frozen=True)
class DecoderRow:
    """One storage of weights on so many threads, behind a prompt of so many tokens.

    Attributes
    ----------
    prompt_rate : tokens a second of the prompt; the median of a few
    first_token_ms : from the prompt to the logits behind it
    rate : tokens a second behind it, of the median step; ``step`` has its times
    read_share : of the bytes a second that this machine reads, where a step reads its weights and the cache's rows
    """

    weights: str
    num_threads: int
    prompt: int
    prompt_rate: float
    first_token_ms: float
    rate: float
    step: Timing
    read_share: float


@dataclass(frozen=True)
class DecoderCost:
    """What one storage takes: bytes that a step reads, of the cache, and a process of its own up to its first token."""

    weights: str
    num_threads: int
    weight_bytes: int
    kv_bytes: int
    fresh: Fresh


@dataclass(frozen=True)
class DecoderReport:
    """What :func:`edgekern.benchmark.bench_decoder` has measured; ``str()`` is all of it as text."""

    model: str
    kv: str
    cpu: str
    isa: str
    rows: tuple[DecoderRow, ...]
    costs: tuple[DecoderCost, ...]
    too_long: tuple[int, ...]  # prompts that leave no room in the model's context
    others_busy: float | None

    def to_json(self) -> str:
        """All figures."""
        return json.dumps(asdict(self), indent=1)

    def table(self) -> str:
        """Everything, for people."""
        heads = (
            "threads",
            "weights",
            "prompt",
            "prompt tokens/s",
            "first token ms",
            "tokens/s",
            "p99 ms",
            "of reading",
        )
        rows = [
            (
                *(str(row.num_threads), row.weights, str(row.prompt), f"{row.prompt_rate:,.1f}"),
                *(
                    f"{row.first_token_ms:.1f}",
                    f"{row.rate:,.1f}",
                    f"{row.step.p99_us / 1e3:.2f}",
                    f"{row.read_share:.0%}",
                ),
            )
            for row in self.rows
        ]
        threads = plural(self.costs[0].num_threads, "thread")
        head = (f"a new process, {threads}", "open ms", "first token ms", "weights MB", "cache MB", "peak MB")
        costs = [
            (
                *(cost.weights, f"{cost.fresh.open_ms:.1f}", f"{cost.fresh.first_run_ms:.2f}"),
                *map(megabytes, (cost.weight_bytes, cost.kv_bytes, cost.fresh.peak_bytes)),
            )
            for cost in self.costs
        ]
        return "\n".join(
            [
                f"{self.model}, cache of {self.kv}",
                f"{self.cpu}, {self.isa}; edgekern {_core.__version__}",
                "",
                *aligned([heads, *rows], "><>>>>>>"),
                *(f"no row: a prompt of {prompt} leaves no room in the model's context" for prompt in self.too_long),
                *others.told(self.others_busy),
                "",
                *aligned([head, *costs], "<>>>>>"),
                "",
                *wrapped(_RULE),
            ]
        )

    def __str__(self) -> str:
        return self.table()


def bench_decoder(
    model: StrPath,
    *,
    weights: Sequence[str] = ("int8",),
    kv: str = "int8",
    prompts: Sequence[int] = PROMPTS,
    num_threads: Sequence[int] = (),
    runs: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = no_progress,
) -> DecoderReport:
    """Time a language model.

    Parameters
    ----------
    model : path of a GGUF file, a llama2.c .bin or a Hugging Face folder
    weights : "int8", "int4", "int2", "float32"
    kv : storage of the cache, as :func:`edgekern.llm.load` takes it
    prompts : tokens; those that leave no room in the model's context are left out
    runs : tokens behind each prompt that are timed; None is as many as take ``seconds``
    num_threads, progress : as of :func:`bench_model`

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        As :func:`edgekern.llm.load`, and of a count that is not positive.
    """
    for argument, count in (("runs", runs), *(("num_threads", count) for count in num_threads)):
        if count is not None:
            positive("bench", argument, count)
    path, counts = file_path("bench", "model", model), list(dict.fromkeys(thread_counts(num_threads)))
    rows, sizes, watch = [], {}, Others()
    with progress("bench", len(weights) * len(counts) * len(prompts)) as advance:
        for form in weights:
            for threads in counts:
                found, sizes[form] = _at(path, form, kv, threads, prompts, runs, seconds, advance)
                rows += found
    busy, most = watch.cpus(), max(counts)
    jobs = {form: Job("llm", str(path), "", most, {"weights": form, "kv": kv}) for form in weights}
    costs = tuple(DecoderCost(form, most, *sizes[form], measured(job)) for form, job in jobs.items())
    too_long = tuple(sorted(set(prompts) - {row.prompt for row in rows}))
    return DecoderReport(str(path), kv, cpu_model(), _core.resolve_isa(""), tuple(rows), costs, too_long, busy)


def _at(
    path: Path,
    form: str,
    kv: str,
    threads: int,
    prompts: Sequence[int],
    runs: int | None,
    seconds: float,
    advance: Callable[[], None],
) -> tuple[list[DecoderRow], tuple[int, int]]:
    """Rows, and bytes of weights and cache; the decoder's memory is free again behind it."""
    decoder = llm.load(path, weights=weight_kind(form), kv=kv, num_threads=threads)
    limit, rows = decoder.read_bandwidth(), []
    for prompt in prompts:
        if prompt < decoder.config.context:
            rows.append(_row(decoder, form, threads, prompt, limit, runs, seconds))
        advance()
    return rows, (decoder.weight_bytes, decoder.cache.nbytes)


def _row(
    decoder: llm.Decoder, form: str, threads: int, prompt: int, limit: float, runs: int | None, seconds: float
) -> DecoderRow:
    ids = np.random.default_rng(0).integers(0, decoder.config.vocab, prompt + 1).tolist()
    took = []
    for _ in range(_ROUNDS):
        decoder.cache.reset()
        start = time.perf_counter()
        decoder.prefill(ids[:prompt])
        took.append(time.perf_counter() - start)
    out = np.empty((1, decoder.config.vocab), np.float32)

    def step() -> None:
        decoder.step({0: ids[-1]}, out=out)
        decoder.cache.rewind(1)

    calls: dict[str, Callable[[], object]] = {"step": partial(step)}
    times = timed(calls, runs=runs, seconds=seconds)["step"]
    read = decoder.weight_bytes + decoder.cache.bytes_per_token * prompt
    prompt_s = float(np.median(took))
    share = read * times.runs_per_s / limit
    return DecoderRow(form, threads, prompt, prompt / prompt_s, prompt_s * 1e3, times.runs_per_s, times, share)
