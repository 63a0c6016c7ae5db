"""The ring cache: every format's bits, what each query sees, and the transactions around them."""

import itertools
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError, EdgekernWarning, KVRewindError

from guarded import guarded, guarded_empty
from kvcache_machine import run_machine
from reference import kvcache as reference
from reference.kvcache import Format

Float32 = npt.NDArray[np.float32]
FORMATS = [
    Format("float32"),
    Format("float16"),
    Format("bfloat16"),
    Format("int8"),
    Format("int8", 32, False),
    Format("int4", 32),
    Format("int4", 64, False),
]
K_FORMATS = [*FORMATS, Format("int4", 32, False, True), Format("int8", 0, True, True)]
HEADS, KV_HEADS = 4, 2
INT8 = Format()


def make(k_form: Format = INT8, v_form: Format = INT8, **options: Any) -> ek.RingKVCache:
    shape = {"num_layers": 1, "num_kv_heads": KV_HEADS, "num_heads": HEADS, "head_dim": 64}
    sizes = {"window": 40, "sinks": 3, "max_chunk": 8, "rewind": 5}
    formats = {"k": as_public(k_form), "v": as_public(v_form)}
    return ek.RingKVCache(**(shape | sizes | formats | options))


def as_public(form: Format) -> ek.KVFormat:
    return ek.KVFormat(form.kind, form.group or None, form.symmetric, form.rotated)  # type: ignore[arg-type]


def rows(rng: np.random.Generator, tokens: int, heads: int, dim: int) -> Float32:
    """Vectors of different sizes, some of them zero, some of one value."""
    x = rng.standard_normal((tokens, heads, dim)).astype(np.float32)
    x *= np.exp(rng.standard_normal((tokens, heads, 1))).astype(np.float32)
    x[rng.random(tokens) < 0.05] = 0
    x[rng.random(tokens) < 0.05] = 0.75
    return x


def feed(cache: ek.RingKVCache, k: Float32, v: Float32, q: Float32, q_sink: Float32 | None, chunk: int) -> Float32:
    """All tokens, in chunks, one layer: the attention of each."""
    out = []
    for at in range(0, len(k), chunk):
        part = slice(at, at + chunk)
        with cache.stage(len(k[part])) as staged:
            staged.write(0, k[part], v[part])
            out.append(staged.attend(0, q[part], None if q_sink is None else q_sink[part]))
            staged.commit()
    return np.concatenate(out)


