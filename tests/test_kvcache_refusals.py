"""The ring cache refuses wrong specifications, calls and values, and names what is wrong."""

import itertools

import numpy as np
import pytest

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError

from kvcache_rows import HEADS, KV_HEADS, make
from reference.kvcache import Format


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
