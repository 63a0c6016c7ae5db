"""What a decoder takes of memory, while loading too, and what to change where that is more than it may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from edgekern import _core
from edgekern.errors import ArgumentValueError, MemoryBudgetError
from edgekern.llm.config import ModelConfig
from edgekern.llm.packing import BLOCK_BYTES, Kind, WeightFormat

SMALLEST_BLOCK = BLOCK_BYTES >> 8
_HUGE_PAGE = 2 << 20
_CACHE_BUFFERS = 3  # large ones, each with a huge page of its own that it may not fill
_OBJECTS_BYTES, _LAYER_OBJECTS_BYTES = 256 << 10, 8 << 10  # Python's, and what malloc keeps between them
_DEFAULT_WINDOW = 4096
_KV_BELOW = ("int8", "k8v4", "int4")
# not int2: most models make no sense in it
_FORMS_BELOW = (WeightFormat("int8"), WeightFormat("int4", 32), WeightFormat("int4", 128))
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

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        form: WeightFormat,
        *,
        kv: str,
        window: int | None,
        sinks: int | None,
        max_chunk: int,
        rewind: int,
        num_sequences: int,
        mapped: bool,
    ) -> Settings:
        """With the model's own window and sinks where none are given."""
        return cls(
            max_chunk=max_chunk,
            weights=form.kind,
            kv=kv,
            window=window if window is not None else config.window or min(config.context, _DEFAULT_WINDOW),
            num_sequences=num_sequences,
            sinks=sinks if sinks is not None else 0 if config.window else 4,
            rewind=rewind,
            group_size=form.group_size,
            mapped=mapped,
        )


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


