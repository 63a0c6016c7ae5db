"""The bench of methods for transformers: rows say what was done, and where nothing could be."""

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

import transformers
from bench import bench_transformers
from test_smooth import results

pytestmark = pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")


def saved(model: onnx.ModelProto, folder: Path, name: str, shape: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(0)
    arrays = {part: rng.normal(size=(70, *shape)).astype(np.float32) for part in ("calibration", "judged")}
    given = model.graph.input[0].name
    labels = [results(model, {given: x[None]})[0].argmax() for x in arrays["judged"]]
    onnx.save(model, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", **arrays, labels=np.array(labels))
    return folder / f"{name}.onnx"


def test_a_row_is_a_method_and_the_float_model_is_right(tmp_path: Path) -> None:
    task = bench_transformers.Task(saved(transformers.vision_transformer(), tmp_path, "vit", (3, 16, 16)), 0)
    methods = [bench_transformers.PLAIN, bench_transformers.SMOOTH[0], bench_transformers.ROTATE]
    plain, smooth, rotated = bench_transformers.rows_of(task, "w8a8", methods)
    assert task.measure(None) == {"db": float("inf"), "figure": 1}
    assert plain["changed"] == 0
    assert 0 < smooth["changed"] < rotated["changed"]
    assert min(row["db"] for row in (plain, smooth, rotated)) > 15
    assert {row["method"] for row in bench_transformers.sparse_rows(task)} == {"plain", *bench_transformers.SPARSE}


def test_what_cannot_be_done_is_a_row_without_figures(tmp_path: Path) -> None:
    net = transformers.Net(1)
    model = net.model(net.dense(net.input("x", (1, 16)), 16, 4))
    task = bench_transformers.Task(saved(model, tmp_path, "net", (16,)), 0)
    [row] = bench_transformers.rows_of(task, "w4a8-g32", [bench_transformers.ROTATE])
    assert np.isnan(row["db"])
    assert "nothing of model can be rotated" in row["said"]
