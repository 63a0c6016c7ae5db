"""Several callers of one session: as many as it has arenas run, the others wait in the order in which they came."""

import os
import pickle
import threading
import time

import numpy as np
import pytest

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime import random_feeds
from edgekern.runtime.arenas import Turns

from float_models import build, f32, helper

node = helper.make_node


@pytest.fixture(scope="module")
def program():
    weights = {name: f32(np.random.default_rng(at).normal(size=(96, 96))) for at, name in enumerate("uvw")}
    nodes = [node("MatMul", [x, w], [y]) for x, w, y in (("x", "u", "a"), ("a", "v", "b"), ("b", "w", "y"))]
    return ek.compile(build(nodes, weights, [32, 96]))


@pytest.fixture(scope="module")
def hosted():
    nodes = [node("TopK", ["x", "k"], ["s", "at"]), node("Relu", ["s"], ["y"])]
    with pytest.warns(ek.errors.EdgekernWarning, match="TopK"):
        return ek.compile(build(nodes, {"k": np.array([96])}, [32, 96]))


def wait_for(what):
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("arenas", [1, 2, 3])
@pytest.mark.parametrize("host", [False, True])
def test_callers_get_their_own_results(program, hosted, arenas, host):
    session = ek.InferenceSession(hosted if host else program, num_threads=1, arenas=arenas)
    feeds = [random_feeds(session.program.inputs, seed) for seed in range(6)]
    wanted = [ek.InferenceSession(session.program, num_threads=1).run(None, each)[0] for each in feeds]
    wrong = []

    def call(at):
        for _ in range(20):
            if not np.array_equal(session.run(None, feeds[at])[0], wanted[at]):
                wrong.append(at)

    callers = [threading.Thread(target=call, args=(at,)) for at in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.parametrize("arenas", [2, 3])
def test_who_comes_first_is_served_first(program, arenas):
    session = ek.InferenceSession(program, num_threads=1, arenas=arenas)
    feeds = random_feeds(program.inputs)
    held = [session.trace(feeds) for _ in range(arenas)]
    for trace in held:
        next(trace)
    served, callers = [], []
    for at in range(5):
        callers.append(threading.Thread(target=lambda at=at: (next(session.trace(feeds)), served.append(at))))
        callers[-1].start()
        wait_for(lambda at=at: session._turns.waiting == at + 1)
    assert served == []
    held.pop().close()
    for caller in callers:
        caller.join()
    assert served == [0, 1, 2, 3, 4]
    assert session._turns.waiting == 0


def test_no_more_run_at_a_time_than_there_are_arenas():
    turns = Turns([object(), object()])
    inside, most, lock = set(), [], threading.Lock()

    def call(at):
        for _ in range(200):
            with turns.taken() as arena:
                with lock:
                    assert arena not in inside
                    inside.add(arena)
                    most.append(len(inside))
                with lock:
                    inside.discard(arena)

    callers = [threading.Thread(target=call, args=(at,)) for at in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert max(most) <= 2
    assert len(most) == 1600
    assert len(turns._free) == 2


def test_a_caller_that_is_interrupted_leaves_its_place(monkeypatch):
    arena = object()
    turns = Turns([arena])
    held = turns.taken()
    held.__enter__()

    class Interrupted:
        def acquire(self):
            raise KeyboardInterrupt

        def release(self):
            raise AssertionError("nobody waits here")

    from edgekern.runtime import arenas

    made = arenas._Waiting.__init__
    monkeypatch.setattr(
        arenas._Waiting, "__init__", lambda self, room: (made(self, room), setattr(self, "gate", Interrupted()))[0]
    )
    with pytest.raises(KeyboardInterrupt), turns.taken():
        pass
    held.__exit__(None, None, None)
    assert turns.waiting == 0
    assert turns._free == [arena]


@pytest.mark.parametrize("arenas", [1, 3])
def test_run_async_gives_a_future_of_what_run_gives(program, arenas):
    session = ek.InferenceSession(program, num_threads=1, arenas=arenas)
    feeds = [random_feeds(program.inputs, seed) for seed in range(8)]
    futures = [session.run_async(None, each) for each in feeds]
    for future, each in zip(futures, feeds, strict=True):
        assert np.array_equal(future.result(30)[0], session.run(None, each)[0])
    out = [np.zeros((32, 96), np.float32)]
    assert session.run_async(["y"], feeds[0], out=out).result(30)[0] is out[0]
    assert np.array_equal(out[0], futures[0].result()[0])


def test_a_future_raises_what_run_raises(program):
    session = ek.InferenceSession(program, arenas=2)
    with pytest.raises(ArgumentValueError, match="feeds lack the input 'x'"):
        session.run_async(None, {}).result(30)
    with pytest.raises(ArgumentValueError, match="there is no output 'z'"):
        session.run_async(["z"], random_feeds(program.inputs)).result(30)


def test_arenas_share_weights_and_own_the_rest(program):
    one, three = (ek.InferenceSession(program, num_threads=1, arenas=count) for count in (1, 3))
    assert three.arena_bytes == 3 * one.arena_bytes
    again = pickle.loads(pickle.dumps(three))
    assert again.arena_bytes == three.arena_bytes
    feeds = random_feeds(program.inputs)
    assert np.array_equal(again.run(None, feeds)[0], one.run(None, feeds)[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_child_of_a_fork_has_every_arena_and_callers_of_its_own(program):
    """Those that a thread of its parent holds are never given back there."""
    session = ek.InferenceSession(program, num_threads=1, arenas=2)
    feeds = random_feeds(program.inputs)
    [want] = session.run_async(None, feeds).result(30)
    held = [session.trace(feeds) for _ in range(2)]
    for trace in held:
        next(trace)
    child = os.fork()
    if child == 0:
        right = all(np.array_equal(session.run_async(None, feeds).result(30)[0], want) for _ in range(4))
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for trace in held:
        trace.close()
    assert np.array_equal(session.run(None, feeds)[0], want)


@pytest.mark.parametrize("arenas", [0, -1, 1025, 1.0, True, "2", None])
def test_a_number_of_arenas_that_is_none_is_refused(program, arenas):
    error = ArgumentValueError if type(arenas) is int else ArgumentTypeError
    with pytest.raises(error, match="InferenceSession: arenas must be"):
        ek.InferenceSession(program, arenas=arenas)
