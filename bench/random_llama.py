"""A LLaMA with random weights as a GGUF file, for benches that ask how fast and not how well."""

from pathlib import Path
from typing import Any

import numpy as np

from bench.ggml import BLOCK, BLOCK_BYTES
from bench.peers import Array
from edgekern.llm.config import ModelConfig
from edgekern.llm.weights import EMBEDDING, HEAD, expected_shapes

# Standard deviation of the codes that random bytes are.
_SPREAD = {"q8_0": 73.6, "q4_0": 4.61}


# GGUF's names, of each layer's tensors behind "blk.N.", by edgekern's.
NAMES = {
    "embedding": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
    "attention_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "o": "attn_output.weight",
    "ffn_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}
TINY_LLAMA = ModelConfig(
    dim=2048, hidden=5632, layers=22, heads=32, kv_heads=4, head_dim=64, vocab=32000, context=8192, tied=False
)
QUICK = ModelConfig(dim=128, hidden=192, layers=2, heads=4, kv_heads=2, head_dim=32, vocab=256, context=512, tied=False)


def multiply_adds(config: ModelConfig) -> int:
    """Of all matrices but the head, for one token."""
    shapes = expected_shapes(config).items()
    return sum(rows * columns for name, (rows, columns) in shapes if rows > 1 and name not in (EMBEDDING, HEAD))


def _blocks(rng: np.random.Generator, kind: str, rows: int, columns: int, gain: float) -> Array:
    """Rows of random codes, each value `gain / sqrt(columns)` large."""
    blocks = np.empty((rows, columns // BLOCK, BLOCK_BYTES[kind]), np.uint8)
    scale = np.float16(gain / _SPREAD[kind] / np.sqrt(columns))
    blocks[..., :2] = np.frombuffer(scale.tobytes(), np.uint8)
    codes = blocks[..., 2:]
    codes[:] = np.frombuffer(rng.bytes(codes.size), np.uint8).reshape(codes.shape)
    if kind == "q8_0":
        codes[codes == 128] = 129  # no writer makes a code of -128
    return blocks.reshape(rows, -1)


def gguf_name(name: str) -> str:
    """``layers.3.gate`` as GGUF calls it."""
    parts = name.split(".")
    return NAMES[name] if len(parts) == 1 else f"blk.{parts[1]}.{NAMES[parts[2]]}"


def gguf_writer(path: Path, config: ModelConfig) -> Any:
    """gguf's writer, with the keys that say what the model is."""
    import gguf

    writer = gguf.GGUFWriter(path, "qwen2" if config.qkv_bias else "llama")
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_context_length(config.context)
    writer.add_vocab_size(config.vocab)
    writer.add_layer_norm_rms_eps(config.eps)
    writer.add_rope_freq_base(config.rope_base)
    return writer


def finish(writer: Any) -> None:
    """Write everything that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path: Path, config: ModelConfig, kind: str) -> None:
    """All matrices as ``kind``, "q8_0" or "q4_0", each value drawn on its own."""
    import gguf

    rng = np.random.default_rng(20261121)
    writer = gguf_writer(path, config)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(f"t{i}".encode() for i in range(3, config.vocab))])
    writer.add_token_scores([0.0] * config.vocab)
    writer.add_token_types([2, 3, 3] + [1] * (config.vocab - 3))
    gains = {EMBEDDING: float(np.sqrt(config.dim)), HEAD: 3.0}
    for name, (rows, columns) in expected_shapes(config).items():
        if rows == 1:
            writer.add_tensor(gguf_name(name), np.ones(columns, np.float32))
            continue
        blocks = _blocks(rng, kind, rows, columns, gains.get(name, 1.0))
        writer.add_tensor(gguf_name(name), blocks, raw_dtype=gguf.GGMLQuantizationType[kind.upper()])
    finish(writer)
