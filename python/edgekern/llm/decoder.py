"""The decoder: a model with its cache, from prompts to tokens."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import integer, number
from edgekern._arrays import lent, written_array
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.kvcache import RingKVCache
from edgekern.llm.config import ModelConfig
from edgekern.llm.encodings import FloatArray
from edgekern.llm.packing import WeightFormat
from edgekern.llm.stops import Stops, Watch
from edgekern.llm.tokenizer import Tokenizer
from edgekern.machine import read_bandwidth

_Draw = Callable[[FloatArray], int]


@dataclass(frozen=True)
class Figures:
    """What a run of :meth:`Decoder.generate` took.

    Attributes
    ----------
    prompt_tokens, new_tokens : tokens read, tokens written
    prefill_seconds : from the call to the logits of the prompt's last token
    first_token_seconds : from the call to the first new token
    decode_seconds : from the first new token to the last one
    kv_bytes, weight_bytes : memory of the cache; weights that one step reads
    """

    prompt_tokens: int
    new_tokens: int
    prefill_seconds: float
    first_token_seconds: float
    decode_seconds: float
    kv_bytes: int
    weight_bytes: int

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second, the first one not counted."""
        return (self.new_tokens - 1) / self.decode_seconds if self.new_tokens > 1 and self.decode_seconds else 0.0

    @property
    def read_bandwidth(self) -> float:
        """Bytes of weights read per second while decoding."""
        return self.decode_rate * self.weight_bytes

    def __str__(self) -> str:
        return (
            f"prefill {self.prefill_rate:.1f} tokens/s ({self.prompt_tokens}), decode {self.decode_rate:.1f} tokens/s "
            f"({self.new_tokens}), first token {self.first_token_seconds * 1e3:.1f} ms, "
            f"KV cache {self.kv_bytes / 1e6:.2f} MB, weights read at {self.read_bandwidth / 1e9:.2f} GB/s"
        )


