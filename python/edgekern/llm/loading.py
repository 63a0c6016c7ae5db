"""From a path to a decoder: which loader, which tokenizer, how much memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgekern import _core, files
from edgekern.errors import ArgumentValueError, ArtifactError, MemoryBudgetError
from edgekern.kvcache import RingKVCache
from edgekern.llm import vocabulary
from edgekern.llm.config import ModelConfig
from edgekern.llm.decoder import Decoder
from edgekern.llm.encodings import BF16, F16, F32, Q4_0, Q8_0
from edgekern.llm.gguf import read_gguf, weights_of
from edgekern.llm.llama2c import load_llama2c
from edgekern.llm.packing import Kind, WeightFormat
from edgekern.llm.safetensors import load_huggingface
from edgekern.llm.tokenizer import Tokenizer
from edgekern.llm.weights import BIAS_NAMES, EMBEDDING, FINAL_NORM, Weights

_CODES = {F32: 0, F16: 1, BF16: 2, Q8_0: 3, Q4_0: 4}
_DEFAULT_WINDOW = 4096


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
    file = Path(path)
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


def plan(config: ModelConfig, weights: WeightFormat, cache_bytes: int, max_chunk: int) -> dict[str, int]:
    """Bytes that a decoder takes, by what for. The embedding table stays in the mapped file and is not counted."""
    packed, work = _core.decoder_plan_bytes(
        **_sizes(config), max_rows=max_chunk, bits=weights.bits, group=weights.group_size or 0
    )
    widest = max(
        (config.q_width + 2 * config.kv_width, config.dim),
        (2 * config.hidden, config.dim),
        (config.dim, config.hidden),
        (config.vocab, config.dim),
        key=lambda shape: shape[0] * shape[1],
    )
    return {
        "weights": packed,
        "KV cache": cache_bytes,
        "working memory": work,
        "packing, while loading": weights.packing_bytes(*widest),
    }


def load(
    path: str | os.PathLike[str],
    *,
    weights: Kind = "int8",
    group_size: int | None = None,
    kv: str = "int8",
    window: int | None = None,
    sinks: int | None = None,
    max_chunk: int = 256,
    rewind: int = 16,
    num_sequences: int = 1,
    tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
    memory_budget: int | None = None,
    num_threads: int | None = None,
    isa: str = "",
) -> Decoder:
    """Load a LLaMA-family model and make it ready to run.

    Parameters
    ----------
    path : GGUF file, llama2.c ``.bin``, or Hugging Face folder
    weights : {"int8", "int4", "float32"}
        int8 has a scale per output, int4 one per ``group_size`` inputs.
    group_size : {32, 64, 128}, optional
        Of int4; default 32.
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
    memory_budget : int, optional
        Bytes that all of it may take, while loading too. Rows of the embedding table are read from the mapped file and
        count for nothing: their pages can be dropped at any time.
    num_threads : int, optional
    isa : force an instruction set

    Returns
    -------
    Decoder

    Raises
    ------
    ArtifactError
        The file is damaged or of a kind that is not implemented; the message names the tensor or the key.
    MemoryBudgetError
        The plan, made before anything is loaded, passes the budget or this machine's memory; the message says what
        needs how much.
    ArgumentValueError, OSError
    """
    group = 32 if weights == "int4" and group_size is None else group_size
    form = WeightFormat(weights, group)
    model, found = read_model(path)
    config = model.config
    if isinstance(tokenizer, (str, os.PathLike)):
        stops = found.stops if found is not None else frozenset()
        found = vocabulary.file_tokenizer(Path(tokenizer), config.vocab, stops=stops)
    elif tokenizer is not None:
        found = tokenizer
    if found is not None and found.vocab > config.vocab:
        raise ArgumentValueError(f"llm.load: the tokenizer has {found.vocab} tokens; the model has {config.vocab}")
    spec: dict[str, Any] = {
        "num_layers": config.layers,
        "num_kv_heads": config.kv_heads,
        "num_heads": config.heads,
        "head_dim": config.head_dim,
        "window": window if window is not None else config.window or min(config.context, _DEFAULT_WINDOW),
        "sinks": sinks if sinks is not None else 0 if config.window else 4,
        "max_chunk": max_chunk,
        "rewind": rewind,
        "num_sequences": num_sequences,
    }
    k, v, query_bits = _core.kv_formats(kv) or _unknown(kv)
    kv_bytes = _core.kv_plan_bytes({**spec, "k": k, "v": v, "query_bits": query_bits})
    _check_budget(plan(config, form, kv_bytes, max_chunk), memory_budget, form)
    cache = RingKVCache(**spec, kv=kv)
    core = pack_model(model, form, max_chunk=max_chunk, isa=isa)
    return Decoder(core, config, form, cache, found, num_threads or 0)


def _unknown(kv: str) -> NoReturn:
    raise ArgumentValueError(f"llm.load: kv must be the name of a cache's storage, as RingKVCache has it, got {kv!r}")


def _check_budget(needs: dict[str, int], given: int | None, form: WeightFormat) -> None:
    total, most = sum(needs.values()), _core.memory_limit()
    budget = most if given is None else min(given, most)
    if total <= budget:
        return
    rule = "memory_budget =" if budget == given else "what this process can have,"
    listed = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in needs.items())
    smaller = {"float32": "weights='int8'", "int8": "weights='int4'", "int4": "a smaller window"}[form.kind]
    raise MemoryBudgetError(
        f"llm.load: {listed}: {total / 1e6:.1f} MB in all pass {rule} {budget / 1e6:.1f} MB; {smaller} or "
        "kv='k8v4' takes less"
    )


def _sizes(config: ModelConfig) -> dict[str, int]:
    names = ("dim", "hidden", "layers", "heads", "kv_heads", "head_dim", "vocab")
    return {name: getattr(config, name) for name in names}


def pack_model(model: Weights, form: WeightFormat, *, max_chunk: int, isa: str) -> _core.Decoder:
    """Pack all matrices of a model and hand them to the core; the embedding table stays in the file."""
    config = model.config
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
                form.pack([part["q"], part["k"], part["v"]]),
                bias,
                form.pack([part["o"]]),
                model.of_layer(index, "ffn_norm").vector(),
                form.pack([part["gate"], part["up"]], interleaved=True),
                form.pack([part["down"]]),
            )
        )
    embedding = model[EMBEDDING]
    return _core.Decoder(
        **_sizes(config),
        eps=config.eps,
        rope_magnitude=config.rope_attention,
        rope_phases=list(config.rope_phases()),
        max_rows=max_chunk,
        embedding=embedding.data,
        embedding_code=_CODES[embedding.encoding],
        layer_weights=layers,
        final_norm=model[FINAL_NORM].vector(),
        head=form.pack([model.head]),
        isa=isa,
    )
