"""Several callers of one session: arenas, turns, interrupts, forks, futures."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, wait
from contextlib import ExitStack

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError

from graphs import Graph, feeds_of


def qdq_model():
    g = Graph()
    return g.model(g.op("Gemm", g.qdq(g.input("x", (4, 8))), g.weights(8, 6, axis=1)))


@pytest.fixture(scope="module")
def program():
    return ek.compile(qdq_model(), allow_host=False)


@pytest.fixture(scope="module")
def feeds():
    return feeds_of(qdq_model())


@pytest.fixture(params=[1, 2, 3])
def session(request, program):
    return ek.InferenceSession(program, num_threads=1, arenas=request.param)


@pytest.fixture
def in_a_child(program, feeds):
    """What a Python of its own prints, which has two minutes."""

    def run(script: str) -> str:
        given, command = pickle.dumps((program, feeds)), [sys.executable, "-c", SETUP + script]
        child = subprocess.run(command, input=given, capture_output=True, check=False, timeout=120)
        assert child.returncode == 0, (child.stdout + child.stderr).decode()
        return child.stdout.decode().strip()

    return run


SETUP = """
import gc, os, pickle, random, signal, sys, threading, time, weakref
import numpy as np
import edgekern as ek
from edgekern import _core
from edgekern.errors import ForkError

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it
signal.alarm(60)  # an arena that is lost is waited for without end
program, feeds = pickle.load(sys.stdin.buffer)

def opened(arenas):
    return ek.InferenceSession(program, num_threads=1, arenas=arenas)

expected = opened(1).run(None, feeds)[0]
"""


def taken(session, stack):
    """All arenas of a session, until the stack is closed."""
    return [stack.enter_context(session._lender.lend()) for _ in session._arenas]


def test_callers_with_arenas_of_their_own_get_the_same_bits(session, program, feeds):
    [expected] = ek.InferenceSession(program, num_threads=1).run(None, feeds)
    seen = []

    def call():
        for _ in range(50):
            seen.append(session.run(None, feeds)[0])

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 400
    assert all(np.array_equal(one, expected) for one in seen)
    assert session._lender.free == len(session._arenas)


def test_as_many_run_at_a_time_as_there_are_arenas(session, feeds):
    arenas = len(session._arenas)
    traces = [session.trace(feeds) for _ in range(arenas)]
    places = [next(trace)[1] for trace in traces]
    assert not any(np.shares_memory(a, b) for a in places for b in places if a is not b)
    assert session._lender.free == 0
    late = session.run_async(None, feeds)
    while not session._lender.waiting:
        time.sleep(0.001)
    assert not late.done()
    traces.pop().close()
    late.result()
    assert session._lender.free == 1
    del traces
    gc.collect()
    assert session._lender.free == arenas


def test_arenas_are_counted_and_travel(program, feeds):
    one, three = (ek.InferenceSession(program, num_threads=1, arenas=n) for n in (1, np.int64(3)))
    assert three.arena_bytes == 3 * one.arena_bytes
    for again in (pickle.loads(pickle.dumps(three)), copy.deepcopy(three)):
        assert again.arena_bytes == three.arena_bytes
        np.testing.assert_array_equal(again.run(None, feeds)[0], one.run(None, feeds)[0])
    assert three.profile(feeds, runs=2).runs == 2
    assert three._lender.free == 3


@pytest.mark.parametrize(
    ("arenas", "error"),
    [
        *((number, ArgumentValueError) for number in (0, -1, 1025)),
        *((number, ArgumentTypeError) for number in (True, 1.0, None, "2")),
    ],
)
def test_a_number_of_arenas_that_is_none_is_refused(program, arenas, error):
    with pytest.raises(error, match="InferenceSession: arenas must "):
        ek.InferenceSession(program, arenas=arenas)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_who_comes_first_is_served_first(count):
    lender, served, came = _core.Lender(tuple(range(count))), [], 40

    def call(number):
        with lender.lend() as thing:
            served.append((number, thing))

    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(lender.lend())
        threads = []
        for number in range(came):
            threads.append(threading.Thread(target=call, args=(number,)))
            threads[-1].start()
            while lender.waiting <= number:
                time.sleep(0.0005)
        assert lender.free == 0
        if count > 1:  # handed from one to the next, one at a time
            first = stack.pop_all()
            with first:
                pass
        else:
            stack.close()
        for thread in threads:
            thread.join()
    if count == 1:
        assert [number for number, _ in served] == list(range(came))
    assert sorted(number for number, _ in served) == list(range(came))
    assert lender.free == count


def test_a_lease_goes_back_once_however_it_ends():
    lender = _core.Lender(("a", "b"))
    lease = lender.lend()
    assert lender.free == 2
    with lease as thing:
        assert thing in ("a", "b")
        assert lender.free == 1
        with pytest.raises(RuntimeError, match="it is entered already"):
            lease.__enter__()
    lease.__exit__(None, None, None)
    assert lender.free == 2
    dropped = lender.lend()
    dropped.__enter__()
    assert lender.free == 1
    del dropped
    assert lender.free == 2
    with pytest.raises(ZeroDivisionError), lease:
        1 / 0  # noqa: B018
    assert lender.free == 2
    with pytest.raises(TypeError):
        type(lease)()
    with pytest.raises(TypeError):
        _core.Lender(["a"])


def test_an_interrupt_at_any_bytecode_loses_no_arena(in_a_child):
    assert in_a_child("""
