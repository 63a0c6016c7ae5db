"""From a path to a decoder: which loader, which tokenizer, how much memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from edgekern import _core, files
from edgekern._arguments import byte_count, file_path, integer, isa_name, string, thread_count
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError
from edgekern.file_kinds import naming_kind
from edgekern.kvcache import RingKVCache
from edgekern.llm import vocabulary
from edgekern.llm.budget import Settings, block_within, cache_spec, sizes_of
from edgekern.llm.decoder import Decoder
from edgekern.llm.gguf import read_gguf, weights_of
from edgekern.llm.llama2c import load_llama2c
from edgekern.llm.mapped import CODES, MappedModel, is_packed
from edgekern.llm.packing import BLOCK_BYTES, Kind, Packed, WeightFormat, weight_kind
from edgekern.llm.safetensors import load_huggingface
from edgekern.llm.tokenizer import Tokenizer
from edgekern.llm.weights import BIAS_NAMES, EMBEDDING, FINAL_NORM, Stored, Weights

_NAME = "llm.load"

Verify = Literal["full", "lazy"]


def read_model(path: str | os.PathLike[str]) -> tuple[Weights, Tokenizer | None]:
    """Map a model file and read its config, its tensors' places, and its tokenizer.

    Parameters
    ----------
    path : a GGUF file, a llama2.c ``.bin``, a Hugging Face folder, or a file in one

    Raises
    ------
    ArtifactError
        The file is damaged, or of a kind that is not implemented.
    OSError
        It cannot be opened.
    """
    file = file_path(_NAME, "path", path)
    own = ("gguf", "safetensors") if file.suffix == ".safetensors" else ("gguf",)
    with naming_kind(file, "a GGUF file, a llama2.c .bin or a Hugging Face folder", *own):
        return _read_model(file)


def _read_model(file: Path) -> tuple[Weights, Tokenizer | None]:
    if file.is_dir() or file.suffix == ".safetensors":
        folder = file if file.is_dir() else file.parent
        weights = load_huggingface(folder)
        beside = folder / "tokenizer.json"
        stops = vocabulary.folder_stops(folder)
        vocab = weights.config.vocab
        return weights, vocabulary.file_tokenizer(beside, vocab, stops=stops) if beside.exists() else None
    with files.open_regular(file, function="llm.load") as opened:
        magic = opened.read(4)
    if magic == b"GGUF":
        gguf = read_gguf(file)
        weights = weights_of(gguf)
        return weights, vocabulary.gguf_tokenizer(gguf, weights.config.vocab)
    if file.suffix == ".gguf":
        raise ArtifactError(f"llm.load: {file} is no GGUF file: it begins with {magic!r}")
    return load_llama2c(file), None


def load(
    path: str | os.PathLike[str],
    *,
    weights: Kind | None = None,
    group_size: int | None = None,
    kv: str = "int8",
    window: int | None = None,
    sinks: int | None = None,
    max_chunk: int = 256,
    rewind: int = 16,
    num_sequences: int = 1,
    tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
    memory_budget: int | str | None = None,
    num_threads: int | None = None,
    isa: str | None = None,
    verify: Verify = "full",
) -> Decoder:
    """Load a LLaMA-family model and make it ready to run.

    Parameters
    ----------
    path : GGUF file, llama2.c ``.bin``, Hugging Face folder, or what :func:`quantize` has written (``.ekllm``)
    weights : {"int8", "int4", "int2", "float32"}, optional
        int8 has a scale per output, int4 and int2 one per ``group_size`` inputs. int2 keeps the sign of a weight or 0
        (docs/int2.md): for models that were trained for it. Default: int8, or what a .ekllm file holds.
    group_size : {32, 64, 128}, optional
        Of int4, default 32, and of int2, 64 or 128, default 64; or that of a .ekllm file.
    kv : str
        Storage of the cache, as :class:`edgekern.RingKVCache` names it: float32, float16, bfloat16, int8, k8v4, int4,
        article.
    window : int, optional
        Tokens that a token sees; default: the model's own, at most 4096.
    sinks : int, optional
        First tokens that stay visible when the window has slid past them; default 4, or 0 for a model that was trained
        with a window.
    max_chunk : most tokens of one pass
    rewind : committed tokens that can always be taken back
    num_sequences : texts that run side by side
    tokenizer : path of a tokenizer.json or llama2.c's tokenizer.bin, or an object; default: the model's
    memory_budget : int or str, optional
        Bytes that all of it may take, while loading too; "1G" and "512MiB" are powers of 1024, "300MB" of 1000. The
        mapped file counts for nothing, rows of the embedding table among it: its pages can be dropped at any time.
    num_threads : int, optional
    isa : force an instruction set; None is the best, or EDGEKERN_ISA
    verify : {"full", "lazy"}
        Of a .ekllm file, whose weights are used where they are mapped: compare the hashes of all, which reads the file
        once, or leave out those of the weights, whose pages then come when they are used.

    Returns
    -------
    Decoder

    Raises
    ------
    ArtifactError
        The file is damaged or of a kind that is not implemented; the message names the tensor or the key.
    MemoryBudgetError
        The plan, made before anything is loaded, passes the budget or what this process can have; the message says what
        needs how much, and which change fits.
    ArgumentValueError, OSError
    """
    given = None if weights is None else weight_kind(string(_NAME, "weights", weights))
    group = None if group_size is None else integer(_NAME, "group_size", group_size)
    if string(_NAME, "verify", verify) not in ("full", "lazy"):
        raise ArgumentValueError(f"{_NAME}: verify must be 'full' or 'lazy', got {verify!r}")
    string(_NAME, "kv", kv)
    max_chunk, rewind, num_sequences = (
        integer(_NAME, name, value)
        for name, value in (("max_chunk", max_chunk), ("rewind", rewind), ("num_sequences", num_sequences))
    )
    window = None if window is None else integer(_NAME, "window", window)
    sinks = None if sinks is None else integer(_NAME, "sinks", sinks)
    for name, least, value in (
        ("max_chunk", 1, max_chunk),
        ("rewind", 0, rewind),
        ("num_sequences", 1, num_sequences),
        ("window", 1, window),
        ("sinks", 0, sinks),
    ):
        if value is not None and value < least:
            raise ArgumentValueError(f"{_NAME}: {name} must be at least {least}, got {value}")
    budget = None if memory_budget is None else byte_count(_NAME, "memory_budget", memory_budget)
    threads = thread_count(_NAME, num_threads)
    resolved_isa = isa_name(_NAME, isa)
    file = file_path(_NAME, "path", path)
    model: Weights | MappedModel
    if is_packed(file):
        model = MappedModel(file, verified=verify == "full")
        found = model.tokenizer
        if (given or model.form.kind, group or model.form.group_size) != (model.form.kind, model.form.group_size):
            raise ArgumentValueError(f"{_NAME}: {file} holds {model.form}, got weights={weights!r}, {group_size=}")
        form = model.form
    else:
        form = WeightFormat.of(given or "int8", group)
        model, found = read_model(file)
    config = model.config
    if isinstance(tokenizer, (str, bytes, os.PathLike)):
        stops = found.stops if found is not None else frozenset()
        found = vocabulary.file_tokenizer(file_path(_NAME, "tokenizer", tokenizer), config.vocab, stops=stops)
    elif tokenizer is not None:
        if not all(hasattr(tokenizer, name) for name in ("vocab", "stops", "encode", "decode")):
            raise ArgumentTypeError(
                f"{_NAME}: tokenizer must be a path or have vocab, stops, encode and decode, got "
                f"{type(tokenizer).__name__}"
            )
        found = tokenizer
    if found is not None and found.vocab > config.vocab:
        raise ArgumentValueError(f"llm.load: the tokenizer has {found.vocab} tokens; the model has {config.vocab}")
    settings = Settings.of(
        config,
        form,
        kv=kv,
        window=window,
        sinks=sinks,
        max_chunk=max_chunk,
        rewind=rewind,
        num_sequences=num_sequences,
        mapped=isinstance(model, MappedModel),
    )
    block = block_within(config, settings, budget)
    cache = RingKVCache(**cache_spec(config, settings), kv=kv)
    if isinstance(model, MappedModel):
        core = model.decoder(max_chunk=max_chunk, isa=resolved_isa)
    else:
        core = pack_model(model, form, max_chunk=max_chunk, isa=resolved_isa, block_bytes=block)
    return Decoder(core, config, form, cache, found, threads)


def pack_model(
    model: Weights, form: WeightFormat, *, max_chunk: int, isa: str, block_bytes: int = BLOCK_BYTES
) -> _core.Decoder:
    """Pack all matrices of a model and hand them to the core; the embedding table stays in the file."""
    config = model.config

    def pack(*parts: Stored, interleaved: bool = False) -> Packed:
        return form.pack(parts, interleaved=interleaved, block_bytes=block_bytes)

    layers = []
    for index in range(config.layers):
        part = {name: model.of_layer(index, name) for name in ("q", "k", "v", "o", "gate", "up", "down")}
        bias = None
        if config.qkv_bias:
            vectors = [model.of_layer(index, name).vector() for name in BIAS_NAMES]
            bias = np.concatenate(vectors)
        layers.append(
            (
                model.of_layer(index, "attention_norm").vector(),
                pack(part["q"], part["k"], part["v"]),
                bias,
                pack(part["o"]),
                model.of_layer(index, "ffn_norm").vector(),
                pack(part["gate"], part["up"], interleaved=True),
                pack(part["down"]),
            )
        )
    embedding = model[EMBEDDING]
    return _core.Decoder(
        **sizes_of(config),
        eps=config.eps,
        rope_magnitude=config.rope_attention,
        rope_phases=list(config.rope_phases()),
        max_rows=max_chunk,
        embedding=embedding.data,
        embedding_code=CODES[embedding.encoding],
        layer_weights=layers,
        final_norm=model[FINAL_NORM].vector(),
        head=pack(model.head),
        isa=isa,
    )
