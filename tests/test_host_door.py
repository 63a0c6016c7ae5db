"""A host step is a door: a crafted .ekm reads no file, runs no graph for ever, and opens nothing where it may not."""

import os
import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import edgekern as ek
from edgekern import cli
from edgekern._onnxruntime import run_to_end
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ArtifactError,
    CompileError,
    EdgekernError,
    EdgekernWarning,
    HostStepError,
    HostTimeoutError,
)

from host_models import MEMORY_MARKER, PLACES, SIZE, array, counted, endless, external, forged, model, program

X = np.ones(SIZE, np.float32)
DEADLINE_S = 120  # ends a child that hangs


@pytest.fixture(scope="module")
def sound() -> ek.Program:
    with pytest.warns(EdgekernWarning):
        return program()


@pytest.fixture(scope="module")
def renamed(sound):
    """A forger's file with this model, whose output is y."""

    def make(made, **changes):
        number = sound.host_steps[0].outputs[0][1]
        return forged(sound, made.SerializeToString(), **{"outputs": [["y", number]], **changes})

    return make


@pytest.fixture
def no_onnxruntime(monkeypatch):
    """onnxruntime that must not be called."""

    def called(*arguments, **options):
        raise AssertionError("onnxruntime was called")

    monkeypatch.setattr(onnxruntime, "InferenceSession", called)


def child(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S, **options)


def test_a_forged_model_that_is_harmless_runs(renamed):
    made = model([helper.make_node("Add", ["x", "w"], ["y"])], [array("w", np.arange(SIZE))])
    np.testing.assert_array_equal(ek.InferenceSession(renamed(made)).run(None, {"x": X})[0], X + np.arange(SIZE))


@pytest.mark.parametrize("location", ["here.bin", "../outside.bin", "ABSOLUTE", MEMORY_MARKER])
@pytest.mark.parametrize("place", PLACES)
def test_no_file_and_no_memory_is_read(renamed, place, location, tmp_path, monkeypatch, no_onnxruntime):
    folder = tmp_path / "current"
    folder.mkdir()
    for file in (folder / "here.bin", tmp_path / "outside.bin"):
        X.tofile(file)
    monkeypatch.chdir(folder)
    location = str(tmp_path / "outside.bin") if location == "ABSOLUTE" else location
    content = renamed(PLACES[place](external(location=location)))
    (folder / "forged.ekm").write_bytes(content)
    for verify in ("full", "lazy"):
        for source in (content, "forged.ekm"):
            with pytest.raises(ArtifactError, match=r"the ONNX model of 'host\.0' is not one that edgekern writes"):
                ek.InferenceSession(source, verify=verify)
    assert cli.run(["verify", "forged.ekm"]) == 1
    assert cli.run(["inspect", "forged.ekm"]) == 2


def test_a_file_that_changes_after_it_was_checked_is_checked_again(renamed, tmp_path):
    """A mapped file shows what is written into it."""
    bad = model([helper.make_node("Neg", ["x"], ["y"])], [external()]).SerializeToString()
    good = renamed(model([helper.make_node("Neg", ["x"], ["y"])], [array("w", np.ones(SIZE))]))
    path = tmp_path / "model.ekm"
    path.write_bytes(good)
    loaded = ek.Program.load(path)
    [step] = loaded.host_steps
    at = good.rindex(bytes(loaded.host_model(step)))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bad[: step.blob_bytes])
    with pytest.raises(ArtifactError, match="not one that edgekern writes"):
        ek.InferenceSession(loaded)


def test_a_context_of_another_processor_is_refused_and_not_read(renamed):
    """onnxruntime's EPContext names a file in a string; on the CPU it has no kernel."""
    context = {"embed_mode": 0, "ep_cache_context": "/etc/passwd", "main_context": 1}
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", **context)
    with pytest.raises(ArtifactError, match=r"onnxruntime refuses host\.0"):
        ek.InferenceSession(renamed(model([node], domains=["com.microsoft"])))


BORDERS = {
    "input": ({"inputs": [["q", 0]]}, r"from \['x'\], but the program wants \['y'\] from \['q'\]"),
    "no input": ({"inputs": []}, r"from \['x'\], but the program wants \['y'\] from \[\]"),
    "output": ({"outputs": [["q", 0]]}, r"wants \['q'\]"),
    "no output": ({"outputs": []}, "the manifest does not fit the index"),
    "twice": ({"outputs": [["y", 0], ["y", 1]]}, "the manifest does not fit the index"),
}


