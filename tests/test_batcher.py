"""Batcher: requests that run together get what they would get alone, and no one else's trouble."""

import functools
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError

from graphs import Graph

LONG_US = 60e6  # a request that waits so long for others fails the test that has it
SOON_S = 30


@functools.cache
def program(rows):
    """Two inputs and two outputs of so many rows, or of several sizes."""
    g = Graph()
    a, b = g.qdq(g.input("a", ("rows", 8))), g.qdq(g.input("b", ("rows", 8)))
    total = g.qdq(g.op("Add", a, b), 0.2)
    model = g.model(g.op("Gemm", total, g.weights(8, 6, axis=1)), total)
    return ek.compile(model, batch=rows, allow_host=False)


def opened(rows, arenas=1):
    return ek.InferenceSession(program(rows), num_threads=1, arenas=arenas)


def feeds_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 3, (rows, 8)).astype(np.float32) for name in "ab"}


def alone(feeds):
    """Row by row, without a batcher."""
    session = opened(1)
    rows = [session.run(None, {name: x[i : i + 1] for name, x in feeds.items()}) for i in range(len(feeds["a"]))]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def assert_same(results, expected):
    for result, want in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, want)


@given(
    rows=st.sampled_from([1, 2, 5, 8, (1, 2, 4), (3, 8)]),
    arenas=st.integers(1, 3),
    counts=st.lists(st.integers(1, 19), min_size=1, max_size=12),
    data=st.data(),
)
def test_requests_of_any_number_of_rows_get_their_own(rows, arenas, counts, data):
    most = data.draw(st.none() | st.integers(1, rows if isinstance(rows, int) else 11))
    requests = [feeds_of(count, seed) for seed, count in enumerate(counts)]
    with ek.Batcher(opened(rows, arenas), max_batch=most, max_delay_us=data.draw(st.sampled_from([0, 200]))) as batcher:
        futures = [batcher.submit(None, feeds) for feeds in requests]
        for feeds, future in zip(requests, futures, strict=True):
            assert_same(future.result(SOON_S), alone(feeds))


@functools.cache
def sized(fixed):
    """Rows of any number, or four, and columns of several numbers: a product with weights, and columns' maps."""
    g = Graph()
    x = g.qdq(g.input("x", (4 if fixed else "N", "L", 8)))
    model = g.model(g.op("MatMul", x, g.weights(8, 6, axis=1)), g.op("Relu", x))
    return ek.compile(model, allow_host=False, batch=1 if fixed else (1, 2, 4), shapes={"L": (3, 5)})


@given(
    requests=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([3, 4, 5])), min_size=1, max_size=9), data=st.data()
)
def test_programs_of_several_sizes_take_any_number_of_rows_of_one_shape_at_a_time(requests, data):
    fixed = data.draw(st.booleans())
    session = ek.InferenceSession(sized(fixed), num_threads=1, arenas=2)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(0, 3, (rows, columns, 8)).astype(np.float32)} for rows, columns in requests]
    with ek.Batcher(session, max_delay_us=200) as batcher:
        futures = [batcher.submit(None, feed) for feed in feeds]
        results = [future.result(SOON_S) for future in futures]
    for feed, result in zip(feeds, results, strict=True):
        for row in range(len(feed["x"])):
            one = feed["x"][row : row + 1]
            expected = session.run(None, {"x": np.repeat(one, 4, axis=0) if fixed else one})
            assert_same([array[row] for array in result], [array[0] for array in expected])


def test_rows_of_several_sizes_are_stacked_and_a_size_that_none_has_is_refused_alone(monkeypatch):
    session = ek.InferenceSession(sized(False), num_threads=1)
    watched, batcher = Watched(monkeypatch, session), ek.Batcher(session, max_delay_us=LONG_US)
    x = np.random.default_rng(1).normal(size=(3, 4, 8)).astype(np.float32)
    futures = [batcher.submit(None, {"x": x[:1]}), batcher.submit(None, {"x": x[1:]})]
    for bad, message in ((np.zeros((1, 6, 8), "f4"), "'L' is 6"), (np.zeros((1, 4, 7), "f4"), r"shape \(rows, L, 8\)")):
        with pytest.raises(ArgumentValueError, match=message):
            batcher.run(None, {"x": bad})
    futures.append(batcher.submit(None, {"x": x[:1]}))
    for future in futures:
        future.result(SOON_S)
    [run] = watched.runs
    np.testing.assert_array_equal(run["x"], np.concatenate([x, x[:1]]))


