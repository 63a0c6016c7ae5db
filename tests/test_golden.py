"""A checked-in .ekm gives its golden bytes: on every ISA, for every number of threads, on every machine."""

import math
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind

FOLDER = Path(__file__).parent / "golden"

# The rows of the kernel table that each kind of step must use; several names: one of them.
ROWS = {
    "QUANTIZE": {"quantize"},
    "QUANTIZE_NCHW": {"quantize"},
    "DEQUANTIZE": {"dequantize"},
    "DEQUANTIZE_NCHW": {"dequantize"},
    "CONV": {"conv_tile", "gemm_cube", "gemm_vector"},
    "DEPTHWISE": {"depthwise_row", "depthwise_3x3"},
    "GEMM": {"gemm_cube", "gemm_vector"},
    "ADD": {"add"},
    "LOOKUP": {"lookup"},
    "MAX_POOL": {"max_rows"},
    "AVERAGE_POOL": {"sum_rows"},
}
MOVES = {"CONCAT", "SLICE", "PAD", "TRANSPOSE"}  # memory only: no row, nothing to override

# The rows of which a path must use one, and beside which it uses none of another path's.
PATHS = {
    "tile": {"conv_tile", "gemm_cube", "gemm_vector"},
    "shallow": {"conv_tile", "gemm_cube", "gemm_vector"},
    "gemv": {"gemm_cube"},
    "depthwise": {"depthwise_row", "depthwise_3x3"},
    "quantize": {"quantize", "dequantize"},
    "elementwise": {"add"},
    "lookup": {"lookup"},
    "pool": {"max_rows", "sum_rows"},
    "move": {"transpose"},
}


@pytest.fixture(scope="module")
def program():
    return ek.Program.load(FOLDER / "every_step.ekm")


@pytest.fixture(scope="module")
def golden():
    """Bytes of the inputs and of the outputs."""
    return (FOLDER / "every_step.inputs").read_bytes(), (FOLDER / "every_step.outputs").read_bytes()


def feeds_of(program, golden):
    feeds, at = {}, 0
    for info in program.inputs:
        feeds[info.name] = np.frombuffer(golden[0], info.dtype, math.prod(info.shape), at).reshape(info.shape)
        at += feeds[info.name].nbytes
    return feeds


def test_every_kind_of_step_has_golden_bytes(program):
    """In the golden program; a kind that is younger holds its own in the test file of its name."""
    held = {step.kind for step in program.steps}
    assert held == set(ROWS) | MOVES
    assert any("Conv+Add" in step.op for step in program.steps)
    for kind in {kind.name for kind in StepKind} - held:
        assert "\nGOLDEN = " in (FOLDER.parent / f"test_{kind.lower()}.py").read_text(), kind


@pytest.mark.parametrize("threads", [1, 2])
def test_golden_bytes(program, golden, isa, threads):
    outputs = ek.InferenceSession(program, isa=isa, num_threads=threads).run(None, feeds_of(program, golden))
    assert b"".join(output.tobytes() for output in outputs) == golden[1]


def test_every_step_uses_the_isa_it_was_given(program, golden, isa):
    """Counted in the kernel table itself, step by step: the rows of the step on this ISA, and no row of another."""
    session = ek.InferenceSession(program, isa=isa, num_threads=2)
    _core.reset_row_counts()
    before = _core.row_counts(isa)
    for number, _ in session.trace(feeds_of(program, golden)):
        step, after = program.steps[number], _core.row_counts(isa)
        used = {row for row in after if after[row] > before[row]}
        assert used & ROWS.get(step.kind, set()) or step.kind in MOVES, f"{step.kind} {step.name} used {used}"
        before = after
    for other in _core.available_isas():
        assert other == isa or not any(_core.row_counts(other).values())


def test_the_path_that_a_step_states_is_the_one_it_takes(program, golden, isa):
    session = ek.InferenceSession(program, isa=isa, num_threads=2)
    before = _core.row_counts(isa)
    for number, _ in session.trace(feeds_of(program, golden)):
        path, after = session.paths[number], _core.row_counts(isa)
        used = {row for row in after if after[row] > before[row]} & set().union(*PATHS.values())
        assert used <= PATHS[path], f"{program.steps[number]} says {path} and used {used}"
        assert used or path == "move", f"{program.steps[number]} says {path} and used nothing of it"
        before = after


def test_golden_file_is_what_the_compiler_writes(program):
    """Format and compiler stand still, or tests/golden/make.py is run and the change is seen in review."""
    from golden import make

    made = ek.compile(make.golden_model(), allow_host=False)
    assert made.steps == program.steps
    assert made.memory_plan == program.memory_plan
    assert [(b.name, b.sha256) for b in made.index.blobs] == [(b.name, b.sha256) for b in program.index.blobs]
