"""The ring cache: keys and values of a decoder, quantized as they are written, in memory that is taken once.

A sequence keeps its first tokens (sinks) and a window of the latest ones. Positions are absolute and never wrap; what a
query sees follows from them alone. See ``docs/kvcache.md`` for the formats.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekern import _core, files
from edgekern._arguments import file_path, flag, integer, isa_name, number, string, thread_count
from edgekern._arrays import as_array, written_array
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning, KVRewindError
from edgekern.file_kinds import naming_kind

__all__ = ["KVFormat", "RingKVCache", "Transaction"]

FloatArray = npt.NDArray[np.float32]
_STATE_HEADER_BYTES = 1 << 12  # of a saved state, before what the cache itself holds
Kind = Literal["float32", "float16", "bfloat16", "int8", "int4"]
_ARTICLE = (
    "kv='article' (K 4 bits, V 8 bits, query 4 bits) is the wrong way round: K is the sensitive one, and a query of 4 "
    "bits saves no memory, for it is never stored. kv='k8v4' takes about as many bytes and is far more exact"
)


@dataclass(frozen=True)
class KVFormat:
    """How K or V is stored.

    Parameters
    ----------
    kind : "float32", "float16", "bfloat16", "int8" or "int4"
        Integers have a float16 scale (and offset, if asymmetric) per token, head and group.
    group_size : 32, 64, 128 or None
        Values of ``head_dim`` under one scale; None: ``head_dim``, at most 128. The last group may be short.
    symmetric : without offsets
    rotated : K only; stored through a Hadamard rotation, which spreads outliers. ``head_dim`` must be a power of two
    """

    kind: Kind = "int8"
    group_size: Literal[32, 64, 128] | None = None
    symmetric: bool = True
    rotated: bool = False

    def _core(self) -> tuple[str, int, bool, bool]:
        return (
            string("KVFormat", "kind", self.kind),
            0 if self.group_size is None else _count("group_size", self.group_size, "KVFormat"),
            not flag("KVFormat", "symmetric", self.symmetric),
            flag("KVFormat", "rotated", self.rotated),
        )


def _named(name: str) -> tuple[KVFormat, KVFormat, int]:
    found = _core.kv_formats(string("RingKVCache", "kv", name))
    if found is None:
        raise ArgumentValueError(
            f"RingKVCache: kv must be float32, float16, bfloat16, int8, k8v4, int4 or article, got {name!r}"
        )
    k, v, query_bits = found
    return _format(k), _format(v), query_bits


def _format(given: tuple[str, int, bool, bool]) -> KVFormat:
    kind, group, asymmetric, rotated = given
    return KVFormat(kind, group or None, not asymmetric, rotated)  # type: ignore[arg-type]


def _count(argument: str, value: object, function: str = "RingKVCache") -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ArgumentTypeError(f"{function}: {argument} must be an integer, got {type(value).__name__}")
    if value < 0:
        raise ArgumentValueError(f"{function}: {argument} must not be negative, got {value}")
    if value >= 2**63:
        raise ArgumentValueError(f"{function}: {argument} must be below 2^63, got {value}")
    return int(value)


def _path(function: str, value: object) -> Path:
    if isinstance(value, (str, os.PathLike)):
        return file_path(f"RingKVCache.{function}", "a state's path", value)
    raise ArgumentTypeError(f"RingKVCache.{function}: a state is bytes or a path, got {type(value).__name__}")


def _model(function: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ArgumentTypeError(f"RingKVCache.{function}: model must be bytes, got {type(value).__name__}")


class Transaction:
    """Tokens that are staged: visible to attention, and part of the cache only once committed."""

    def __init__(self, cache: RingKVCache, sequence: int, tokens: int) -> None:
        self._cache = cache
        self._sequence = sequence
        self.tokens = tokens

    def write(self, layer: int, k: FloatArray, v: FloatArray) -> None:
        """Store K (after RoPE) and V of the staged tokens in one layer: (tokens, num_kv_heads, head_dim) float32."""
        self._cache.write(layer, k, v, sequence=self._sequence)

    def attend(
        self,
        layer: int,
        q: FloatArray,
        q_sink: FloatArray | None = None,
        *,
        scale: float | None = None,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Attention of the staged tokens; see :meth:`RingKVCache.attend`."""
        return self._cache.attend(layer, q, q_sink, scale=scale, out=out, sequence=self._sequence)

    def commit(self, accepted: int | None = None) -> None:
        """Keep the first ``accepted`` tokens (all of them by default) and close the transaction."""
        self._cache.commit(accepted, sequence=self._sequence)