session, kept = opened(2), []

def interrupted_after(count):
    left = count
    def trace(frame, event, _):
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        list(session.trace(feeds)) if count % 2 else session.run(None, feeds)
    except KeyboardInterrupt as error:
        kept.append(error)  # its frames live on, as they do behind a prompt
        return True
    finally:
        sys.settrace(None)
    return False

count = 0
while interrupted_after(count) | interrupted_after(count + 1):
    assert session._lender.free == 2, count
    count += 2
assert count > 200
assert np.array_equal(session.run(None, feeds)[0], expected)
print("well")
""").endswith("well")


@pytest.mark.parametrize("arenas", [1, 2])
def test_signals_among_waiting_callers_lose_no_arena(in_a_child, arenas):
    """The main thread waits, or runs, when they come; the others always get an answer."""
    script = """
session, stop, kept, seen = opened(ARENAS), False, [], 0
def call():
    while not stop:
        assert np.array_equal(session.run(None, feeds)[0], expected)
threads = [threading.Thread(target=call) for _ in range(3)]
def interrupt(_, frame):
    if frame.f_code.co_filename.endswith("session.py"):  # not between two calls, where nothing is at stake
        raise KeyboardInterrupt
signal.signal(signal.SIGUSR1, interrupt)
for thread in threads:
    thread.start()
draw, main, ended = random.Random(7), threading.main_thread().ident, []
def disturb():
    for _ in range(400):
        time.sleep(draw.uniform(0.0002, 0.002))
        signal.pthread_kill(main, signal.SIGUSR1)
    ended.append(True)
disturber = threading.Thread(target=disturb)
disturber.start()
while not ended:
    try:
        session.run(None, feeds)
    except KeyboardInterrupt as error:
        kept[:] = [error]
        seen += 1
stop = True
for thread in threads + [disturber]:
    thread.join()
assert session._lender.free == ARENAS, session._lender.free
assert session._lender.waiting == 0
assert np.array_equal(session.run(None, feeds)[0], expected)
print(seen > 20)
"""
    assert in_a_child(script.replace("ARENAS", str(arenas))) == "True"


def test_ctrl_c_ends_a_wait_and_leaves_the_row_right(in_a_child):
    assert (
        in_a_child("""
session, order = opened(1), []
held, ended = threading.Event(), threading.Event()
def hold():
    with session._lender.lend():
        held.set()
        ended.wait()
holder = threading.Thread(target=hold)
holder.start()
held.wait()
def call(name):
    session.run(None, feeds)
    order.append(name)
before, after = (threading.Thread(target=call, args=(name,)) for name in ("before", "after"))
before.start()
while session._lender.waiting < 1: time.sleep(0.001)
def later():
    while session._lender.waiting < 2: time.sleep(0.001)
    after.start()
    while session._lender.waiting < 3: time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=later).start()
try:
    session.run(None, feeds)
    print("not interrupted")
except KeyboardInterrupt:
    assert session._lender.waiting == 2
