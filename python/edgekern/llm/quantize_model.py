"""From a float model to a .ekllm file: by which method its weights are rounded, packed as the decoder reads them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgekern._arguments import file_path, flag, integer, string
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.llm import vocabulary
from edgekern.llm.loading import read_model
from edgekern.llm.methods.layers import LayerRounder, RoundedLayer, Text
from edgekern.llm.methods.rotation import Rotated, Source
from edgekern.llm.methods.rounding import Method, check_method, needs_text
from edgekern.llm.packed_file import Writer, writing
from edgekern.llm.packing import Rounded, WeightFormat, weight_kind
from edgekern.llm.tokenizer import Tokenizer
from edgekern.llm.weights import BIAS_NAMES, FINAL_NORM, HEAD, layer_name

_NAME = "llm.quantize"
_TOKENS = 16384


@dataclass(frozen=True)
class Quantized:
    """What :func:`quantize` has written.

    Attributes
    ----------
    path : the file
    method : with ``rotate`` as "rotation+gptq"
    weights : "int4 g32"
    weight_bytes : of the packed matrices, which a step reads
    embedding_bytes : of the table of tokens, of which a step reads a row
    nbytes : of the file
    tokens : of calibration text
    seconds : int
    """

    path: Path
    method: str
    weights: str
    weight_bytes: int
    embedding_bytes: int
    nbytes: int
    tokens: int
    seconds: float

    def __str__(self) -> str:
        read = f", {self.tokens} tokens of text" if self.tokens else ""
        return (
            f"{self.path}: {self.nbytes / 1e6:.2f} MB, of which {self.weight_bytes / 1e6:.2f} MB are matrices as "
            f"{self.weights} by {self.method}{read}; {self.seconds:.0f} s"
        )


def quantize(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    weights: Literal["int4", "int8", "int2"] = "int4",
    group_size: int | None = None,
    method: Method = "nearest",
    rotate: bool = False,
    texts: Iterable[str] | None = None,
    tokens: Iterable[Sequence[int]] | None = None,
    max_tokens: int = _TOKENS,
    tokenizer: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Quantized:
    """Quantize a language model and save it packed: :func:`load` maps the file and uses the weights where they lie.

    Parameters
    ----------
    path : GGUF file, llama2.c ``.bin``, or Hugging Face folder
    output : the file to write, ``.ekllm`` by custom
    weights : {"int4", "int8", "int2"}
        int4 has a scale for every ``group_size`` inputs, int8 one for each output. int2 keeps the sign of a weight, or
        0, with scales as int4.
    group_size : {32, 64, 128}, optional
        Of int4, default 32, and of int2, 64 or 128, default 64.
    method : {"nearest", "hqq", "gptq", "awq", "awq+gptq"}
        "nearest": the same bits as loading ``path`` with these weights. "hqq" (int4): scales and zero points by
        half-quadratic splitting, without data. "gptq": each weight mends what those before it went wrong. "awq":
        weights are scaled by the activations that they meet. The last three want calibration text, and all but
        "nearest" ``edgekern[toolkit]``.
    rotate : bool
        Turn the residual stream and the heads' values by random orthogonal matrices first, which no logit shows, but
        for rounding. The head is then a matrix of its own.
    texts, tokens : calibration text, one of both
        Texts for the tokenizer, or ids. Each is cut to the model's context.
    max_tokens : int
        Calibration ends there.
    tokenizer : path of a tokenizer.json or llama2.c's tokenizer.bin, optional
        Default: the model's. It is saved with the model.
    seed : of the rotation
    progress : bool
        Show on a terminal how many matrices are done, and how long the rest will take.

    Returns
    -------
    Quantized

    Raises
    ------
    ArtifactError
        The model is damaged, or of a kind that is not implemented.
    ArgumentTypeError, ArgumentValueError, OSError

    Notes
    -----
    One layer's float weights are in memory at a time. A method with text holds, for T tokens, 4 T (dim + 5 hidden)
    bytes of activations, and the second moments of its widest matrix, 32 hidden ** 2 bytes while GPTQ factors them.
    """
    begin = time.perf_counter()
    source_path, target = file_path(_NAME, "path", path), file_path(_NAME, "output", output)
    kind = weight_kind(string(_NAME, "weights", weights))
    if kind == "float32":
        raise ArgumentValueError(f"{_NAME}: weights must be int4, int8 or int2, got 'float32'")
    group = None if group_size is None else integer(_NAME, "group_size", group_size)
    form = WeightFormat.of(kind, group)
    chosen = check_method(_NAME, string(_NAME, "method", method), form)
    turned = flag(_NAME, "rotate", rotate)
    limit = integer(_NAME, "max_tokens", max_tokens)
    if limit < 1:
        raise ArgumentValueError(f"{_NAME}: max_tokens must be at least 1, got {limit}")
    if needs_text(chosen) and (texts is None) == (tokens is None):
        raise ArgumentValueError(
            f"{_NAME}: method={chosen!r} wants calibration text; pass texts= or tokens=, one of both"
        )
    model, found = read_model(source_path)
    config, sources = model.config, [source_path]
    if tokenizer is not None:
        sources.append(file_path(_NAME, "tokenizer", tokenizer))
        stops = found.stops if found is not None else frozenset()
        found = vocabulary.file_tokenizer(sources[-1], config.vocab, stops=stops)
    ids = _calibration(found, texts, tokens, config.vocab, config.context, limit) if needs_text(chosen) else []
    source = Rotated(model, integer(_NAME, "seed", seed)) if turned else Source(model)
    embedding = source.embedding()
    plain = chosen == "nearest"
    name = ("rotation+" if turned else "") + chosen if not (turned and plain) else "rotation"
    with (
        writing(target, sources, source.config, form, found) as writer,
        _progress(4 * config.layers + 1, enabled=flag(_NAME, "progress", progress)) as advance,
    ):
        writer.add("embedding", embedding.data)
        if plain:
            _write_nearest(writer, source, form, advance)
        else:
            _write_rounded(writer, LayerRounder(source, form, chosen, Text(source, ids) if ids else None, advance))
        count = sum(map(len, ids))
        notes = {"method": name, "calibration_tokens": count}
        packed = writer.finish(embedding.encoding.name, notes)
    seconds = time.perf_counter() - begin
    return Quantized(target, name, str(form), packed, embedding.data.nbytes, target.stat().st_size, count, seconds)


def _write_nearest(writer: Writer, source: Source, form: WeightFormat, advance: Callable[[], None]) -> None:
    """By the codes that loading the float file gives."""

    def matrix(blob: str, *names: str, interleaved: bool = False) -> None:
        packed = form.pack([source.stored(name) for name in names], interleaved=interleaved)
        writer.add_matrix(blob, packed)  # type: ignore[arg-type]  # which all but float32 are
        advance()

    for index in range(source.config.layers):

        def named(*kinds: str, layer: int = index) -> list[str]:
            return [layer_name(layer, kind) for kind in kinds]

        matrix(*named("qkv", "q", "k", "v"))
        if source.config.qkv_bias:
            bias = np.concatenate([source.vector(name) for name in named(*BIAS_NAMES)])
            writer.add(layer_name(index, "qkv.bias"), bias)
        matrix(*named("o", "o"))
        matrix(*named("gate_up", "gate", "up"), interleaved=True)
        matrix(*named("down", "down"))
        for norm in named("attention_norm", "ffn_norm"):
            writer.add(norm, source.vector(norm))
    writer.add(FINAL_NORM, source.vector(FINAL_NORM))
    matrix(HEAD, HEAD)


def _write_rounded(writer: Writer, rounder: LayerRounder) -> None:
    def matrix(name: str, rounded: Rounded, *, interleaved: bool = False) -> None:
        writer.add_matrix(name, rounded.pack(interleaved=interleaved))  # type: ignore[arg-type]

    for index in range(rounder.layers):
        layer: RoundedLayer = rounder.layer(index)
        matrix(layer_name(index, "qkv"), layer.qkv)
        if layer.qkv_bias is not None:
            writer.add(layer_name(index, "qkv.bias"), layer.qkv_bias)
        matrix(layer_name(index, "o"), layer.o)
        matrix(layer_name(index, "gate_up"), layer.gate_up, interleaved=True)
        matrix(layer_name(index, "down"), layer.down)
        writer.add(layer_name(index, "attention_norm"), layer.attention_norm)
        writer.add(layer_name(index, "ffn_norm"), layer.ffn_norm)
    head, norm = rounder.head()
    writer.add(FINAL_NORM, norm)
    matrix(HEAD, head)


def _calibration(
    tokenizer: Tokenizer | None,
    texts: Iterable[str] | None,
    tokens: Iterable[Sequence[int]] | None,
    vocab: int,
    context: int,
    limit: int,
) -> list[list[int]]:
    """Token ids of the calibration text, so many in all."""
    if texts is not None and tokenizer is None:
        raise ArgumentValueError(
            f"{_NAME}: texts= needs a tokenizer, and the model has none; pass tokenizer= or tokens="
        )
    if isinstance(texts, str):
        raise ArgumentTypeError(f"{_NAME}: texts must be a list of texts, got one str; put it into a list")
    for name, given in (("texts", texts), ("tokens", tokens)):
        if given is not None and not isinstance(given, Iterable):
            raise ArgumentTypeError(f"{_NAME}: {name} must be a list, got {type(given).__name__}")
    found: list[list[int]] = []
    left = limit
    for ids in _ids(tokenizer, texts, tokens):
        if not hasattr(ids, "__len__") or not hasattr(ids, "__getitem__"):
            raise ArgumentTypeError(f"{_NAME}: each of tokens must be a list of ids, got {type(ids).__name__}")
        for first in range(0, len(ids), context):
            part = [integer(_NAME, "a token", token) for token in ids[first : first + min(context, left)]]
            if any(not 0 <= token < vocab for token in part):
                raise ArgumentValueError(f"{_NAME}: tokens must lie in [0, {vocab}), got {part}")
            if part:
                found.append(part)
            left -= len(part)
            if left <= 0:
                return found
    if not found:
        raise ArgumentValueError(
            f"{_NAME}: there is no token of calibration text; give some, like what the model is to read"
        )
    return found


def _ids(
    tokenizer: Tokenizer | None, texts: Iterable[str] | None, tokens: Iterable[Sequence[int]] | None
) -> Iterator[Sequence[int]]:
    if tokens is not None:
        yield from tokens
    elif texts is not None and tokenizer is not None:
        for text in texts:
            yield tokenizer.encode(string(_NAME, "a text", text))


@contextmanager
def _progress(steps: int, *, enabled: bool) -> Iterator[Callable[[], None]]:
    """A bar with the time left, where standard error is a terminal."""
    if not (enabled and sys.stderr.isatty()):
        yield lambda: None
        return
    from edgekern.calibration.progress import progress_bar

    with progress_bar("matrices", steps, enabled=True) as advance:
        yield advance
