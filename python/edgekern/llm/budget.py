"""What a decoder takes of memory, while loading too, and what to change where that is more than it may."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from edgekern import _core
from edgekern.errors import ArgumentValueError, MemoryBudgetError
from edgekern.llm.config import ModelConfig
from edgekern.llm.packing import BLOCK_BYTES, KINDS, Kind, WeightFormat

_HUGE_PAGE = 2 << 20
_CACHE_BUFFERS = 3  # large ones, each with a huge page of its own that it may not fill
_OBJECTS_BYTES, _LAYER_OBJECTS_BYTES = 256 << 10, 8 << 10  # Python's, and what malloc keeps between them
_KV_BELOW = ("k8v4", "int4")
_KINDS_BELOW: tuple[Kind, ...] = ("int8", "int4")  # not int2: most models make no sense in it
_CHUNKS_BELOW = (64, 16)
_SHORTEST_WINDOW = 32
_PANEL = 64


@dataclass(frozen=True)
class Settings:
    """What of a decoder's size the caller chooses; fields in the order in which they are given up for a budget."""

    max_chunk: int
    weights: Kind
    kv: str
    window: int
    num_sequences: int
    sinks: int
    rewind: int
    group_size: int | None
    mapped: bool = False  # the weights are packed already, in a file that counts for nothing

    @property
    def form(self) -> WeightFormat:
        return WeightFormat(self.weights, self.group_size)


def cache_spec(config: ModelConfig, settings: Settings) -> dict[str, Any]:
    """The cache's keywords, all but the formats."""
    return {
        "num_layers": config.layers,
        "num_kv_heads": config.kv_heads,
        "num_heads": config.heads,
        "head_dim": config.head_dim,
        "window": settings.window,
        "sinks": settings.sinks,
        "max_chunk": settings.max_chunk,
        "rewind": settings.rewind,
        "num_sequences": settings.num_sequences,
    }


def sizes_of(config: ModelConfig) -> dict[str, int]:
    """The core's keywords for the shape of a model."""
    names = ("dim", "hidden", "layers", "heads", "kv_heads", "head_dim", "vocab")
    return {name: getattr(config, name) for name in names}


def plan(config: ModelConfig, settings: Settings, block_bytes: int = BLOCK_BYTES) -> dict[str, int]:
    """Bytes that a decoder takes at most, by what for; ``block_bytes`` of float32 are packed at a time.

    The embedding table stays in the mapped file, whose pages can be dropped at any time, and is not counted.
    """
    form = settings.form
    packed, work = _core.decoder_plan_bytes(
        **sizes_of(config), max_rows=settings.max_chunk, bits=form.bits, group=form.group_size or 0
    )
    k, v, query_bits = _core.kv_formats(settings.kv) or _unknown(settings.kv)
    cache = _core.kv_plan_bytes({**cache_spec(config, settings), "k": k, "v": v, "query_bits": query_bits})
    if settings.mapped:
        packed = _beside_panels(config, form)
    bias = config.layers * (config.q_width + 2 * config.kv_width) * 4 if config.qkv_bias else 0
    shapes = (
        (config.q_width + 2 * config.kv_width, config.dim),
        (config.dim, config.q_width),
        (2 * config.hidden, config.dim),
        (config.dim, config.hidden),
        (config.vocab, config.dim),
    )
    packing = 0 if settings.mapped else max(form.packing_bytes(*shape, block_bytes) for shape in shapes)
    objects = _OBJECTS_BYTES + config.layers * _LAYER_OBJECTS_BYTES
    if packed >= _HUGE_PAGE:
        objects += _HUGE_PAGE  # which the last of several buffers shares with nobody
    return {
        "weights": packed + bias,
        "KV cache": cache + (_CACHE_BUFFERS * _HUGE_PAGE if cache >= _HUGE_PAGE else 0),
        "working memory": work + objects,
        "packing, while loading": packing,
    }


def _beside_panels(config: ModelConfig, form: WeightFormat) -> int:
    """What a decoder keeps of mapped weights: norms, and of int8 the scales and the starts of sums."""
    rows = config.layers * (config.q_width + 2 * config.kv_width + 2 * config.dim + 2 * config.hidden) + config.vocab
    columns = rows + (4 * config.layers + 1) * _PANEL
    return (2 * config.layers + 1) * config.dim * 4 + (2 * columns * 4 if form.kind == "int8" else 0)


