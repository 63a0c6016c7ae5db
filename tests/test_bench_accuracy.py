"""The accuracy bench: a row for each engine, from folds that never mix calibration and scoring."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from bench import bench_accuracy, harness  # noqa: E402
from bench.datasets import TASKS, Fold, Task, _two_folds  # noqa: E402


@pytest.fixture
def task(tmp_path: Path, rng: np.random.Generator) -> Task:
    """A linear classifier whose float model is always right."""
    weights = rng.normal(size=(5, 8)).astype(np.float32)
    x = rng.normal(size=(200, 8)).astype(np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "linear.onnx")
    folds = [Fold(x[:100], x[100:], (x[100:] @ weights.T).argmax(axis=1))]
    return Task("linear", str(tmp_path / "linear.onnx"), 5.0, lambda: folds)


def test_row_compares_int8_with_float(task: Task) -> None:
    [row] = bench_accuracy.measure_task(task, ["onnxruntime"])
    assert row["float"] == 100
    assert row["samples"] == 100
    assert row["drop"] == row["float"] - row["int8"] <= 5
    assert row["agree"] == row["int8"]
    assert row["sqnr_db"] > 30


def test_sqnr_of_a_tenth_is_20_db() -> None:
    expected = np.array([1.0, -2.0, 3.0])
    assert harness.sqnr_db(expected, expected * 1.1) == pytest.approx(20)


def test_two_folds_swap_and_share_nothing() -> None:
    x = np.arange(11, dtype=np.float32)[:, None]
    first, second = _two_folds(x, np.arange(11))
    for fold in (first, second):
        assert not set(fold.calibration[:, 0]) & set(fold.samples[:, 0])
        np.testing.assert_array_equal(fold.samples[:, 0], fold.labels)
    assert sorted([*first.labels, *second.labels]) == list(range(11))


def test_cifar_is_calibrated_on_training_images(test_data: Path) -> None:
    [fold] = TASKS["resnet8"].load()
    with np.load(test_data / "cifar10" / "cifar10_train_10000.npz") as train:
        np.testing.assert_array_equal(fold.calibration.transpose(0, 2, 3, 1), train["x"][: len(fold.calibration)])
    assert len(fold.samples) == 5000
