"""The benches of repair: rows of every step, on a net that nobody has to wait for."""

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from bench import bench_equalization, bench_recovery  # noqa: E402
from bench.accuracy_cases import Case  # noqa: E402
from bench.datasets import Fold, Task  # noqa: E402

from float_models import build, f32, helper  # noqa: E402

node = helper.make_node


@pytest.fixture
def net(rng: np.random.Generator, tmp_path: Any) -> Any:
    """Two convolutions with channels far apart, a pool, and a Gemm; with images."""
    spread = 10 ** rng.uniform(-2, 2, (12, 1, 1, 1))
    weights = {
        "w0": f32(rng.normal(size=(12, 3, 3, 3)) * spread),
        "w1": f32(rng.normal(size=(8, 12, 1, 1)) / spread.reshape(1, 12, 1, 1)),
        "w2": f32(rng.normal(size=(5, 8))),
    }
    nodes = [
        node("Conv", ["x", "w0"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "w2"], ["y"], transB=1),
    ]
    path = tmp_path / "net.onnx"
    onnx.save(build(nodes, weights, ["n", 3, 8, 8]), path)
    return path, f32(rng.normal(size=(60, 3, 8, 8)))


def test_equalization_says_what_share_comes_back(net: Any) -> None:
    path, images = net
    feeds = [{"x": image[None]} for image in images]
    rows = {row["weights"]: row for row in bench_equalization.measure_case("net", Case(path, feeds[:30], feeds[30:]))}
    channel, layer = rows["a scale a channel"]["sqnr_db"], rows["one a layer"]["sqnr_db"]
    assert rows["one a layer"]["recovered"] == 0
    for by in ("weights alone", "samples"):
        assert rows[f"float, equalized by {by}"]["sqnr_db"] > 100
        row = rows[f"one a layer, equalized by {by}"]
        assert row["recovered"] == pytest.approx((row["sqnr_db"] - layer) / (channel - layer))
        assert row["recovered"] > 0.5


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_recovery_has_a_row_for_each_step_that_keeps_those_before_it(
    net: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, images = net
    fold = Fold(images[:30], images[30:], np.zeros(30, np.int64))
    monkeypatch.setattr(bench_recovery, "BATCH", 1)
    rows = bench_recovery.measure_task(Task("net", str(path), 1.0, lambda: [fold]), 1, 20, 0.01)
    steps = [row["step"] for row in rows]
    assert steps[0] == "float32"
    assert steps[3:] == ["W4A8, one scale a layer", "+ equalization", "+ AdaRound", "+ worst 1 in w8a16"]
    found = {row["step"]: row for row in rows}
    assert found["+ equalization"]["sqnr_db"] > found["W4A8, one scale a layer"]["sqnr_db"] + 3
    assert all(row["ms"] > 0 for row in rows)
    assert all(row["ekm_kb"] > 0 for row in rows[1:])
    assert "worst 1 layers by sensitivity: " in capsys.readouterr().out
