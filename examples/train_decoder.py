"""Train a small LLaMA-style decoder on a text and write it as a Hugging Face folder that ``ek.llm.load`` reads.

    pip install torch==2.13.0 tokenizers safetensors
    python examples/train_decoder.py stories.txt --folder model

The last fifth of the text is held out. The folder gets ``model.safetensors``, ``config.json``, ``tokenizer.json`` (a
byte-level BPE trained on the same text) and ``held_out.txt``. At its default size it is done within 15 minutes on two
cores; what a format costs it is then

    edgekern perplexity model model/held_out.txt --separator '<|endoftext|>' --weights int4
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional

SEED = 2026
SEPARATOR = "<|endoftext|>"
HELD_OUT = 0.2


@dataclass(frozen=True)
class Size:
    """Named as config.json names them."""

    hidden_size: int = 96
    intermediate_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 3
    num_key_value_heads: int = 3
    head_dim: int = 32
    vocab_size: int = 512
    max_position_embeddings: int = 256
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        width, narrow = size.num_attention_heads * size.head_dim, size.num_key_value_heads * size.head_dim
        self.q_proj = nn.Linear(size.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(size.hidden_size, narrow, bias=False)
        self.v_proj = nn.Linear(size.hidden_size, narrow, bias=False)
        self.o_proj = nn.Linear(width, size.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, _ = x.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, tokens, -1, self.size.head_dim).transpose(1, 2)

        def rotate(h: Tensor) -> Tensor:
            first, second = h.chunk(2, dim=-1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

        q, k, v = rotate(heads(self.q_proj(x))), rotate(heads(self.k_proj(x))), heads(self.v_proj(x))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return out


class FeedForward(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.down_proj = nn.Linear(size.intermediate_size, size.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(size.hidden_size, eps=size.rms_norm_eps)
        self.self_attn = Attention(size)
        self.post_attention_layernorm = nn.RMSNorm(size.hidden_size, eps=size.rms_norm_eps)
        self.mlp = FeedForward(size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Modules are named so that a state's keys are a Hugging Face file's, after ``model.``; the head is tied."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(size.vocab_size, size.hidden_size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.num_hidden_layers))
        self.norm = nn.RMSNorm(size.hidden_size, eps=size.rms_norm_eps)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                deep = 2 * size.num_hidden_layers if adds else 1
                nn.init.normal_(weight, std=0.5 / math.sqrt(size.hidden_size * deep))
        pairs = torch.arange(0, size.head_dim, 2) / size.head_dim
        angles = torch.outer(torch.arange(size.max_position_embeddings), size.rope_theta**-pairs)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def train_tokenizer(text: str, vocab: int) -> Tokenizer:
    """Byte-level BPE; every text begins with the separator."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split(SEPARATOR), trainer)
    begins = tokenizer.token_to_id(SEPARATOR)
    tokenizer.post_processor = processors.TemplateProcessing(f"{SEPARATOR} $A", special_tokens=[(SEPARATOR, begins)])
    return tokenizer


def stream(tokenizer: Tokenizer, text: str) -> Tensor:
    """The ids of all texts, one after the other."""
    texts = (part.strip() for part in text.split(SEPARATOR))
    return torch.tensor([token for part in texts if part for token in tokenizer.encode(part).ids])


def mean_loss(model: Decoder, ids: Tensor, tokens: int) -> float:
    model.eval()
    losses = []
    with torch.no_grad():
        for first in range(0, len(ids) - 1, tokens):
            part = ids[first : first + tokens + 1]
            losses.append(functional.cross_entropy(model(part[None, :-1])[0], part[1:], reduction="none"))
    return float(torch.cat(losses).mean())


def train(size: Size, ids: Tensor, *, steps: int, batch: int, rate: float) -> Decoder:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model, tokens = Decoder(size), size.max_position_embeddings
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    begin, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        starts = torch.randint(0, len(ids) - tokens - 1, (batch,), generator=generator).tolist()
        rows = torch.stack([ids[first : first + tokens + 1] for first in starts])
        loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 50 == 0:
            print(f"step {step}/{steps}  loss {total / 50:.4f}  {time.monotonic() - begin:.0f} s", flush=True)
            total = 0.0
    return model


def write(folder: Path, size: Size, model: Decoder, tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": weight.detach().contiguous() for name, weight in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    begins = tokenizer.token_to_id(SEPARATOR)
    constants = {"model_type": "llama", "tie_word_embeddings": True, "eos_token_id": begins, "bos_token_id": begins}
    (folder / "config.json").write_text(json.dumps({**constants, **asdict(size)}, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help=f"UTF-8; parts between {SEPARATOR} are texts of their own")
    parser.add_argument("--folder", type=Path, required=True, help="where the model goes")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16, help="texts of 256 tokens in a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="the largest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    text = args.text.read_text(encoding="utf-8")
    cut = int(len(text) * (1 - HELD_OUT))
    border = text.find(SEPARATOR, cut)
    cut = border if border >= 0 else cut
    size = Size()
    tokenizer = train_tokenizer(text[:cut], size.vocab_size)
    ids, held_out = stream(tokenizer, text[:cut]), stream(tokenizer, text[cut:])
    print(f"{len(ids)} tokens to train on, {len(held_out)} held out", flush=True)
    model = train(size, ids, steps=args.steps, batch=args.batch, rate=args.rate)
    loss = mean_loss(model, held_out, size.max_position_embeddings)
    print(f"{sum(weight.numel() for weight in model.parameters())} weights, held-out perplexity {math.exp(loss):.3f}")
    write(args.folder, size, model, tokenizer)
    (args.folder / "held_out.txt").write_text(text[cut:].removeprefix(SEPARATOR).strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
