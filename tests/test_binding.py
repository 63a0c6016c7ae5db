"""session.bind: arrays are checked once, lent by anybody, and nothing is copied or made behind that."""

import mmap
import sys
import threading
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError, EdgekernWarning

from graphs import Graph, feeds_of, without_float_kernels


def images(shape=(1, 4, 6, 5)):
    """Floats come as NCHW and go as NCHW: quantized straight from the caller's memory, and back into it."""
    g = Graph()
    x = g.qdq(g.input("x", shape))
    return g.model(g.qdq(g.op("Conv", x, g.weights(3, shape[1], 1, 1))))


def matrix():
    """Two inputs that the kernels read themselves, and two outputs."""
    g = Graph()
    total = g.op("MatMul", g.input("a", (3, 8)), g.input("b", (8, 4)))
    return g.model(total, g.op("Softmax", total))


def hosted():
    g = Graph()
    with without_float_kernels():
        return ek.compile(g.model(g.op("Erf", g.input("x", (3, 4)))))


@pytest.fixture(scope="module")
def model():
    return matrix()


@pytest.fixture(scope="module")
def session(model):
    return ek.InferenceSession(ek.compile(model, allow_host=False), num_threads=1)


@pytest.fixture(scope="module")
def straight():
    return ek.InferenceSession(ek.compile(images(), allow_host=False), num_threads=1)


