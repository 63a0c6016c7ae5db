"""The main job on its embedded model: what it promises, and what its report shows."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

from edgekern import quickstart
from edgekern.quickstart.digits import FOLDER


@pytest.fixture(scope="module")
def result():
    return quickstart.run()


def test_int8_stays_close_to_float(result):
    assert result.held_out == 600
    assert result.float_accuracy > 0.98
    assert result.int8_accuracy > result.float_accuracy - 0.005
    assert result.agreement > 0.99


def test_every_layer_ran_in_the_core(result):
    paths = {row.path for row in result.layers}
    assert {"tile", "quantize"} <= paths <= {"tile", "shallow", "thin", "gemv", "depthwise", "pool", "quantize", "move"}
    assert any("Add" in row.op for row in result.layers), "the residual add is missing from the layers"


def test_layers_come_worst_first(result):
    decibels = [row.sqnr_db for row in result.layers]
    assert decibels == sorted(decibels)
    assert decibels[0] > 15


def test_sizes_are_those_of_the_files(result, tmp_path):
    assert result.onnx_bytes == quickstart.MODEL.stat().st_size
    assert 0 < result.ekm_bytes < result.onnx_bytes
    assert result.arena_bytes > 0
    assert result.edgekern_us > 0
    assert result.onnxruntime_us > 0


def test_report_shows_every_figure(result):
    report = str(result)
    for shown in (f"{result.float_accuracy:.2%}", f"{result.int8_accuracy:.2%}", f"{result.agreement:.2%}"):
        assert shown in report
    for row in result.layers:
        assert row.name in report
    assert "ek.compile" in report


def test_save_keeps_the_program(tmp_path):
    path = tmp_path / "digits.ekm"
    assert quickstart.run(save=path).ekm_bytes == path.stat().st_size


def test_needs_neither_torch_nor_scikit_learn_nor_network():
    code = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the quickstart opened a socket")
socket.socket.connect = refuse
sys.modules["torch"] = sys.modules["sklearn"] = None
from edgekern import cli
sys.exit(cli.run(["quickstart"]))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert "600 held-out" in child.stdout


def test_embedded_files_are_small_licensed_and_disjoint():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.suffix in {".onnx", ".npz"}) < 600_000
    notice = (FOLDER / "README.md").read_text()
    for name in ("scikit-learn", "BSD 3-Clause", "Optical Recognition of Handwritten Digits", "CC BY 4.0"):
        assert name in notice
    train, held_out = quickstart.load_digits()
    assert (len(train), len(held_out)) == (1197, 600)
    seen = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in seen for image in held_out.images) == 0


def test_model_has_one_of_everything():
    operators = [node.op_type for node in onnx.load(quickstart.MODEL).graph.node]
    assert {"Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Gemm"} <= set(operators)


def test_feeds_cover_all_images():
    _, held_out = quickstart.load_digits()
    batches = [feeds["image"] for feeds in held_out.feeds(batch=64)]
    np.testing.assert_array_equal(np.concatenate(batches), held_out.images)
