"""InferenceSession: onnxruntime's interface, its errors, its promises."""

import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError, EdgekernWarning, UnsupportedIsaError

from graphs import Graph, feeds_of


def two_in_two_out():
    g = Graph()
    a, b = g.qdq(g.input("a", (2, 6, 5, 5))), g.qdq(g.input("b", (2, 6, 5, 5)))
    total = g.qdq(g.op("Add", a, b), 0.2)
    small = g.op("Gemm", g.op("Flatten", total), g.weights(150, 4, axis=1))
    return g.model(small, total)


@pytest.fixture(scope="module")
def model():
    return two_in_two_out()


@pytest.fixture(scope="module")
def program(model):
    return ek.compile(model, allow_host=False)


@pytest.fixture
def session(program):
    return ek.InferenceSession(program, num_threads=1)


def test_session_describes_its_borders(session, model):
    assert [(node.name, node.shape, node.type) for node in session.get_inputs()] == [
        ("a", [2, 6, 5, 5], "tensor(float)"),
        ("b", [2, 6, 5, 5], "tensor(float)"),
    ]
    assert [node.name for node in session.get_outputs()] == [value.name for value in model.graph.output]
    g = Graph()
    q = g.op("QuantizeLinear", g.input("x", (3, 4)), g.const(0.1, np.float32), g.const(3, np.int8))
    assert [node.type for node in ek.InferenceSession(ek.compile(g.model(q))).get_outputs()] == ["tensor(int8)"]


def test_outputs_come_in_the_order_asked_for(session, model):
    feeds, names = feeds_of(model), [node.name for node in session.get_outputs()]
    both = session.run(None, feeds)
    swapped = session.run(names[::-1], feeds)
    np.testing.assert_array_equal(both[0], swapped[1])
    np.testing.assert_array_equal(both[1], swapped[0])
    [one] = session.run([names[1]], feeds)
    np.testing.assert_array_equal(one, both[1])
    for array, want in zip(session.run([], feeds), both, strict=True):  # as onnxruntime does
        np.testing.assert_array_equal(array, want)
    twice = session.run([names[1], names[1]], feeds)
    assert twice[0] is not twice[1]
    for array in twice:
        np.testing.assert_array_equal(array, both[1])


def test_results_are_new_arrays_and_runs_do_not_depend_on_each_other(session, model):
    feeds = feeds_of(model)
    first = session.run(None, feeds)
    kept = [array.copy() for array in first]
    session.run(None, feeds_of(model, 7))
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    for array, copy in zip(session.run(None, feeds), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_results_are_written_where_the_caller_wants_them(session, model):
    feeds, names = feeds_of(model), [node.name for node in session.get_outputs()]
    expected = session.run(None, feeds)
    out = [np.full_like(array, 7) for array in expected]
    strided = np.zeros((*expected[0].shape, 2), expected[0].dtype)[..., 1]
    for given in (out, tuple(out), [strided, out[1]]):
        reported = (
            pytest.warns(EdgekernWarning, match="run: out for .* is copied") if given[0] is strided else nullcontext()
        )
        with reported:
            results = session.run(None, feeds, out=given)
        assert all(result is array for result, array in zip(results, given, strict=True))
        for result, want in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, want)
    [one] = session.run([names[1]], feeds, out=[out[1]])
    np.testing.assert_array_equal(one, expected[1])


BAD_OUT = {
    "few": (lambda out: out[:1], ArgumentTypeError, "run: out must be a list of 2 arrays, one for each output, got 1"),
    "array": (lambda out: out[0], ArgumentTypeError, "run: out must be a list of 2 arrays, .* got ndarray"),
    "dtype": (lambda out: [out[0], out[1].astype("f8")], ArgumentTypeError, "out for .* must be float32, got float64"),
    "shape": (lambda out: [out[0][:1], out[1]], ArgumentValueError, "out for .* must have shape"),
    "none": (lambda out: [out[0], None], ArgumentTypeError, "run: out for .* must be a NumPy array, got NoneType"),
    "order": (lambda out: [out[0], out[1].astype(">f4")], ArgumentTypeError, "out for .* must be float32, got >f4"),
    "fixed": (lambda out: [out[0], out[1][:]], ArgumentValueError, "run: out for .* is read-only; pass a writeable"),
}


