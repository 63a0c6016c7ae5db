"""The clock of every step: off and free, or on and adding up."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from onnx import TensorProto

import edgekern as ek
from edgekern import quickstart
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime import random_feeds

from float_models import build, f32, helper, ranges_of, samples, small_cnn

node = helper.make_node


@pytest.fixture(scope="module")
def program():
    model = small_cnn()
    x = samples(np.random.default_rng(1), 4, (3, 12, 12))
    return ek.compile(ek.quantize(model, ranges_of(model, x)))


@pytest.fixture(scope="module")
def hosted():
    """A product, a sort on the host, and a product."""
    weights = {"w": f32(np.random.default_rng(2).normal(size=(64, 64))), "k": np.array([64])}
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("TopK", ["a", "k"], ["s", "at"], name="sort"),
        node("MatMul", ["s", "w"], ["y"], name="second"),
    ]
    with pytest.warns(ek.errors.EdgekernWarning, match="TopK"):
        return ek.compile(build(nodes, weights, [8, 64]))


def test_steps_add_up_to_the_run_and_stand_in_their_order(program):
    session = ek.InferenceSession(program, num_threads=1)
    found = session.profile(random_feeds(program.inputs), runs=40)
    assert [step.name for step in found.steps] == [step.name for step in program.steps]
    assert [step.path for step in found.steps] == list(session.paths)
    summed = sum(step.p50_us for step in found.steps)
    assert [step.share for step in found.steps] == pytest.approx([step.p50_us / summed for step in found.steps])
    assert [step.macs for step in found.steps] == [step.macs for step in program.steps]
    assert 0 < summed < found.p50_us * 1.5
    for step in found.steps:
        assert 0 <= step.p50_us <= step.p95_us <= step.p99_us
        assert (step.peak_share is not None) == (step.macs > 0)
    assert found.p50_us <= found.p95_us <= found.p99_us
    assert (found.runs, found.num_threads, found.isa) == (40, 1, session.isa)


@pytest.mark.parametrize("threads", [3, 8, 17, 64])
def test_small_programs_are_timed_on_many_threads(program, threads):
    """Each stream of each thread reads a page at least, and these have few."""
    assert program.nbytes < 1 << 16
    found = ek.InferenceSession(program, num_threads=threads).profile(random_feeds(program.inputs), runs=2)
    assert found.read_bytes_per_s > 0


def test_the_results_of_a_run_are_the_same_after_it_and_no_clock_is_left_on(program):
    session = ek.InferenceSession(program)
    feeds = random_feeds(program.inputs)
    [before] = session.run(None, feeds)
    clock = session._runner.core.clock(True)
    session._runner.core.clock(False)
    session.profile(feeds, runs=3)
    written = clock.copy()
    assert written.any()
    assert np.array_equal(session.run(None, feeds)[0], before)
    assert np.array_equal(clock, written)


def test_a_step_that_works_more_takes_more():
    """Of two products one has a hundred times the work."""
    weights = {"w": f32(np.ones((64, 64))), "v": f32(np.ones((64, 6400)))}
    nodes = [node("MatMul", ["x", "w"], ["a"], name="small"), node("MatMul", ["a", "v"], ["y"], name="large")]
    program = ek.compile(build(nodes, weights, [64, 64]))
    found = ek.InferenceSession(program, num_threads=1).profile(random_feeds(program.inputs), runs=20)
    small, large = found.steps
    assert large.p50_us > 4 * small.p50_us  # of the runs in the middle: others may have the machine in between


def test_host_steps_are_timed_and_named_as_the_cause(hosted):
    found = ek.InferenceSession(hosted, num_threads=1).profile(random_feeds(hosted.inputs), runs=10)
    assert [step.kind for step in found.steps].count("host") == 1
    [sort] = [step for step in found.steps if step.kind == "host"]
    assert sort.op == "TopK"
    assert sort.p50_us > 0
    assert sort.peak_share is None
    [cause] = [text for text in found.causes if "host steps" in text]
    assert "TopK 'sort'" in cause or "sort" in cause
    assert cause.startswith(f"{sort.share:.0%} of the time")


def test_the_table_shows_the_longest_steps_and_counts_the_others(program):
    found = ek.InferenceSession(program, num_threads=1).profile(random_feeds(program.inputs), runs=5)
    lines = found.table(2).splitlines()
    names = [line.split()[0] for line in lines[3:5]]
    assert names == [step.name.split()[0] for step in found.top(2)]
    assert lines[5].startswith(f"{len(found.steps) - 2} more steps take")
    assert "█" in lines[3]
    assert str(found).splitlines()[2].split()[:2] == ["step", "operators"]
    assert all(text in str(found) for text in found.causes)


def test_json_and_the_trace_hold_every_step(program, tmp_path):
    found = ek.InferenceSession(program, num_threads=1).profile(random_feeds(program.inputs), runs=5)
    told = json.loads(found.to_json())
    assert [step["name"] for step in told["steps"]] == [step.name for step in found.steps]
    assert told["steps"][0]["p50_us"] == found.steps[0].p50_us
    assert set(told["peaks"]) == {"8 bits", "16 bits", "float32"}
    found.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["name"] for event in events] == [step.name for step in found.steps]
    ends = [event["ts"] + event["dur"] for event in events]
    assert [event["ts"] for event in events] == pytest.approx([0, *ends[:-1]])


def test_strided_feeds_are_copied_and_said(program):
    session = ek.InferenceSession(program)
    feeds = {name: np.asfortranarray(x) for name, x in random_feeds(program.inputs).items()}
    with pytest.warns(ek.errors.EdgekernWarning, match="profile"):
        assert session.profile(feeds, runs=2).p50_us > 0


def test_other_callers_wait_and_get_their_results(program):
    session = ek.InferenceSession(program, num_threads=1)
    feeds = random_feeds(program.inputs)
    [want] = session.run(None, feeds)
    found = []
    callers = [threading.Thread(target=lambda: found.append(session.run(None, feeds)[0])) for _ in range(4)]
    for caller in callers:
        caller.start()
    session.profile(feeds, runs=50)
    for caller in callers:
        caller.join()
    assert all(np.array_equal(result, want) for result in found)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("runs", "error"), [(0, ArgumentValueError), (-1, ArgumentValueError), (1.5, ArgumentTypeError)]
)
def test_a_count_of_runs_that_is_none_is_refused(program, runs, error):
    with pytest.raises(error, match="profile: runs must be"):
        ek.InferenceSession(program).profile(random_feeds(program.inputs), runs=runs)


def test_feeds_are_checked_as_run_checks_them(program):
    with pytest.raises(ArgumentValueError, match="input_feed lacks the input"):
        ek.InferenceSession(program).profile({}, runs=1)


def test_random_feeds_fit_every_type():
    dtypes = {"i": TensorProto.INT64, "b": TensorProto.BOOL}
    made = build([node("Cast", ["i"], ["c"], to=1), node("Add", ["c", "x"], ["y"])], {}, [2, 3])
    made.graph.input.append(helper.make_tensor_value_info("i", dtypes["i"], [2, 3]))
    program = ek.compile(made)
    feeds = random_feeds(program.inputs)
    assert {name: x.dtype.name for name, x in feeds.items()} == {"x": "float32", "i": "int64"}
    assert feeds["x"].any()
    assert np.array_equal(ek.InferenceSession(program).run(None, feeds)[0], feeds["x"])


def test_a_program_without_steps_has_an_empty_table():
    program = ek.compile(build([node("Identity", ["x"], ["y"])], {}, [2, 3]))
    found = ek.InferenceSession(program).profile(random_feeds(program.inputs), runs=2)
    assert found.steps == ()
    assert "0 steps" in str(found)
    assert json.loads(found.to_json())["steps"] == []


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_a_count_of_rows_that_is_none_is_refused(program, count):
    found = ek.InferenceSession(program).profile(random_feeds(program.inputs), runs=1)
    error = ArgumentValueError if type(count) is int else ArgumentTypeError
    for method in (found.top, found.table):
        with pytest.raises(error, match="count must be"):
            method(count)


@pytest.mark.parametrize("path", [None, 3, "a\0b"])
def test_a_trace_goes_to_a_path(program, path):
    found = ek.InferenceSession(program).profile(random_feeds(program.inputs), runs=1)
    with pytest.raises((ArgumentTypeError, ArgumentValueError), match=r"Profile\.save_trace: path"):
        found.save_trace(path)


def test_bools_are_false_and_bytes_are_any():
    dtypes = {"b": TensorProto.BOOL, "u": TensorProto.UINT8, "s": TensorProto.INT8}
    nodes = [node("Cast", [name], [f"{name}f"], to=1) for name in dtypes]
    made = build([*nodes, node("Sum", ["bf", "uf", "sf", "x"], ["y"])], {}, [4, 64])
    made.graph.input.extend(helper.make_tensor_value_info(name, kind, [4, 64]) for name, kind in dtypes.items())
    feeds = random_feeds(ek.compile(made).inputs)
    assert not feeds["b"].any()
    assert feeds["u"].max() > 200
    assert feeds["s"].min() < -90


def test_an_interrupt_leaves_no_clock_on(program, monkeypatch):
    session = ek.InferenceSession(program)

    class Core:
        def __getattr__(self, name):
            return getattr(core, name)

        def clock(self, on):
            clocks.append(on)
            if on:
                raise KeyboardInterrupt
            return core.clock(on)

    core, clocks = session._runner.core, []
    monkeypatch.setattr(session._runner, "core", Core())
    with pytest.raises(KeyboardInterrupt):
        session.profile(random_feeds(program.inputs), runs=1)
    assert clocks == [True, False]


def test_the_command_line_tells_the_same(tmp_path):
    model, trace = tmp_path / "digits.ekm", tmp_path / "trace.json"
    quickstart.run(save=model)
    command = [sys.executable, "-c", "from edgekern.cli import main; main()", "profile", str(model), "--runs", "5"]
    table = subprocess.run([*command, "--top", "3"], capture_output=True, text=True, check=True).stdout
    assert "more steps take" in table
    told = subprocess.run(
        [*command, "--json", "--trace", str(trace), "--threads", "1"], capture_output=True, text=True, check=True
    ).stdout
    assert len(json.loads(told)["steps"]) == len(json.loads(trace.read_text())["traceEvents"])
    np.save(tmp_path / "empty.npy", np.zeros((0, 1, 8, 8), np.float32))
    empty = subprocess.run([*command, str(tmp_path / "empty.npy")], capture_output=True, text=True, check=False)
    assert (empty.returncode, "profile: the data holds no rows" in empty.stderr) == (2, True)
    plain = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    drawn = subprocess.run(command, capture_output=True, encoding="cp1252", check=True, env=plain).stdout
    assert "####" in drawn
    wrong = subprocess.run([*command, "--trace", str(model)], capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