class Lender:
    """A producer of DLPack, and nothing else."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def names(nodes):
    return [node.name for node in nodes]


@pytest.mark.parametrize("make", [images, matrix])
@pytest.mark.parametrize("threads", [1, 2])
def test_bound_runs_give_what_run_gives(make, threads):
    model = make()
    session = ek.InferenceSession(ek.compile(model), num_threads=threads)
    feeds = {name: x.copy() for name, x in feeds_of(model).items()}
    outputs = {node.name: np.empty(node.shape, np.float32) for node in session.get_outputs()}
    binding = session.bind(feeds, outputs)
    for seed in (1, 2, 3):
        for name, x in feeds_of(model, seed).items():
            feeds[name][...] = x
        got = binding.run()
        assert got is binding.outputs
        for (name, array), want in zip(outputs.items(), session.run(None, feeds), strict=True):
            assert got[name] is array
            np.testing.assert_array_equal(array, want)


def test_arrays_that_are_not_given_are_made(session, model):
    binding = session.bind()
    for name, x in feeds_of(model).items():
        binding.inputs[name][...] = x
    made = [array.copy() for array in binding.run().values()]
    for got, want in zip(made, session.run(None, feeds_of(model)), strict=True):
        np.testing.assert_array_equal(got, want)
    last = names(session.get_outputs())[1]
    one = session.bind(feeds_of(model), {last: None})
    assert list(one.outputs) == [last]
    np.testing.assert_array_equal(one.run()[last], made[1])


@pytest.mark.filterwarnings("ignore:compile. nothing of the model runs on a kernel")
def test_host_steps_are_run_too():
    session = ek.InferenceSession(hosted())
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    [want] = session.run(None, {"x": x})
    assert session.bytes_copied == 2 * x.nbytes
    session.run(None, {"x": -x})  # which leaves its results in the arena
    binding = session.bind({"x": x})
    [got] = binding.run().values()
    np.testing.assert_array_equal(got, want)
    assert got.any()


@given(lender=st.sampled_from(["array", "dlpack", "bytearray", "memoryview", "mmap", "ort"]), seed=st.integers(0, 9))
def test_whoever_lends_memory_is_read_and_written_in_place(straight, lender, seed):
    x = feeds_of(images(), seed)["x"]
    [want] = straight.run(None, {"x": x})

    def lend(array):
        room = mmap.mmap(-1, array.nbytes) if lender == "mmap" else bytearray(array.nbytes)
        view = np.frombuffer(room, np.float32).reshape(array.shape)
        view[...] = array
        lent = {
            "array": lambda: view,
            "dlpack": lambda: Lender(view),
            "ort": lambda: ek.OrtValue.ortvalue_from_numpy(view),
            "memoryview": lambda: memoryview(room),
        }
        return lent.get(lender, lambda: room)(), view

    (source, values), (target, result) = lend(x), lend(np.zeros_like(want))
    binding = straight.bind({"x": source}, {straight.get_outputs()[0].name: target})
    binding.run()
    np.testing.assert_array_equal(result, want)
    assert straight.bytes_copied == 0
    values[...] = 0  # the memory itself is bound, no copy of it
    binding.run()
    np.testing.assert_array_equal(result, straight.run(None, {"x": np.zeros_like(x)})[0])


def test_outputs_lend_their_memory(straight):
    """A consumer of DLPack, and one of the buffer protocol, see what later runs write."""
    x = feeds_of(images())["x"].copy()
    binding = straight.bind({"x": x})
    [result] = binding.run().values()
    seen, raw = np.from_dlpack(result), memoryview(result).cast("B")
    assert np.shares_memory(seen, result)
    x[...] = 0
    before = seen.copy()
    binding.run()
    assert not np.array_equal(seen, before)
    np.testing.assert_array_equal(seen, result)
    assert bytes(raw) == result.tobytes()


def test_read_only_memory_is_read_and_never_written(straight):
    x = feeds_of(images())["x"]
    want = straight.run(None, {"x": x})[0]
    fixed = np.frombuffer(x.tobytes(), np.float32).reshape(x.shape)
    assert not fixed.flags.writeable
    np.testing.assert_array_equal(next(iter(straight.bind({"x": fixed}).run().values())), want)
    np.testing.assert_array_equal(next(iter(straight.bind({"x": memoryview(x.tobytes())}).run().values())), want)
    [name] = names(straight.get_outputs())
    for target in (memoryview(bytes(want.nbytes)), np.broadcast_to(np.float32(0), want.shape), fixed_like(want)):
        with pytest.raises(EdgekernError, match=r"bind: .*(read-only; pass a writeable|C-contiguous)"):
            straight.bind({"x": x}, {name: target})


def fixed_like(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _shapes(x):
    return {
        "dtype": (x.astype("f8"), ArgumentTypeError, "bind: input 'x' must be float32, got float64"),
        "shape": (x[..., :4].copy(), ArgumentValueError, r"must have shape \(1, 4, 6, 5\), got \(1, 4, 6, 4\)"),
        "strides": (np.asfortranarray(x), ArgumentValueError, "bind: arrays must be C-contiguous and aligned"),
        "alignment": (unaligned(x), ArgumentValueError, "bind: arrays must be C-contiguous and aligned"),
        "few bytes": (bytearray(x.nbytes - 1), ArgumentValueError, "must have 480 bytes, float32 of .* got 479"),
        "many bytes": (memoryview(bytes(500)), ArgumentValueError, "must have 480 bytes, .* got 500"),
        "gaps": (memoryview(bytearray(2 * x.nbytes))[::2], ArgumentValueError, "with gaps between them"),
        "released": (released(), ArgumentTypeError, "bind: input 'x' must be a NumPy array, got memoryview"),
        "list": (x.tolist(), ArgumentTypeError, "bind: input 'x' must be a NumPy array, got list"),
        "copies": (Copies(x), ArgumentTypeError, "bind: input 'x' is a Copies, which gives copies"),
    }


class Copies:
    """An array would not be the memory that the caller changes later."""

    def __init__(self, array):
        self._list = array.tolist()

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("only copies")
        return np.asarray(self._list, np.float32)


def released():
    view = memoryview(bytes(480))
    view.release()
    return view


def unaligned(array):
    view = np.frombuffer(bytearray(1 + array.nbytes), np.uint8, offset=1).view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("name", _shapes(np.zeros((1, 4, 6, 5), np.float32)))
def test_what_cannot_be_bound_is_refused(straight, name):
    x = feeds_of(images())["x"]
    value, error, message = _shapes(x)[name]
    with pytest.raises(error, match=message):
        straight.bind({"x": value})


def test_names_are_checked(session, model):
    feeds = feeds_of(model)
    wrong = {
        "bind: inputs lack 'b'; the inputs are": ({"a": feeds["a"]}, None),
        "bind: there is no input 'c'": ({**feeds, "c": feeds["a"]}, None),
        "bind: there is no output 'c'": (feeds, {"c": feeds["a"]}),
    }
    for message, (inputs, outputs) in wrong.items():
        with pytest.raises(ArgumentValueError, match=message):
            session.bind(inputs, outputs)
    with pytest.raises(ArgumentTypeError, match="bind: inputs must be a dict of arrays by input name, got list"):
        session.bind([feeds["a"]])


def test_bound_memory_can_neither_be_resized_nor_closed(straight):
    x = feeds_of(images())["x"]
    want = straight.run(None, {"x": x})[0]
    room, file = bytearray(x.tobytes()), mmap.mmap(-1, x.nbytes)
    file.write(x.tobytes())
    view = memoryview(room)
    for lent in (room, view, file):
        binding = straight.bind({"x": lent})
        view.release() if lent is view else None  # NumPy holds an export of its own
        for spoil in (lambda: room.extend(b"more"), room.clear) if lent is not file else (file.close,):
            with pytest.raises((BufferError, ValueError)):
                spoil()
        np.testing.assert_array_equal(next(iter(binding.run().values())), want)
        del binding
    room.clear()
    file.close()


def test_what_is_bound_lives_as_long_as_the_binding(straight):
    x = feeds_of(images())["x"].copy()
    want, count = straight.run(None, {"x": x})[0], sys.getrefcount(x)
    binding = straight.bind({"x": x})
    assert sys.getrefcount(x) > count
    del x
    np.testing.assert_array_equal(next(iter(binding.run().values())), want)


def test_a_bound_run_makes_no_array():
    session = ek.InferenceSession(ek.compile(images((1, 4, 64, 64))), num_threads=1)
    binding = session.bind()
    [result] = binding.outputs.values()
    binding.run()

    def peak(call):
        tracemalloc.start()
        call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(lambda: session.run(None, binding.inputs)) >= result.nbytes  # tracemalloc sees NumPy's memory
    assert peak(binding.run) < 4096 < result.nbytes


def test_arrays_of_another_program_do_not_fit(straight, session):
    bound = session._ran.core.bind(list(session.bind().inputs.values()), [None, None])
    with pytest.raises(ArgumentValueError, match="bound to another program"):
        straight._ran.core.run_bound(bound)


def test_bytes_that_are_copied_are_counted(session, straight, model):
    feeds = feeds_of(model)
    read, written = sum(x.nbytes for x in feeds.values()), [4 * 12, 0]  # a product's, and a Softmax's that writes there
    session.run(None, feeds)
    assert session.bytes_copied == read + sum(written)
    [first, second] = names(session.get_outputs())
    session.run([second], feeds)
    assert session.bytes_copied == read + written[1]
    session.run([second, second, first], feeds)
    assert session.bytes_copied == read + sum(written) + 4 * 12  # the second copy of it
    x = feeds_of(images())["x"]
    straight.run(None, {"x": x})
    assert straight.bytes_copied == 0
    with pytest.warns(EdgekernWarning, match="is copied"):
        [result] = straight.run(None, {"x": np.asfortranarray(x)})
    assert straight.bytes_copied == x.nbytes + result.nbytes
    straight.run(None, {"x": x})
    assert straight.bytes_copied == 0
    square = ek.InferenceSession(ek.compile(images((1, 3, 6, 5))), num_threads=1)
    same = feeds_of(images((1, 3, 6, 5)))["x"].copy()
    want = square.run(None, {"x": same})[0].copy()
    square.run(None, {"x": same}, out=[same])  # written while it is read: one of both goes through the arena
    np.testing.assert_array_equal(same, want)
    assert square.bytes_copied > 0


@pytest.mark.parametrize("arenas", [1, 3])
def test_threads_share_a_session_with_bindings_of_their_own(straight, arenas):
    wanted, found = {}, {}
    session = ek.InferenceSession(straight.program, num_threads=1, arenas=arenas)
    for seed in range(4):
        wanted[seed] = straight.run(None, feeds_of(images(), seed))[0]

    def work(seed):
        binding = session.bind(feeds_of(images(), seed))
        for _ in range(50):
            [result] = binding.run().values()
        found[seed] = result.copy()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, want in wanted.items():
        np.testing.assert_array_equal(found[seed], want)


def test_an_index_that_leaves_its_axis_is_an_error_of_the_run():
    g = Graph()
    table = g.const(np.arange(12).reshape(4, 3), np.float32)
    session = ek.InferenceSession(ek.compile(g.model(g.op("Gather", table, g.input("i", (2,), 7)))), num_threads=1)
    index = np.array([1, 3])
    binding = session.bind({"i": index})
    [rows] = binding.run().values()
    np.testing.assert_array_equal(rows, [[3, 4, 5], [9, 10, 11]])
    index[0] = 9
    with pytest.raises(ArgumentValueError, match="was given the index 9"):
        binding.run()


def test_a_name_space_is_no_binding():
    with pytest.raises(ArgumentTypeError, match="IOBinding: session must be an InferenceSession"):
        ek.IOBinding(SimpleNamespace())


def rows():
    """A program of two sizes of its first dimension, of the same answer a row."""
    g = Graph()
    x = g.op("MatMul", g.input("x", ("rows", 8)), g.const(g.rng.normal(size=(8, 4)), np.float32))
    return ek.compile(g.model(g.op("Relu", x)), shapes={"rows": [2, 4]})


def test_a_binding_runs_the_size_that_its_arrays_have(rng):
    program = rows()
    session, one = ek.InferenceSession(program), ek.InferenceSession(program)
    [name] = names(session.get_outputs())
    for count in (4, 2):
        x = rng.normal(size=(count, 8)).astype(np.float32)
        binding = session.bind({"x": x})
        np.testing.assert_array_equal(binding.run()[name], one.run(None, {"x": x})[0])
        io = session.io_binding()
        io.bind_cpu_input("x", x)
        io.bind_output(name)
        session.run_with_iobinding(io)
        np.testing.assert_array_equal(io.get_outputs()[0].numpy(), binding.outputs[name])
    with pytest.raises(ArgumentValueError, match=r"bind: 'rows' is 3; give one of the sizes \[2, 4\]"):
        session.bind({"x": np.zeros((3, 8), np.float32)})
    with pytest.raises(ArgumentValueError, match=r"inputs must have an array for each of \['x'\]: .* several sizes"):
        session.bind()


@pytest.mark.parametrize("count", [1, 3, 4, 7, 9])
@pytest.mark.parametrize("into", [False, True])
def test_an_io_binding_runs_sizes_between_and_beyond(rng, count, into):
    session = ek.InferenceSession(rows())
    [name] = names(session.get_outputs())
    x, y = rng.normal(size=(count, 8)).astype(np.float32), np.zeros((count, 4), np.float32)
    io = session.io_binding()
    io.bind_cpu_input("x", x)
    if into:
        io.bind_output(name, "cpu", 0, np.float32, y.shape, y.ctypes.data)
    else:
        io.bind_output(name)
    for _ in range(2):
        session.run_with_iobinding(io)
        np.testing.assert_array_equal(io.copy_outputs_to_cpu()[0], session.run(None, {"x": x})[0])
        x[...] = rng.normal(size=x.shape)
    other = rng.normal(size=(count + 1, 8)).astype(np.float32)
    io.bind_cpu_input("x", other)
    if into:
        with pytest.raises(ArgumentValueError, match="must have shape"):
            session.run_with_iobinding(io)
    else:
        session.run_with_iobinding(io)
        np.testing.assert_array_equal(io.get_outputs()[0].numpy(), session.run(None, {"x": other})[0])


def test_bytes_that_pieces_copy_are_counted(rng):
    """Three rows run as four, and seven as four and four: what fills up is no caller's."""
    session, x = ek.InferenceSession(rows()), rng.normal(size=(7, 8)).astype(np.float32)
    for count in (4, 2, 3, 7):
        [result] = session.run(None, {"x": x[:count]})
        assert session.bytes_copied == x[:count].nbytes + result.nbytes
