"""Small models with random weights, as files of every format that edgekern.llm reads."""

import json
import struct

import gguf
import numpy as np
from safetensors.numpy import save_file

from bench.random_llama import finish, gguf_name, gguf_writer
from edgekern.llm.config import ModelConfig
from edgekern.llm.weights import expected_shapes

SMALL = ModelConfig(
    dim=64, hidden=96, layers=2, heads=4, kv_heads=2, head_dim=16, vocab=300, context=128, eps=1e-5, tied=False
)

HF_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


def random_tensors(config, seed=7):
    """Every tensor of a config by edgekern's names, float32."""
    rng = np.random.default_rng(seed)

    def make(name, shape):
        if name.endswith("norm"):
            return np.float32(1 + 0.1 * rng.normal(size=shape[1]))
        values = rng.normal(size=shape if not name.endswith("bias") else shape[1])
        return np.float32(values / np.sqrt(shape[1]) * (3 if name == "head" else 1))

    return {name: make(name, shape) for name, shape in expected_shapes(config).items()}


def _named(name, names, layer_prefix):
    parts = name.split(".")
    return names[name] if len(parts) == 1 else f"{layer_prefix}{parts[1]}.{names[parts[2]]}"


def side_by_side(w, head_dim):
    """Rows of each head from halves apart to pairs side by side, as llama2.c and GGUF's llama have them."""
    shape = w.shape
    return np.ascontiguousarray(w.reshape(-1, 2, head_dim // 2, *shape[1:]).swapaxes(1, 2)).reshape(shape)


def _paired(config, tensors):
    rotated = ("q", "k", "q_bias", "k_bias")
    return {
        name: side_by_side(w, config.head_dim) if name.rpartition(".")[2] in rotated else w
        for name, w in tensors.items()
    }


def hf_config(config, **changes):
    given = {
        "model_type": "qwen2" if config.qkv_bias else "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.eps,
        "rope_theta": config.rope_base,
        "tie_word_embeddings": config.tied,
        "use_sliding_window": False,
    }
    return {**given, **changes}


def write_huggingface(folder, config, tensors, *, files=1, **changes):
    """A Hugging Face folder; `files` > 1 writes an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(config, **changes)))
    named = {_named(name, HF_NAMES, "model.layers."): w for name, w in tensors.items()}
    if files == 1:
        save_file(named, folder / "model.safetensors")
        return folder
    where = {name: f"model-{index % files}.safetensors" for index, name in enumerate(named)}
    for file in set(where.values()):
        save_file({name: w for name, w in named.items() if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def write_gguf(path, config, tensors, *, quantized=None, vocabulary=None, **keys):
    """A GGUF file; matrices in `quantized` (a gguf.GGMLQuantizationType) or float32."""
    writer = gguf_writer(path, config)
    for key, value in keys.items():
        writer.add_float32(key, value) if isinstance(value, float) else writer.add_string(key, value)
    if vocabulary is not None:
        vocabulary(writer)
    for name, w in (tensors if config.qkv_bias else _paired(config, tensors)).items():
        stored, kind = w, None
        if quantized is not None and w.ndim == 2:
            stored, kind = gguf.quants.quantize(w, quantized), quantized
        writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)
    finish(writer)
    return path


def write_llama2c(path, config, tensors):
    """A legacy llama2.c checkpoint."""
    vocab = config.vocab if config.tied else -config.vocab
    sizes = (config.dim, config.hidden, config.layers, config.heads, config.kv_heads, vocab, config.context)
    paired = _paired(config, tensors)
    kinds = ("attention_norm", "q", "k", "v", "o", "ffn_norm", "gate", "down", "up")
    parts = [paired["embedding"]]
    parts += [paired[f"layers.{layer}.{kind}"] for kind in kinds for layer in range(config.layers)]
    parts += [paired["final_norm"], np.zeros(config.context * config.head_dim, np.float32)]
    parts += [] if config.tied else [paired["head"]]
    path.write_bytes(struct.pack("<7i", *sizes) + b"".join(part.tobytes() for part in parts))
    return path