def matrix_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(rows, columns) of the matrices of a layer, and of the head, as a decoder takes them."""
    return {
        "qkv": (config.q_width + 2 * config.kv_width, config.dim),
        "o": (config.dim, config.q_width),
        "gate_up": (2 * config.hidden, config.dim),
        "down": (config.dim, config.hidden),
        "head": (config.vocab, config.dim),
    }


def plan(config: ModelConfig, settings: Settings, block_bytes: int = BLOCK_BYTES) -> dict[str, int]:
    """Bytes that a decoder takes at most, by what for; ``block_bytes`` of float32 are packed at a time.

    The embedding table stays in the mapped file, whose pages can be dropped at any time, and is not counted.
    """
    form = settings.form
    packed, work = _packed_and_work(config, settings)
    k, v, query_bits = _core.kv_formats(settings.kv) or _unknown(settings.kv)
    cache = _core.kv_plan_bytes({**cache_spec(config, settings), "k": k, "v": v, "query_bits": query_bits})
    huge = (packed >= _HUGE_PAGE) + _CACHE_BUFFERS * (cache >= _HUGE_PAGE)  # the last page of each is shared by none
    if settings.mapped:
        packed = _beside_panels(config, form)
    bias = config.layers * (config.q_width + 2 * config.kv_width) * 4 if config.qkv_bias else 0
    packing = (
        0
        if settings.mapped
        else max(form.packing_bytes(*shape, block_bytes) for shape in matrix_shapes(config).values())
    )
    return {
        "weights": packed + bias,
        "KV cache": cache,
        "activations": work,
        "workspace": _OBJECTS_BYTES + config.layers * _LAYER_OBJECTS_BYTES + huge * _HUGE_PAGE,
        "packing, while loading": packing,
    }


def _packed_and_work(config: ModelConfig, settings: Settings) -> tuple[int, int]:
    form = settings.form
    return _core.decoder_plan_bytes(
        **sizes_of(config), max_rows=settings.max_chunk, bits=form.bits, group=form.group_size or 0
    )


def _beside_panels(config: ModelConfig, form: WeightFormat) -> int:
    """What a decoder keeps of mapped weights: norms, and of int8 the scales and the starts of sums."""
    columns = {name: -(-rows // _PANEL) * _PANEL for name, (rows, _) in matrix_shapes(config).items()}
    head = columns.pop("head")
    every = config.layers * sum(columns.values()) + head
    return (2 * config.layers + 1) * config.dim * 4 + (2 * every * 4 if form.kind == "int8" else 0)


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
    if (block := largest_block(config, settings, budget)) is not None:
        return block
    needs = plan(config, settings, SMALLEST_BLOCK)
    listed = ", ".join(f"{name} {_megabytes(size)}" for name, size in needs.items())
    rule = "memory_budget =" if budget == given else "what this process can have,"
    raise MemoryBudgetError(
        f"llm.load: {listed}: {_megabytes(sum(needs.values()))} in all pass {rule} "
        f"{_megabytes(budget, down=True)}; {_advice(config, settings, budget)}"
    )


def largest_block(config: ModelConfig, settings: Settings, budget: int) -> int | None:
    """Bytes of float32 to pack at a time so that all of it stays within the budget; None where no size does."""
    fitting = (block for block in _blocks() if sum(plan(config, settings, block).values()) <= budget)
    return next(fitting, None)


def _blocks() -> Iterator[int]:
    block = BLOCK_BYTES
    while block >= SMALLEST_BLOCK:
        yield block
        block //= 4


def _advice(config: ModelConfig, settings: Settings, budget: int) -> str:
    """The least change that fits, or that none does, with what it takes."""
    changed, total = least_change(config, settings, budget)
    if changed is settings:
        return "nothing takes less"
    taken = f"{words(settings, changed)} takes {_megabytes(total)}"
    return (
        taken if total <= budget else f"nothing fits: the least, {words(settings, changed)}, takes {_megabytes(total)}"
    )


def least_change(config: ModelConfig, settings: Settings, budget: int) -> tuple[Settings, int]:
    """The mildest change that fits and its bytes; where none does, the one that takes least, or ``settings``."""
    least, least_bytes = settings, sum(plan(config, settings, SMALLEST_BLOCK).values())
    for changed in smaller(config, settings):
        total = sum(plan(config, changed, SMALLEST_BLOCK).values())
        if total <= budget:
            return changed, total
        if total < least_bytes:
            least, least_bytes = changed, total
    return least, least_bytes


def smaller(config: ModelConfig, settings: Settings) -> list[Settings]:
    """Every setting that takes less memory: few changes first, and of those the ones that cost the least."""
    choices: dict[str, list[Any]] = {
        "max_chunk": [settings.max_chunk, *(chunk for chunk in _CHUNKS_BELOW if chunk < settings.max_chunk)],
        "form": [settings.form, *([] if settings.mapped else _forms_below(config, settings))],
        "kv": [settings.kv, *_kv_below(config, settings)],
        "window": _halves(settings.window, _SHORTEST_WINDOW),
        "num_sequences": _halves(settings.num_sequences, 1),
    }
    picks = [pick for pick in product(*(range(len(options)) for options in choices.values())) if any(pick)]
    picks.sort(key=lambda pick: (sum(step > 0 for step in pick), tuple(step > 0 for step in pick)[::-1], pick[::-1]))
    made = []
    for pick in picks:
        given: dict[str, Any] = {name: choices[name][step] for name, step in zip(choices, pick, strict=True)}
        form = given.pop("form")
        made.append(replace(settings, **given, weights=form.kind, group_size=form.group_size))
    return made


def _halves(value: int, least: int) -> list[int]:
    found = [value]
    while found[-1] // 2 >= least:
        found.append(found[-1] // 2)
    return found


def _forms_below(config: ModelConfig, settings: Settings) -> list[WeightFormat]:
    now = _packed_and_work(config, settings)[0]
    with_form = [(form, replace(settings, weights=form.kind, group_size=form.group_size)) for form in _FORMS_BELOW]
    return [form for form, changed in with_form if _packed_and_work(config, changed)[0] < now]


def _kv_below(config: ModelConfig, settings: Settings) -> list[str]:
    """Storage that takes less and that this head_dim can have."""
    rotatable = config.head_dim & (config.head_dim - 1) == 0
    now = plan(config, settings)["KV cache"]
    names = [name for name in _KV_BELOW if name != "int4" or rotatable]
    return [name for name in names if plan(config, replace(settings, kv=name))["KV cache"] < now]


def words(before: Settings, after: Settings, renamed: Mapping[str, str] | None = None) -> str:
    """What a change sets, as the caller writes it; ``renamed`` has the names of a caller who calls them otherwise."""
    names = [field.name for field in fields(Settings) if field.name != "mapped"]
    changed = [name for name in names if getattr(before, name) != getattr(after, name)]
    if after.group_size == WeightFormat.of(after.weights).group_size and after.weights != before.weights:
        changed = [name for name in changed if name != "group_size"]  # the kind's own
    return " with ".join(f"{(renamed or {}).get(name, name)}={getattr(after, name)!r}" for name in changed)


def _megabytes(size: int, *, down: bool = False) -> str:
    """Rounded so that a budget of what is printed is enough."""
    hundredths = size // 10_000 if down else -(-size // 10_000)
    return f"{hundredths / 100:.2f} MB"


def _unknown(kv: str) -> Any:
    raise ArgumentValueError(f"llm.load: kv must be the name of a cache's storage, as RingKVCache has it, got {kv!r}")
