"""The ring cache: every format's bits, what each query sees, and the transactions around them."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern.errors import ArgumentValueError, EdgekernWarning, KVRewindError

from guarded import guarded, guarded_empty
from kvcache_machine import run_machine
from kvcache_rows import FORMATS, HEADS, K_FORMATS, KV_HEADS, by_slot, feed, make, rows
from reference import kvcache as reference
from reference.kvcache import Format


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
