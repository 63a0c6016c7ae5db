"""A whole decoder: ``python -m bench decode [--threads 1 2] [--json run.json]``.

Random weights in the shape of TinyLlama-1.1B, written as GGUF in Q8_0 and in Q4_0, which llama.cpp and edgekern (int8
with a scale an output, int4 in groups of 32) both load. Prefill of 128 and 512 tokens, then one token's step behind 0,
1024 and 4096 others, with a cache of 16-bit floats and one of 8 bits. Our logits are held against llama.cpp's, on the
same tokens, where it is installed; what is read in a step is all weights but the embedding, and the cache's rows.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench import ggml, random_llama
from bench.harness import Contender, Row, version
from bench.llama_model import LlamaModel
from bench.peers import Array, Check, close, join
from bench.random_llama import QUICK, TINY_LLAMA, multiply_adds
from bench.suite import Case, Plan, Result, geometric_mean, parser, run
from edgekern.kvcache import RingKVCache
from edgekern.llm.config import ModelConfig
from edgekern.llm.decoder import Decoder
from edgekern.llm.loading import pack_model, read_model
from edgekern.llm.packing import WeightFormat

FORMATS: dict[str, WeightFormat] = {"q8_0": WeightFormat("int8", None), "q4_0": WeightFormat("int4", 32)}
CACHES = {"float16": "f16", "int8": "q8_0"}
PREFILL, DEPTHS, MAX_CHUNK = (128, 512), (0, 1024, 4096), 256
# 22 layers with weights and activations rounded anew in each; a wrong rotation or mask gives more than 1.
NOISE = 0.25
# A prefill takes seconds: best of so few rounds.
PREFILL_ROUNDS, STEP_ROUNDS = 3, 7


class Models:
    """Both decoders on one file of weights, with their caches filled once to every depth."""

    def __init__(self, folder: Path, config: ModelConfig, kind: str, depths: Sequence[int], threads: int) -> None:
        self.config, self.kind, self.depths = config, kind, depths
        self.ids = np.random.default_rng(1).integers(3, config.vocab, max(*PREFILL, *depths) + 1).tolist()
        print(f"{kind}: writing, packing", flush=True)
        path = folder / f"{kind}.gguf"
        random_llama.write(path, config, kind)
        weights, _ = read_model(path)
        self._core = pack_model(weights, FORMATS[kind], max_chunk=MAX_CHUNK, isa="")
        self._fill_threads = threads
        self._states: dict[tuple[str, int], bytes] = {}
        self._decoders: dict[str, Decoder] = {}
        self._llama_states: dict[str, bytes] = {}
        # One more chunk than the deepest: no row of a depth is pushed out.
        self._context = max(*PREFILL, *depths) + 2 * MAX_CHUNK
        self.llama = LlamaModel(path, config.vocab, self._context) if version("llama_cpp_python") else None

    def decoder(self, kv: str, threads: int) -> Decoder:
        if kv not in self._decoders:
            cache = RingKVCache(
                num_layers=self.config.layers,
                num_kv_heads=self.config.kv_heads,
                num_heads=self.config.heads,
                head_dim=self.config.head_dim,
                window=self._context,
                sinks=0,
                max_chunk=MAX_CHUNK,
                kv=kv,
            )
            print(f"{self.kind}: filling edgekern's cache of {kv}", flush=True)
            decoder = Decoder(self._core, self.config, FORMATS[self.kind], cache, None, self._fill_threads)
            done = 0
            for depth in sorted(self.depths):
                if depth > done:
                    decoder.prefill(self.ids[done:depth])
                self._states[kv, depth], done = cache.save(), depth
            self._decoders[kv] = decoder
        cache = self._decoders[kv].cache
        return Decoder(self._core, self.config, FORMATS[self.kind], cache, None, threads)

    def go_to(self, kv: str, depth: int) -> None:
        """Put our cache behind ``depth`` tokens."""
        self._decoders[kv].cache.load(self._states[kv, depth])

    def llama_at(self, kv: str, depth: int, threads: int) -> LlamaModel:
        """The same for llama.cpp's."""
        assert self.llama is not None
        if kv not in self._llama_states and depth > 0:
            print(f"{self.kind}: filling llama.cpp's cache of {kv}", flush=True)
            self.llama.set_threads(kv, self._fill_threads)
            self.llama.run(kv, self.ids[: max(self.depths)], 0)
            self._llama_states[kv] = self.llama.state(kv)
        self.llama.set_threads(kv, threads)
        self.llama.keep(kv, 0)
        if depth > 0:
            self.llama.restore(kv, self._llama_states[kv])
            self.llama.keep(kv, depth)
        return self.llama


