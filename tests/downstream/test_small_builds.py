"""A build for one instruction set and one model: it gives Python's bytes, and refuses by name what it lacks."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

import onnx
from onnx import TensorProto, helper

import edgekern as ek
from bench.bench_binary_size import build, tool
from edgekern import _core, quickstart
from edgekern.cli.session import kinds

AVAILABLE = ek.cpu_info()["available"]
ISA = "avx2" if "avx2" in AVAILABLE else AVAILABLE[0]  # of a PC's, the quickest to compile


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.ekm"
    quickstart.run(save=path)
    return path


@pytest.fixture(scope="module")
def runner(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the digits and this machine: less than a minute."""
    steps = digits.with_suffix(".steps")
    steps.write_text(kinds(digits) + "\n")
    return build(tmp_path_factory.mktemp("small"), ISA, steps)


def run(runner: Path, model: Path, given: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    environment = {key: value for key, value in os.environ.items() if key != "EDGEKERN_ISA"} | environment
    return subprocess.run([runner, model], input=given, capture_output=True, check=False, env=environment)


def test_it_gives_the_bytes_of_python(runner: Path, digits: Path) -> None:
    session = ek.InferenceSession(digits)
    _, held_out = quickstart.load_digits()
    for feeds, _ in zip(held_out.feeds(), range(8), strict=False):
        (image,) = feeds.values()
        child = run(runner, digits, np.ascontiguousarray(image, np.float32).tobytes())
        assert child.stdout == session.run(None, feeds)[0].tobytes(), child.stderr


def test_it_is_small_and_needs_no_python(runner: Path) -> None:
    assert runner.stat().st_size < 1_000_000
    needed = subprocess.run(["ldd", runner], capture_output=True, text=True, check=True).stdout
    assert "python" not in needed
    assert "stdc++" not in needed


def test_a_kind_of_step_that_was_left_out_is_named(runner: Path, tmp_path: Path) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], name="last", axis=-1)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 16]) for name in "xy"]
    model: onnx.ModelProto = helper.make_model(
        helper.make_graph([node], "softmax", sides[:1], sides[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    path = tmp_path / "softmax.ekm"
    program = ek.compile(model)
    program.save(path)
    (kind,) = {step.kind.name for step in program.index.steps}
    child = run(runner, path, bytes(2 * 16 * 4))
    assert child.returncode == 1
    said = child.stderr.decode()
    assert f"'last' (Softmax) is of the kind {kind}, which this build leaves out" in said
    assert f"build it with {kind} in -DEDGEKERN_STEPS" in said
    assert child.stdout == b""


def test_damage_is_still_damage(runner: Path, digits: Path, tmp_path: Path) -> None:
    damaged = bytearray(digits.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged.ekm").write_bytes(damaged)
    child = run(runner, tmp_path / "damaged.ekm")
    assert child.returncode == 1
    assert b"is not a sound .ekm file" in child.stderr


def test_an_instruction_set_that_was_left_out_is_refused(runner: Path, digits: Path) -> None:
    if ISA == "scalar":
        pytest.skip("this machine has the scalar instruction set alone")
    child = run(runner, digits, EDGEKERN_ISA="scalar")
    assert child.returncode == 1
    assert child.stderr.decode() == f"EDGEKERN_ISA=scalar: this build does not have it; it has {ISA}\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-DEDGEKERN_ISA=mmx"], "has no mmx; it has scalar"),
        (["-DEDGEKERN_STEPS=CONV;SOFTMIN"], "no kind of step 'SOFTMIN'; kinds are QUANTIZE"),
        (["-DEDGEKERN_STEPS=CONV", "-DEDGEKERN_BUILD_PYTHON=ON"], "pass -DEDGEKERN_BUILD_PYTHON=OFF"),
    ],
)
def test_cmake_refuses_what_there_is_not(options: list[str], said: str, repository: Path, tmp_path: Path) -> None:
    command = [tool("cmake"), "-S", repository, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    child = subprocess.run(
        [str(word) for word in [*command, "-DEDGEKERN_BUILD_PYTHON=OFF", *options]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode != 0
    assert said in " ".join(child.stderr.split())


def test_every_kind_of_step_has_the_name_that_builds_know(repository: Path) -> None:
    """CMake takes the names from program.h; Python has them from the steps' own files."""
    rows = [line for line in (repository / "csrc/program/program.h").read_text().splitlines() if "_step)" in line]
    names = {line.split(",")[2].split("_step)")[0].strip().upper() for line in rows}
    assert names == {kind.name for kind in _core.StepKind}