ended.set()
holder.join()
before.join(), after.join()
assert order == ["before", "after"], order
assert session._lender.free == 1
print("well")
""")
        == "well"
    )


@pytest.mark.parametrize("arenas", [1, 2])
def test_a_thread_that_would_wait_for_itself_is_told(program, feeds, arenas):
    session = ek.InferenceSession(program, num_threads=1, arenas=arenas)
    traces = [session.trace(feeds) for _ in range(arenas)]
    assert len(list(map(next, traces))) == arenas
    with pytest.raises(EdgekernError, match="this thread has all arenas already"):
        session.run(None, feeds)
    traces.pop()
    assert len(session.run(None, feeds)) == 1


@pytest.mark.parametrize("arenas", [1, 2])
def test_a_fork_frees_every_arena_in_the_child_once(in_a_child, arenas):
    script = """
session = opened(ARENAS)
trace = session.trace(feeds)
next(trace)  # one is held by this thread
held = threading.Event(), threading.Event()
def hold():
    with session._lender.lend():
        held[0].set()
        held[1].wait()
if ARENAS > 1:
    holder = threading.Thread(target=hold)
    holder.start()
    held[0].wait()
waiting = threading.Thread(target=session.run, args=(None, feeds))
waiting.start()
while not session._lender.waiting: time.sleep(0.001)
child = os.fork()
if child == 0:
    signal.alarm(20)
    code = 1
    try:
        assert (session._lender.free, session._lender.waiting) == (ARENAS, 0)
        try:
            list(trace)
            code = 2
        except ForkError:
            trace = None
            assert session._lender.free == ARENAS
            assert np.array_equal(session.run(None, feeds)[0], expected)
            assert np.array_equal(session.run_async(None, feeds).result()[0], expected)
            leases = [session._lender.lend() for _ in range(ARENAS)]
            assert len({id(lease.__enter__()) for lease in leases}) == ARENAS
            code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert session._lender.free == 0
held[1].set()
list(trace)
waiting.join()
if ARENAS > 1: holder.join()
assert session._lender.free == ARENAS
print("well")
"""
    assert in_a_child(script.replace("ARENAS", str(arenas))) == "well"


def test_finalizers_may_run_a_session_and_give_back_arenas_while_others_wait(in_a_child):
    assert (
        in_a_child("""
session, ran = opened(5), []
class Ring:
    def __init__(self):
        self.ring, self.trace = self, session.trace(feeds)
        next(self.trace)  # in a cycle, so that the collector gives the arena back
    def __del__(self):
        self.trace = None
        if session._lender.free:
            ran.append(session.run(None, feeds))
gc.set_threshold(5, 1, 1)
stop = False
def call():
    while not stop:
        assert np.array_equal(session.run(None, feeds)[0], expected)