def by_slot(cache: ek.RingKVCache, x: Float32, form: Format) -> list[reference.Rows]:
    """The reference's rows of each head, in the cache's slots, empty ones zero, padded to whole tiles."""
    positions = cache.positions()
    padded = np.zeros((-(-len(positions) // 64) * 64, *x.shape[1:]), np.float32)
    padded[: len(positions)][positions >= 0] = x[positions[positions >= 0]]
    return [reference.quantize(padded[:, head], form) for head in range(x.shape[1])]


@pytest.mark.parametrize("dim", [8, 64, 80, 128, 256])
def test_rows_are_stored_as_the_reference_quantizes_them(isa, rng, dim):
    for form in K_FORMATS:
        if form.rotated and dim == 80:
            continue
        cache = make(form, Format("float32") if form.rotated else form, head_dim=dim, isa=isa)
        k, v = rows(rng, 90, KV_HEADS, dim), rows(rng, 90, KV_HEADS, dim)
        cache.append(k[None], v[None])
        for position in (1, 50, 88, 89):
            for head in range(KV_HEADS):
                stored = reference.quantize(k[position, head][None], form).values()
                stored = reference.rotate(stored) if form.rotated else stored
                assert_array_equal(cache.keys(0, position)[head], stored[0])
                if not form.rotated:
                    wanted = reference.quantize(v[position, head][None], form).values()[0]
                    assert_array_equal(cache.values(0, position)[head], wanted)


@pytest.mark.parametrize("form", K_FORMATS, ids=str)
def test_attention_has_the_bits_of_the_reference(isa, rng, form):
    """Several segments, a ring that has wrapped, sinks with a query of their own, every pair of formats in turn."""
    for dim, v_form in zip(itertools.cycle((8, 64, 128)), FORMATS, strict=False):
        cache = make(form, v_form, head_dim=dim, window=500, isa=isa)
        tokens = 700
        k, v = rows(rng, tokens, KV_HEADS, dim), rows(rng, tokens, KV_HEADS, dim)
        q, q_sink = 2 * rows(rng, tokens, HEADS, dim), 2 * rows(rng, tokens, HEADS, dim)
        cache.append(k[None], v[None])
        got = cache.attend(0, q[-3:], q_sink[-3:])
        ks, vs = by_slot(cache, k, form), by_slot(cache, v, v_form)
        positions = np.full(len(ks[0].codes), -1)
        positions[: cache.capacity] = cache.positions()
        for t, head in itertools.product(range(3), range(HEADS)):
            seen = reference.visible(positions, tokens - 3 + t, cache.sinks, cache.window)
            wanted = reference.attention_in_order(
                q[tokens - 3 + t, head],
                q_sink[tokens - 3 + t, head],
                ks[head * KV_HEADS // HEADS],
                vs[head * KV_HEADS // HEADS],
                (form, v_form),
                seen,
                cache.sinks,
                dim**-0.5,
            )
            assert_array_equal(got[t, head].view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("dim", [8, 64, 128])
@pytest.mark.parametrize(
    ("kv", "bound"), [("float32", 2e-6), ("float16", 4e-3), ("int8", 0.04), ("k8v4", 0.15), ("int4", 0.25)]
)
def test_attention_is_near_float64_over_an_unbounded_cache(rng, dim, kv, bound):
    cache = ek.RingKVCache(
        num_layers=1, num_kv_heads=2, num_heads=4, head_dim=dim, window=40, sinks=3, max_chunk=8, rewind=0, kv=kv
    )
    tokens = 12 * cache.capacity  # twelve wraps
    k, v, q, q_sink = (rng.standard_normal((tokens, n, dim)).astype(np.float32) for n in (2, 2, 4, 4))
    got = feed(cache, k, v, q, q_sink, 7)
    position = np.arange(tokens)
    for t in range(0, tokens, 11):
        seen = reference.visible(position, t, 3, 40)
        for head in range(HEADS):
            sink = position[seen] < 3
            kept_k, kept_v = k[seen, head // 2], v[seen, head // 2]
            wanted = reference.attention(q[t, head], q_sink[t, head], kept_k, kept_v, sink, dim**-0.5)
            assert np.abs(got[t, head] - wanted).max() <= bound * max(1.0, np.abs(kept_v).max())


@pytest.mark.parametrize("kv", ["float32", "int8", "k8v4", "int4"])
def test_chunks_threads_and_isas_change_no_bit(rng, kv):
    k, v, q = (rng.standard_normal((300, n, 64)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    first = None
    for isa, (chunk, threads) in itertools.product(
        ek.cpu_info()["available"], [(1, 1), (1, 2), (1, 7), (3, 2), (8, 1), (8, 3)]
    ):
        cache = ek.RingKVCache(
            num_layers=1,
            num_kv_heads=KV_HEADS,
            num_heads=HEADS,
            head_dim=64,
            window=270,
            sinks=3,
            max_chunk=8,
            rewind=5,
            kv=kv,
            num_threads=threads,
            isa=isa,
        )
        got = feed(cache, k, v, q, None, chunk).view(np.int32)
        first = got if first is None else first
        assert_array_equal(got, first)
        assert_array_equal(cache.attend(0, q[-8:]).view(np.int32), first[-8:])


@pytest.mark.parametrize("position", [0, 2**31 - 20, 2**31, 2**53 + 1])
def test_positions_go_past_any_int32(rng, position):
    """The same tokens from another position on give the same attention, where no sink is involved."""
    k, v, q = (rng.standard_normal((130, n, 64)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    cache = make(Format("float32"), Format("float32"), sinks=0)
    cache.reset(position=position)
    got = feed(cache, k, v, q, None, 8)
    assert cache.position() == position + 130
    assert cache.positions().max() == position + 129
    for t in (5, 60, 129):
        kept = slice(max(0, t - 39), t + 1)
        for head in range(HEADS):
            none = np.zeros(len(k[kept]), bool)
            wanted = reference.attention(q[t, head], q[t, head], k[kept, head // 2], v[kept, head // 2], none, 0.125)
            assert np.abs(got[t, head] - wanted).max() < 2e-5


def test_without_a_sink_query_the_query_scores_the_sinks(rng):
    k, v, q = (rng.standard_normal((100, n, 64)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    assert_array_equal(feed(make(), k, v, q, None, 8), feed(make(), k, v, q, q, 8))
    assert (feed(make(), k, v, q, -q, 8) != feed(make(), k, v, q, q, 8)).any()


def test_a_rejected_draft_evicts_nothing_that_is_seen(rng):
    """Eight tokens staged, three of them right, at every step of the way round the ring."""
    k, v, q = (rng.standard_normal((208, n, 64)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    wanted = feed(make(), k, v, q, None, 1)
    cache = make()
    for at in range(0, 198, 3):
        wrong = np.concatenate([k[at : at + 3], rng.standard_normal((5, KV_HEADS, 64)).astype(np.float32)])
        with cache.stage(8) as staged:
            staged.write(0, wrong, v[at : at + 8])
            got = staged.attend(0, q[at : at + 8])
            staged.commit(3)
        assert_array_equal(got[:3], wanted[at : at + 3])


def test_a_transaction_left_open_or_failed_is_dropped(rng):
    cache = make()
    k = rng.standard_normal((4, KV_HEADS, 64)).astype(np.float32)
    cache.append(k[None], k[None])
    before = cache.positions()
    with cache.stage(4) as staged:
        staged.write(0, k, k)
    assert cache.position() == 4
    with pytest.raises(ArgumentValueError, match="v must have shape"), cache.stage(4) as staged:
        staged.write(0, k, k[:1])
    assert_array_equal(cache.positions(), before)
    with cache.stage(2) as staged:
        staged.commit(0)
    assert cache.position() == 4


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["k", "v"])
def test_what_is_not_finite_is_refused_and_names_the_layer(rng, kind, value, which):
    cache = make(Format(kind), Format(kind), num_layers=3)
    good = rng.standard_normal((3, 5, KV_HEADS, 64)).astype(np.float32)
    bad = good.copy()
    cache.append(good, good)
    bad[2, 4, 1, 63] = value
    kv = (bad, good) if which == "k" else (good, bad)
    with pytest.raises(ArgumentValueError, match=f"{which} of layer 2 has a value that is not finite"):
        cache.append(*kv)
    assert cache.position() == 5
    cache.append(good, good)
    assert cache.position() == 10


@pytest.mark.parametrize(("kind", "largest"), [("float16", 65519.0), ("int8", 8.3e6), ("int4", 4.58e5)])
def test_what_a_format_cannot_hold_is_refused(kind, largest):
    cache = make(Format(kind), Format(kind))
    k = np.full((1, 1, KV_HEADS, 64), largest, np.float32)
    cache.append(k, k)
    with pytest.raises(ArgumentValueError, match="cannot hold"):
        cache.append(k * np.float32(1.01), k)


def test_rewind_gives_back_what_the_ring_still_has(rng):
    k, v, q = (rng.standard_normal((300, n, 64)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    cache, straight = make(), make()
    wanted = feed(straight, k, v, q, None, 8)
    feed(cache, k[:200], v[:200], q[:200], None, 8)
    cache.rewind(7)  # max(max_chunk - 1, rewind)
    assert cache.position() == 193
    assert_array_equal(feed(cache, k[193:], v[193:], q[193:], None, 8), wanted[193:])
    with pytest.raises(KVRewindError, match="the next token would see position 242") as caught:
        cache.rewind(19)
    assert (caught.value.needed, caught.value.oldest_resident) == (242, 300 - 47)
    assert cache.position() == 300
    with pytest.raises(KVRewindError, match="there are 300"):
        cache.rewind(301)
    fresh = make()
    feed(fresh, k[:30], v[:30], q[:30], None, 8)
    fresh.rewind(30)
    assert_array_equal(feed(fresh, k, v, q, None, 8), wanted)


def test_a_fork_goes_its_own_way(rng):
    k, v, q = (rng.standard_normal((120, n, 64)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    cache, other = make(num_sequences=2), make()
    wanted = feed(other, k, v, q, None, 8)
    feed(cache, k[:60], v[:60], q[:60], None, 8)
    cache.fork(0, 1)
    feed(cache, -k[60:], v[60:], q[60:], None, 8)
    got = []
    for t in range(60, 120):
        with cache.stage(1, sequence=1) as staged:
            staged.write(0, k[t : t + 1], v[t : t + 1])
            got.append(staged.attend(0, q[t : t + 1])[0])
            staged.commit()
    assert_array_equal(np.stack(got), wanted[60:])


@pytest.mark.parametrize("kv", ["float32", "bfloat16", "int8", "k8v4", "int4"])
@pytest.mark.parametrize("stop", [0, 2, 30, 170])
def test_a_saved_sequence_continues_with_the_same_bits(rng, tmp_path, kv, stop):
    k, v, q = (rng.standard_normal((200, n, 64)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    shape = {"num_layers": 1, "num_kv_heads": KV_HEADS, "num_heads": HEADS, "head_dim": 64, "window": 40, "kv": kv}
    one, two = ek.RingKVCache(**shape), ek.RingKVCache(**shape)
    wanted = feed(one, k, v, q, None, 8)
    one.reset()
    if stop:
        feed(one, k[:stop], v[:stop], q[:stop], None, 8)
    two.append(v[None], k[None])  # what was there before must not shine through
    state = one.save(tmp_path / "state", model=b"tiny")
    assert state == (tmp_path / "state").read_bytes()
    two.load(tmp_path / "state", model=b"tiny")
    assert two.save(model=b"tiny") == state
    assert_array_equal(two.positions(), one.positions())
    assert_array_equal(feed(two, k[stop:], v[stop:], q[stop:], None, 8), wanted[stop:])


def test_an_altered_state_is_refused_and_changes_nothing(rng):
    small = {"num_kv_heads": 1, "num_heads": 1, "head_dim": 8, "window": 4, "sinks": 1, "max_chunk": 2, "rewind": 0}
    cache = make(**small)
    k = rng.standard_normal((1, 9, 1, 8)).astype(np.float32)
    cache.append(k, k)
    state = cache.save(model=b"m")
    for at, bit in itertools.product(range(len(state)), range(8)):
        altered = bytearray(state)
        altered[at] ^= 1 << bit
        with pytest.raises(ArtifactError, match=r"RingKVCache\.load: "):
            cache.load(bytes(altered), model=b"m")
    for end in range(len(state)):
        with pytest.raises(ArtifactError, match=r"RingKVCache\.load: "):
            cache.load(state[:end], model=b"m")
    with pytest.raises(ArtifactError, match="checksum"):
        cache.load(state + b"\0" * 8, model=b"m")
    assert cache.save(model=b"m") == state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 41}, "window is 40 in the state and 41 in this cache"),
        ({"sinks": 4}, "sinks is 3"),
        ({"num_layers": 2}, "num_layers is 1"),
        ({"head_dim": 128}, "head_dim is 64"),
        ({"rewind": 6}, "rewind is 5"),
        ({"v": ek.KVFormat("int4")}, "v's format is 3"),
        ({"k": ek.KVFormat("int8", 32)}, "k.group is 0 in the state and 32"),
        ({"query_bits": 4}, "query_bits is 8"),
    ],
)
def test_a_state_of_another_cache_is_refused(change, message):
    state = make().save()
    with pytest.raises(ArtifactError, match=message):
        make(**change).load(state)
    with pytest.raises(ArtifactError, match="another model"):
        make().load(state, model=b"other")
    with pytest.raises(ArtifactError, match="not a saved cache"):
        make().load(b"EKKV9999" + bytes(100))


@pytest.mark.parametrize("dim", [8, 80, 128])
def test_nothing_outside_the_operands_is_touched(isa, rng, dim):
    for form, side in itertools.product(FORMATS, ("end", "begin")):
        cache = make(form, form, head_dim=dim, isa=isa)
        k = rng.standard_normal((5, KV_HEADS, dim)).astype(np.float32)
        q = rng.standard_normal((5, HEADS, dim)).astype(np.float32)
        out = guarded_empty(q.shape, np.float32, side)
        with cache.stage(5) as staged:
            staged.write(0, guarded(k, side), guarded(-k, side))
            wanted = staged.attend(0, q, -q)
            staged.attend(0, guarded(q, side), guarded(-q, side), out=out)
        assert_array_equal(out, wanted)


def test_the_plan_is_the_memory(rng):
    cache = make(num_layers=3)
    tokens = rng.standard_normal((3, 500, KV_HEADS, 64)).astype(np.float32)
    before = cache.nbytes
    cache.append(tokens, tokens)
    assert cache.nbytes == before
    slots = -(-cache.capacity // 64) * 64
    assert cache.bytes_per_token == 3 * KV_HEADS * 2 * (64 + 2)
    masks, positions, marks, partials = 8 * slots // 8, 8 * slots, 64, HEADS * (64 + 16) * 4
    assert before == slots * cache.bytes_per_token + masks + positions + marks + partials


def test_formats_by_name_state_their_bytes():
    shape: dict[str, Any] = {"num_layers": 1, "num_kv_heads": 1, "head_dim": 128, "window": 64}
    bytes_per_token = {
        name: ek.RingKVCache(kv=name, **shape).bytes_per_token
        for name in ("float32", "float16", "int8", "k8v4", "int4")
    }
    with pytest.warns(EdgekernWarning, match="wrong way round"):
        article = ek.RingKVCache(kv="article", **shape)
    assert bytes_per_token == {"float32": 1024, "float16": 512, "int8": 260, "k8v4": 202, "int4": 160}
    assert (article.bytes_per_token, article.query_bits) == (198, 4)
    assert (article.k, article.v) == (ek.KVFormat("int4", 64), ek.KVFormat("int8", 128))


def test_k8v4_is_nearer_than_the_article(rng):
    """Outlier channels in K, as models have them: the bits belong there."""
    tokens, dim = 500, 128
    k, v, q = (rng.standard_normal((tokens, n, dim)).astype(np.float32) for n in (KV_HEADS, KV_HEADS, HEADS))
    k[..., :3] *= 8
    outs = {}
    for kv in ("float32", "k8v4", "article"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EdgekernWarning)
            cache = ek.RingKVCache(
                num_layers=1, num_kv_heads=KV_HEADS, num_heads=HEADS, head_dim=dim, window=tokens, max_chunk=250, kv=kv
            )
        outs[kv] = feed(cache, k, v, q, None, 250)
    error = {kv: float(np.square(outs[kv] - outs["float32"]).mean()) for kv in ("k8v4", "article")}
    assert error["k8v4"] < error["article"] / 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 60}, "head_dim must be a multiple of 8, at most 512, got 60"),
        ({"head_dim": 1024}, "head_dim must be a multiple of 8, at most 512, got 1024"),
        ({"num_heads": 5}, r"num_heads must be a multiple of num_kv_heads \(2\), got 5"),
        ({"window": 0}, r"window must lie in \[1, 2\^40\], got 0"),
        ({"max_chunk": 0}, "max_chunk must lie in"),
        ({"window": 2**39, "num_layers": 2**39}, "larger than memory can be"),
        ({"sinks": -1}, "sinks must not be negative, got -1"),
        ({"query_bits": 5}, "query_bits must be 8 or 4, got 5"),
        ({"k": ek.KVFormat("int4", 48)}, "k.group must be 0"),  # type: ignore[arg-type]
        ({"k": ek.KVFormat("int3")}, "k must be stored as float32"),  # type: ignore[arg-type]
        ({"v": ek.KVFormat("float16", 32)}, "v is a float format"),
        ({"v": ek.KVFormat("int8", rotated=True)}, "v cannot be rotated"),
        ({"k": ek.KVFormat("int8", rotated=True), "head_dim": 80}, "power of two, got 80"),
        ({"kv": "int5"}, "kv must be float32, .* got 'int5'"),
    ],
)
def test_a_wrong_spec_is_refused(options, message):
    with pytest.raises(ArgumentValueError, match=f"RingKVCache: .*{message}"):
        make(**options)


def test_a_cache_larger_than_memory_is_a_memory_error():
    with pytest.raises(MemoryError):
        make(window=2**39)


def test_wrong_calls_are_refused(rng):
    cache = make()
    k, q = rng.standard_normal((2, KV_HEADS, 64)), rng.standard_normal((2, HEADS, 64)).astype(np.float32)
    k32 = k.astype(np.float32)
    with pytest.raises(ArgumentValueError, match="write: no transaction is open on sequence 0; call stage first"):
        cache.write(0, k32[:0], k32[:0])
    with pytest.raises(ArgumentValueError, match=r"tokens must lie in \[1, max_chunk = 8\], got 9"):
        cache.begin(9)
    with pytest.raises(ArgumentValueError, match="q must have 1 to 0 tokens"):
        cache.attend(0, q)
    cache.begin(2)
    with pytest.raises(
        ArgumentValueError, match="stage: a transaction is open on sequence 0; commit or abort it first"
    ):
        cache.begin(2)
    with pytest.raises(ArgumentTypeError, match="write: k must be float32, got float64"):
        cache.write(0, k, k)  # type: ignore[arg-type]
    with pytest.raises(ArgumentValueError, match=r"write: v must have shape \(2, 2, 64\), got \(1, 2, 64\)"):
        cache.write(0, k32, k32[:1])
    with pytest.raises(ArgumentValueError, match="k must be C-contiguous"):
        cache.write(0, np.asfortranarray(k32), k32)
    aside = np.frombuffer(b"\0" + k32.tobytes(), np.float32, k32.size, offset=1).reshape(k32.shape)
    with pytest.raises(ArgumentValueError, match="write: k has elements that do not lie at multiples of 4 bytes"):
        cache.write(0, aside, k32)
    with pytest.raises(ArgumentTypeError, match="k must be a NumPy array, got list"):
        cache.write(0, k32.tolist(), k32)
    with pytest.raises(ArgumentValueError, match=r"layer must be below num_layers \(1\), got 1"):
        cache.write(1, k32, k32)
    with pytest.raises(ArgumentValueError, match="attend: layer 0 was not written"):
        cache.attend(0, q)
    with pytest.raises(ArgumentValueError, match="commit: layer 0 was not written"):
        cache.commit()
    cache.write(0, k32, k32)
    with pytest.raises(ArgumentValueError, match="q has 1 tokens but 2 are staged"):
        cache.attend(0, q[:1])
    with pytest.raises(ArgumentValueError, match="q of layer 0 has a value that is not finite"):
        cache.attend(0, q * np.float32(np.nan))
    with pytest.raises(ArgumentValueError, match="out shares memory with a query"):
        cache.attend(0, q, out=q)
    with pytest.raises(ArgumentValueError, match="scale must be finite, got nan"):
        cache.attend(0, q, scale=float("nan"))
    with pytest.raises(ArgumentValueError, match="commit: 3 tokens were accepted but 2 were staged"):
        cache.commit(3)
    with pytest.raises(ArgumentValueError, match="rewind: a transaction is open"):
        cache.rewind(0)
    with pytest.raises(ArgumentValueError, match="save: a transaction is open"):
        cache.save()
    cache.commit()
    with pytest.raises(ArgumentValueError, match=r"RingKVCache\.keys: position 7 is not resident"):
        cache.keys(0, 7)
    with pytest.raises(ArgumentValueError, match=r"sequence must be below num_sequences \(1\), got 1"):
        cache.position(1)
    with pytest.raises(ArgumentTypeError, match="tokens must be an integer, got float"):
        cache.rewind(1.0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentValueError, match=r"append: k and v must have shape \(1, tokens, 2, 64\)"):
        cache.append(k32, k32)


def test_queries_past_what_is_left_are_refused(rng):
    """A rejected draft may have taken the place of what the first of many committed queries saw."""
    cache = make(rewind=0)
    k = rng.standard_normal((1, 100, KV_HEADS, 64)).astype(np.float32)
    q = rng.standard_normal((8, HEADS, 64)).astype(np.float32)
    cache.append(k, k)
    cache.attend(0, q)
    with cache.stage(8):
        pass
    with pytest.raises(ArgumentValueError, match="ask for fewer tokens"):
        cache.attend(0, q)


@given(data=st.data())
def test_any_split_of_the_tokens_gives_the_same_cache(data):
    sizes = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=30))
    kv = data.draw(st.sampled_from(["float32", "int8", "k8v4", "int4"]))
    tokens = np.random.default_rng(len(sizes)).standard_normal((1, sum(sizes), 2, 8)).astype(np.float32)
    shape = {"num_layers": 1, "num_kv_heads": 2, "head_dim": 8, "window": 9, "sinks": 2, "max_chunk": 8, "kv": kv}
    one, two = ek.RingKVCache(**shape), ek.RingKVCache(**shape)
    at = 0
    for size in sizes:
        one.append(tokens[:, at : at + size], tokens[:, at : at + size])
        at += size
    two.append(tokens, tokens)
    assert one.save() == two.save()


def test_the_state_machine_finds_no_difference():
    run_machine(operations=1500, seed=0)