def _prefill_case(models: Models, tokens: int, threads: int) -> Case:
    ids = models.ids[:tokens]
    decoder = models.decoder("int8", threads)

    def ours() -> Array:
        decoder.cache.reset()
        return decoder.prefill(ids)

    def llama() -> Contender:
        model = models.llama_at("f16", 0, threads)

        def prefill() -> Array:
            model.keep("f16", 0)
            return model.run("f16", ids, 0)

        return Contender(f"llama_{models.kind}", prefill, lambda logits: None)

    peers = join(("llama.cpp", llama))
    contenders = [Contender(f"edgekern_{FORMATS[models.kind].kind}", ours, _check(peers or ours)), *peers]
    # llama.cpp and we take the head's product once.
    operations = 2 * tokens * multiply_adds(models.config) + 2 * models.config.vocab * models.config.dim
    return Case(f"{models.kind}, prefill", f"{tokens} tokens", contenders, operations, rounds=PREFILL_ROUNDS)


def _step_case(models: Models, kv: str, depth: int, threads: int) -> Case:
    token = models.ids[depth]
    decoder = models.decoder(kv, threads)
    models.go_to(kv, depth)
    out = np.empty((1, models.config.vocab), np.float32)

    def ours() -> Array:
        logits: Array = decoder.step({0: token}, out=out)[0]
        decoder.cache.rewind(1)
        return logits

    def llama() -> Contender:
        model, llama_kv = models.llama_at(CACHES[kv], depth, threads), CACHES[kv]

        def step() -> Array:
            logits = model.run(llama_kv, [token], depth)
            model.keep(llama_kv, depth)
            return logits

        return Contender(f"llama_{models.kind}", step, lambda logits: None, 1, _read_bytes(models, llama_kv, depth))

    peers = join(("llama.cpp", llama))
    read = decoder.weight_bytes + decoder.cache.bytes_per_token * depth
    contenders = [Contender(f"edgekern_{FORMATS[models.kind].kind}", ours, _check(peers or ours), 1, read), *peers]
    operations = 2 * (multiply_adds(models.config) + models.config.vocab * models.config.dim)
    group = f"{models.kind}, a step, cache of {CACHES[kv]}"
    return Case(group, f"behind {depth}", contenders, operations, rotated=True, rounds=STEP_ROUNDS)


def _check(other: object) -> Check:
    run_other = other[0].run if isinstance(other, list) else other
    assert callable(run_other)
    return close(run_other(), NOISE)


def _read_bytes(models: Models, kv: str, depth: int) -> int:
    """What llama.cpp reads in a step."""
    config, per_block = models.config, ggml.BLOCK_BYTES[models.kind]
    weights = (multiply_adds(config) + config.vocab * config.dim) // ggml.BLOCK * per_block
    values = 2 * config.layers * config.kv_heads * config.head_dim
    return weights + depth * (2 * values if kv == "f16" else values // ggml.BLOCK * ggml.BLOCK_BYTES[kv])


def cases(everything: dict[str, Models], threads: int, *, quick: bool) -> Iterator[Plan]:
    for kind, models in everything.items():
        for tokens in PREFILL[:1] if quick else PREFILL:
            yield f"{kind} prefill {tokens}", partial(_prefill_case, models, tokens, threads)
        for kv in CACHES:
            for depth in models.depths:
                yield f"{kind} step {kv} {depth}", partial(_step_case, models, kv, depth, threads)


def figures(results: Sequence[Result]) -> Row:
    """Tokens a second, shares of the read bandwidth, and gains over llama.cpp."""
    found: dict[str, float | None] = {}
    for group in dict.fromkeys(result.case.group for result in results):
        rows = [row for row in results if row.case.group == group]
        for row in rows:
            tokens = int(row.case.name.split()[0]) if "prefill" in group else 1
            found[f"{group}, {row.case.name}: tokens a second"] = tokens / row.timings[row.ours].best
        if "prefill" not in group:
            found[f"{group}: lowest share of the read bandwidth"] = min(row.read_share for row in rows)
        gains = [row.ratio for row in rows if row.ratio is not None]
        found[f"{group}: times as fast as llama.cpp"] = geometric_mean(gains)
    return found


def main(argv: Sequence[str]) -> int:
    options = parser("decode", __doc__).parse_args(argv)
    if version("llama_cpp_python"):
        print(f"llama.cpp: {ggml.system_info()}")
    config, depths = (QUICK, (0, 64)) if options.quick else (TINY_LLAMA, DEPTHS)
    with TemporaryDirectory() as folder:
        most = max(options.threads)
        everything = {kind: Models(Path(folder), config, kind, depths, most) for kind in FORMATS}
        run("decode", options, lambda threads: cases(everything, threads, quick=options.quick), figures)
    return 0
