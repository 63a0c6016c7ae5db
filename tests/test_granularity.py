"""granularity: what a scale a tensor, a channel, or a group of weights loses."""

import json

import numpy as np
import onnx
import pytest

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, QuantizationError

from graphs import Graph

FIGURES = ("tensor", "channel", "group128", "group32")


def one_layer(kind, shape, weights=None, seed=0):
    g = Graph(seed)
    spread = np.exp(g.rng.normal(0, 1.5, shape))  # channels, and weights in them, of many sizes
    w = g.const((g.rng.normal(0, 0.1, shape) * spread).astype(np.float32) if weights is None else weights)
    if kind == "Conv":
        return g.model(g.op("Conv", g.input("x", (1, shape[1], 8, 8)), w))
    if kind == "ConvTranspose":
        return g.model(g.op("ConvTranspose", g.input("x", (1, shape[0], 8, 8)), w))
    attributes = {"transB": 1} if kind == "Gemm, transposed" else {}
    return g.model(g.op(kind.split(",")[0], g.input("x", (3, shape[-1] if attributes else shape[-2])), w, **attributes))


def rounded(rows):
    """Rows to int8, each by its largest."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32).astype(np.float64)
    return np.rint(rows / scale) * scale


@pytest.mark.parametrize(
    ("kind", "shape", "channel"),
    [
        ("Conv", (6, 5, 3, 3), 0),
        ("Conv", (3, 64, 3, 3), 0),
        ("ConvTranspose", (5, 6, 3, 3), 1),
        ("Gemm", (200, 7), 1),
        ("Gemm, transposed", (7, 256), 0),
        ("MatMul", (33, 9), 1),
        ("MatMul", (128, 1), 1),
    ],
)
def test_the_figures_are_their_definitions(kind, shape, channel):
    model = one_layer(kind, shape)
    [row] = ek.granularity(model).rows
    w = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    rows = np.moveaxis(w, channel, 0).reshape(shape[channel], -1)
    grouped = {}
    for size in (128, 32):
        pieces = [rows[:, at : at + size] for at in range(0, rows.shape[1], size)]
        grouped[f"group{size}"] = np.concatenate([rounded(piece) for piece in pieces], axis=1)
    exact = {"tensor": rounded(rows.reshape(1, -1)).reshape(rows.shape), "channel": rounded(rows), **grouped}
    for name in FIGURES:
        mse = ((exact[name] - rows) ** 2).mean()
        assert getattr(row, f"mse_{name}") == pytest.approx(mse, rel=1e-6)
        assert getattr(row, f"{name}_db") == pytest.approx(10 * np.log10((rows**2).mean() / mse), abs=1e-5)
    assert row.shape == shape
    assert row.op == kind.split(",")[0]


def test_more_scales_lose_less():
    report = ek.granularity(one_layer("Gemm", (512, 40)))
    for row in (*report.rows, report.whole):
        figures = [getattr(row, f"mse_{name}") for name in FIGURES]
        assert figures == sorted(figures, reverse=True)
        assert figures[0] > figures[-1]


def test_the_channel_figure_is_that_of_what_quantize_writes():
    model = one_layer("Conv", (6, 5, 3, 3))
    data = {"x": np.random.default_rng(1).normal(0, 1, (1, 5, 8, 8)).astype(np.float32)}
    ranges = ek.Calibrator(model, progress=False).collect(data).compute_ranges()
    config = ek.QuantConfig(recipe="w8a8", rounding="nearest", bias_correction=False)
    graph = ek.quantize(model, ranges, config).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    name = model.graph.initializer[0].name
    codes, scale = stored[f"{name}_quantized"], stored[f"{name}_quantized_scale"]
    w = onnx.numpy_helper.to_array(model.graph.initializer[0])
    error = codes * scale.astype(np.float64)[:, None, None, None] - w
    assert ek.granularity(model).rows[0].mse_channel == pytest.approx((error**2).mean(), rel=1e-6)


def test_batch_norm_is_in_the_weights_as_quantize_has_it():
    g = Graph()
    y = g.op("Conv", g.input("x", (1, 3, 8, 8)), g.const(g.rng.normal(0, 1, (4, 3, 3, 3)), np.float32))
    scale = g.const(np.float32([1, 10, 100, 1000]))
    y = g.op("BatchNormalization", y, scale, g.vector(4), g.vector(4), g.const(np.ones(4, np.float32)))
    [row] = ek.granularity(g.model(y)).rows
    assert row.tensor_db < 45 < row.channel_db + 5
    assert row.channel_db > row.tensor_db + 3


def test_rows_are_sorted_and_summed_up():
    g = Graph()
    y = g.input("x", (2, 64))
    for size in (48, 32, 16):
        y = g.op("MatMul", y, g.const(g.rng.standard_t(2, (64 if size == 48 else size + 16, size)), np.float32))
    report = ek.granularity(g.model(y))
    figures = [row.channel_db for row in report.rows]
    assert figures == sorted(figures)
    counts = [np.prod(row.shape) for row in report.rows]
    assert report.whole.shape == (sum(counts),)
    total = sum(row.mse_channel * count for row, count in zip(report.rows, counts, strict=True))
    assert report.whole.mse_channel == pytest.approx(total / sum(counts))


def test_recurrent_layers_have_both_of_their_weights():
    g = Graph()
    w = g.const(g.rng.normal(0, 0.4, (2, 32, 6)), np.float32)
    r = g.const(g.rng.normal(0, 0.4, (2, 32, 8)), np.float32)
    model = g.model(g.op("LSTM", g.input("x", (5, 2, 6)), w, r, direction="bidirectional", hidden_size=8))
    report = ek.granularity(model)
    assert report.whole.shape == (2 * 32 * 14,)
    assert report.rows[0].channel_db > report.rows[0].tensor_db


def test_zeros_lose_nothing():
    [row] = ek.granularity(one_layer("Gemm", (8, 4), np.zeros((8, 4), np.float32))).rows
    assert row.mse_channel == 0
    assert row.channel_db == float("inf")


def test_layers_are_chosen_by_rules():
    g = Graph()
    y = g.op("Flatten", g.op("Conv", g.input("x", (1, 3, 8, 8)), g.const(g.rng.normal(0, 1, (4, 3, 3, 3)), np.float32)))
    model = g.model(g.op("Gemm", y, g.const(g.rng.normal(0, 1, (144, 5)), np.float32)))
    assert [row.op for row in ek.granularity(model, ["Gemm"]).rows] == ["Gemm"]
    assert [row.op for row in ek.granularity(model, ["node_conv*"]).rows] == ["Conv"]
    with pytest.raises(
        ArgumentValueError, match="granularity: each rule of layers must name a layer, and 'LSTM' names"
    ):
        ek.granularity(model, ["LSTM"])
    with pytest.raises(ArgumentTypeError, match="granularity: layers must be a list of rules"):
        ek.granularity(model, "Gemm")


def test_bad_models_are_refused():
    g = Graph()
    with pytest.raises(ArgumentValueError, match="granularity: float_model must have a product by constant float32"):
        ek.granularity(g.model(g.op("Relu", g.input("x", (2, 3)))))
    bad = np.ones((8, 4), np.float32)
    bad[3, 1] = np.nan
    with pytest.raises(QuantizationError, match=r"granularity: Gemm 'node_gemm_2': 'c_1' holds NaN or Inf"):
        ek.granularity(one_layer("Gemm", (8, 4), bad))


def test_the_report_prints_and_saves_itself(tmp_path):
    pytest.importorskip("matplotlib")
    report = ek.granularity(one_layer("Gemm", (200, 7)))
    assert "200x7" in str(report)
    assert report.rows[0].name in str(report)
    assert "channel" in repr(report)
    saved = json.loads(report.to_json())
    assert saved["rows"][0]["shape"] == [200, 7]
    assert "200 7" in report.to_csv()
    report.plot(tmp_path / "g.png")
    assert (tmp_path / "g.png").exists()