class Decoder:
    """A LLaMA-family model ready to run; made by :func:`edgekern.llm.load`.

    The logits have the same bits on every instruction set, for any number of threads, for any cut of a text into
    chunks, and whichever other sequences run in the same step. One caller at a time.

    Attributes
    ----------
    config : ModelConfig
    tokenizer : Tokenizer or None
    weights : how the matrices are kept
    cache : RingKVCache
        Positions, ``rewind``, ``fork``, ``reset``, ``save`` and ``load`` are the cache's.
    figures : Figures or None
        Of the last :meth:`generate` that has ended.
    """

    def __init__(
        self,
        core: _core.Decoder,
        config: ModelConfig,
        weights: WeightFormat,
        cache: RingKVCache,
        tokenizer: Tokenizer | None,
        num_threads: int,
    ) -> None:
        self._core, self._num_threads = core, num_threads
        self.config, self.weights, self.cache, self.tokenizer = config, weights, cache, tokenizer
        self.figures: Figures | None = None

    def __reduce__(self) -> tuple[object, ...]:
        raise ArgumentTypeError(
            "Decoder: a decoder cannot be pickled or copied; call llm.load where it is needed, and send its cache"
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one step reads; rows of the embedding table are not counted."""
        return self._core.weight_bytes

    def read_bandwidth(self) -> float:
        """Bytes per second at which this machine reads as many bytes as a step does: the limit of decoding.

        Measured in about half a second, from memory or from whichever cache holds so many (at most 512 MB are read).
        """
        return read_bandwidth(self.weight_bytes, self._num_threads)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Token ids of a text. Raises ArgumentValueError when the model came without a tokenizer."""
        return self._tokenizer("encode").encode(text, bos=bos)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids. Raises ArgumentValueError when the model came without a tokenizer."""
        return self._tokenizer("decode").decode(ids)

    def logits(self, ids: Sequence[int], *, sequence: int = 0) -> FloatArray:
        """Continue a sequence by these tokens; the logits after each of them.

        Returns
        -------
        (len(ids), vocab) float32

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            No ids, or one that is no integer of the vocabulary.
        """
        tokens = _ids("logits", ids)
        out = np.empty((len(tokens), self.config.vocab), np.float32)
        for first in range(0, len(tokens), self.cache.max_chunk):
            part = tokens[first : first + self.cache.max_chunk]
            self._forward([(sequence, part)], every_row=True, out=out[first : first + len(part)])
        return out

    def prefill(self, ids: Sequence[int], *, sequence: int = 0) -> FloatArray:
        """Continue a sequence by these tokens; the logits after the last of them, (vocab,) float32.

        A prompt longer than the window slides through it: what a full window has pushed out is forgotten, but for the
        sinks.
        """
        tokens = _ids("prefill", ids)
        out = np.empty((1, self.config.vocab), np.float32)
        for first in range(0, len(tokens), self.cache.max_chunk):
            self._forward([(sequence, tokens[first : first + self.cache.max_chunk])], every_row=False, out=out)
        row: FloatArray = out[0]
        return row

    def step(self, tokens: Mapping[int, int], *, out: FloatArray | None = None) -> FloatArray:
        """One token for each of several sequences, in one pass over the weights.

        Parameters
        ----------
        tokens : the next token by sequence
        out : (len(tokens), vocab) float32, optional

        Returns
        -------
        (len(tokens), vocab) float32, in the order of ``tokens``
        """
        if not isinstance(tokens, Mapping):
            raise ArgumentTypeError(f"step: tokens must map sequences to tokens, got {type(tokens).__name__}")
        spans = [(sequence, _ids("step", [token])) for sequence, token in tokens.items()]
        target = None if out is None else written_array("step", "out", out)
        result = self._forward(spans, every_row=False, out=target)
        return result if out is None else out

    def stage(self, ids: Sequence[int], *, sequence: int = 0) -> FloatArray:
        """Try tokens, as speculative decoding does: like :meth:`logits`, but nothing is kept before :meth:`commit`.

        At most ``cache.max_chunk`` tokens. A rejected draft never evicts what the sequence still sees.
        """
        return self._run([(sequence, _ids("stage", ids))], every_row=True, out=None)

    def commit(self, accepted: int, *, sequence: int = 0) -> None:
        """Keep the first ``accepted`` of the staged tokens."""
        self.cache.commit(accepted, sequence=sequence)

    def abort(self, *, sequence: int = 0) -> None:
        """Keep none of the staged tokens."""
        self.cache.abort(sequence=sequence)

    def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Collection[int | str] | str | int | None = None,
        sequence: int = 0,
        reset: bool = True,
    ) -> Iterator[int]:
        """Continue a prompt token by token.

        Parameters
        ----------
        prompt_ids : at least one token
        max_new_tokens : int
        temperature : 0 takes the likeliest token; above, tokens are drawn by ``exp(logit / temperature)``
        top_k : draw among so many of the likeliest; 0 is all
        top_p : draw among the fewest of the likeliest whose probabilities reach it
        seed : of the draws; the same seed gives the same tokens on every machine
        stop : what ends the text and is not given out: token ids, and strings where the model has a tokenizer, such as
            ``[2, "."]``; default: the tokenizer's tokens. A token in which a string begins is not given out, and tokens
            are held back while one may be beginning in them
        sequence : which of the cache's sequences
        reset : begin a new text; False continues the sequence as it stands

        Yields
        ------
        int
            Tokens as they are made. :attr:`figures` tells afterwards what it took.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            At the call, not at the first token.
        """
        prompt = self._prompt(prompt_ids)
        draw = self._draw(max_new_tokens, temperature, top_k, top_p, seed)
        watch = Stops.of(stop, self.tokenizer).watch(prompt)
        if reset:
            self.cache.reset(sequence=sequence)
        return self._generate(prompt, integer("generate", "max_new_tokens", max_new_tokens), draw, watch, sequence)

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Collection[int | str] | str | int | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Continue several prompts side by side, each with the tokens that :meth:`generate` would give it.

        Parameters
        ----------
        prompts : at most ``cache.num_sequences`` of them; prompt ``i`` runs in sequence ``i`` with ``seed + i``
        max_new_tokens, temperature, top_k, top_p, seed, stop : as in :meth:`generate`

        Yields
        ------
        (int, int)
            The prompt's index and its next token.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            At the call, not at the first token.
        """
        if not isinstance(prompts, Iterable) or isinstance(prompts, (str, bytes)):
            raise ArgumentTypeError(
                f"generate_batch: prompts must be a list of lists of token ids, got {type(prompts).__name__}"
            )
        texts = [self._prompt(prompt) for prompt in prompts]
        if len(texts) > self.cache.num_sequences:
            raise ArgumentValueError(
                f"generate_batch: got {len(texts)} prompts for {self.cache.num_sequences} sequences; load the model "
                f"with num_sequences={len(texts)}"
            )
        draws = [self._draw(max_new_tokens, temperature, top_k, top_p, seed, index) for index in range(len(texts))]
        stops = Stops.of(stop, self.tokenizer)
        return self._generate_batch(texts, integer("generate", "max_new_tokens", max_new_tokens), draws, stops)

    def _generate_batch(
        self, texts: list[list[int]], count: int, draws: list[_Draw], stops: Stops
    ) -> Iterator[tuple[int, int]]:
        rows: dict[int, FloatArray] = {}
        watches = [stops.watch(ids) for ids in texts]
        for index, ids in enumerate(texts):
            self.cache.reset(sequence=index)
            rows[index] = self.prefill(ids, sequence=index)
        for _ in range(count):
            drawn = {index: draws[index](row) for index, row in rows.items()}
            tokens: dict[int, int] = {}
            for index, token in drawn.items():
                given, ended = watches[index].push(token)
                if not ended:
                    tokens[index] = token
                yield from ((index, one) for one in given)
            rows = {}
            if not tokens:
                return
            rows = dict(zip(tokens, self.step(tokens), strict=True))
        for index in rows:
            yield from ((index, one) for one in watches[index].rest())

    def _prompt(self, ids: Sequence[int]) -> list[int]:
        prompt = _ids("generate", ids)
        for token in prompt:
            if not 0 <= token < self.config.vocab:
                raise ArgumentValueError(
                    f"generate: token id {token} is out of range; the model has {self.config.vocab}"
                )
        return prompt

    def _draw(self, count: int, temperature: float, top_k: int, top_p: float, seed: int, later: int = 0) -> _Draw:
        count, top_k = integer("generate", "max_new_tokens", count), integer("generate", "top_k", top_k)
        temperature, top_p = number("generate", "temperature", temperature), number("generate", "top_p", top_p)
        try:
            seed = operator.index(seed) + later
        except TypeError as error:
            raise ArgumentTypeError(f"generate: seed must be an integer, got {type(seed).__name__}") from error
        if count < 0 or top_k < 0 or not temperature >= 0 or not 0 < top_p <= 1:
            raise ArgumentValueError(
                "generate: max_new_tokens, temperature and top_k must not be negative and top_p lie in (0, 1], got "
                f"{count}, {temperature}, {top_k} and {top_p}"
            )
        sampler = _core.Sampler(self.config.vocab, seed & 0xFFFFFFFFFFFFFFFF)
        return lambda logits: sampler.draw(logits, temperature, top_k, top_p)

    def _generate(self, prompt: list[int], count: int, draw: _Draw, watch: Watch, sequence: int) -> Iterator[int]:
        begin = time.perf_counter()
        logits = self.prefill(prompt, sequence=sequence)
        prefilled = first = last = time.perf_counter()
        made = 0
        row = np.empty((1, self.config.vocab), np.float32)
        try:
            while made < count:
                token = draw(logits)
                given, ended = watch.push(token)
                if not ended:
                    made += 1
                    last = time.perf_counter()
                    first = last if made == 1 else first
                yield from given
                if ended:
                    break
                if made < count:
                    logits = self._forward([(sequence, [token])], every_row=False, out=row)[0]
            else:
                yield from watch.rest()
        finally:
            self.figures = Figures(
                len(prompt), made, prefilled - begin, first - begin, last - first, self.cache.nbytes, self.weight_bytes
            )

    def cross_entropies(self, ids: Sequence[int], *, sequence: int = 0) -> npt.NDArray[np.float64]:
        """-log p, natural, of every token but the first, in a text that begins with them.

        Returns
        -------
        (len(ids) - 1,) float64
        """
        tokens = _ids("cross_entropies", ids)
        self.cache.reset(sequence=sequence)
        losses = [np.empty(0)]
        for first in range(0, len(tokens) - 1, self.cache.max_chunk):
            part = tokens[first : min(first + self.cache.max_chunk, len(tokens) - 1)]
            log_p = log_softmax(self.logits(part, sequence=sequence))
            losses.append(-log_p[np.arange(len(part)), tokens[first + 1 : first + 1 + len(part)]])
        return np.concatenate(losses)

    def perplexity(self, text: str | Sequence[int]) -> float:
        """exp of the mean of -log p over the tokens of a text (all but the first)."""
        ids = self.encode(text) if isinstance(text, str) else text
        losses = self.cross_entropies(ids)
        if losses.size == 0:
            raise ArgumentValueError("perplexity: a text of at least two tokens is needed")
        return float(np.exp(losses.mean()))

    def _tokenizer(self, function: str) -> Tokenizer:
        if self.tokenizer is None:
            raise ArgumentValueError(f"{function}: the model has no tokenizer; load it with tokenizer=path")
        return self.tokenizer

    def _run(self, spans: list[tuple[int, list[int]]], *, every_row: bool, out: FloatArray | None) -> FloatArray:
        for sequence, _ in spans:
            if integer("Decoder", "sequence", sequence) < 0:
                raise ArgumentValueError(f"Decoder: sequence must not be negative, got {sequence}")
        return self._core.forward(self.cache.core, spans, every_row, out, self._num_threads)

    def _forward(self, spans: list[tuple[int, list[int]]], *, every_row: bool, out: FloatArray | None) -> FloatArray:
        logits = self._run(spans, every_row=every_row, out=out)
        for sequence, tokens in spans:
            self.cache.commit(len(tokens), sequence=sequence)
        return logits


def log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """log p of rows of logits, in double."""
    z = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return z


def _ids(function: str, ids: Sequence[int]) -> list[int]:
    given = lent(function, "token ids", ids)
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ArgumentTypeError(f"{function}: token ids must be a list of integers, got {type(ids).__name__} {ids!r}")
    tokens = list(given)
    for token in tokens:
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise ArgumentTypeError(f"{function}: token ids must be integers, got {token!r}")
        if not -(1 << 31) <= token < 1 << 31:
            raise ArgumentValueError(f"{function}: token id {token} is out of range")
    if not tokens:
        raise ArgumentValueError(f"{function}: at least one token is needed")
    return tokens
