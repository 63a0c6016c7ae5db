"""2-bit weights: ``python -m bench int2 [--threads 1 2] [--json run.json]``.

First what formats of about 2 bits leave of random weights (``bench/two_bit_formats.py``). Then float32 in and out for
1, 4, 16, 64 and 256 rows on ternary weights in groups of 64 and of 128, with int4 in groups of 128 and int8 timed in
the same rounds, always from memory: every copy is read once before any is read again. Last, one token's step and a
prefill of the random decoder that ``bench decode`` has, in 2, 4 and 8 bits: bytes and tokens a second.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

import edgekern as ek
from bench import random_llama, two_bit_formats
from bench.bench_int4 import LAYERS, NOISE, ours
from bench.harness import Contender, Row
from bench.peers import Array, close, rolled
from bench.random_llama import QUICK, TINY_LLAMA, multiply_adds
from bench.suite import Case, Plan, Result, copies_beyond_cache, geometric_mean, parser, run
from edgekern.kvcache import RingKVCache
from edgekern.llm.config import ModelConfig
from edgekern.llm.decoder import Decoder
from edgekern.llm.loading import pack_model, read_model
from edgekern.llm.packing import WeightFormat, weight_kind

ROWS = (4, 16, 64, 256)
Bits = Literal[8, 4, 2]
WIDTHS: dict[str, tuple[Bits, Literal[64, 128] | None]] = {
    "edgekern_int2_g64": (2, 64),
    "edgekern_int2_g128": (2, 128),
    "edgekern_int4_g128": (4, 128),
    "edgekern_int8": (8, None),
}
OURS = ("edgekern_int2_g64", "edgekern_int2_g128")
FORMATS = {name: WeightFormat(weight_kind(f"int{bits}"), group) for name, (bits, group) in WIDTHS.items()}
PREFILL, MAX_CHUNK, WINDOW = 128, 128, 256
PREFILL_ROUNDS = 3


def _contender(name: str, m: int, n: int, k: int, threads: int, copies: int) -> Contender:
    bits, group = WIDTHS[name]
    rng = np.random.default_rng([m, n, k])
    x = rng.normal(size=(m, k)).astype(np.float32)
    codes = rng.integers(-1, 2, (k, n), dtype=np.int8)
    scale = np.full(n, np.float32(1 / np.sqrt(k)))
    expected = close(rolled(x @ (codes * scale), copies), NOISE)
    scales = scale if group is None else np.repeat(scale[None], k // group, axis=0)
    packed = [ek.pack_weights(w, scale=scales, bits=bits, group_size=group) for w in rolled(codes, copies)]
    return ours(name, x, packed, threads, expected)


def _product(m: int, n: int, k: int, threads: int, quick: bool) -> Case:
    copies = 3 if quick else copies_beyond_cache(n * k // 5)
    everyone = [_contender(name, m, n, k, threads, copies) for name in WIDTHS]
    references = [name for name in WIDTHS if name not in OURS]
    return Case(f"int2, {m} rows", f"{m}x{n}x{k}", everyone, 2 * m * n * k, rotated=m == 1, references=references)


class Decoders:
    """One file of random weights in every width, each with a cache of its own."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        path = folder / "q8_0.gguf"
        random_llama.write(path, config, "q8_0")
        weights, _ = read_model(path)
        self.config = config
        self.ids = np.random.default_rng(1).integers(3, config.vocab, PREFILL).tolist()
        self._cores = {}
        for name, form in FORMATS.items():
            print(f"{name}: packing", flush=True)
            self._cores[name] = pack_model(weights, form, max_chunk=MAX_CHUNK, isa="")

    def decoder(self, name: str, threads: int) -> Decoder:
        config = self.config
        cache = RingKVCache(
            num_layers=config.layers,
            num_kv_heads=config.kv_heads,
            num_heads=config.heads,
            head_dim=config.head_dim,
            window=WINDOW,
            sinks=0,
            max_chunk=MAX_CHUNK,
            kv="int8",
        )
        return Decoder(self._cores[name], config, FORMATS[name], cache, None, threads)

    def step(self, threads: int) -> Case:
        contenders = []
        for name in WIDTHS:
            decoder, out = self.decoder(name, threads), np.empty((1, self.config.vocab), np.float32)
            print(f"{name}: {decoder.weight_bytes / 1e6:.1f} MB a step", flush=True)

            def once(decoder: Decoder = decoder, out: Array = out) -> Array:
                logits: Array = decoder.step({0: 5}, out=out)[0]
                decoder.cache.rewind(1)
                return logits

            contenders.append(Contender(name, once, lambda logits: None, 1, decoder.weight_bytes))
        operations = 2 * (multiply_adds(self.config) + self.config.vocab * self.config.dim)
        return Case("decoder, a step", "behind 0", contenders, operations, rotated=True, references=self._references())

    def prefill(self, threads: int) -> Case:
        contenders = []
        for name in WIDTHS:
            decoder = self.decoder(name, threads)

            def once(decoder: Decoder = decoder) -> Array:
                decoder.cache.reset()
                return decoder.prefill(self.ids)

            contenders.append(Contender(name, once, lambda logits: None))
        operations = 2 * PREFILL * multiply_adds(self.config) + 2 * self.config.vocab * self.config.dim
        name = f"{PREFILL} tokens"
        return Case(
            "decoder, prefill", name, contenders, operations, rounds=PREFILL_ROUNDS, references=self._references()
        )

    @staticmethod
    def _references() -> list[str]:
        return [name for name in WIDTHS if name not in OURS]


def cases(decoders: Decoders, threads: int, *, quick: bool) -> Iterator[Plan]:
    shapes = [(1, n, k) for n, k in LAYERS] + [(m, *LAYERS[0]) for m in ROWS]
    for m, n, k in [(1, 192, 256), (5, 192, 256)] if quick else shapes:
        yield f"{m}x{n}x{k}", partial(_product, m, n, k, threads, quick)
    yield "decoder step", partial(decoders.step, threads)
    yield "decoder prefill", partial(decoders.prefill, threads)


def figures(results: Sequence[Result]) -> Row:
    """How fast each width is beside int4 in groups of 128, and the decoder's tokens a second."""
    found: dict[str, float | None] = {}
    for group in dict.fromkeys(result.case.group for result in results):
        rows = [row for row in results if row.case.group == group]
        for name in WIDTHS:
            gains = [row.timings["edgekern_int4_g128"].best / row.timings[name].best for row in rows]
            found[f"{group}: {name} over int4 in groups of 128"] = geometric_mean(gains)
        for row in rows:
            if row.case.rotated:
                for name in WIDTHS:
                    rate = row.read_bytes[name] / row.timings[name].best
                    found[f"{group}, {row.case.name}: {name}, GB/s"] = rate / 1e9
            if group.startswith("decoder"):
                tokens = PREFILL if "prefill" in group else 1
                for name in WIDTHS:
                    found[f"{group}: {name}, tokens a second"] = tokens / row.timings[name].best
    return found


def main(argv: Sequence[str]) -> int:
    options = parser("int2", __doc__).parse_args(argv)
    rng = np.random.default_rng(1)
    shape = (16, 512) if options.quick else (512, 4096)
    two_bit_formats.show({"random normal, dB": [rng.normal(size=shape).astype(np.float32)]})
    with TemporaryDirectory() as folder:
        decoders = Decoders(Path(folder), QUICK if options.quick else TINY_LLAMA)
        run("int2", options, lambda threads: cases(decoders, threads, quick=options.quick), figures)
    return 0