def test_many_threads_get_their_own_rows():
    wrong, batcher = [], ek.Batcher(opened(8, 2), max_delay_us=100)

    def call(number):
        feeds = feeds_of(1 + number % 3, number)
        expected = alone(feeds)
        for _ in range(30):
            if not all(map(np.array_equal, batcher.run(None, feeds), expected)):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Watched:
    """The feeds of a session's runs, in order."""

    def __init__(self, monkeypatch, session, change=None):
        self.runs, real = [], session.run

        def run(names, feeds, **options):
            self.runs.append({name: array.copy() for name, array in feeds.items()})
            if change is not None:
                change(feeds)
            return real(names, feeds, **options)

        monkeypatch.setattr(session, "run", run)


def test_what_comes_together_runs_together_in_order_and_zeros_fill_the_rest(monkeypatch):
    session = opened(8)
    watched, requests = Watched(monkeypatch, session), [feeds_of(count, count) for count in (1, 4, 2, 3, 2, 1)]
    batcher = ek.Batcher(session, max_delay_us=0)
    batcher.run(None, feeds_of(8))
    with session._lender.lend():
        first = batcher.submit(None, feeds_of(8))
        while not session._lender.waiting:
            time.sleep(0.001)
        futures = [batcher.submit(None, feeds) for feeds in requests]
    for feeds, future in zip(requests, futures, strict=True):
        assert_same(future.result(SOON_S), alone(feeds))
    first.result(SOON_S)
    zeros = np.zeros((1, 8), np.float32)
    assert len(watched.runs) == 4
    for name in "ab":
        given = [feeds[name] for feeds in requests]
        np.testing.assert_array_equal(watched.runs[2][name], np.concatenate([*given[:3], zeros]))
        np.testing.assert_array_equal(watched.runs[3][name], np.concatenate([*given[3:], zeros, zeros]))


def test_a_full_run_waits_for_nobody_and_a_run_of_its_own_is_copied_nowhere(monkeypatch):
    session = opened(4)
    batcher, given = ek.Batcher(session, max_delay_us=LONG_US), feeds_of(4)
    futures = [batcher.submit(None, feeds_of(1, seed)) for seed in range(4)]
    for seed, future in enumerate(futures):
        assert_same(future.result(SOON_S), alone(feeds_of(1, seed)))
    real = session.run

    def run(names, feeds):
        assert all(feeds[name] is given[name] for name in given)
        return real(names, feeds)

    monkeypatch.setattr(session, "run", run)
    assert_same(batcher.submit(None, given).result(SOON_S), alone(given))


def test_outputs_are_those_asked_for_and_the_callers_own():
    session = opened(4)
    names = [node.name for node in session.get_outputs()]
    batcher, feeds = ek.Batcher(session, max_delay_us=LONG_US), feeds_of(1)
    expected = alone(feeds)
    asked = [[names[1]], None, [names[1], names[0], names[1]], []]
    futures = [batcher.submit(which, feeds) for which in asked]
    results = [future.result(SOON_S) for future in futures]
    assert_same(results[0], expected[1:])
    assert_same(results[1], expected)
    assert_same(results[2], [expected[1], expected[0], expected[1]])
    assert_same(results[3], expected)
    arrays = [array for result in results for array in result]
    assert not any(np.shares_memory(a, b) for a in arrays for b in arrays if a is not b)
    assert all(array.flags.owndata for array in arrays)


