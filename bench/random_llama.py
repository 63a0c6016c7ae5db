"""A LLaMA with random weights as a GGUF file, for benches that ask how fast and not how well."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.ggml import BLOCK, BLOCK_BYTES
from bench.peers import Array

# Standard deviation of the codes that random bytes are.
_SPREAD = {"q8_0": 73.6, "q4_0": 4.61}


@dataclass(frozen=True)
class Shape:
    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of a layer's matrices, as GGUF names them."""
        kv = self.kv_heads * self.head_dim
        return {
            "attn_q": (self.dim, self.dim),
            "attn_k": (kv, self.dim),
            "attn_v": (kv, self.dim),
            "attn_output": (self.dim, self.dim),
            "ffn_gate": (self.hidden, self.dim),
            "ffn_up": (self.hidden, self.dim),
            "ffn_down": (self.dim, self.hidden),
        }

    @property
    def multiply_adds(self) -> int:
        """Of all matrices for one token, the head not among them."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices.values())


TINY_LLAMA = Shape(dim=2048, hidden=5632, layers=22, heads=32, kv_heads=4, vocab=32000, context=8192)
QUICK = Shape(dim=128, hidden=192, layers=2, heads=4, kv_heads=2, vocab=256, context=512)


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


def write(path: Path, shape: Shape, kind: str) -> None:
    """All matrices as ``kind``, "q8_0" or "q4_0", each value drawn on its own."""
    import gguf

    rng = np.random.default_rng(20261121)
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(shape.dim)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_context_length(shape.context)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(f"t{i}".encode() for i in range(3, shape.vocab))])
    writer.add_token_scores([0.0] * shape.vocab)
    writer.add_token_types([2, 3, 3] + [1] * (shape.vocab - 3))
    norm, stored = np.ones(shape.dim, np.float32), gguf.GGMLQuantizationType[kind.upper()]

    def add(name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        writer.add_tensor(f"{name}.weight", _blocks(rng, kind, rows, columns, gain), raw_dtype=stored)

    add("token_embd", shape.vocab, shape.dim, np.sqrt(shape.dim))
    writer.add_tensor("output_norm.weight", norm)
    add("output", shape.vocab, shape.dim, 3.0)
    for layer in range(shape.layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", norm)
        for name, (rows, columns) in shape.matrices.items():
            add(f"blk.{layer}.{name}", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
