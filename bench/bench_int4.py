"""Weight-only products at decode: ``python -m bench int4 [--threads 1 2] [--json run.json]``.

float32 in and out, for 1, 4, 16 and 64 rows, on int8 weights and on int4 weights in groups of 32 and of 128; always
from memory: every copy is read once before any is read again. Peers of int8 are llama.cpp (Q8_0), onnxruntime's and
torch's dynamic linear; of int4 llama.cpp (Q4_0, groups of 32), onnxruntime's MatMulNBits and OpenVINO's compressed
weights. Every int4 row also times our int8 in the same rounds, so that the two are compared at one bandwidth.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np

import edgekern as ek
from bench import ggml, onnx_models, openvino_int4, torch_peers
from bench.harness import Contender, Row, in_turn, version
from bench.peers import Array, Check, close, join, on_lines, onnxruntime, rolled
from bench.suite import Case, Plan, Result, copies_beyond_cache, geometric_mean, parser, run

ROWS = (1, 4, 16, 64)
# N and K of a decoder's projections: attention, and for one row up and down as well.
LAYERS = ((4096, 4096), (11008, 4096), (4096, 11008))
Group = Literal[32, 64, 128]
GROUPS: tuple[Group, ...] = (32, 128)
# Rounding activations to 8 bits costs one percent of the signal; Q4_0 rounds the weights once more.
NOISE, REQUANTIZED_NOISE = 0.03, 0.15


def ours(name: str, x: Array, packed: Sequence[ek.PackedWeights], threads: int, check: Check) -> Contender:
    pairs = [(w, on_lines((x.shape[0], w.shape[1]), np.float32)) for w in packed]
    return Contender(
        name,
        in_turn([partial(ek.linear, x, w, out=y, num_threads=threads) for w, y in pairs]),
        check,
        len(pairs),
        packed[0].nbytes,
    )


def int8_contenders(m: int, n: int, k: int, threads: int, copies: int, *, peers: bool = True) -> list[Contender]:
    rng = np.random.default_rng([m, n, k])
    x = rng.normal(size=(m, k)).astype(np.float32)
    weights = rng.integers(-127, 128, (k, n), dtype=np.int8)
    scale = np.full(n, 1 / (74 * np.sqrt(k)), np.float32)
    check = close(rolled(x @ (weights * scale), copies), NOISE)
    all_weights = rolled(weights, copies)
    mine = ours("edgekern_int8", x, [ek.pack_weights(w, scale=scale) for w in all_weights], threads, check)
    if not peers:
        return [mine]
    zeros, torch = np.zeros(n, np.float32), partial(torch_peers.dynamic, x, all_weights, scale)
    model = partial(onnx_models.dynamic_linear, x, all_weights, scale, zeros)
    return [
        mine,
        *join(
            ("llama.cpp", lambda: ggml.product("q8_0", x, weights * scale, copies, threads, check)),
            (
                "onnxruntime",
                lambda: onnxruntime("ort_dynamic", model(), {"x": x}, threads, check, calls=copies, read_bytes=k * n),
            ),
            ("torch", lambda: torch(zeros, "torch_x86", engine="x86", check=check)),
            ("torch", lambda: torch(zeros, "torch_onednn", engine="onednn", check=check)),
        ),
    ]


def int4_contenders(m: int, n: int, k: int, group: Group, threads: int, copies: int) -> list[Contender]:
    rng = np.random.default_rng([m, n, k, group])
    x = rng.normal(size=(m, k)).astype(np.float32)
    weights = rng.integers(-8, 8, (k, n), dtype=np.int8)
    # One scale a group, the same for all columns, so that rolled copies share it.
    scale = np.repeat(rng.uniform(0.5, 1.5, (k // group, 1)) / (4.6 * np.sqrt(k)), n, axis=1).astype(np.float32)
    real = weights * np.repeat(scale, group, axis=0)
    expected = rolled(x @ real, copies)
    check, read = close(expected, NOISE), k * n // 2 + k * n // group * 2
    packed = [ek.pack_weights(w, scale=scale, bits=4, group_size=group) for w in rolled(weights, copies)]
    model = partial(onnx_models.matmul_4bits, x, weights, copies, scale, group)
    peers = join(
        (
            "onnxruntime",
            lambda: onnxruntime("ort_nbits", model(), {"x": x}, threads, check, calls=copies, read_bytes=read),
        ),
        (
            "openvino",
            lambda: openvino_int4.product(
                "openvino_i4", x, weights, copies, scale, group, threads, close(expected, NOISE), read
            ),
        ),
    )
    if group == ggml.BLOCK:
        requantized = close(expected, REQUANTIZED_NOISE)
        peers += join(("llama.cpp", lambda: ggml.product("q4_0", x, real, copies, threads, requantized)))
    return [ours("edgekern_int4", x, packed, threads, check), *peers]


def _case(m: int, n: int, k: int, group: Group | None, threads: int, quick: bool) -> Case:
    name = f"{m}x{n}x{k}"
    copies = 3 if quick else copies_beyond_cache(n * k if group is None else n * k // 2)
    if group is None:
        everyone = int8_contenders(m, n, k, threads, copies)
        return Case("int8", name, everyone, 2 * m * n * k, rotated=True)
    everyone = int4_contenders(m, n, k, group, threads, copies)
    everyone += int8_contenders(m, n, k, threads, copies, peers=False)
    return Case(f"int4, groups of {group}", name, everyone, 2 * m * n * k, rotated=True, references=("edgekern_int8",))


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for group in (None, *GROUPS):
        shapes = [(1, n, k) for n, k in LAYERS] + [(m, *LAYERS[0]) for m in ROWS if m > 1]
        for m, n, k in [(1, 96, 256), (4, 96, 256)] if quick else shapes:
            yield f"{m}x{n}x{k}", partial(_case, m, n, k, group, threads, quick)


def figures(results: Sequence[Result]) -> Row:
    """Shares of the read bandwidth, and int4's speed over int8's, at one row."""
    found: dict[str, float | None] = {}
    for group in dict.fromkeys(result.case.group for result in results):
        rows = [row for row in results if row.case.group == group and row.case.name.startswith("1x")]
        shares = [row.read_share for row in rows]
        found[f"{group}, 1 row: lowest share of the read bandwidth"] = min(shares, default=None)
        gains = [
            row.timings["edgekern_int8"].best / row.timings["edgekern_int4"].best
            for row in rows
            if "edgekern_int4" in row.timings
        ]
        if gains:
            found[f"{group}, 1 row: tokens a second over int8's"] = geometric_mean(gains)
    return found


def main(argv: Sequence[str]) -> int:
    options = parser("int4", __doc__).parse_args(argv)
    if version("llama_cpp_python"):
        print(f"llama.cpp: {ggml.system_info()}")
    run("int4", options, lambda threads: cases(threads, quick=options.quick), figures)
    return 0
