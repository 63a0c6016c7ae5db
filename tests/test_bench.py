"""The bench harness: a wrong answer is never timed, and a row says where it came from."""

import json

import numpy as np
import pytest

from bench import harness
from bench.__main__ import main, names
from bench.bench_gemm import contenders
from bench.shapes import GEMM_SHAPES, Shape


def _fine(result: object) -> None:
    assert result == 4


def test_a_wrong_answer_is_never_timed():
    calls = []
    wrong = harness.Contender("wrong", lambda: calls.append(1) or 5, _fine)
    with pytest.raises(AssertionError):
        harness.measure([wrong], seconds=0.01)
    assert len(calls) == 1


def test_contenders_take_turns_and_report_order_statistics():
    timings = harness.measure([harness.Contender(name, lambda: 4, _fine) for name in "ab"], seconds=0.004)
    assert set(timings) == {"a", "b"}
    for timing in timings.values():
        assert 0 < timing.best <= timing.p10 <= timing.median <= timing.p90
        assert timing.samples >= 7


def test_gemm_contenders_give_the_exact_product():
    for contender in contenders(Shape(7, 33, 19, "odd"), 1, ["numpy"]):
        contender.check(contender.run())


def test_a_contender_that_is_off_by_one_is_caught():
    ours = contenders(Shape(7, 33, 19, "odd"), 1, [])[0]
    result = ours.run().copy()
    result[3, 5] += 1
    with pytest.raises(AssertionError):
        ours.check(result)


def test_rows_are_json_lines_and_table_lines(tmp_path, capsys):
    rows = [{"op": "gemm", "us": 1.25, "peer": None}, {"op": "conv", "us": 12.0, "peer": 3.0}]
    harness.write_json(tmp_path / "rows.jsonl", rows)
    harness.write_json(tmp_path / "rows.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows * 2
    harness.print_table(rows, {"op": "", "us": ".1f", "peer": ".0f"})
    assert capsys.readouterr().out == "  op    us  peer\ngemm   1.2     -\nconv  12.0     3\n"


def test_shapes_are_distinct_and_count_two_operations_a_multiply_add():
    assert len({shape[:3] for shape in GEMM_SHAPES}) == len(GEMM_SHAPES) == 18
    assert Shape(2, 3, 5, "").operations == 60


def test_dispatcher_knows_its_benches(capsys):
    assert "gemm" in names()
    assert main(["no-such-bench"]) == 2
    assert "gemm" in capsys.readouterr().err


def test_machine_says_what_is_absent():
    versions = harness.machine(["numpy", "no-such-package"])["versions"]
    assert versions == {"numpy": np.__version__, "no-such-package": None}
