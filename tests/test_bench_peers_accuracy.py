"""Accuracy beside peers: all are judged on the same samples, none of which calibrated, and who refuses is told."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from bench import accuracy_cases, accuracy_engines, bench_peers_accuracy, harness  # noqa: E402
from bench.accuracy_engines import Quantized, Refused  # noqa: E402
from edgekern.quantization import config  # noqa: E402


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear classifier that is always right, with its samples as ``bench small_nets`` writes them."""
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(5, 8)).astype(np.float32), rng.uniform(-1, 1, (60, 8)).astype(np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    folder = tmp_path_factory.mktemp("nets")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "linear.onnx")
    labels = (x[20:] @ weights.T).argmax(axis=1)
    np.savez(folder / "linear.npz", calibration=x[:20], judged=x[20:], labels=labels, axis=1)
    return folder / "linear.onnx"


def _rows(path, engines, calibrate=20, judge=40):
    [(name, make)] = accuracy_cases.makers([path.parent], ["linear"], calibrate, judge, 0)
    return bench_peers_accuracy.measure_case(name, make(), engines)


def _answers_of(scale, seen=None):
    """An engine whose answers are those of float, but longer."""

    def engine(job):
        if seen is not None:
            seen.append([feeds["x"] for feeds in job.case.calibration])
        run = accuracy_engines.run_onnx(str(job.case.path))
        return Quantized(lambda feeds: [scale * answer for answer in run(feeds)], 7)

    return engine


def _refuses(job):
    raise Refused("no such thing here")


def test_a_row_has_noise_points_agreement_and_bytes(net):
    [exact, longer, turned] = _rows(
        net, {"exact": _answers_of(1), "longer": _answers_of(1.1), "turned": _answers_of(-1)}
    )
    assert (exact["sqnr_db"], longer["sqnr_db"]) == (float("inf"), pytest.approx(20, abs=1e-3))
    assert (exact["float"], exact["lost"], exact["agree"], longer["agree"]) == (100, 0, 100, 100)
    assert (turned["agree"], turned["lost"]) == (0, 100)
    assert (exact["onnx_bytes"], exact["program_bytes"]) == (7, None)
    assert (exact["calibration"], exact["judged"], exact["float_bytes"]) == (20, 40, net.stat().st_size)


def test_no_sample_calibrates_and_is_judged(net):
    seen = []
    rows = _rows(net, {"a": _answers_of(1, seen), "b": _answers_of(1, seen)}, calibrate=7, judge=11)
    assert [row["calibration"] for row in rows] == [7, 7]
    assert [row["judged"] for row in rows] == [11, 11]
    np.testing.assert_array_equal(*seen)
    with np.load(net.with_suffix(".npz")) as file:
        assert not {x.tobytes() for x in seen[0]} & {x[None].tobytes() for x in file["judged"]}


def test_who_refuses_has_no_figure_and_is_told(net, tmp_path, capsys):
    rows = _rows(net, {"w8a8": _answers_of(1.1), "ort none": _refuses, "ort best": _answers_of(1.01)})
    assert rows[1]["refused"] == "Refused: no such thing here"
    assert "sqnr_db" not in rows[1]
    bench_peers_accuracy.print_all(rows)
    printed = capsys.readouterr().out
    harness.write_json(tmp_path / "rows.jsonl", rows)
    bench_peers_accuracy.main(["--kept", str(tmp_path / "rows.jsonl")])
    assert capsys.readouterr().out == printed
    assert "ort none refuses linear: Refused: no such thing here" in printed
    assert "w8a8: below the best peer on 1 of 1: linear" in printed


def test_the_best_peer_is_the_one_with_the_least_noise(net):
    rows = _rows(net, {"w8a8": _answers_of(1.01), "ort a": _answers_of(1.1), "NNCF b": _answers_of(1.05)})
    [held] = bench_peers_accuracy.best_peers(rows)
    assert held["peer"] == "NNCF b"
    assert held["w8a8 gains"] == pytest.approx(20 * np.log10(5), abs=1e-2)


def test_every_recipe_of_this_build_is_an_engine():
    names = set(accuracy_engines.engines())
    assert {"w8a8", "w8a16", "w8a8-dynamic", config.QuantConfig().recipe, "ort MinMax", "NNCF mixed"} <= names
    assert "float32" not in names


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("engine", "least"), [("w8a8", 25), ("w8a16", 25), ("ort MinMax", 15)])
def test_quantizers_keep_a_linear_net(net, engine, least):
    [row] = _rows(net, {engine: accuracy_engines.engines()[engine]})
    assert row["refused"] is None
    assert row["sqnr_db"] > least
    assert row["onnx_bytes"] > 0


def test_products_are_told_apart(tmp_path):
    helper, one = onnx.helper, np.ones
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["c", "wt"], ["m"]),
        helper.make_node("MatMul", ["m", "c"], ["y"]),
    ]
    constants = {"k": one((1, 1, 2, 3), np.float32), "w": one((4, 5), np.float32)}
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", 1, [1, 1, 6, 7])],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph), tmp_path / "p.onnx")
    assert accuracy_cases.products_of(tmp_path / "p.onnx") == (6, 20, True)
