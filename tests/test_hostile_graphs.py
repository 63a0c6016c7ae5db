"""Graphs that mean harm are typed errors that name what is wrong, in little time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek

from bomb_graphs import BOMBS
from graphs import onnxruntime_session
from hostile_graphs import HARMLESS, MALFORMED

# In a child, which may be stopped where one waits or eats for ever.
CHILD = """
import json, resource, sys, warnings
from pathlib import Path
import edgekern as ek
from edgekern.calibration import Ranges, model_hash
from edgekern.cli import toolkit
from edgekern.compiler.passes import observe_shapes
from edgekern.errors import EdgekernError
from bomb_graphs import BOMBS
from hostile_graphs import MALFORMED
warnings.simplefilter("ignore")
observe_shapes._PATIENCE_S = 1.0
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
path = Path(sys.argv[1])

def quantize(path):
    return ek.quantize(path, Ranges({}, model_hash(path), "max"))

def inspect(path):
    return toolkit.inspect(path, batch="1")

for name, build in {**MALFORMED, **BOMBS}.items():
    path.write_bytes(build().SerializeToString())
    for call in (ek.compile, inspect, quantize):
        try:
            call(path)
            said = ["", ""]
        except EdgekernError as error:
            said = [type(error).__name__, str(error)]
        except BaseException as error:
            said = ["!" + type(error).__name__, str(error)]
        # ru_maxrss would have the parent's, too.
        peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        said.append(int(peak.split()[1]) >> 10)
        print(json.dumps([call.__name__, name, *said]), flush=True)
"""
PEAK_MIB = 1500  # with onnx and onnxruntime in it, 200 of them


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """(call, graph) -> the error's type and text, and the peak of memory until then."""
    path = tmp_path_factory.mktemp("hostile") / "model.onnx"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    lines = map(json.loads, done.stdout.splitlines())
    return {(call, name): tuple(rest) for call, name, *rest in lines}


@pytest.mark.parametrize("name", [*MALFORMED, *BOMBS])
def test_a_hostile_graph_is_a_typed_error_that_names_what_is_wrong(refusals, name):
    for call in ("compile", "inspect"):
        kind, message, _ = refusals[call, name]
        assert kind in ("ArgumentValueError", "CompileError"), message
        assert message.startswith("compile: ")
    named = (*build_names(name), "shape", "graph input names", "output names", "function", "output", "init", "sparse")
    assert any(word in message for word in named), message


def build_names(name):
    """Nodes, operators and tensors of a graph."""
    graph = {**MALFORMED, **BOMBS}[name]().graph
    nodes = [text for node in graph.node for text in (node.name, node.op_type) if text]
    return [*nodes, *(f"tensor name: {tensor.name}" for tensor in graph.initializer)]


@pytest.mark.parametrize("name", [*MALFORMED, *BOMBS])
def test_quantize_refuses_a_hostile_graph_by_a_typed_error(refusals, name):
    kind, message, _ = refusals["quantize", name]
    assert kind in ("ArgumentValueError", "CompileError", "QuantizationError"), message


def test_hostile_graphs_take_little_memory(refusals):
    assert max(peak for _, _, peak in refusals.values()) < PEAK_MIB


@pytest.mark.parametrize("name", HARMLESS)
def test_an_odd_graph_that_onnxruntime_runs_is_run(name):
    model = HARMLESS[name]()
    x = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    [found] = ek.InferenceSession(ek.compile(model)).run(None, {"x": x})
    np.testing.assert_array_equal(found, expected)