@pytest.mark.parametrize("name", BAD_OUT)
@pytest.mark.parametrize("names", ["all", "one twice"])
def test_bad_out_is_refused_and_stays_as_it_was(session, model, name, names):
    spoil, error, message = BAD_OUT[name]
    feeds, asked = feeds_of(model), None
    out = [np.full_like(array, 7) for array in session.run(None, feeds)]
    if names == "one twice":
        out = [np.full_like(out[1], 7), np.full_like(out[1], 7)]
        asked = [session.get_outputs()[1].name] * 2
    bad = spoil(out)
    if name == "fixed":
        bad[1].flags.writeable = False
    for given in (bad, bad[::-1]) if len(bad) == 2 else (bad,):
        if names == "one twice" or given is bad:
            with pytest.raises(error, match=message):
                session.run(asked, feeds, out=given)
    assert all((array == 7).all() for array in out)


def test_errors_name_the_border_as_the_model_does():
    g = Graph()
    q = g.op("QuantizeLinear", g.input("x", (3, 4)), g.const(0.1, np.float32), g.const(3, np.int8))
    model = g.model(g.op("Reshape", q, g.const([4, 3], np.int64)))
    session, x = ek.InferenceSession(ek.compile(model)), np.zeros((3, 4), np.float32)
    [name] = [value.name for value in model.graph.output]
    with pytest.raises(ArgumentTypeError, match=f"run: out for '{name}' must be int8"):
        session.run(None, {"x": x}, out=[np.zeros((4, 3), np.uint8)])
    with pytest.raises(ArgumentTypeError, match="run: input 'x' must be float32, got >f4"):
        session.run(None, {"x": x.astype(">f4")})