class RingKVCache:
    """Keys and values of all layers in one block of memory that never grows.

    Parameters
    ----------
    num_layers, num_kv_heads, head_dim : shape of the model; ``head_dim`` is a multiple of 8, at most 512
    num_heads : query heads, a multiple of ``num_kv_heads`` (default: as many)
    window : tokens that a query sees, itself included, besides the sinks
    sinks : first tokens of a sequence, which stay visible for ever
    max_chunk : most tokens in one transaction
    rewind : committed tokens that can be taken back at any time
    k, v : formats, :class:`KVFormat` or the name of a kind
    kv : both by name, instead of ``k`` and ``v``: "float32", "float16", "bfloat16", "int8", "k8v4" (K int8, V int4:
        the recommended low-memory point), "int4" (K rotated), "article" (warns)
    query_bits : 8 or 4: of the query where K is stored as integers
    num_sequences : sequences, each with its own ring
    num_threads : threads of ``write`` and ``attend`` (default: the package's setting)

    Raises
    ------
    ArgumentValueError, ArgumentTypeError
        A parameter is out of range; the message names it.
    MemoryBudgetError
        ``nbytes`` are not to be had.

    Notes
    -----
    A sequence has ``sinks + window + max(max_chunk - 1, rewind)`` slots. Keys are stored after RoPE at their absolute
    position. To run past the trained length as StreamingLLM does (Xiao et al., 2023), hand ``attend`` a second query
    for the sinks, rotated to ``min(position, sinks + window - 1)``.

    A pickle or a copy holds the committed tokens of all sequences; none may have staged ones.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_heads: int | None = None,
        window: int = 4096,
        sinks: int = 4,
        max_chunk: int = 256,
        rewind: int = 16,
        k: KVFormat | Kind = "int8",
        v: KVFormat | Kind = "int8",
        kv: str | None = None,
        query_bits: Literal[8, 4] = 8,
        num_sequences: int = 1,
        num_threads: int | None = None,
        isa: str | None = None,
    ) -> None:
        self.k = k if isinstance(k, KVFormat) else KVFormat(k)
        self.v = v if isinstance(v, KVFormat) else KVFormat(v)
        bits: int = query_bits
        if kv is not None:
            self.k, self.v, bits = _named(kv)
            if kv == "article":
                warnings.warn(_ARTICLE, EdgekernWarning, stacklevel=2)
        self._threads = thread_count("RingKVCache", num_threads)
        self._isa = isa_name("RingKVCache", isa)
        self.num_layers = _count("num_layers", num_layers)
        self.num_kv_heads = _count("num_kv_heads", num_kv_heads)
        self.num_heads = self.num_kv_heads if num_heads is None else _count("num_heads", num_heads)
        self.head_dim = _count("head_dim", head_dim)
        self.window = _count("window", window)
        self.sinks = _count("sinks", sinks)
        self.max_chunk = _count("max_chunk", max_chunk)
        self.max_rewind = _count("rewind", rewind)
        self.num_sequences = _count("num_sequences", num_sequences)
        self.query_bits = integer("RingKVCache", "query_bits", bits)
        self._cache = _core.KvCache(
            {
                "num_layers": self.num_layers,
                "num_kv_heads": self.num_kv_heads,
                "num_heads": self.num_heads,
                "head_dim": self.head_dim,
                "window": self.window,
                "sinks": self.sinks,
                "max_chunk": self.max_chunk,
                "rewind": self.max_rewind,
                "num_sequences": self.num_sequences,
                "query_bits": self.query_bits,
                "k": self.k._core(),
                "v": self.v._core(),
            }
        )

    @property
    def core(self) -> _core.KvCache:
        """The cache as the decoder's core takes it."""
        return self._cache

    @property
    def nbytes(self) -> int:
        """All memory of the cache: codes, scales, padding, positions, masks, scratch. Nothing is taken later."""
        return self._cache.nbytes

    @property
    def bytes_per_token(self) -> int:
        """Bytes of codes and scales that one token takes in all layers."""
        return self._cache.bytes_per_token

    @property
    def capacity(self) -> int:
        """Slots of one sequence."""
        return self.sinks + self.window + max(self.max_chunk - 1, self.max_rewind)

    def position(self, sequence: int = 0) -> int:
        """Position of the next token: the number of tokens committed since ``reset(position=0)``."""
        return self._cache.position(self._sequence("position", sequence))

    def positions(self, sequence: int = 0) -> npt.NDArray[np.int64]:
        """Position of the token in each slot, -1 where it is empty: (capacity,) int64."""
        return self._cache.slot_positions(self._sequence("positions", sequence))

    def __repr__(self) -> str:
        shape = f"{self.num_layers} layers x {self.num_kv_heads} heads x {self.head_dim}"
        return (
            f"RingKVCache({shape}, window={self.window}, sinks={self.sinks}, k={self.k.kind}, v={self.v.kind}, "
            f"{self.nbytes} bytes)"
        )

    def append(self, k: FloatArray, v: FloatArray, *, sequence: int = 0) -> None:
        """Store tokens for good, any number of them: (num_layers, tokens, num_kv_heads, head_dim) float32.

        Raises
        ------
        ArgumentValueError
            A value is not finite or does not fit its format. Tokens before the chunk that it lies in are stored.
        """
        sequence = self._sequence("append", sequence)
        k, v = as_array("RingKVCache.append", "k", k), as_array("RingKVCache.append", "v", v)
        if k.ndim != 4 or k.shape[0] != self.num_layers or v.shape != k.shape:
            raise ArgumentValueError(
                f"RingKVCache.append: k and v must have shape ({self.num_layers}, tokens, {self.num_kv_heads}, "
                f"{self.head_dim}), got {k.shape} and {v.shape}"
            )
        for at in range(0, k.shape[1], self.max_chunk):
            chunk = slice(at, at + self.max_chunk)
            with self.stage(min(self.max_chunk, k.shape[1] - at), sequence=sequence) as staged:
                for layer in range(self.num_layers):
                    staged.write(layer, k[layer, chunk], v[layer, chunk])
                staged.commit()

    @contextmanager
    def stage(self, tokens: int, *, sequence: int = 0) -> Iterator[Transaction]:
        """Open a transaction of 1 to ``max_chunk`` tokens; what is not committed when it ends is dropped.

        Examples
        --------
        >>> with cache.stage(3) as staged:  # doctest: +SKIP
        ...     staged.write(0, k, v)
        ...     y = staged.attend(0, q)
        ...     staged.commit(2)  # the third was a draft that failed
        """
        self.begin(tokens, sequence=sequence)
        try:
            yield Transaction(self, sequence, tokens)
        finally:
            self.abort(sequence=sequence)

    def begin(self, tokens: int, *, sequence: int = 0) -> None:
        """What :meth:`stage` opens, without the ``with``: ends with :meth:`commit` or :meth:`abort`."""
        at = self._sequence("stage", sequence)
        self._cache.stage(at, _count("tokens", tokens, "RingKVCache.stage"))

    def write(self, layer: int, k: FloatArray, v: FloatArray, *, sequence: int = 0) -> None:
        """Store K (after RoPE) and V of the staged tokens in one layer: (tokens, num_kv_heads, head_dim) float32.

        Raises
        ------
        ArgumentValueError
            No transaction is open, a shape is wrong, or a value is not finite or too large for its format; the last
            closes the transaction.
        """
        layer = _count("layer", layer, "RingKVCache.write")
        at = self._sequence("write", sequence)
        k, v = as_array("RingKVCache.write", "k", k), as_array("RingKVCache.write", "v", v)
        self._cache.write(at, layer, k, v, self._threads, self._isa)

    def attend(
        self,
        layer: int,
        q: FloatArray,
        q_sink: FloatArray | None = None,
        *,
        scale: float | None = None,
        out: FloatArray | None = None,
        sequence: int = 0,
    ) -> FloatArray:
        """softmax(scale * q K) V over what each query sees.

        Parameters
        ----------
        layer : index
        q : (tokens, num_heads, head_dim) float32
            Queries of the staged tokens, or, with no transaction open, of the last ``tokens`` committed ones.
        q_sink : array like ``q``, optional
            Scores the sinks in its place.
        scale : 1 / sqrt(head_dim) by default
        out : array like ``q``, optional; may share no memory with it

        Returns
        -------
        (tokens, num_heads, head_dim) float32
            The same bits on every ISA, for any number of threads and any chunking of the tokens.
        """
        layer = _count("layer", layer, "RingKVCache.attend")
        at = self._sequence("attend", sequence)
        q = as_array("RingKVCache.attend", "q", q)
        if q_sink is not None:
            q_sink = as_array("RingKVCache.attend", "q_sink", q_sink)
        target = None if out is None else written_array("RingKVCache.attend", "out", out)
        factor = 1.0 / math.sqrt(self.head_dim) if scale is None else number("RingKVCache.attend", "scale", scale)
        if not math.isfinite(factor):
            raise ArgumentValueError(f"RingKVCache.attend: scale must be finite, got {scale}")
        result = self._cache.attend(at, layer, q, q_sink, factor, target, self._threads, self._isa)
        return result if out is None else out

    def commit(self, accepted: int | None = None, *, sequence: int = 0) -> None:
        """Keep the first ``accepted`` staged tokens (default: all) and close the transaction."""
        at = self._sequence("commit", sequence)
        count = self._cache.staged(at) if accepted is None else _count("accepted", accepted, "RingKVCache.commit")
        self._cache.commit(at, count)

    def abort(self, *, sequence: int = 0) -> None:
        """Drop the staged tokens; nothing happens when there are none."""
        self._cache.abort(self._sequence("abort", sequence))

    def rewind(self, tokens: int, *, sequence: int = 0) -> None:
        """Take back the last ``tokens`` committed tokens.

        Raises
        ------
        KVRewindError
            The next token would see some that the ring has overwritten. ``rewind`` tokens are always to be had, less
            those that were staged past the committed ones and rejected.
        """
        at = self._sequence("rewind", sequence)
        count = _count("tokens", tokens, "RingKVCache.rewind")
        try:
            self._cache.rewind(at, count)
        except KVRewindError as error:
            error.needed, error.oldest_resident = self._cache.rewind_limit(at, min(count, 2**62))
            raise

    def fork(self, source: int, target: int) -> None:
        """Make sequence ``target`` a copy of ``source``: a prefix that several continuations share."""
        self._cache.fork(self._sequence("fork", source), self._sequence("fork", target))

    def reset(self, *, position: int = 0, sequence: int = 0) -> None:
        """Forget a sequence. Its next token has ``position``; sinks are the tokens at positions below ``sinks``."""
        at = self._sequence("reset", sequence)
        self._cache.reset(at, _count("position", position, "RingKVCache.reset"))

    def save(self, path: str | os.PathLike[str] | None = None, *, model: bytes = b"", sequence: int = 0) -> bytes:
        """The sequence as bytes, and atomically in ``path``. ``model`` is any mark that tells models apart."""
        target = None if path is None else _path("save", path)
        state = self._cache.save(self._sequence("save", sequence), _model("save", model))
        if target is not None:
            with files.atomic_write(target, function="RingKVCache.save") as file:
                file.write(state)
        return state

    def load(self, state: bytes | str | os.PathLike[str], *, model: bytes = b"", sequence: int = 0) -> None:
        """Continue from :meth:`save`, with the same bits.

        Raises
        ------
        ArtifactError
            Bytes are missing or altered, or the state belongs to another model or another kind of cache. The sequence
            is then as it was.
        """
        at = self._sequence("load", sequence)
        mark = _model("load", model)
        with naming_kind(state, "a saved cache"):
            if isinstance(state, (bytes, bytearray, memoryview)):
                data = bytes(state)
            else:
                limit = self.nbytes + len(mark) + _STATE_HEADER_BYTES
                data = files.read_bytes(_path("load", state), function="RingKVCache.load", limit=limit)
            self._cache.load(at, mark, data)

    def __reduce__(self) -> tuple[Any, ...]:
        names = ["num_layers", "num_kv_heads", "head_dim", "num_heads", "window", "sinks", "max_chunk", "k", "v"]
        names += ["query_bits", "num_sequences"]
        options = {name: getattr(self, name) for name in names}
        options |= {"rewind": self.max_rewind, "num_threads": self._threads or None, "isa": self._isa}
        return _restored, (options, [self.save(sequence=sequence) for sequence in range(self.num_sequences)])

    def keys(self, layer: int, position: int, *, sequence: int = 0) -> FloatArray:
        """Stored K of one position, as floats: (num_kv_heads, head_dim)."""
        return self._read("keys", layer, False, position, sequence)

    def values(self, layer: int, position: int, *, sequence: int = 0) -> FloatArray:
        """Stored V of one position, as floats: (num_kv_heads, head_dim)."""
        return self._read("values", layer, True, position, sequence)

    def _read(self, name: str, layer: int, value: bool, position: int, sequence: int) -> FloatArray:
        function = f"RingKVCache.{name}"
        at = self._sequence(name, sequence)
        return self._cache.read(at, _count("layer", layer, function), value, _count("position", position, function))

    def _sequence(self, function: str, sequence: object) -> int:
        at = _count("sequence", sequence, f"RingKVCache.{function}")
        if at >= self.num_sequences:
            raise ArgumentValueError(
                f"RingKVCache.{function}: sequence must be below num_sequences ({self.num_sequences}), got {at}"
            )
        return at


def _restored(options: dict[str, Any], states: list[bytes]) -> RingKVCache:
    cache = RingKVCache(**options)
    for sequence, state in enumerate(states):
        cache.load(state, sequence=sequence)
    return cache