@pytest.mark.parametrize("name", BORDERS)
def test_borders_that_the_host_model_does_not_have_are_refused(renamed, name):
    changes, message = BORDERS[name]
    with pytest.raises(ArtifactError, match=message):
        ek.InferenceSession(renamed(model([helper.make_node("Neg", ["x"], ["y"])]), **changes))


def test_a_result_that_is_no_array_is_named(renamed):
    made = model([helper.make_node("SequenceConstruct", ["x", "x"], ["y"])])
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    with pytest.raises(EdgekernError, match=r"'y' of host\.0 came as list, but the program was compiled for float32"):
        ek.InferenceSession(renamed(made)).run(None, {"x": X})


def test_programs_of_strangers_open_no_onnxruntime(sound, tmp_path, no_onnxruntime):
    sound.save(tmp_path / "host.ekm")
    for source in (sound, tmp_path / "host.ekm"):
        with pytest.raises(
            HostStepError, match=r"1 step needs onnxruntime, and allow_host=False .*\n  host\.0: Softmax"
        ):
            ek.InferenceSession(source, allow_host=False)
    code = """
import sys
sys.modules["onnxruntime"] = None
import edgekern as ek
try:
    ek.InferenceSession("host.ekm", allow_host=False)
except ek.errors.HostStepError:
    sys.exit(0)
"""
    assert child(code, cwd=tmp_path).returncode == 0


def test_commands_keep_onnxruntime_out(sound, tmp_path, capsys, no_onnxruntime):
    path, data = tmp_path / "host.ekm", tmp_path / "x.npy"
    sound.save(path)
    np.save(data, X)
    for command in (["run", str(path), str(data)], ["verify", str(path)]):
        assert cli.run([*command, "--no-allow-host"]) == (1 if command[0] == "verify" else 2)
        assert "1 step needs onnxruntime, and allow_host=False forbids it" in capsys.readouterr().err
        code = "import sys; sys.modules['typer'] = None; from edgekern import cli; sys.exit(cli.run(sys.argv[1:]))"
        base = child(code, *command, "--no-allow-host")
        assert base.returncode == (1 if command[0] == "verify" else 2)
        assert "allow_host=False forbids it" in base.stderr
    assert cli.run(["verify", str(path), "--allow-host"]) == 0
    assert "host step host.0, for onnxruntime: Softmax" in capsys.readouterr().out
    assert cli.run(["inspect", str(path)]) == 0


def test_names_in_a_file_do_not_command_the_terminal(sound, renamed, tmp_path, capsys):
    path, name = tmp_path / "host.ekm", "\x1b[2J\ud800\r"
    path.write_bytes(renamed(model([helper.make_node("Neg", ["x"], ["y"])]), reason=name, name=name))
    for command in ("verify", "inspect"):
        assert cli.run([command, str(path)]) == 0
        assert r"\x1b[2J\ud800\r" in capsys.readouterr().out
    assert cli.run(["verify", str(path), "--no-allow-host"]) == 1
    assert r"\x1b[2J\ud800\r" in capsys.readouterr().err
    path.write_bytes(renamed(PLACES["function"](external()), name=name))
    assert cli.run(["verify", str(path)]) == 1
    assert r"\x1b[2J\ud800\r" in capsys.readouterr().err


TIMED = """
import sys
import numpy as np
import edgekern as ek
session = ek.InferenceSession(sys.argv[1], host_timeout_s=0.5)
for _ in range(2):
    try:
        session.run(None, {"x": np.ones(4, np.float32)})
    except ek.errors.HostTimeoutError as error:
        assert "host.0 has not ended within 0.5 s" in str(error) and "host_timeout_s" in str(error)
    else:
        sys.exit("it ended")
"""