def test_arrays_may_be_misaligned_or_share_memory(session, model):
    feeds = feeds_of(model)
    expected = session.run(None, feeds)

    def misaligned(array):
        bytes_ = np.zeros(array.nbytes + 1, np.uint8)
        view = bytes_[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view

    out = [misaligned(array) for array in expected]
    with pytest.warns(EdgekernWarning, match="is copied"):
        session.run(None, {name: misaligned(array) for name, array in feeds.items()}, out=out)
    for result, want in zip(out, expected, strict=True):
        np.testing.assert_array_equal(result, want)
    own = {name: array.copy() for name, array in feeds.items()}
    total = next(i for i, array in enumerate(expected) if array.shape == own["a"].shape)
    out = [own["a"] if i == total else np.empty_like(array) for i, array in enumerate(expected)]
    session.run(None, own, out=out)
    for result, want in zip(out, expected, strict=True):
        np.testing.assert_array_equal(result, want)
    views = [array for _, array in session.trace(feeds)]  # of the arena
    view = next(array for array in views if array.shape == own["a"].shape and array.dtype == own["a"].dtype)
    content = view.copy()
    got, want = (session.run(None, {**feeds, "a": array})[total] for array in (view, content))
    np.testing.assert_array_equal(got, want)


def test_strided_inputs_of_a_trace_are_reported_too(session, model):
    strided = {name: np.asfortranarray(array) for name, array in feeds_of(model).items()}
    with pytest.warns(EdgekernWarning, match="trace: input '.' is copied, 1200 bytes: it is not C-contiguous") as seen:
        steps = dict(session.trace(strided))
    assert steps
    assert {one.filename for one in seen} == {__file__}


def test_strided_inputs_are_taken(session, model):
    feeds = feeds_of(model)
    strided = {name: np.asfortranarray(array) for name, array in feeds.items()}
    with pytest.warns(EdgekernWarning, match="run: input '.' is copied, 1200 bytes: it is not C-contiguous") as seen:
        result = session.run(None, strided)[0]
    np.testing.assert_array_equal(session.run(None, feeds)[0], result)
    assert {warning.filename for warning in seen} == {__file__}  # the caller's line


def unaligned(array):
    result = np.frombuffer(bytearray(1 + array.nbytes), np.uint8, offset=1).view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def test_arrays_that_are_not_aligned_are_taken(session, model):
    feeds = feeds_of(model)
    expected = session.run(None, feeds)
    out = [unaligned(np.zeros_like(array)) for array in expected]
    assert not out[0].flags.aligned
    with pytest.warns(EdgekernWarning, match="run: .* is copied, .* bytes: it is not aligned"):
        session.run(None, {name: unaligned(array) for name, array in feeds.items()}, out=out)
    for got, want in zip(out, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_file_bytes_and_program_are_all_sessions(program, model, tmp_path):
    program.save(tmp_path / "model.ekm")
    feeds = feeds_of(model)
    sources = [program, tmp_path / "model.ekm", str(tmp_path / "model.ekm"), program.container.data.tobytes()]
    results = [ek.InferenceSession(source, verify="lazy").run(None, feeds)[0] for source in sources]
    assert all(np.array_equal(result, results[0]) for result in results)


def test_every_isa_and_thread_count_gives_the_same_bytes(program, model, isa):
    feeds = feeds_of(model)
    wanted = ek.InferenceSession(program, isa="scalar", num_threads=1).run(None, feeds)
    for threads in (1, 2, 5):
        session = ek.InferenceSession(program, isa=isa, num_threads=threads)
        assert (session.isa, session.num_threads) == (isa, threads)
        for result, expected in zip(session.run(None, feeds), wanted, strict=True):
            np.testing.assert_array_equal(result, expected)


def _without(feeds, name):
    return {key: array for key, array in feeds.items() if key != name}


BAD_FEEDS = {
    "missing": (lambda f: _without(f, "b"), ArgumentValueError, r"run: input_feed lacks the input 'b'; .*\['a', 'b'\]"),
    "unknown": (lambda f: {**f, "c": f["a"]}, ArgumentValueError, "run: there is no input 'c'"),
    "shape": (lambda f: {**f, "a": f["a"][:1]}, ArgumentValueError, r"'a' must have shape \(2, 6, 5, 5\), got \(1, 6"),
    "rank": (lambda f: {**f, "a": f["a"][0]}, ArgumentValueError, r"'a' must have 4 dimensions .* got 3"),
    "dtype": (lambda f: {**f, "a": f["a"].astype("f8")}, ArgumentTypeError, "'a' must be float32, got float64"),
    "list": (lambda f: {**f, "a": f["a"].tolist()}, ArgumentTypeError, "'a' must be a NumPy array, got list"),
    "sequence": (lambda f: list(f.values()), ArgumentTypeError, "input_feed must be a dict"),
}


@pytest.mark.parametrize("name", BAD_FEEDS)
def test_bad_feeds_are_refused_by_name(session, model, name):
    spoil, error, message = BAD_FEEDS[name]
    with pytest.raises(error, match=message):
        session.run(None, spoil(feeds_of(model)))


def test_bad_output_names_are_refused(session, model):
    with pytest.raises(ArgumentValueError, match="run: there is no output 'nothing'; the outputs are"):
        session.run(["nothing"], feeds_of(model))
    with pytest.raises(ArgumentTypeError, match="must be a list of names"):
        session.run("logits", feeds_of(model))


def test_bad_options_are_refused(program):
    with pytest.raises(ArgumentValueError, match="num_threads must be an integer of at least 1, got 0"):
        ek.InferenceSession(program, num_threads=0)
    with pytest.raises(ArgumentValueError, match="verify must be"):
        ek.InferenceSession(program, verify="never")
    with pytest.raises(ArgumentTypeError, match="path_or_bytes must be a path, bytes or Program, got int"):
        ek.InferenceSession(7)
    with pytest.raises(ArgumentTypeError, match="isa must be a string"):
        ek.InferenceSession(program, isa=3)


def test_foreign_isa_is_refused(program):
    foreign = next(name for name in ("neon", "avx512vnni") if name not in _core.available_isas())
    with pytest.raises(UnsupportedIsaError, match=foreign):
        ek.InferenceSession(program, isa=foreign)
    with pytest.raises((UnsupportedIsaError, ArgumentValueError), match="sse9"):
        ek.InferenceSession(program, isa="sse9")


def test_callers_of_one_session_wait_for_each_other(session, model):
    feeds = [feeds_of(model, seed) for seed in range(4)]
    wanted = [session.run(None, each)[0] for each in feeds]
    wrong = []

    def call(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(session.run(None, feeds[number])[0], wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_session_outlives_its_program_and_file(model, tmp_path):
    path = tmp_path / "model.ekm"
    ek.compile(model).save(path)
    session, feeds = ek.InferenceSession(path), feeds_of(model)
    wanted = session.run(None, feeds)[0]
    path.unlink()
    np.testing.assert_array_equal(session.run(None, feeds)[0], wanted)


def test_trace_gives_every_step(session, program, model):
    steps = [step for step, array in session.trace(feeds_of(model)) if array.size]
    assert steps == list(range(len(program.steps)))


def test_session_states_its_memory(session, program):
    assert session.arena_bytes >= program.memory_plan.arena_bytes
    assert session.summary() == program.summary(isa=session.isa)
    assert "num_threads=1" in repr(session)


def host_program():
    g = Graph()
    y = g.op("Softmax", g.op("Gemm", g.qdq(g.input("x", (2, 8))), g.weights(8, 5, axis=1)))
    with pytest.warns(EdgekernWarning):
        return ek.compile(g.model(y))


@pytest.mark.usefixtures("no_float_kernels")
def test_session_without_onnxruntime_names_the_extra(tmp_path):
    """Programs of kernels run with NumPy alone; a host step says what it needs."""
    ek.compile(two_in_two_out()).save(tmp_path / "kernels.ekm")
    host_program().save(tmp_path / "host.ekm")
    code = """
import sys
for name in ("onnx", "onnx_ir", "onnxruntime"):
    sys.modules[name] = None
import numpy as np
import edgekern as ek
session = ek.InferenceSession("kernels.ekm")
session.run(None, {node.name: np.zeros(node.shape, np.float32) for node in session.get_inputs()})
assert not [name for name in sys.modules if name.startswith("edgekern.compiler")]
try:
    ek.InferenceSession("host.ekm")
except ek.errors.EdgekernError as error:
    assert "host.0 (Softmax) runs in onnxruntime" in str(error) and "edgekern[toolkit]" in str(error)
else:
    sys.exit("no error")
"""
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr


@pytest.mark.usefixtures("no_float_kernels")
def test_host_step_that_fails_is_named(monkeypatch):
    session = ek.InferenceSession(host_program())
    monkeypatch.setattr(session._runner.hosts[0], "_outputs", {"absent": np.zeros(1)})
    with pytest.raises(EdgekernError, match=r"run: host\.0 failed in onnxruntime"):
        session.run(None, {"x": np.zeros((2, 8), np.float32)})


@pytest.mark.usefixtures("no_float_kernels")
def test_no_worker_spins_while_the_host_computes(monkeypatch):
    """Two libraries' threads on the same CPUs: who waits must not look busy."""
    session, seen = ek.InferenceSession(host_program(), num_threads=2), []
    host = session._runner.hosts[0]
    run = host._session.run

    def watched(*arguments):
        end = time.monotonic() + 10
        while _core.spinning_workers() and time.monotonic() < end:
            time.sleep(0.001)
        seen.append(_core.spinning_workers())
        return run(*arguments)

    monkeypatch.setattr(host, "_session", SimpleNamespace(run=watched))
    _core.set_worker_patience(60_000_000)
    try:
        a, b = np.ones((300, 300), np.int8), ek.pack_weights(np.ones((300, 300), np.int8))
        ek.matmul_integer(a, b, num_threads=2)  # a worker looks out for more
        session.run(None, {"x": np.zeros((2, 8), np.float32)})
    finally:
        _core.set_worker_patience(50)
    assert seen == [0]


@pytest.mark.usefixtures("no_float_kernels")
def test_arrays_of_a_program_with_host_steps():
    session, x = ek.InferenceSession(host_program()), np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    [want] = session.run(None, {"x": x})
    strided = np.zeros((2, 10), np.float32)[:, ::2]
    with pytest.warns(
        EdgekernWarning, match=r"run: (input 'x'|out for .*) is copied, \d+ bytes: it is not C-cont"
    ) as seen:
        [got] = session.run(None, {"x": np.asfortranarray(x)}, out=[strided])
    assert [str(one.message).split(" is ")[0].split("'")[0] for one in seen] == ["run: input ", "run: out for "]
    assert {one.filename for one in seen} == {__file__}
    assert got is strided
    np.testing.assert_array_equal(got, want)
    fixed = np.full_like(want, 7)
    fixed.flags.writeable = False
    with pytest.raises(ArgumentValueError, match="read-only"):
        session.run(None, {"x": x}, out=[fixed])
    assert (fixed == 7).all()


@pytest.mark.usefixtures("no_float_kernels")
def test_integer_inputs_pass_to_the_host():
    g = Graph()
    table = g.const(g.rng.normal(0, 1, (10, 8)), np.float32)
    rows = g.op("Gather", table, g.input("ids", (3,), TensorProto.INT64))
    model = g.model(g.op("Gemm", g.qdq(rows), g.weights(8, 5, axis=1)))
    with pytest.warns(EdgekernWarning):
        session = ek.InferenceSession(ek.compile(model))
    assert session.get_inputs()[0].type == "tensor(int64)"
    one = session.run(None, {"ids": np.array([1, 2, 3])})[0]
    two = session.run(None, {"ids": np.array([3, 2, 1])})[0]
    np.testing.assert_array_equal(one, two[::-1])
