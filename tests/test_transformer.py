"""A transformer's operators on plain arrays: against float64, with the same bits on every ISA; ONNX's own tests are in
conformance/."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError

from guarded import guarded

Float32 = npt.NDArray[np.float32]


def exact(
    q: Float32, k: Float32, v: Float32, added: npt.NDArray[Any], scale: float, softcap: float
) -> npt.NDArray[Any]:
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    scores = q.astype(np.float64) @ wide_k.swapaxes(2, 3) * scale
    if softcap > 0:
        scores = softcap * np.tanh(scores / softcap)
    scores = scores + added
    most = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(most), most, 0))
    total = weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights @ wide_v / np.where(total > 0, total, 1))


def allowed(queries: int, keys: int, position: int, left: int | None, right: int | None) -> npt.NDArray[np.bool_]:
    ahead = np.arange(keys) - (position + np.arange(queries)[:, None])
    seen = np.ones((queries, keys), np.bool_)
    if left is not None:
        seen &= ahead >= -left
    if right is not None:
        seen &= ahead <= right
    return seen


@given(data=st.data())
def test_attention_matches_float64_and_itself(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch, kv_heads, group = (draw(st.integers(1, 3)) for _ in range(3))
    queries, keys = draw(st.integers(1, 20)), draw(st.integers(1, 600))
    head_dim, v_dim = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    q = rng.normal(size=(batch, kv_heads * group, queries, head_dim)).astype(np.float32)
    k = rng.normal(size=(batch, kv_heads, keys, head_dim)).astype(np.float32)
    v = rng.normal(size=(batch, kv_heads, keys, v_dim)).astype(np.float32)
    left, right = (draw(st.none() | st.integers(0, keys)) for _ in range(2))
    position = rng.integers(-5, keys, batch)
    lengths = rng.integers(0, keys + 1, batch)
    softcap = draw(st.sampled_from((0.0, 2.0)))
    causal = draw(st.booleans())
    mask_shape = [draw(st.sampled_from((1, n))) for n in (batch, kv_heads * group, queries, keys)]
    mask: Any = draw(st.sampled_from((None, "bool", "float")))
    added = np.zeros((batch, 1, queries, keys))
    for b in range(batch):
        seen = allowed(queries, keys, int(position[b]), left, 0 if causal else right)
        added[b, 0] = np.where(seen & (np.arange(keys) < lengths[b]), 0, -np.inf)
    if mask == "bool":
        mask = rng.random(mask_shape) < 0.7
        added = np.where(mask, added, -np.inf)
    elif mask == "float":
        mask = rng.normal(size=mask_shape).astype(np.float32)
        added = added + mask
    # What nobody sees may be anything.
    unseen = np.isneginf(np.broadcast_to(added, (batch, kv_heads * group, queries, keys)))
    hidden = unseen.reshape(batch, kv_heads, group * queries, keys).all(axis=2)
    k[hidden] = np.nan
    v[hidden] = np.inf
    options: Any = {"causal": causal, "window": (left, right), "position": position, "kv_lengths": lengths}
    found = {
        ek.attention(*map(guarded, (q, k, v)), mask, softcap=softcap, **options, num_threads=threads, isa=isa).tobytes()
        for isa in _core.available_isas()
        for threads in (1, 2)
    }
    assert len(found) == 1
    got = np.frombuffer(found.pop(), np.float32).reshape(*q.shape[:3], v_dim)
    wanted = exact(q, np.where(np.isfinite(k), k, 0), np.where(np.isfinite(v), v, 0), added, head_dim**-0.5, softcap)
    np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)
    assert (got[np.isneginf(np.broadcast_to(added, unseen.shape)).all(axis=-1)] == 0).all()


def test_attention_equals_a_cache_of_floats(rng):
    """One definition: the cache's rows give the bits that plain arrays give."""
    cache = ek.RingKVCache(num_layers=1, num_kv_heads=2, num_heads=4, head_dim=16, window=300, sinks=0, kv="float32")
    k, v = (rng.normal(size=(1, 300, 2, 16)).astype(np.float32) for _ in range(2))
    q = rng.normal(size=(5, 4, 16)).astype(np.float32)
    cache.append(k, v)
    plain = [np.ascontiguousarray(x.swapaxes(0, 1)[None]) for x in (q, k[0], v[0])]
    got = ek.attention(*plain, causal=True, position=295)
    np.testing.assert_array_equal(got[0].swapaxes(0, 1), cache.attend(0, q))


