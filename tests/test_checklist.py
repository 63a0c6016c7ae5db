"""The list of checks: each line says what it saw, fails where it must, or why it cannot be checked."""

import json

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, quickstart

from gated_models import feeds, gated, helper, labels, net, outputs, sqnr_db
from host_models import program as program_of_one_host_step


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return gated(tmp_path_factory.mktemp("checklist"))


def test_the_checklist_says_what_it_saw_and_what_it_could_not(digits, monkeypatch, capsys):
    ranges = ek.Ranges.load(digits / "ranges.json")
    full = ek.checklist(
        digits / "m.ekm",
        feeds(),
        labels(),
        float_model=quickstart.MODEL,
        ranges=ranges,
        runs=20,
        progress=False,
    )
    rows = {row.check: row for row in full.rows}
    assert full.passed
    assert rows["at least 200 samples"].told.startswith(f"{len(quickstart.load_digits()[0]):,};")
    assert rows["a scale for each channel of weights"].told.startswith("7 of 7 ")
    assert rows["a fitting observer for activations"].told == (
        f"ranges by {ranges.method!r}; whether they fit is what accuracy and coverage tell"
    )
    assert rows["1000 runs on the device are stable"].verdict == "not checked"  # 20 are no 1000
    ours, real = outputs(digits / "m.ekm")
    assert f"{sqnr_db(ours, real):.2f} dB" in rows["SQNR above 30 dB"].told
    for never in (
        "a fitting observer for activations",
        "has the edge cases",
        "VTCM used by more than 70 %",
        "no slower once it is warm",
    ):
        assert rows[never].verdict == "not checked"
    bare = {row.check: row for row in ek.checklist(digits / "m.ekm", runs=20).rows}
    assert bare.keys() == rows.keys()
    for needs in ("at least 200 samples", "covers what is met in use", "cosine above 0.995", "SQNR above 30 dB"):
        assert bare[needs].verdict == "not checked"
        assert "--float" in bare[needs].told
    monkeypatch.chdir(digits)
    assert cli.run(["validate", "m.ekm", "--checklist", "--runs", "20"]) == 0
    assert "cannot be checked here" in capsys.readouterr().out
    assert cli.run(["validate", "m.ekm", "--checklist", "--max-bytes", "4M"]) == 2


def test_lines_of_the_checklist_can_fail():
    """Few samples, ranges that are too narrow, one scale a tensor, and a step of the host."""
    w = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    nodes += [helper.make_node("MatMul", ["r", "w"], ["y"])]
    model = net(nodes, {"w": w})
    x = np.random.default_rng(1).normal(0, 1, (20, 6)).astype(np.float32)
    calibrator = ek.Calibrator(model, progress=False).collect_many([{"x": x}])
    ranges = calibrator.compute_ranges(method="max")
    config = ek.QuantConfig(recipe="w8a8", activations="s8")
    program = ek.compile(ek.quantize(model, ranges, config))
    data = [{"x": 5 * row[None]} for row in x]
    truth = (x @ w).clip(0) @ w
    report = ek.checklist(program, data, truth.argmin(1), float_model=model, ranges=ranges, runs=20, progress=False)
    failed = {"at least 200 samples", "covers what is met in use", "symmetric weights, asymmetric activations"}
    assert failed <= set(report.failures)
    assert not report.passed
    assert json.loads(report.to_json())["passed"] is False


def test_one_scale_for_all_channels_is_seen():
    w = np.ones((6, 6), np.float32)
    w[0] = -1
    model = net([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w})
    x = np.random.default_rng(1).normal(0, 1, (20, 6)).astype(np.float32)
    ranges = ek.Calibrator(model, progress=False).collect_many([{"x": x}]).compute_ranges()
    report = ek.checklist(ek.compile(ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a8"))), runs=20)
    assert "a scale for each channel of weights" in report.failures


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_host_steps_fail_the_line_of_fallbacks():
    assert "no operator falls back" in ek.checklist(program_of_one_host_step(), runs=20).failures
