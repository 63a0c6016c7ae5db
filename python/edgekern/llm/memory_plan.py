"""What a model takes of a device's memory, before it is there: a decoder, a compiled program, or shapes alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekern._arguments import file_path
from edgekern.artifact import Program
from edgekern.errors import ArgumentValueError, EdgekernError, MemoryBudgetError
from edgekern.file_kinds import kind_of_file
from edgekern.llm import budget
from edgekern.llm.budget import SMALLEST_BLOCK, Settings, largest_block, least_change, smaller, words
from edgekern.llm.config import ModelConfig
from edgekern.llm.loading import read_model
from edgekern.llm.mapped import MappedModel, is_packed
from edgekern.llm.memory_arguments import OF_SHAPES, config_of, device_memory, form_of, kv_of, refuse, whole
from edgekern.llm.packing import WeightFormat
from edgekern.runtime import InferenceSession

_NAME = "plan_memory"
_RENAMED = {"window": "context", "num_sequences": "batch"}
_OF_DECODERS = ("context", "batch", "weights", "group_size", "kv", "max_chunk", "sinks", "rewind")
_OF_PROGRAMS = ("arenas", "num_threads", "isa")
_DEFAULTS: dict[str, Any] = {"batch": 1, "kv": "int8", "max_chunk": 256, "rewind": 16}


@dataclass(frozen=True)
class Remedy:
    """One change of the arguments.

    Attributes
    ----------
    change : as it is written in a call, such as ``kv='k8v4'``
    saves_bytes, total_bytes : what it saves alone, and what is left to take
    fits : whether it is enough
    """

    change: str
    saves_bytes: int
    total_bytes: int
    fits: bool


@dataclass(frozen=True)
class MemoryPlan:
    """What a model takes of a device's memory; made by :func:`edgekern.plan_memory`.

    Attributes
    ----------
    model : what was planned, in words
    weight_bytes : packed weights; of a program its file
    mapped_bytes : how much of them lies in a mapped file, which every step reads all the same
    kv_bytes : the ring cache
    activation_bytes : what one pass of the decoder works in; the arenas of a program
    workspace_bytes : Python's objects and unfilled pages; scratch and widened weights of a program
    loading_bytes : taken while loading only
    device_bytes, reserved_bytes : memory of the device, and what of it others take
    remedies : changes that take less, where it does not fit: those that are enough first
    """

    model: str
    weight_bytes: int
    mapped_bytes: int
    kv_bytes: int
    activation_bytes: int
    workspace_bytes: int
    loading_bytes: int
    device_bytes: int
    reserved_bytes: int
    remedies: tuple[Remedy, ...] = ()

    @property
    def total_bytes(self) -> int:
        """At most, while loading too."""
        running = self.weight_bytes + self.kv_bytes + self.activation_bytes + self.workspace_bytes
        return running + self.loading_bytes

    @property
    def owned_bytes(self) -> int:
        """Without what is mapped: what ``memory_budget`` of :func:`edgekern.llm.load` is compared with."""
        return self.total_bytes - self.mapped_bytes

    @property
    def available_bytes(self) -> int:
        """The device's without the reserved ones."""
        return self.device_bytes - self.reserved_bytes

    @property
    def spare_bytes(self) -> int:
        """What is left; negative where it does not fit."""
        return self.available_bytes - self.total_bytes

    @property
    def fits(self) -> bool:
        return self.spare_bytes >= 0

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, the sums among them."""
        names = ("total_bytes", "owned_bytes", "available_bytes", "spare_bytes", "fits")
        made = {**asdict(self), **{name: getattr(self, name) for name in names}}
        return {**made, "remedies": [asdict(remedy) for remedy in self.remedies]}

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def __str__(self) -> str:
        parts = [
            ("weights", self.weight_bytes),
            ("KV cache", self.kv_bytes),
            ("activations", self.activation_bytes),
            ("workspace", self.workspace_bytes),
            ("while loading", self.loading_bytes),
            ("in all", self.total_bytes),
            ("device", self.device_bytes),
            ("reserved", self.reserved_bytes),
            ("left" if self.fits else "missing", abs(self.spare_bytes)),
        ]
        lines = [self.model, *(f"  {name:<14}{size:>18,} bytes  {_gigabytes(size)}" for name, size in parts)]
        if self.mapped_bytes:
            lines.append(f"  of the weights {self.mapped_bytes:,} bytes are pages of a mapped file")
        lines.append("fits" if self.fits else "does not fit; what takes less:")
        for remedy in self.remedies:
            enough = "fits" if remedy.fits else "is not enough"
            lines.append(
                f"  {remedy.change}: saves {remedy.saves_bytes:,} bytes, {_gigabytes(remedy.saves_bytes)}; {enough}"
            )
        return "\n".join(lines)


def plan_memory(
    path: str | os.PathLike[str] | None = None,
    *,
    layers: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    hidden: int | None = None,
    dim: int | None = None,
    vocab: int | None = None,
    context: int | None = None,
    batch: int | None = None,
    weights: str | None = None,
    group_size: int | None = None,
    kv: str | None = None,
    max_chunk: int | None = None,
    sinks: int | None = None,
    rewind: int | None = None,
    arenas: int | None = None,
    num_threads: int | None = None,
    isa: str | None = None,
    device_bytes: int | str | None = None,
    reserved_bytes: int | str = 0,
) -> MemoryPlan:
    """Say what a model takes of a device's memory, and what to change where that is more than there is.

    The sums are the core's own: what a decoder, its cache and a session really take. Nothing of a decoder is loaded; a
    program is opened.

    Parameters
    ----------
    path : .ekllm, GGUF, llama2.c ``.bin``, Hugging Face folder, or .ekm; None is a decoder of the shapes given
    layers, heads, kv_heads, head_dim, hidden, dim, vocab : of a decoder, instead of ``path``
        ``hidden`` is the width of the feed-forward layer, ``dim`` of the residual stream. Default of ``kv_heads``:
        ``heads``; of ``head_dim``: ``dim / heads``.
    context : tokens that a token sees: ``window`` of :func:`edgekern.llm.load`. Default: the model's, at most 4096
    batch : sequences side by side: its ``num_sequences``; default 1
    weights, group_size, kv, max_chunk, sinks, rewind : as of :func:`edgekern.llm.load`
    arenas, num_threads, isa : of a program, as of :class:`edgekern.InferenceSession`
    device_bytes : int or str, optional
        Bytes, or a size: "8G" and "8GiB" are powers of 1024, "8GB" of 1000. Default: what this process can have.
    reserved_bytes : int or str
        What the system and others take of it.

    Returns
    -------
    MemoryPlan

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        An argument is wrong, contradicts another, or is for another kind of model.
    MemoryBudgetError
        Not even the smallest settings fit; the message says what they take.
    ArtifactError, OSError
        The file cannot be read.

    Examples
    --------
    LLaMA-7B on a device of 8 GB: float16 keys and values of 4096 tokens take more than a quarter of it.

    >>> import edgekern as ek
    >>> shapes = dict(layers=32, heads=32, dim=4096, hidden=11008, vocab=32000, context=4096)
    >>> ek.plan_memory(**shapes, kv="float16", device_bytes="8GB").fits
    False
    """
    given = {name: value for name, value in locals().items() if value is not None}
    device, reserved = device_memory(device_bytes, reserved_bytes)
    if path is None:
        refuse(given, _OF_PROGRAMS, "is for a compiled program; leave it out, or give path")
        return _decoder_plan("a decoder of the given shapes", config_of(given), form_of(given), given, device, reserved)
    file = file_path(_NAME, "path", path)
    refuse(given, OF_SHAPES, "contradicts path, which has shapes of its own; give one or the other")
    if not file.is_dir() and kind_of_file(file) == "ekm":
        refuse(given, _OF_DECODERS, "is for a decoder, and path is a compiled program; leave it out")
        return _program_plan(file, given, device, reserved)
    refuse(given, _OF_PROGRAMS, "is for a compiled program, and path is a decoder; leave it out")
    with _told_by_this_function():
        if not is_packed(file):
            form, config = form_of(given), read_model(file)[0].config
            return _decoder_plan(str(file), config, form, given, device, reserved)
        model = MappedModel(file, verified=False)
    held = {"weights": model.form.kind, "group_size": model.form.group_size}
    for name, value in held.items():
        if given.get(name, value) != value:
            raise ArgumentValueError(
                f"{_NAME}: {name} must be that of {file}, {model.form}, got {given[name]!r}; leave it out"
            )
    return _decoder_plan(str(file), model.config, model.form, given, device, reserved, pages=model.panel_bytes)


@contextmanager
def _told_by_this_function() -> Iterator[None]:
    """Errors of the loaders, which are those of ``llm.load`` elsewhere."""
    try:
        yield
    except EdgekernError as error:
        error.args = (f"{_NAME}:{str(error).removeprefix('llm.load:').removeprefix(f'{_NAME}:')}",)
        raise


def _decoder_plan(
    name: str,
    config: ModelConfig,
    form: WeightFormat,
    given: dict[str, Any],
    device: int,
    reserved: int,
    *,
    pages: int = 0,
) -> MemoryPlan:
    counts = {name: whole(name, given.get(name, _DEFAULTS.get(name))) for name in ("batch", "max_chunk", "rewind")}
    window, sinks = (whole(n, given[n]) if n in given else None for n in ("context", "sinks"))
    settings = Settings.of(
        config,
        form,
        kv=kv_of(given.get("kv", _DEFAULTS["kv"]), config),
        window=window,
        sinks=sinks,
        max_chunk=counts["max_chunk"],
        rewind=counts["rewind"],
        num_sequences=counts["batch"],
        mapped=pages > 0,
    )
    owned_budget = device - reserved - pages
    block = largest_block(config, settings, owned_budget)
    parts = budget.plan(config, settings, block or SMALLEST_BLOCK)
    remedies: list[Remedy] = []
    if block is None:
        total = sum(parts.values()) + pages
        least, least_bytes = least_change(config, settings, owned_budget)
        if least_bytes > owned_budget:
            _refuse_floor(words(settings, least, _RENAMED) or "as it is", least_bytes + pages, device, reserved)
        for changed in _alternatives(config, settings, least, owned_budget):
            taken = sum(budget.plan(config, changed, SMALLEST_BLOCK).values()) + pages
            remedies.append(_remedy(words(settings, changed, _RENAMED), total, taken, device - reserved))
    described = (
        f"{name}: weights={form}, kv={settings.kv!r}, context={settings.window}, batch={settings.num_sequences}, "
        f"max_chunk={settings.max_chunk}"
    )
    return MemoryPlan(
        described,
        parts["weights"] + pages,
        pages,
        parts["KV cache"],
        parts["activations"],
        parts["workspace"],
        parts["packing, while loading"],
        device,
        reserved,
        _ranked(remedies),
    )


def _alternatives(config: ModelConfig, settings: Settings, least: Settings, owned_budget: int) -> list[Settings]:
    """The least change that fits, and every single one; of shorter windows and smaller batches the longest and largest
    that fit, or the least."""
    every = smaller(config, settings)
    found = [least] if len(_changes(settings, least)) > 1 else []
    for name in ("num_sequences", "window", "kv", "form", "max_chunk"):
        ways = [changed for changed in every if _changes(settings, changed) == [name]]
        if name in ("num_sequences", "window"):
            fit = [way for way in ways if sum(budget.plan(config, way, SMALLEST_BLOCK).values()) <= owned_budget]
            ways = fit[:1] or ways[-1:]
        found += ways
    return sorted(found, key=every.index)


def _changes(before: Settings, after: Settings) -> list[str]:
    names = ("max_chunk", "form", "kv", "window", "num_sequences")
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def _program_plan(file: Path, given: dict[str, Any], device: int, reserved: int) -> MemoryPlan:
    arenas = whole("arenas", given.get("arenas", 1))
    threads = whole("num_threads", given["num_threads"]) if "num_threads" in given else None
    program = Program.load(file)

    def owned(arenas: int, threads: int | None) -> tuple[int, int]:
        session = InferenceSession(program, arenas=arenas, num_threads=threads, isa=given.get("isa"))
        return session.arena_bytes, session.num_threads

    taken, used_threads = owned(arenas, threads)
    activations = arenas * max(part.index.arena_bytes for part in program.all)
    total = program.nbytes + taken
    remedies = []
    if total > device - reserved:
        changes = {"arenas=1": (1, threads), "num_threads=1": (arenas, 1), "arenas=1 with num_threads=1": (1, 1)}
        remedies = [
            _remedy(change, total, program.nbytes + owned(*asked)[0], device - reserved)
            for change, asked in changes.items()
        ]
        least = min(remedies, key=lambda remedy: remedy.total_bytes)
        if not least.fits:
            _refuse_floor(least.change, least.total_bytes, device, reserved)
    return MemoryPlan(
        f"{file}: arenas={arenas}, num_threads={used_threads}",
        program.nbytes,
        program.nbytes,
        0,
        activations,
        taken - activations,
        0,
        device,
        reserved,
        _ranked(remedies),
    )


def _remedy(change: str, total: int, taken: int, available: int) -> Remedy:
    return Remedy(change, total - taken, taken, taken <= available)


def _ranked(remedies: list[Remedy]) -> tuple[Remedy, ...]:
    """What is enough first, in the order given, which is the mildest first; then by what it saves."""
    useful = [remedy for remedy in remedies if remedy.saves_bytes > 0]
    return tuple(sorted(useful, key=lambda remedy: (not remedy.fits, 0 if remedy.fits else -remedy.saves_bytes)))


def _refuse_floor(least: str, taken: int, device: int, reserved: int) -> None:
    raise MemoryBudgetError(
        f"{_NAME}: device_bytes must hold the least that this model takes, {taken:,} bytes ({least}), beside "
        f"reserved_bytes, {reserved:,}, got {device:,}; take a larger device or a smaller model"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3f} GB"
