"""SessionOptions.enable_profiling: the times of all runs in a file, as onnxruntime writes one."""

import gc
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern.errors import (
    ArgumentValueError,
    EdgekernWarning,
)

from graphs import Graph, feeds_of, two_products


@pytest.fixture(scope="module")
def model():
    return two_products()


@pytest.fixture(scope="module")
def program(model):
    return ek.compile(model, allow_host=False)


@pytest.fixture(scope="module")
def feeds(model):
    return feeds_of(model)


@pytest.fixture
def session(program):
    return ek.InferenceSession(program, num_threads=1)


def _options(folder):
    wanted = ek.SessionOptions()
    wanted.enable_profiling, wanted.profile_file_prefix = True, str(folder / "p")
    return wanted


def profiled(program, tmp_path, **options):
    return ek.InferenceSession(program, _options(tmp_path), num_threads=1, **options)


def test_runs_are_traced_into_a_file(program, tmp_path, feeds, session):
    before = time.monotonic_ns()
    traced = profiled(program, tmp_path)
    assert before <= traced.get_profiling_start_time_ns() <= time.monotonic_ns()
    want = session.run(None, feeds)
    binding = traced.bind(feeds)
    for _ in range(3):
        np.testing.assert_array_equal(traced.run(None, feeds)[0], want[0])
    binding.run()
    with pytest.warns(EdgekernWarning, match="is copied"):
        traced.run(None, {"x": np.asfortranarray(feeds["x"])})
    assert traced.profile(feeds, runs=2).p50_us > 0
    for _ in range(5):
        traced.run(None, feeds)
    name = traced.end_profiling()
    assert (Path(name).parent, Path(name).name[:2], Path(name).suffix) == (tmp_path, "p_", ".json")
    assert traced.end_profiling() == ""
    traced.run(None, feeds)
    events = json.loads(Path(name).read_text())
    runs = [event for event in events if event["name"] == "model_run"]
    nodes = [event for event in events if event["cat"] == "Node"]
    assert events[0]["name"] == "session_initialization"
    assert len(runs) == 10
    assert [node["args"]["op_name"] for node in nodes] == [step.op for step in program.steps] * 10
    assert [node["name"] for node in nodes[: len(program.steps)]] == [
        f"{step.name}_kernel_time" for step in program.steps
    ]
    took = {tuple(step["dur"] for step in steps) for steps in np.array_split(nodes, 10)[5:]}
    assert len(took) > 1  # the clock goes on behind profile(), which has turned it on and off
    for run, steps in zip(runs, np.array_split(nodes, 10), strict=True):
        assert all(step["dur"] >= 0 and step["ts"] >= run["ts"] for step in steps)
        assert 0 < sum(step["dur"] for step in steps) <= run["dur"]
    assert sum(step["dur"] for step in nodes) > 0
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings("ignore:compile. nothing of the model runs on a kernel")
@pytest.mark.usefixtures("no_float_kernels")
def test_host_steps_are_in_the_trace(tmp_path):
    g = Graph()
    hosted = ek.compile(g.model(g.op("Erf", g.input("x", (3, 4)))))
    with profiled(hosted, tmp_path) as session:
        session.run(None, {"x": np.ones((3, 4), np.float32)})
    [file] = tmp_path.iterdir()
    [node] = [event for event in json.loads(file.read_text()) if event["cat"] == "Node"]
    assert (node["args"]["op_name"], node["args"]["path"]) == ("Erf", "host")
    assert node["dur"] > 0


def test_a_session_that_goes_writes_its_trace(program, tmp_path, feeds):
    session = profiled(program, tmp_path)
    session.run(None, feeds)
    assert list(tmp_path.iterdir()) == []
    del session
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_that_ends_writes_it_and_its_child_does_not(program, tmp_path):
    program.save(tmp_path / "m.ekm")
    code = """
import os, sys, numpy as np, edgekern as ek
options = ek.SessionOptions()
options.enable_profiling, options.profile_file_prefix = True, "here"
session = ek.InferenceSession("m.ekm", options, num_threads=1)
session.run(None, {"x": np.ones((2, 6), np.float32)})
if os.fork() == 0:
    session.run(None, {"x": np.ones((2, 6), np.float32)})
    sys.exit(0 if session.end_profiling() == "" else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert not [name for name in os.listdir() if name.startswith("here")]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("here_*.json"))) == 1


def test_without_profiling_nothing_is_written(session, feeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session.run(None, feeds)
    assert (session.end_profiling(), session.get_profiling_start_time_ns()) == ("", 0)
    assert os.listdir() == []


def test_a_trace_that_is_full_says_so(program, tmp_path, feeds, monkeypatch):
    monkeypatch.setattr("edgekern.runtime.run_trace._MOST_EVENTS", 2 * (1 + len(program.steps)))
    session = profiled(program, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.run(None, feeds)
        session.run(None, feeds)
    with pytest.warns(EdgekernWarning, match="is full after 2 runs"):
        session.run(None, feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    assert sum(event["name"] == "model_run" for event in events) == 2


def test_a_trace_needs_a_folder(program, tmp_path):
    options = ek.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "none" / "p")
    with pytest.raises(ArgumentValueError, match="profile_file_prefix must begin with a folder that is there"):
        ek.InferenceSession(program, options)


def test_times_outlive_a_folder_that_is_gone(program, tmp_path, feeds):
    folder = tmp_path / "traces"
    folder.mkdir()
    session = profiled(program, folder)
    session.run(None, feeds)
    folder.rmdir()
    with pytest.raises(ArgumentValueError, match=r"end_profiling: the folder of .* must be there, and it is gone"):
        session.end_profiling()
    session.run(None, feeds)
    folder.mkdir()
    events = json.loads(Path(session.end_profiling()).read_text())
    assert sum(event["name"] == "model_run" for event in events) == 2
    assert session.end_profiling() == ""


def test_a_session_that_goes_says_that_its_times_are_lost(program, tmp_path, feeds):
    folder = tmp_path / "traces"
    folder.mkdir()
    held = [profiled(program, folder)]
    held[0].run(None, feeds)
    folder.rmdir()
    with pytest.warns(EdgekernWarning, match="the times of its runs are lost: end_profiling: the folder of"):
        held.clear()
