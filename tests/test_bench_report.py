"""What the bench counts, keeps and draws of its results."""

import pytest

pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from bench import (
    bench_report,
    harness,
    suite,
)
from bench.__main__ import main

from bench_fakes import FakeProbe, result_of


def test_the_slower_of_ours_counts_against_the_fastest_peer():
    result = result_of(edgekern_u8=1.0, edgekern_s8=2.0, torch=3.0, numpy=9.0)
    assert (result.ours, result.best_peer, result.ratio) == ("edgekern_s8", "torch", 1.5)
    assert result_of(edgekern=1.0).ratio is None


def test_references_are_neither_ours_nor_peers():
    result = result_of(edgekern_int4=1.0, edgekern_int8=2.0, other=0.5, peer=3.0, references=("edgekern_int8", "other"))
    assert (result.ours, result.best_peer) == ("edgekern_int4", "peer")


def test_summary_counts_losing_rows_ties_and_void_ones():
    rows = [
        result_of("wins", edgekern=1.0, peer=4.0),
        result_of("ties", edgekern=1.0, peer=0.98),
        result_of("loses", edgekern=1.0, peer=0.5, void=["why"]),
        result_of("alone", edgekern=1.0),
    ]
    [summary] = suite._summaries("gemm", 1, rows)
    assert summary["rows"] == 4
    assert summary["geometric_mean"] == pytest.approx((4 * 0.98 * 0.5) ** (1 / 3))
    assert summary["lowest"] == 0.5
    assert summary["losing"] == ["ties", "loses"]
    assert summary["losing_beyond_tie"] == ["loses"]
    assert summary["void"] == ["loses"]


def test_report_keeps_losing_and_void_rows(tmp_path):
    path, result = tmp_path / "run.json", result_of("7x7x7", edgekern=1.0, peer=0.5, void=["why"])
    headers = [
        {"record": "run", "bench": b, "cpu": "a CPU", "edgekern": "0", "commit": c, "versions": {"numpy": "2"}}
        for b, c in (("gemm", "c"), ("kv", "b"), ("call", "c"))
    ]
    facts = {"record": "facts", "bench": "gemm", "threads": 1, "a figure": 1.25}
    harness.write_json(path, [*headers, suite._record("gemm", result, FakeProbe(1e12)), facts])
    text = bench_report.markdown(*bench_report.read_run(path))
    assert "a CPU; edgekern 0 at c (gemm, call), b (kv); numpy 2." in text
    assert "| 7x7x7 (void) | 1000000.0 | 0 | - | peer | 500000.0 | 0.50 |" in text
    assert "Geometric mean 0.50, 1 of 1 rows below 1, 1 void." in text
    assert "- a figure: 1.25" in text


def test_report_says_what_the_limits_leave():
    def case(bench, group, seconds, name="64x64x64"):
        timings = {"edgekern": {"best": seconds}, "peer": {"best": 1.0}}
        peak = {"operations_per_second": 1e12}
        names = {"bench": bench, "group": group, "case": name, "threads": 1, "ours": "edgekern", "best_peer": "peer"}
        return {**names, "ratio": 1.0, "timings": timings, "operations": 0.485e12, "before": peak, "after": peak}

    lines = bench_report.headroom([case("gemm", "18 shapes, warm", 0.8), case("linear", "static, warm", 0.9)])
    assert lines[2:-1] == [
        "- gemm, 18 shapes, warm, 1 thread(s): 2.00 at 97 % of the peak",
        "- linear, static, warm, 1 thread(s): 2.00 at 97 % of the peak, 1.25 at the cost of the product alone",
    ]
    token = case("gemm", "18 shapes, warm", 0.8, "1x64x64")  # is not bound by the peak
    assert bench_report.headroom([token])[2] == "- gemm, 18 shapes, warm, 1 thread(s): 1.25 at 97 % of the peak"
    assert bench_report.headroom([case("conv", "warm", 0.8)]) == []


def test_report_draws_what_was_measured(tmp_path):
    path = tmp_path / "run.json"
    rows = [result_of(f"{side}", edgekern=1e-3, peer=side * 1e-3) for side in (1, 2)]
    harness.write_json(path, [suite._record("gemm", row, FakeProbe(1e12)) for row in rows])
    assert main(["report", str(path), "--out", str(tmp_path / "a")]) == 0
    assert main(["report", str(path), "--out", str(tmp_path / "b")]) == 0
    written = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert written == ["bars-gemm-1.svg", "roofline-1.svg", "tables.md"]
    for name in written:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
