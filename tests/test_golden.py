"""Checked-in .ekm files give their golden bytes: on every ISA, for every number of threads, on every machine."""

import math
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern._core import StepKind

import kernel_calls
from golden import make
from golden.younger import younger_programs

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ekm"))

# The kernels of which a kind of step uses one or more; of a path, and those that may run beside them.
KINDS = {
    "QUANTIZE": {"quantize"},
    "QUANTIZE_NCHW": {"quantize", "quantize_triples"},
    "DEQUANTIZE": {"dequantize"},
    "DEQUANTIZE_NCHW": {"dequantize"},
    "CONV": {"gemm_tile", "gemm_spread", "gemm_shallow", "gemv"},
    "DEPTHWISE": {"depthwise_row", "depthwise_3x3", "depthwise_run"},
    "GEMM": {"gemm_tile", "gemm_spread", "gemm_shallow", "gemm_thin", "gemv"},
    "ADD": {"add"},
    "LOOKUP": {"lookup"},
    "MAX_POOL": {"max_rows"},
    "AVERAGE_POOL": {"sum_rows"},
}
MOVES = {"CONCAT", "SLICE", "PAD", "TRANSPOSE"}  # memory only: no kernel, or a transpose
PATHS = {
    "tile": ({"gemm_tile", "gemm_spread"}, {"flip_sign", "spread_rows"}),
    "shallow": ({"gemm_shallow"}, {"flip_sign"}),
    "thin": ({"gemm_thin"}, set()),
    "gemv": ({"gemv"}, {"gemm_tile", "gemm_shallow"}),  # its last columns
    "depthwise": (
        {"depthwise_row", "depthwise_3x3", "depthwise_run", "depthwise_f32_row"},
        {"spread_depthwise", "flip_sign"},
    ),
    "float": ({"gemm_f32_tile"}, {"f32_strip"}),
    "attention": ({"exp_scores"}, {"gemm_f32_tile", "f32_strip", "divide_f32"}),
    "quantize": ({"quantize", "quantize_triples", "dequantize"}, {"transpose"}),
    "elementwise": ({"add"}, set()),
    "lookup": ({"lookup"}, set()),
    "pool": ({"max_rows", "sum_rows"}, {"requantize"}),
    "move": (set(), {"transpose", "transpose_words"}),
}


@pytest.fixture(scope="module")
def program():
    return ek.Program.load(FOLDER / "every_step.ekm")


@pytest.fixture(scope="module")
def golden():
    return golden_bytes("every_step")


def golden_bytes(name):
    """Bytes of the inputs and of the outputs."""
    return (FOLDER / f"{name}.inputs").read_bytes(), (FOLDER / f"{name}.outputs").read_bytes()


def feeds_of(program, golden):
    feeds, at = {}, 0
    for info in program.inputs:
        feeds[info.name] = np.frombuffer(golden[0], info.dtype, math.prod(info.shape), at).reshape(info.shape)
        at += feeds[info.name].nbytes
    return feeds


def test_every_kind_of_step_has_golden_bytes(program):
    """Here, or in the test file of a kind that is younger."""
    assert {step.kind for step in program.steps} == set(KINDS) | MOVES
    assert any("Conv+Add" in step.op for step in program.steps)
    younger = younger_programs()
    assert {kind.name for kind in StepKind} == set(KINDS) | MOVES | {kind.name for kind in younger}
    for kind, other in younger.items():
        assert kind.name in {step.kind for step in other.steps}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_golden_bytes(name, isa, threads):
    program, golden = ek.Program.load(FOLDER / f"{name}.ekm"), golden_bytes(name)
    outputs = ek.InferenceSession(program, isa=isa, num_threads=threads).run(None, feeds_of(program, golden))
    assert b"".join(output.tobytes() for output in outputs) == golden[1]


def test_every_step_runs_the_isa_it_was_given_and_the_path_it_states(program, golden, isa):
    """Counted in the kernel tables, step by step."""
    kernel_calls.start()
    session = ek.InferenceSession(program, isa=isa, num_threads=2)
    kernel_calls.reset()
    for number, _ in session.trace(feeds_of(program, golden)):
        ran, step, path = kernel_calls.calls(), program.steps[number], session.paths[number]
        used = set(ran.get(isa, ()))
        one_of, beside = PATHS[path]
        assert not set(ran) - {isa}, f"{step} was given {isa} and ran {ran}"
        assert used & KINDS.get(step.kind, set()) or step.kind in MOVES, f"{step} ran {used}"
        assert used <= one_of | beside, f"{step} says {path} and ran {used}"
        assert used & one_of or not one_of, f"{step} says {path} and ran nothing of it"
        kernel_calls.reset()


def test_every_golden_model_has_its_file():
    assert sorted(make.MODELS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_is_what_the_compiler_writes(name):
    """Format and compiler stand still, or tests/golden/make.py is run and the change is seen in review."""
    program, made = ek.Program.load(FOLDER / f"{name}.ekm"), ek.compile(make.MODELS[name](), allow_host=False)
    assert made.steps == program.steps
    assert made.memory_plan == program.memory_plan
    assert [(b.name, b.sha256) for b in made.index.blobs] == [(b.name, b.sha256) for b in program.index.blobs]