def test_norm_and_rotation_have_the_same_bits_everywhere(rng):
    x = rng.normal(size=(2, 3, 5, 40)).astype(np.float32)
    weight = rng.normal(size=(5, 40)).astype(np.float32)
    angle = rng.normal(size=(2, 5, 12))
    cosines, sines = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    runs = [(isa, threads) for isa in _core.available_isas() for threads in (1, 2)]
    normed = [ek.rms_norm(guarded(x), guarded(weight), eps=1e-6, isa=isa, num_threads=n) for isa, n in runs]
    turned = [ek.rotary_embedding(guarded(x), cosines, sines, isa=isa, num_threads=n) for isa, n in runs]
    assert len({y.tobytes() for y in normed}) == len({y.tobytes() for y in turned}) == 1
    wide = x.astype(np.float64)
    mean = (wide**2).mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(normed[0], wide / np.sqrt(mean + 1e-6) * weight, rtol=1e-6)
    np.testing.assert_array_equal(turned[0][..., 24:], x[..., 24:])


def test_bad_input_is_named(rng):
    x = rng.normal(size=(1, 2, 3, 8)).astype(np.float32)
    with pytest.raises(ArgumentTypeError, match="attention: k must be float32, got float64"):
        ek.attention(x, x.astype(np.float64), x)
    with pytest.raises(ArgumentValueError, match="attention: q must have 4 axes"):
        ek.attention(x[0], x, x)
    with pytest.raises(ArgumentValueError, match=r"attention: k must have shape \(1, 2, 3, 8\), got \(1, 2, 3, 4\)"):
        ek.attention(x, np.ascontiguousarray(x[..., :4]), x)
    with pytest.raises(ArgumentValueError, match="heads of q must be a multiple"):
        ek.attention(x, np.repeat(x, 2, axis=1), np.repeat(x, 2, axis=1))
    with pytest.raises(ArgumentValueError, match=r"mask must broadcast to \(1, 2, 3, 3\)"):
        ek.attention(x, x, x, np.ones((2, 2), np.bool_))
    with pytest.raises(ArgumentTypeError, match="mask must be bool or float32"):
        ek.attention(x, x, x, np.ones((3, 3), np.int32))
    with pytest.raises(ArgumentValueError, match="kv_lengths must be 0 to 3, got 4"):
        ek.attention(x, x, x, kv_lengths=4)
    with pytest.raises(ArgumentValueError, match="kv_lengths must be one number or one for each batch"):
        ek.attention(x, x, x, kv_lengths=[1, 2])
    with pytest.raises(ArgumentValueError, match="window must be None or not negative"):
        ek.attention(x, x, x, window=(-1, None))
    with pytest.raises(ArgumentValueError, match="scale must be finite"):
        ek.attention(x, x, x, scale=np.inf)
    wide = np.zeros((1, 1, 1, 520), np.float32)
    with pytest.raises(ArgumentValueError, match="512 values, got 520"):
        ek.attention(wide, wide, wide)
    with pytest.raises(ArgumentValueError, match="positions must be 0 to 1, got 0 to 2"):
        ek.rotary_embedding(x, np.ones((2, 4), np.float32), np.ones((2, 4), np.float32), np.arange(3)[None])
    with pytest.raises(ArgumentValueError, match="turn 10 values, but x has 8"):
        ek.rotary_embedding(x, np.ones((1, 3, 5), np.float32), np.ones((1, 3, 5), np.float32))
    with pytest.raises(ArgumentValueError, match="x must end with the axes of weight"):
        ek.rms_norm(x, np.ones(7, np.float32))