BAD = {
    "dtype": (lambda f: f | {"a": f["a"].astype("f8")}, ArgumentTypeError, "input 'a' must be float32, got float64"),
    "tail": (
        lambda f: f | {"b": f["b"][:, :7]},
        ArgumentValueError,
        r"input 'b' must have shape \(rows, 8\), got \(1, 7",
    ),
    "rank": (lambda f: f | {"b": f["b"][0]}, ArgumentValueError, r"input 'b' must have shape \(rows, 8\), got \(8,\)"),
    "none": (
        lambda f: {n: x[:0] for n, x in f.items()},
        ArgumentValueError,
        r"must have shape \(rows, 8\), got \(0, 8\)",
    ),
    "rows": (
        lambda f: f | {"a": np.zeros((2, 8), "f4")},
        ArgumentValueError,
        "inputs must have the same number of rows",
    ),
    "lacks": (lambda f: {"a": f["a"]}, ArgumentValueError, "lacks the input 'b'"),
    "more": (lambda f: f | {"c": f["a"]}, ArgumentValueError, "there is no input 'c'"),
    "list": (lambda f: f | {"a": [[1.0] * 8]}, ArgumentTypeError, "input 'a' must be a NumPy array, got list"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_request_that_is_wrong_fails_alone(name):
    spoil, error, message = BAD[name]
    batcher, good = ek.Batcher(opened(2), max_delay_us=LONG_US), feeds_of(1)
    future = batcher.submit(None, good)
    for call in (batcher.run, batcher.submit):
        with pytest.raises(error, match=message):
            call(None, spoil(feeds_of(1)))
    with pytest.raises(ArgumentValueError, match="there is no output 'y'"):
        batcher.run(["y"], good)
    assert not future.done()
    batcher.run(None, good)
    assert_same(future.result(SOON_S), alone(good))


@pytest.mark.parametrize("kind", [EdgekernError, ArgumentValueError, MemoryError])
def test_what_a_run_raises_is_in_all_of_its_requests_but_for_a_value_that_is_one_requests_own(monkeypatch, kind):
    session = opened(3)

    def refuse(feeds):
        if (feeds["a"] == 99).any():
            raise kind("it fails")

    Watched(monkeypatch, session, refuse)
    batcher = ek.Batcher(session, max_delay_us=LONG_US)
    requests = [feeds_of(1, 0), {name: np.full((1, 8), 99, np.float32) for name in "ab"}, feeds_of(1, 2)]
    futures = [batcher.submit(None, feeds) for feeds in requests]
    errors = [future.exception(SOON_S) for future in futures]
    assert type(errors[1]) is kind
    if kind is ArgumentValueError:
        assert errors[0] is errors[2] is None
        assert_same(futures[2].result(), alone(requests[2]))
    else:
        assert type(errors[0]) is type(errors[2]) is kind
    assert_same(batcher.submit(None, feeds_of(3)).result(SOON_S), alone(feeds_of(3)))


def test_a_request_that_waits_can_be_cancelled(monkeypatch):
    session = opened(4)
    watched, batcher = Watched(monkeypatch, session), ek.Batcher(session, max_delay_us=0)
    with session._lender.lend():
        running = batcher.submit(None, feeds_of(1))
        while not session._lender.waiting:
            time.sleep(0.001)
        waiting = [batcher.submit(None, feeds_of(1, seed)) for seed in range(1, 4)]
        assert waiting[1].cancel()
        assert not running.cancel()
    assert_same(running.result(SOON_S), alone(feeds_of(1)))
    for seed in (1, 3):
        assert_same(waiting[seed - 1].result(SOON_S), alone(feeds_of(1, seed)))
    with pytest.raises(CancelledError):
        waiting[1].result(SOON_S)
    assert [int(np.count_nonzero(run["a"].any(axis=1))) for run in watched.runs] == [1, 2]


def test_a_callback_may_call_the_batcher():
    batcher, seen = ek.Batcher(opened(2), max_delay_us=LONG_US), []
    held, asked = feeds_of(1, 5), threading.Event()

    def callback(future):
        seen.append(batcher.run(None, held))
        asked.set()

    first = batcher.submit(None, feeds_of(1))
    first.add_done_callback(callback)
    batcher.run(None, feeds_of(1))
    assert asked.wait(SOON_S)
    assert_same(seen[0], alone(held))


def test_a_closed_batcher_has_answered_all_and_takes_no_more():
    session = opened(2, 2)
    before = set(threading.enumerate())
    with ek.Batcher(session, max_delay_us=0) as batcher:
        futures = [batcher.submit(None, feeds_of(1, seed)) for seed in range(20)]
    assert all(future.done() for future in futures)
    assert set(threading.enumerate()) <= before
    for seed, future in enumerate(futures):
        assert_same(future.result(), alone(feeds_of(1, seed)))
    with pytest.raises(EdgekernError, match="it is closed"):
        batcher.run(None, feeds_of(1))
    batcher.close()
    assert_same(session.run(None, feeds_of(2)), alone(feeds_of(2)))


def test_a_batcher_that_is_dropped_leaves_no_thread():
    before = set(threading.enumerate())
    batcher = ek.Batcher(opened(2, 2), max_delay_us=0)
    for seed in range(5):
        batcher.run(None, feeds_of(1, seed))
    gone, made = weakref.ref(batcher), set(threading.enumerate()) - before
    assert made
    del batcher
    for thread in made:
        thread.join(SOON_S)
        assert not thread.is_alive()
    assert gone() is None


def test_a_session_without_rows_and_options_that_are_none_are_refused():
    g = Graph()
    x, y = g.qdq(g.input("x", (2, 8))), g.qdq(g.input("y", (1, 8)))
    table = ek.InferenceSession(ek.compile(g.model(g.op("Add", x, y))))
    with pytest.raises(ArgumentValueError, match="must have the same rows"):
        ek.Batcher(table)
    session = opened(4)
    for options, error, message in (
        ({"max_batch": 5}, ArgumentValueError, r"at most the 4 rows .* got 5; compile it with batch=5"),
        ({"max_batch": 0}, ArgumentValueError, "max_batch must be at least 1"),
        ({"max_batch": 2.0}, ArgumentTypeError, "max_batch must be an integer"),
        ({"max_batch": True}, ArgumentTypeError, "max_batch must be an integer"),
        ({"max_delay_us": -1}, ArgumentValueError, "max_delay_us must be in"),
        ({"max_delay_us": float("nan")}, ArgumentValueError, "max_delay_us must be in"),
        ({"max_delay_us": "1"}, ArgumentTypeError, "max_delay_us must be a number"),
    ):
        with pytest.raises(error, match=f"Batcher: .*{message}"):
            ek.Batcher(session, **options)
    with pytest.raises(ArgumentTypeError, match="session must be an InferenceSession, got Program"):
        ek.Batcher(program(4))
    assert "max_batch=4, max_delay_us=1000" in repr(ek.Batcher(session))


SETUP = """
import os, pickle, signal, sys, threading, time
import numpy as np
import edgekern as ek

signal.alarm(60)
program, feeds, expected = pickle.load(sys.stdin.buffer)

def opened(arenas=1):
    return ek.InferenceSession(program, num_threads=1, arenas=arenas)
"""


def in_a_child(script):
    given = pickle.dumps((program(2), feeds_of(1), alone(feeds_of(1))))
    command = [sys.executable, "-c", SETUP + script]
    child = subprocess.run(command, input=given, capture_output=True, check=False, timeout=120)
    assert child.returncode == 0, (child.stdout + child.stderr).decode()
    return child.stdout.decode().strip()


def test_a_forked_child_starts_anew_while_requests_wait():
    assert (
        in_a_child("""
session = opened()
closed = ek.Batcher(session)
closed.close()
batcher = ek.Batcher(session, max_delay_us=0)
def right(results): return all(map(np.array_equal, results, expected))
with session._lender.lend():
    futures = [batcher.submit(None, feeds) for _ in range(5)]
    while not session._lender.waiting: time.sleep(0.001)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            code = 0 if all(right(batcher.run(None, feeds)) for _ in range(5)) else 2
            try:
                closed.run(None, feeds)
                code = 3
            except ek.errors.EdgekernError:
                pass
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert all(right(future.result()) for future in futures)
print("well")
""")
        == "well"
    )


def test_ctrl_c_of_a_waiting_caller_leaves_the_others_right():
    assert (
        in_a_child("""
batcher = ek.Batcher(opened(2), max_delay_us=50)
stop, wrong, seen = False, [], 0
def call():
    while not stop:
        if not all(map(np.array_equal, batcher.run(None, feeds), expected)): wrong.append(1)
threads = [threading.Thread(target=call) for _ in range(3)]
for thread in threads: thread.start()
main, ended = threading.main_thread().ident, []
def interrupt(_, frame):
    while frame and not frame.f_code.co_filename.endswith("batcher.py"): frame = frame.f_back
    if frame: raise KeyboardInterrupt  # not between two calls, where nothing is at stake
signal.signal(signal.SIGINT, interrupt)
def disturb():
    for round in range(300):
        time.sleep(0.0003 + 0.0001 * (round % 13))
        signal.pthread_kill(main, signal.SIGINT)
    ended.append(True)
disturber = threading.Thread(target=disturb)
disturber.start()
while not ended:
    try:
        batcher.run(None, feeds)
    except KeyboardInterrupt:
        seen += 1
stop = True
for thread in (*threads, disturber): thread.join()
assert not wrong
assert all(map(np.array_equal, batcher.run(None, feeds), expected))
print(seen > 50)
""")
        == "True"
    )


@pytest.mark.parametrize("last", ["pass", "batcher.submit(None, feeds)"])
def test_python_ends_though_a_batcher_lives(last):
    assert (
        in_a_child(f"""
batcher = ek.Batcher(opened(), max_delay_us=1000)
batcher.run(None, feeds)
{last}
print("well")
""")
        == "well"
    )
