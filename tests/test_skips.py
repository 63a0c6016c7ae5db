"""What conftest.py promises of a run: no silent skip where the data is, no silent gap in the ISAs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
def test_needs_data(test_data):
    if not (test_data / "model.onnx").exists():
        pytest.skip("test data lacks model.onnx")
"""


@pytest.fixture
def run_pytest(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_one.py").write_text(TESTS)

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
        variables = os.environ | environment
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return run


def test_absent_data_skips_with_one_reason(run_pytest, tmp_path):
    child = run_pytest(EDGEKERN_TEST_DATA=str(tmp_path / "nowhere"))
    assert child.returncode == 0, child.stdout
    assert "skipped 1: test data is absent (EDGEKERN_TEST_DATA)" in child.stdout


def test_skipping_data_that_is_there_fails_the_run(run_pytest, tmp_path):
    child = run_pytest(EDGEKERN_TEST_DATA=str(tmp_path))
    assert child.returncode == 1, child.stdout
    assert "skipped 1: test data lacks model.onnx" in child.stdout


def test_present_data_passes(run_pytest, tmp_path):
    (tmp_path / "model.onnx").touch()
    child = run_pytest(EDGEKERN_TEST_DATA=str(tmp_path))
    assert child.returncode == 0, child.stdout
    assert "skipped" not in child.stdout


def test_a_required_isa_that_is_missing_ends_the_run(run_pytest):
    child = run_pytest(EDGEKERN_REQUIRED_ISAS="scalar neon9000")
    assert child.returncode == pytest.ExitCode.USAGE_ERROR
    assert "neon9000" in child.stderr
