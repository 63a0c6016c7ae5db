"""What callers bring: arrays of any library where arrays are taken, each as it is or copied once and reported."""

import array
import re
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern._arrays import as_array, lent
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError, EdgekernWarning

from graphs import Graph

RNG = np.random.default_rng(11)
X = RNG.standard_normal((4, 8)).astype(np.float32)
Q = RNG.integers(-128, 128, (4, 8)).astype(np.int8)
W = RNG.integers(-128, 128, (8, 6)).astype(np.int8)
PACKED = ek.pack_weights(W, scale=0.1)


class Lender:
    """An array of a library that speaks DLPack alone, as torch's tensors do."""

    def __init__(self, values, **facts):
        self.values = values
        self.__dict__.update(facts)

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return (getattr(self, "device_type", 1), 0)


class OldLender(Lender):
    """DLPack as it was before 2023: no options."""

    def __dlpack__(self):
        return self.values.__dlpack__()


class Copier(Lender):
    """Its values lie elsewhere, so that DLPack can only copy them."""

    def __dlpack__(self, *, copy=None, **options):
        if copy is False:
            raise BufferError("not without a copy")
        return self.values.copy().__dlpack__(**options)


class Viewer:
    """``__array__`` as it was before NumPy 2: a view, though it does not say so."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None):
        return self.values


class Maker(Viewer):
    """``__array__`` that makes an array each time."""

    def __array__(self, dtype=None):
        return self.values.copy()


class Honest(Viewer):
    """``__array__`` as NumPy 2 has it."""

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("not without a copy")
        return self.values.copy()


class Interface:
    """The array interface alone."""

    def __init__(self, values):
        self.values = values
        self.__array_interface__ = values.__array_interface__


LENDERS = [Lender, OldLender, Viewer, Interface, memoryview]
COPIERS, WRITABLE = [Maker, Honest], [Viewer, Interface, memoryview]
if np.lib.NumpyVersion(np.__version__) >= "2.1.0":  # before, DLPack's memory is read-only and nobody asks for a copy
    COPIERS, WRITABLE = [Copier, *COPIERS], [Lender, *WRITABLE]


@pytest.mark.parametrize("kind", LENDERS)
def test_what_lends_its_memory_is_not_copied(kind):
    view = as_array("f", "x", kind(X))
    assert np.shares_memory(view, X)
    assert_array_equal(view, X)
    flipped = as_array("f", "x", kind(X[::-2, 1::3]))
    assert_array_equal(flipped, X[::-2, 1::3])


@pytest.mark.parametrize("kind", COPIERS)
def test_what_does_not_is_copied_once_and_reported(kind):
    with pytest.warns(EdgekernWarning, match=f"linear: x is copied, 128 bytes: a {kind.__name__} lends no mem") as seen:
        got = ek.linear(kind(X), PACKED)
    assert len(seen) == 1
    assert seen[0].filename == __file__  # the caller's line
    assert_array_equal(got, ek.linear(X, PACKED))


def test_the_buffer_protocol_is_taken():
    flat = array.array("f", X.ravel().tolist())
    assert_array_equal(as_array("f", "x", flat), X.ravel())
    raw = bytearray(Q.tobytes())
    assert np.shares_memory(as_array("f", "x", raw), np.frombuffer(raw, np.uint8))
    as_rows = memoryview(raw).cast("b", Q.shape)
    assert_array_equal(ek.matmul_integer(as_rows, W), ek.matmul_integer(Q, W))


def test_what_is_no_array_is_left_to_others():
    for value in (None, 1.5, np.float32(2), [1, 2], "a", b"a", (1, 2), {}, object()):
        assert lent("f", "x", value) is value
        with pytest.raises(ArgumentTypeError, match=f"f: x must be a NumPy array, got {type(value).__name__}"):
            as_array("f", "x", value)


REFUSED = {
    "grad": ({"requires_grad": True}, r"f: x is a Lender that requires grad; call .detach\(\) on it"),
    "cuda": ({"device_type": 2}, r"f: x is a Lender on the device CUDA; call .cpu\(\) on it"),
    "unknown device": ({"device_type": 99}, r"on the device 99; call .cpu\(\) on it"),
    "meta": ({"device": type("Device", (), {"type": "meta"})()}, "on the device meta, which holds no values"),
    "sparse": ({"is_sparse": True}, r"is sparse; call .to_dense\(\) on it"),
    "sparse layout": ({"layout": "torch.sparse_csr"}, r"is sparse; call .to_dense\(\) on it"),
    "quantized": ({"is_quantized": True}, r"is quantized; take .int_repr\(\) of it"),
    "conjugate": ({"is_conj": lambda: True}, r"call .resolve_conj\(\) on it"),
    "negative": ({"is_neg": lambda: True}, r"call .resolve_neg\(\) on it"),
    "bfloat16": ({"dtype": "torch.bfloat16"}, r"of bfloat16, which NumPy lacks; call .float\(\) on it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_names_the_method_that_helps(name):
    facts, message = REFUSED[name]
    with pytest.raises(ArgumentTypeError, match=message):
        as_array("f", "x", Lender(X, **facts))


def test_a_library_that_fails_is_an_error_of_ours():
    class Broken:
        dtype = "complex32"

        def __dlpack__(self, **options):
            raise RuntimeError("text of another library")

    with pytest.raises(ArgumentTypeError, match=r"^f: x is a Broken of complex32 that NumPy cannot read; pass a"):
        as_array("f", "x", Broken())


def test_results_are_written_where_others_keep_them():
    for kind in WRITABLE:
        kept = np.zeros((4, 6), np.float32)
        out = kind(kept)
        assert ek.linear(X, PACKED, out=out) is out
        assert_array_equal(kept, ek.linear(X, PACKED))
    counts = np.zeros((4, 6), np.int32)
    out = memoryview(counts)
    assert ek.matmul_integer(Lender(Q), W, out=out) is out
    assert_array_equal(counts, ek.matmul_integer(Q, W))


@pytest.mark.parametrize("kind", COPIERS)
def test_results_are_not_lost_in_copies(kind):
    with pytest.raises(ArgumentTypeError, match=r"linear: out is a \w+(, which gives copies| that NumPy cannot)"):
        ek.linear(X, PACKED, out=kind(np.zeros((4, 6), np.float32)))


def test_read_only_memory_is_read_and_not_written():
    fixed = memoryview(X.tobytes()).cast("f", X.shape)
    assert_array_equal(ek.linear(fixed, PACKED), ek.linear(X, PACKED))
    with pytest.raises(ArgumentValueError, match="linear: out is read-only"):
        ek.linear(X, PACKED, out=memoryview(bytes(96)).cast("f", (4, 6)))


HEADS = RNG.standard_normal((1, 2, 3, 8)).astype(np.float32)
ANGLES = RNG.standard_normal((3, 4)).astype(np.float32)
TOKENS = RNG.standard_normal((1, 2, 2, 64)).astype(np.float32)


def attended(k, v, q):
    cache = ek.RingKVCache(num_layers=1, num_kv_heads=2, head_dim=64, window=8)
    cache.append(k, v)
    with cache.stage(2) as staged:
        staged.write(0, q, q)
        return staged.attend(0, q)


CALLS = {
    "matmul_integer": (lambda a, b: ek.matmul_integer(a, b), (Q, W)),
    "matmul_integer, zero points": (lambda a, z: ek.matmul_integer(a, W, b_zero_point=z), (Q, np.arange(6))),
    "linear": (lambda x, b, r: ek.linear(x, PACKED, bias=b, residual=r), (X, X[0, :6].copy(), X[:, :6].copy())),
    "pack_weights": (lambda w, s: ek.linear(X, ek.pack_weights(w, scale=s)), (W, np.full(6, 0.5, np.float32))),
    "pack_weights, 4 bits": (
        lambda w, s, z: ek.linear(X, ek.pack_weights(w, scale=s, zero_point=z, bits=4, group_size=32)),
        (W // 16, np.full((1, 6), 0.5, np.float32), np.ones((1, 6), np.float32)),
    ),
    "interleave_gate_up": (ek.interleave_gate_up, (X, X[::-1])),
    "quantize_linear": (
        lambda x, s, z: ek.quantize_linear(x, s, z, axis=1),
        (X, np.full(8, 0.1, np.float32), np.arange(8)),
    ),
    "dequantize_linear": (lambda x, s: ek.dequantize_linear(x, s, axis=1), (Q, np.full(8, 0.1, np.float32))),
    "dynamic_quantize": (lambda x: ek.dynamic_quantize(x)[0], (X,)),
    "attention": (lambda q, k, v, m: ek.attention(q, k, v, m), (HEADS, HEADS, HEADS, np.tri(3, dtype=bool))),
    "rotary_embedding": (ek.rotary_embedding, (HEADS, ANGLES, ANGLES, np.array([[0, 1, 2]]))),
    "rms_norm": (ek.rms_norm, (X, X[0].copy())),
    "RingKVCache": (attended, (TOKENS, TOKENS, TOKENS[0])),
    "Histogram": (lambda x: ek.Histogram().update(x).quantile(0.5), (X,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_takes_arrays_of_others(name):
    call, arrays = CALLS[name]
    want = call(*arrays)
    for kind in (Lender, Viewer, memoryview):
        assert_array_equal(call(*map(kind, arrays)), want)


@pytest.mark.parametrize("name", CALLS)
def test_every_call_refuses_what_it_cannot_read_by_its_name(name):
    call, arrays = CALLS[name]
    for at in range(len(arrays)):
        for facts in ({"requires_grad": True}, {"device_type": 2}, {"dtype": "torch.bfloat16"}):
            given = [Lender(one, **facts) if at == i else one for i, one in enumerate(arrays)]
            with pytest.raises(EdgekernError) as refused:
                call(*given)
            assert name.partition(",")[0] in str(refused.value)
            assert re.search(r"call \.(detach|cpu|float)\(\) on it", str(refused.value))


# --- sessions, calibrators, compare


@pytest.fixture(scope="module")
def model():
    g = Graph()
    return g.model(g.op("Gemm", g.qdq(g.input("x", (4, 8))), g.weights(8, 6, axis=1)))


@pytest.fixture(scope="module")
def floats():
    g = Graph()
    return g.model(g.op("Gemm", g.input("x", (4, 8)), g.const(g.rng.normal(size=(8, 6)), np.float32)))


def test_a_session_takes_arrays_of_others_and_writes_into_them(model):
    session = ek.InferenceSession(ek.compile(model, allow_host=False))
    [want] = session.run(None, {"x": X})
    name = session.get_outputs()[0].name
    for kind in WRITABLE:
        kept = np.zeros_like(want)
        out = kind(kept)
        for names in (None, [name]):
            [got] = session.run(names, {"x": kind(X)}, out=[out])
            assert got is out
            assert_array_equal(kept, want)
    twice = [memoryview(np.zeros_like(want)) for _ in range(2)]
    assert session.run([name, name], {"x": X}, out=twice) == twice
    assert_array_equal(np.asarray(twice[1]), want)
    with pytest.warns(EdgekernWarning, match="run: input 'x' is copied, 128 bytes: a Maker lends no memory"):
        assert_array_equal(session.run(None, {"x": Maker(X)})[0], want)
    with pytest.raises(ArgumentTypeError, match=r"run: input 'x' is a Lender that requires grad; call .detach"):
        session.run(None, {"x": Lender(X, requires_grad=True)})
    with pytest.raises(ArgumentTypeError, match=r"run: out for '.*' is a Maker, which gives copies"):
        session.run(None, {"x": X}, out=[Maker(np.zeros_like(want))])


def test_a_calibrator_takes_arrays_of_others(floats):
    want = ek.Calibrator(floats, progress=False).collect({"x": X}).state_dict()
    for kind in (Lender, Viewer, memoryview):
        got = ek.Calibrator(floats, progress=False).collect({"x": kind(X)}).state_dict()
        assert repr(got) == repr(want)
    calibrator = ek.Calibrator(floats, progress=False)
    with pytest.warns(EdgekernWarning, match=r"collect: feeds\['x'\] is copied, 128 bytes: it is not C-contiguous"):
        calibrator.collect({"x": np.asfortranarray(X)})
    with pytest.raises(ArgumentTypeError, match=r"collect: feeds\['x'\] is a Lender of bfloat16"):
        calibrator.collect({"x": Lender(X, dtype="torch.bfloat16")})
    with pytest.raises(ArgumentTypeError, match=r"collect: feeds\['x'\] must be an array, got list"):
        calibrator.collect({"x": [[1], [2, 3]]})


@pytest.mark.filterwarnings("ignore:compare. program does not say which float model")
def test_arrays_without_names_are_refused_with_what_to_pass(model, floats):
    program, calibrator = ek.compile(model, allow_host=False), ek.Calibrator(floats, progress=False)
    session = ek.InferenceSession(program)
    calls = {
        "run": lambda given: session.run(None, given),
        "Calibrator.collect": calibrator.collect,
        "Calibrator.collect_many": calibrator.collect_many,
        "compare": lambda given: ek.compare(model, program, given),
    }
    for name, call in calls.items():
        for given in (X, [X], Lender(X), 7):
            with pytest.raises(ArgumentTypeError, match=rf"{name.split('_')[0]}.*: .* must be a dict .*'x': array"):
                call(given)
    assert calibrator.num_batches == 0


@pytest.mark.filterwarnings("ignore:compare. program does not say which float model")
def test_compare_takes_arrays_of_others_and_says_what_is_wrong_with_them(model):
    program = ek.compile(model, allow_host=False)
    assert str(ek.compare(model, program, {"x": Lender(X)})) == str(ek.compare(model, program, [{"x": X}]))
    with pytest.raises(ArgumentTypeError, match=r"compare: input 'x' is a Lender of bfloat16"):
        ek.compare(model, program, {"x": Lender(X, dtype="torch.bfloat16")})
    for wrong in ({"x": X.astype(np.int64)}, {"x": X[:2]}, {"y": X}, {}):
        with pytest.raises(EdgekernError):
            ek.compare(model, program, [wrong])


@pytest.mark.filterwarnings("ignore:compare. program does not say which float model")
def test_a_model_of_another_batch_is_refused_by_compare():
    def gemm(rows):
        g = Graph()
        return g.model(g.op("Gemm", g.qdq(g.input("x", (rows, 8))), g.weights(8, 6, axis=1)))

    with pytest.raises(ArgumentValueError, match="compare: float_model cannot run the feeds that program takes"):
        ek.compare(gemm(2), ek.compile(gemm(4), allow_host=False), {"x": X})


def test_plain_arrays_are_taken_without_a_word(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call, arrays in CALLS.values():
            call(*arrays)
        ek.InferenceSession(ek.compile(model, allow_host=False)).run(None, {"x": X})


def test_no_isa_is_the_best_one_everywhere(tmp_path):
    from edgekern import llm

    from llm_files import SMALL, random_tensors, write_llama2c

    path = write_llama2c(tmp_path / "small.bin", SMALL, random_tensors(SMALL))
    assert_array_equal(llm.load(path, isa=None).logits([1, 2]), llm.load(path).logits([1, 2]))
    assert_array_equal(ek.rms_norm(X, X[0], isa=None), ek.rms_norm(X, X[0]))
    assert_array_equal(ek.attention(HEADS, HEADS, HEADS, isa=None), ek.attention(HEADS, HEADS, HEADS))
    ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=64, isa=None)
    for call in (lambda isa: llm.load(path, isa=isa), lambda isa: ek.rms_norm(X, X[0], isa=isa)):
        with pytest.raises(ArgumentTypeError, match="isa must be a string, got int 3"):
            call(3)
