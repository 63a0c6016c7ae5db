"""edgekern stress: what it says of waits, answers and memory is what was there."""

import json
import threading
import time

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core, cli, runtime
from edgekern.cli import base
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError, MemoryBudgetError
from edgekern.runtime.stress import FEEDS, STEPS, _windows

from graphs import Graph


@pytest.fixture(scope="module")
def program():
    g = Graph()
    return ek.compile(g.model(g.op("Gemm", g.qdq(g.input("x", (4, 8))), g.weights(8, 6, axis=1))), allow_host=False)


@pytest.fixture
def session(program):
    return ek.InferenceSession(program, num_threads=1, arenas=2)


@pytest.fixture(scope="module")
def path(program, tmp_path_factory):
    file = tmp_path_factory.mktemp("stress") / "model.ekm"
    program.save(file)
    return file


def changed(monkeypatch, session, change):
    """A session whose results are changed, by the number of the run."""
    real, lock, count = session.run, threading.Lock(), 0

    def run(names, feeds):
        nonlocal count
        with lock:
            number, count = count, count + 1
        return change(number, real(names, feeds))

    monkeypatch.setattr(session, "run", run)


@pytest.mark.parametrize(("concurrency", "runs"), [(1, 1), (3, 7), (20, 50)])
def test_it_counts_what_it_ran(monkeypatch, session, concurrency, runs):
    seen, steps, before = [], [], set(threading.enumerate())
    changed(monkeypatch, session, lambda number, results: seen.append(number) or results)
    measured = runtime.stress(session, concurrency=concurrency, runs=runs, advance=lambda: steps.append(1))
    assert len(seen) == FEEDS + 2 * 2 * min(runs, 100) + concurrency * runs
    assert len(steps) == STEPS
    assert (measured.concurrency, measured.runs, measured.arenas, measured.num_threads) == (concurrency, runs, 2, 1)
    assert measured.drifted == 0
    assert measured.warm_up == runs // 10
    assert 0 < measured.p50_ms <= measured.p95_ms <= measured.p99_ms
    assert measured.ideal_ms == pytest.approx(measured.alone_ms * max(1, concurrency / 2))
    assert measured.growth_bytes == pytest.approx(measured.after_bytes - measured.before_bytes, abs=2)
    assert measured.before_bytes <= measured.peak_bytes < measured.budget_bytes
    assert measured.budget_bytes == int(_core.memory_limit() * 0.6)
    assert set(threading.enumerate()) <= before


def test_an_output_with_other_bytes_is_found(monkeypatch, session):
    def flip(number, results):
        if number >= FEEDS and number % 50 == 0:
            results[0].reshape(-1).view(np.uint8)[-1] ^= 1
        return results

    changed(monkeypatch, session, flip)
    measured = runtime.stress(session, concurrency=4, runs=100)
    assert measured.drifted == sum(number % 50 == 0 for number in range(FEEDS, FEEDS + 2 * 200 + 400))
    assert "outputs" in measured.failures
    assert any(line.startswith("outputs ") and line.endswith("FAILED") for line in str(measured).splitlines())
    assert json.loads(measured.to_json())["failures"][0] == "outputs"


def test_memory_that_is_kept_is_growth(monkeypatch, session):
    kept = []

    def keep(_, results):
        time.sleep(0.001)  # so that there are readings all along
        kept.append(b"\1" * 50_000)
        return results

    changed(monkeypatch, session, keep)
    measured = runtime.stress(session, concurrency=4, runs=400)
    assert measured.failures == ("memory growth",)
    assert measured.growth_bytes > 50_000 * 1600 // 2


def test_memory_that_stays_is_no_growth(monkeypatch, session):
    def wait(_, results):
        time.sleep(0.001)
        return results

    changed(monkeypatch, session, wait)
    # What earlier tests have left may still come and go in this process: once in three it is quiet.
    assert any(runtime.stress(session, concurrency=4, runs=400).failures == () for _ in range(3))


def test_readings_are_of_the_tenth_behind_the_warm_up_and_of_the_last():
    readings = [(step / 100, step) for step in range(1, 101)]
    before, after = _windows(readings, 0.1)
    assert before == list(range(11, 21))
    assert after == list(range(91, 101))
    assert _windows([(1.0, 7)], 0.0) == ([7], [7])


def test_an_error_of_a_run_ends_all_and_is_raised(monkeypatch, session):
    def fail(number, results):
        if number == 300:
            raise EdgekernError("the 300th")
        return results

    before = set(threading.enumerate())
    changed(monkeypatch, session, fail)
    with pytest.raises(EdgekernError, match="the 300th"):
        runtime.stress(session, concurrency=8, runs=100_000)
    assert set(threading.enumerate()) <= before
    assert session._lender.free == 2


@pytest.mark.parametrize(
    ("budget", "size"), [("50%", _core.memory_limit() // 2), ("100 %", _core.memory_limit()), ("2G", 2 << 30), (77, 77)]
)
def test_a_budget_is_a_share_or_a_size(budget, size):
    assert runtime.memory_budget("stress", budget) == size


@pytest.mark.parametrize("budget", ["0%", "101%", "-1%", "%", "nan%", "much", "", 0, None])
def test_a_budget_that_is_none_is_refused(session, budget):
    with pytest.raises((ArgumentTypeError, ArgumentValueError), match="stress: budget must be"):
        runtime.stress(session, budget=budget)


def test_wrong_arguments_are_refused(session, program):
    with pytest.raises(ArgumentTypeError, match="stress: session must be an InferenceSession, got Program"):
        runtime.stress(program)
    for options in ({"concurrency": 0}, {"runs": 0}, {"runs": -3}):
        with pytest.raises(ArgumentValueError, match="must be at least 1"):
            runtime.stress(session, **options)


@pytest.mark.parametrize("command", [cli.run, base.run])
def test_the_command_ends_with_1_where_something_failed(path, capsys, command):
    arguments = ["stress", str(path), "--concurrency", "3", "--runs", "20", "--arenas", "1"]
    assert command(arguments) in (0, 1)  # so few runs may end while memory still grows
    shown = capsys.readouterr().out
    assert "3 callers, 20 runs each, on 1 arena of 1 thread" in shown
    assert "0 of 60 differ" in shown
    assert command([*arguments, "--budget", "1M", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["failures"][-1], told["budget_bytes"]) == ("peak memory", 1 << 20)


def test_the_command_says_what_is_wrong(path, capsys):
    assert cli.run(["stress", str(path), "--budget", "lots"]) == 2
    assert "stress: budget must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"concurrency": 2**31 - 1}, ArgumentValueError, "concurrency must be at most 16384, got 2147483647"),
        ({"concurrency": 16384, "runs": 2**31 - 1}, MemoryBudgetError, "the times of .* runs take .* give fewer runs"),
        ({"runs": 2**31 - 1, "budget": "2G"}, MemoryBudgetError, ".*and the budget is 2,048.0 MiB"),
    ],
)
def test_more_than_a_process_holds_is_refused(session, options, error, message):
    with pytest.raises(error, match=f"stress: {message}"):
        runtime.stress(session, **options)


def test_callers_that_get_no_thread_end_all(session, monkeypatch):
    class Scarce(threading.Thread):
        started = 0

        def start(self):
            Scarce.started += 1
            if Scarce.started > 9:
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", Scarce)
    before = threading.active_count()
    with pytest.raises(ArgumentValueError, match="the system has threads for, 7 here, got 50"):
        runtime.stress(session, concurrency=50, runs=200)  # 2 of them are those alone
    assert threading.active_count() == before