def block_within(config: ModelConfig, settings: Settings, given: int | None) -> int:
    """Bytes of float32 to pack at a time so that all of it stays within the budget ``given`` and within what this
    process can have.

    Raises
    ------
    MemoryBudgetError
        No size does; the message says what needs how much, and which change fits.
    """
    most = _core.memory_limit()
    budget = most if given is None else min(given, most)
    for block in _blocks():
        if sum(plan(config, settings, block).values()) <= budget:
            return block
    needs = plan(config, settings, _smallest_block())
    listed = ", ".join(f"{name} {_megabytes(size)}" for name, size in needs.items())
    rule = "memory_budget =" if budget == given else "what this process can have,"
    raise MemoryBudgetError(
        f"llm.load: {listed}: {_megabytes(sum(needs.values()))} in all pass {rule} "
        f"{_megabytes(budget, down=True)}; {_advice(config, settings, budget)}"
    )


def _blocks() -> Iterator[int]:
    block = BLOCK_BYTES
    while block >= _smallest_block():
        yield block
        block //= 4


def _smallest_block() -> int:
    return BLOCK_BYTES >> 8


def _advice(config: ModelConfig, settings: Settings, budget: int) -> str:
    """The least change that fits, or that none does, with what it takes."""
    least, least_bytes = settings, math.inf
    for changed in _smaller(settings):
        total = sum(plan(config, changed, _smallest_block()).values())
        if total <= budget:
            return f"{_words(settings, changed)} takes {_megabytes(total)}"
        if total < least_bytes:
            least, least_bytes = changed, total
    if least is settings:
        return "nothing takes less"
    return f"nothing fits: the least, {_words(settings, least)}, takes {_megabytes(int(least_bytes))}"


def _smaller(settings: Settings) -> list[Settings]:
    """Every setting that takes less memory: few changes first, and of those the ones that cost the least."""
    windows = [settings.window]
    while windows[-1] // 2 >= _SHORTEST_WINDOW:
        windows.append(windows[-1] // 2)
    first = KINDS.index(settings.weights)
    choices: dict[str, list[Any]] = {
        "max_chunk": [settings.max_chunk, *(chunk for chunk in _CHUNKS_BELOW if chunk < settings.max_chunk)],
        "weights": [settings.weights]
        if settings.mapped
        else [kind for kind in KINDS[first:] if kind in (settings.weights, *_KINDS_BELOW)],
        "kv": [settings.kv, *(kv for kv in _KV_BELOW if kv != settings.kv)],
        "window": windows,
        "num_sequences": sorted({settings.num_sequences, 1}, reverse=True),
    }
    picks = [pick for pick in product(*(range(len(options)) for options in choices.values())) if any(pick)]
    picks.sort(key=lambda pick: (sum(step > 0 for step in pick), tuple(step > 0 for step in pick)[::-1], pick[::-1]))
    made = []
    for pick in picks:
        given: dict[str, Any] = {name: choices[name][step] for name, step in zip(choices, pick, strict=True)}
        same = given["weights"] == settings.weights
        given["group_size"] = WeightFormat.of(given["weights"], settings.group_size if same else None).group_size
        made.append(replace(settings, **given))
    return made


def _words(before: Settings, after: Settings) -> str:
    names = [field.name for field in fields(Settings) if field.name not in ("group_size", "mapped")]
    changed = [name for name in names if getattr(before, name) != getattr(after, name)]
    return " with ".join(f"{name}={getattr(after, name)!r}" for name in changed)


def _megabytes(size: int, *, down: bool = False) -> str:
    """Rounded so that a budget of what is printed is enough."""
    hundredths = size // 10_000 if down else -(-size // 10_000)
    return f"{hundredths / 100:.2f} MB"


def _unknown(kv: str) -> Any:
    raise ArgumentValueError(f"llm.load: kv must be the name of a cache's storage, as RingKVCache has it, got {kv!r}")