@pytest.mark.parametrize("kind", ["loop", "without a count", "constant", "nested", "scan"])
def test_a_graph_without_an_end_is_ended(renamed, kind, tmp_path):
    path = tmp_path / "endless.ekm"
    path.write_bytes(renamed(endless(kind)))
    result = child(TIMED, path)
    assert result.returncode == 0, result.stderr
    assert cli.run(["verify", str(path)]) == 0


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
import edgekern as ek
session = ek.InferenceSession(sys.argv[1], host_timeout_s=None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    session.run(None, {"x": np.ones(4, np.float32)})
except KeyboardInterrupt:
    sys.exit(0)
sys.exit("it ended")
"""


def test_ctrl_c_ends_a_host_step(renamed, tmp_path):
    path = tmp_path / "endless.ekm"
    path.write_bytes(renamed(endless("loop")))
    result = child(INTERRUPTED, path)
    assert result.returncode == 0, result.stderr


COMPILED = """
import os, signal, sys, threading
import edgekern as ek
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ek.compile(sys.argv[1])
except KeyboardInterrupt:
    sys.exit(0)
sys.exit("it ended")
"""


def test_ctrl_c_ends_a_compiler_that_runs_the_model(tmp_path):
    """Where ONNX does not know a shape, the compiler asks onnxruntime by running the model."""
    made = endless("loop")
    made.graph.node[-1].CopyFrom(helper.make_node("Gelu", ["l"], ["y"], domain="com.microsoft"))
    made.opset_import.add(domain="com.microsoft", version=1)
    made.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("y"))
    onnx.save(made, tmp_path / "endless.onnx")
    result = child(COMPILED, tmp_path / "endless.onnx")
    assert result.returncode == 0, result.stderr


def test_command_ends_a_graph_without_an_end(renamed, tmp_path, capsys):
    path = tmp_path / "endless.ekm"
    path.write_bytes(renamed(endless("loop")))
    np.save(tmp_path / "x.npy", X)
    assert cli.run(["run", str(path), str(tmp_path / "x.npy"), "--host-timeout", "0.5"]) == 2
    assert "host.0 has not ended within 0.5 s" in capsys.readouterr().err


def test_session_computes_nothing_before_it_runs(renamed):
    """onnxruntime folds constants when it opens a model: hours of products in a file of a few kilobytes."""
    made = helper.make_node("ConstantOfShape", ["shape"], ["m0"], value=array("one", [1.0]))
    nodes = [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(500)]
    most = helper.make_node("ReduceMax", ["m500"], ["most"], keepdims=0)
    last = helper.make_node("Add", ["x", "most"], ["y"])
    content = renamed(model([made, *nodes, most, last], [array("shape", [4096, 4096], np.int64)]))
    code = "import sys, edgekern as ek; ek.InferenceSession(sys.stdin.buffer.read())"
    result = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, timeout=DEADLINE_S)
    assert result.returncode == 0, result.stderr


def test_a_session_goes_on_after_a_step_was_ended():
    with pytest.warns(EdgekernWarning):
        session = ek.InferenceSession(ek.compile(counted()), host_timeout_s=1)
    for _ in range(2):
        np.testing.assert_array_equal(session.run(None, {"x": X, "n": np.full((), 3)})[0], 4 * X)
        with pytest.raises(HostTimeoutError):
            session.run(None, {"x": X, "n": np.full((), 1 << 62)})


def test_errors_of_onnxruntime_come_from_the_other_thread(renamed):
    """The first run of a step is watched, later ones without a loop are not; both tell what failed."""
    made = model([helper.make_node("Reshape", ["x", "shape"], ["y"])], [array("shape", [7], np.int64)])
    session = ek.InferenceSession(renamed(made))
    for _ in range(2):
        with pytest.raises(EdgekernError, match=r"run: host\.0 failed in onnxruntime: .*[Rr]eshape"):
            session.run(None, {"x": X})


def test_work_that_is_left_behind_does_not_hold_its_caller():
    """What looks for no end, onnxruntime's single nodes, goes on alone."""

    class Deaf:
        def run(self, names, feeds, options):
            threading.Event().wait()

    with pytest.raises(TimeoutError):
        run_to_end(Deaf(), [], {}, 0.01)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
def test_times_that_are_no_time_are_refused(sound, seconds):
    with pytest.raises(ArgumentValueError, match="host_timeout_s must be a positive number of seconds or None"):
        ek.InferenceSession(sound, host_timeout_s=seconds)


def test_options_of_other_types_are_refused(sound):
    with pytest.raises(ArgumentTypeError, match="host_timeout_s must be a number, got str"):
        ek.InferenceSession(sound, host_timeout_s="soon")
    with pytest.raises(ArgumentTypeError, match="allow_host must be True or False, got str"):
        ek.InferenceSession(sound, allow_host="no")


def test_compiler_emits_nothing_that_the_runtime_refuses():
    """Functions of another opset cannot be inlined: told at compile time, not by who loads the file."""
    nodes = [helper.make_node("Softmax", ["a"], ["b"])]
    function = helper.make_function("f", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])
    made = model([helper.make_node("F", ["x"], ["y"], domain="f")], functions=[function], domains=["f"])
    with pytest.raises(CompileError, match=r"F '.*' cannot be inlined, and a host step has no functions"):
        ek.compile(made)


def test_environment_does_not_open_the_door(renamed, monkeypatch):
    """ORT_LOAD_CONFIG_FROM_MODEL takes session options from the model's metadata."""
    made = model([helper.make_node("Neg", ["x"], ["y"])])
    made.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": 1}}')
    monkeypatch.setitem(os.environ, "ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with pytest.raises(ArtifactError, match="it has metadata"):
        ek.InferenceSession(renamed(made))