threads = [threading.Thread(target=call) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(50):
    Ring()
    gc.collect()
stop = True
for thread in threads: thread.join()
gc.collect()
assert session._lender.free == 5
print(len(ran) > 0)
""")
        == "True"
    )


def test_a_future_has_what_run_gives(session, feeds):
    [expected] = session.run(None, feeds)
    futures = [session.run_async(None, feeds) for _ in range(20)]
    assert all(np.array_equal(future.result()[0], expected) for future in futures)
    out = np.empty_like(expected)
    [name] = [node.name for node in session.get_outputs()]
    assert session.run_async([name], feeds, out=[out]).result()[0] is out
    np.testing.assert_array_equal(out, expected)


def test_what_the_caller_can_see_at_once_is_raised_there_and_the_rest_is_in_the_future(session, feeds):
    with pytest.raises(ArgumentValueError, match="there is no output 'y'"):
        session.run_async(["y"], feeds)
    with pytest.raises(ArgumentValueError, match="input_feed lacks the input 'x'"):
        session.run_async(None, {})
    with pytest.raises(ArgumentTypeError, match="run_async: callback must be a function or None, got int"):
        session.run_async(None, feeds, 3)
    with pytest.raises(ArgumentTypeError, match="must be float32, got float64"):
        session.run_async(None, {"x": feeds["x"].astype("f8")}).result()
    assert session._lender.free == len(session._arenas)


def test_a_call_that_waits_can_be_cancelled_and_changes_of_the_dict_are_not_seen(session, feeds):
    [expected] = session.run(None, feeds)
    mine = dict(feeds)
    with ExitStack() as stack:
        taken(session, stack)
        running = [session.run_async(None, mine) for _ in session._arenas]
        while session._lender.waiting < len(running):
            time.sleep(0.001)
        waiting = session.run_async(None, mine)
        mine["x"] = np.zeros_like(mine["x"])
        assert waiting.cancel()
        assert not running[0].cancel()
    assert not wait(running).not_done
    assert all(np.array_equal(one.result()[0], expected) for one in running)
    with pytest.raises(CancelledError):
        waiting.result()


def test_a_callback_gets_what_onnxruntimes_gets(session, feeds):
    [expected] = session.run(None, feeds)
    seen, done = [], threading.Event()

    def callback(results, user_data, error):
        seen.append((results, user_data, error, threading.current_thread().name))
        done.set()

    user_data = object()
    future = session.run_async(None, feeds, callback, user_data)
    assert done.wait(60)
    [(results, given, error, thread)] = seen
    assert (given, error) == (user_data, "")
    assert results is future.result()
    assert thread.startswith("edgekern") or thread == threading.current_thread().name
    np.testing.assert_array_equal(results[0], expected)
    seen.clear(), done.clear()
    session.run_async(None, {"x": feeds["x"][:1]}, callback, 7)
    assert done.wait(60)
    [(results, given, error, _)] = seen
    assert (results, given) == ([], 7)
    assert "run: input 'x' must have shape (4, 8), got (1, 8)" in error


def test_a_session_that_is_dropped_leaves_no_thread(program, feeds):
    session = ek.InferenceSession(program, num_threads=1, arenas=2)
    before = set(threading.enumerate())
    for future in [session.run_async(None, feeds) for _ in range(10)]:
        future.result()
    made = set(threading.enumerate()) - before
    assert 1 <= len(made) <= 2
    gone = weakref.ref(session)
    del session
    for thread in made:
        thread.join(60)
        assert not thread.is_alive()
    assert gone() is None


def test_an_interpreter_ends_though_calls_were_made(in_a_child):
    assert (
        in_a_child("""
session = opened(2)
futures = [session.run_async(None, feeds, lambda *_: None) for _ in range(100)]
print("well")
""")
        == "well"
    )


def test_callbacks_never_run_on_the_callers_thread(program, feeds, capfd):
    seen, ended = [], threading.Event()

    def callback(results, last, error):
        seen.append((threading.current_thread() is threading.main_thread(), error))
        if last:
            ended.set()
        raise SystemExit  # which is the callback's affair

    for last in [False] * 40 + [True]:
        ek.InferenceSession(program, num_threads=1).run_async(None, feeds, callback, last)
    assert ended.wait(30)
    session = ek.InferenceSession(program, num_threads=1)
    session.run_async(None, feeds, callback).result(30)
    assert len(session.run_async(None, feeds).result(30)) == 1
    assert not any(on_main or error for on_main, error in seen)
    assert "SystemExit" in capfd.readouterr().err


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, ValueError])
def test_no_callback_ends_the_thread_that_answers(program, feeds, caplog, monkeypatch, batched, raised):
    session = ek.InferenceSession(program, num_threads=1)
    called, hold, run = [], threading.Event(), session.run
    if batched:  # which runs on threads of its own
        monkeypatch.setattr(session, "run", lambda *given: hold.wait(30) and run(*given))

    def ends(future):
        hold.wait(30)
        called.append(threading.current_thread() is threading.main_thread())
        raise raised("on purpose")

    with ek.Batcher(session) as batcher:

        def submit():
            return batcher.submit(None, feeds) if batched else session.run_async(None, feeds)

        session.run_async(None, feeds, lambda *_: hold.wait(30))
        futures = [submit() for _ in range(3)]
        for future in futures:
            future.add_done_callback(ends)
        hold.set()
        for future in futures:
            np.testing.assert_array_equal(future.result(30)[0], session.run(None, feeds)[0])
        assert len(submit().result(30)) == 1  # the thread is still there
    assert called == [False] * 3
    assert caplog.text.count("exception calling callback for") == 3
    with pytest.raises(SystemExit):  # on a thread of the caller's own it is the caller's affair, as ever
        futures[0].add_done_callback(lambda _: sys.exit())


def test_a_dropped_session_goes_at_once(program, feeds):
    gc.disable()
    try:
        session = ek.InferenceSession(program, num_threads=1, arenas=2)
        session.run(None, feeds)
        gone = weakref.ref(session._arenas[1].runners[0])
        del session
        assert gone() is None
    finally:
        gc.enable()
