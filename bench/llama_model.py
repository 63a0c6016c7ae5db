"""llama.cpp's own decoder on a GGUF file: what ``llama-bench`` times, through llama-cpp-python's bindings."""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import ggml
from bench.peers import Array

_BATCH = 512
_FLASH_ATTENTION_ON = 1


@cache
def _library() -> tuple[Any, Any]:
    """llama-cpp-python's table of functions, and the callback that silences it, which has to stay alive."""
    import llama_cpp

    silence = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(silence, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    return llama_cpp, silence


class LlamaModel:
    """A model with one context for each kind of cache, "f16" or "q8_0"."""

    def __init__(self, path: Path, vocab: int, context: int) -> None:
        self._api: Any = _library()[0]
        model = self._api.llama_model_load_from_file(str(path).encode(), self._api.llama_model_default_params())
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {path.name}")
        self._model, self._vocab, self._context_tokens = model, vocab, context
        self._contexts: dict[str, Any] = {}

    def __del__(self) -> None:
        for context in getattr(self, "_contexts", {}).values():
            self._api.llama_free(context)
        if hasattr(self, "_model"):
            self._api.llama_model_free(self._model)

    def _context(self, kv: str) -> Any:
        if kv not in self._contexts:
            params = self._api.llama_context_default_params()
            params.n_ctx, params.n_batch, params.n_ubatch = self._context_tokens, _BATCH, _BATCH
            if kv != "f16":
                params.type_k = params.type_v = ggml.TYPES[kv]
                params.flash_attn_type = _FLASH_ATTENTION_ON  # what a quantized V needs
            self._contexts[kv] = self._api.llama_init_from_model(self._model, params)
            if not self._contexts[kv]:
                raise RuntimeError(f"llama.cpp makes no context with a cache of {kv}")
        return self._contexts[kv]

    def set_threads(self, kv: str, threads: int) -> None:
        self._api.llama_set_n_threads(self._context(kv), threads, threads)

    def keep(self, kv: str, tokens: int) -> None:
        """Forget all tokens from here on."""
        self._api.llama_memory_seq_rm(self._api.llama_get_memory(self._context(kv)), 0, tokens, -1)

    def run(self, kv: str, ids: Sequence[int], position: int) -> Array:
        """The logits after the last of these tokens, which stand at ``position`` and behind it."""
        for first in range(0, len(ids), _BATCH):
            part = ids[first : first + _BATCH]
            batch = self._api.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position + first + i, 1
                batch.seq_id[i][0], batch.logits[i] = 0, i == len(part) - 1
            failed = self._api.llama_decode(self._context(kv), batch)
            self._api.llama_batch_free(batch)
            if failed:
                raise RuntimeError(f"llama.cpp's decode returned {failed}")
        logits = self._api.llama_get_logits_ith(self._context(kv), -1)
        return np.ctypeslib.as_array(logits, (self._vocab,)).copy()

    def state(self, kv: str) -> bytes:
        """All tokens of the context, to come back to."""
        context = self._context(kv)
        size = self._api.llama_state_seq_get_size(context, 0)
        data = (ctypes.c_uint8 * size)()
        return bytes(data[: self._api.llama_state_seq_get_data(context, data, size, 0)])

    def restore(self, kv: str, state: bytes) -> None:
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if not self._api.llama_state_seq_set_data(self._context(kv), data, len(state), 0):
            raise RuntimeError("llama.cpp does not take its state back")
