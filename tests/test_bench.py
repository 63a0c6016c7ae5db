"""The bench: a wrong answer is never timed, a void row is said to be void, and every command runs."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")


import edgekern as ek
from bench import (
    bench_conv,
    bench_formats,
    bench_gemm,
    bench_int4,
    bench_kv,
    bench_linear,
    bench_report,
    harness,
    limits,
    peers,
    suite,
)
from bench.__main__ import main, names
from bench.onnx_models import Conv
from bench.shapes import Shape
from edgekern import _core, quickstart

from bench_fakes import STEADY, FakeProbe, fine, options_of
from calibrator_models import small_cnn

# --- harness


def test_a_wrong_answer_is_never_timed():
    calls = []
    wrong = harness.Contender("wrong", lambda: calls.append(1) or 5, fine)
    with pytest.raises(AssertionError):
        harness.measure([wrong], seconds=0.01)
    assert len(calls) == 1


def test_contenders_take_turns_and_report_order_statistics():
    rounds = []
    everyone = [harness.Contender(name, lambda: 4, fine) for name in "ab"]
    timings = harness.measure(everyone, seconds=0.004, each_round=lambda: rounds.append(1))
    assert set(timings) == {"a", "b"}
    assert len(rounds) == max(timing.samples for timing in timings.values())
    for timing in timings.values():
        assert 0 < timing.best <= timing.p10 <= timing.median <= timing.p90
        assert timing.samples >= 7


@pytest.mark.parametrize(
    ("pace", "order"), [(1e-3, "abc aabbcc bbccaa ccaabb aabbcc"), (1.0, "abc aabbcc bca cab abc")]
)
def test_every_round_begins_with_the_next_contender(monkeypatch, pace, order):
    timed, lengths = [], []
    monkeypatch.setattr(harness, "_time", lambda run, calls: timed.append(run()) or lengths.append(calls) or pace)
    everyone = [harness.Contender(name, lambda name=name: name, lambda _: None) for name in "abc"]
    harness.measure(everyone, seconds=0, min_rounds=4, each_round=lambda: timed.append(" "))
    # Once to see how long each takes, then the rounds: as long to warm up, but for the slow, as in the sample.
    assert "".join(timed) == order
    assert set(lengths[3:]) == {max(1, round(harness.SAMPLE_SECONDS / pace))}


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (256, 616)])
def test_results_are_written_from_a_line_on(shape):
    arrays = [peers.on_lines(shape, np.int32) for _ in range(8)]
    assert {(array.ctypes.data % 64, array.shape, array.dtype.name) for array in arrays} == {(0, shape, "int32")}


def test_times_are_per_call(monkeypatch):
    monkeypatch.setattr(harness, "_time", lambda run, calls: 1.0)
    timings = harness.measure([harness.Contender("four", lambda: 4, fine, calls=4)], seconds=0)
    assert timings["four"].best == 0.25


def test_whoever_is_far_behind_is_not_timed_to_the_end(monkeypatch):
    pace = {"fast": 1e-3, "slow": 1e-1}
    monkeypatch.setattr(harness, "_time", lambda run, calls: pace[run()])
    everyone = [harness.Contender(name, lambda name=name: name, lambda _: None) for name in pace]
    timings = harness.measure(everyone, seconds=10, min_rounds=9)
    assert timings["slow"].samples == harness.HOPELESS_ROUNDS
    assert timings["fast"].samples == harness.MAX_ROUNDS


def test_everyone_has_as_many_samples(monkeypatch):
    pace = {"fast": 1e-3, "slow": 2e-3}
    monkeypatch.setattr(harness, "_time", lambda run, calls: pace[run()])
    everyone = [harness.Contender(name, lambda name=name: name, lambda _: None) for name in pace]
    timings = harness.measure(everyone, seconds=0.02, min_rounds=3)
    assert {timing.samples for timing in timings.values()} == {10}


@pytest.mark.parametrize("spinning", [True, False])
def test_nobody_is_timed_while_a_thread_of_the_last_one_spins(monkeypatch, spinning):
    clock = {"wall": 0.0, "cpu": 0.0}

    def sleep(seconds: float) -> None:
        clock["wall"] += seconds
        clock["cpu"] += seconds if spinning and clock["wall"] < 0.05 else 0.0

    monkeypatch.setattr(harness.time, "sleep", sleep)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(harness.time, "process_time", lambda: clock["cpu"])
    harness.rest()
    assert clock["wall"] == pytest.approx(0.055 if spinning else 0.005, abs=0.006)


def test_rows_are_json_lines_and_table_lines(tmp_path, capsys):
    rows = [{"op": "gemm", "us": 1.25, "peer": None}, {"op": "conv", "us": 12.0, "peer": 3.0}]
    harness.write_json(tmp_path / "rows.jsonl", rows)
    harness.write_json(tmp_path / "rows.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows * 2
    harness.print_table(rows, {"op": "", "us": ".1f", "peer": ".0f"})
    assert capsys.readouterr().out == "  op    us  peer\ngemm   1.2     -\nconv  12.0     3\n"


def test_machine_says_what_is_absent():
    versions = harness.machine(["numpy", "no-such-package"])["versions"]
    assert versions == {"numpy": np.__version__, "no-such-package": None}


# --- shapes


# --- void rows


@pytest.mark.parametrize(
    ("after", "operations", "read", "known", "said"),
    [
        (STEADY, {"a": 0.99e12}, {"a": 3.9e10}, {"peer": (0.46e12, 0.5)}, []),
        (limits.Sample(1.029e12, 1e9), {"a": 1.0e12}, {}, {}, []),
        (limits.Sample(1.04e12, 4e10), {"a": 0.9e12}, {}, {}, ["the peak drifted by 4.0 %"]),
        (limits.Sample(0.96e12, 4e10), {"a": 0.9e12}, {}, {}, ["the peak drifted by 4.0 %"]),
        (STEADY, {"a": 1.02e12, "b": 1.0e12}, {}, {}, ["a at 102.0 % of the peak"]),
        (STEADY, {"a": 1e10}, {"a": 5e10}, {}, ["a at 125.0 % of the read bandwidth"]),
        (STEADY, {"a": 9e11}, {}, {"peer": (0.4e12, 0.5)}, ["peer at 40 % of the peak, known to reach 50 %"]),
    ],
)
def test_void_reasons(after, operations, read, known, said):
    assert limits.void_reasons(STEADY, after, operations, read, known) == said


def _plan(contenders, **given):
    return [("case", lambda: suite.Case("group", "case", contenders, **given))]


def _instant(name, check=fine, **given):
    return harness.Contender(name, lambda: 4, check, **given)


def test_a_case_is_measured_again_until_the_limits_hold():
    probe = FakeProbe(1e12, 2e12, 3e12, 3e12)
    [result] = suite._measure_all("gemm", _plan([_instant("edgekern")]), probe, options_of())
    assert (result.attempts, result.void) == (3, [])


def test_a_case_whose_limits_never_hold_stays_and_is_void():
    probe = FakeProbe(*(2.0**i for i in range(40, 60)))
    [result] = suite._measure_all("gemm", _plan([_instant("edgekern")]), probe, options_of())
    assert (result.attempts, result.void) == (2 * suite.ATTEMPTS, ["the peak drifted by 100.0 %"])


def test_a_void_case_has_another_turn_when_all_others_are_done(tmp_path):
    path, drifting = tmp_path / "run.json", [2.0**i for i in range(suite.ATTEMPTS + 1)]
    plan = [(name, lambda name=name: suite.Case("group", name, [_instant("edgekern")])) for name in ("first", "second")]
    results = suite._measure_all("gemm", plan, FakeProbe(*drifting, 1e12), options_of(json=path))
    assert [(r.case.name, r.attempts, r.void) for r in results] == [("first", 4, []), ("second", 1, [])]
    _, cases, _ = bench_report.read_run(path)
    assert [(case["case"], case["attempts"], case["void"]) for case in cases] == [("first", 4, []), ("second", 1, [])]


def test_bandwidth_is_taken_in_every_round_of_a_rotated_case():
    [rotated] = suite._measure_all("gemm", _plan([_instant("edgekern")], rotated=True), FakeProbe(1e12), options_of())
    [warm] = suite._measure_all("gemm", _plan([_instant("edgekern")]), FakeProbe(1e12), options_of())
    assert (rotated.after.bytes_per_second, warm.after.bytes_per_second) == (9e10, 4e10)


def test_a_peer_with_a_wrong_answer_is_left_out_and_named(capsys):
    def refuse(result):
        raise AssertionError

    everyone = [_instant("edgekern"), _instant("liar", refuse)]
    [result] = suite._measure_all("gemm", _plan(everyone), FakeProbe(1e12), options_of())
    assert set(result.timings) == {"edgekern"}
    assert "liar gives a wrong answer" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        suite._measure_all("gemm", _plan([_instant("edgekern", refuse)]), FakeProbe(1e12), options_of())


def test_rotated_weights_fill_eight_last_level_caches(monkeypatch):
    monkeypatch.setattr(suite, "last_level_cache_bytes", lambda: 32 << 20)
    assert suite.copies_beyond_cache(16 << 20) == 16
    assert suite.copies_beyond_cache(15 << 20) == 18
    assert suite.copies_beyond_cache(1 << 30) == 2


# --- probes in the core


def test_read_bandwidth_needs_room_for_every_stream():
    with pytest.raises(ek.errors.ArgumentValueError, match="4096 bytes for each stream"):
        _core.measure_read_bandwidth(np.ones(8192, np.uint8), streams=3)
    assert _core.measure_read_bandwidth(np.ones(1 << 16, np.uint8), streams=3, prefetch=512, seconds=0) > 0


def test_limits_are_positive_and_name_the_fastest_way():
    probe = limits.Probe(_core.resolve_isa(), 1, 1 << 20, seconds=0)
    sample = probe.sample()
    assert sample.operations_per_second > 0
    assert sample.bytes_per_second > 0
    assert len(probe.streams) == limits.FINALISTS
    assert probe.cached_bytes_per_second(1) > 0


@pytest.mark.parametrize("unit", ["cube", "vector"])
def test_a_unit_computes_the_product_alone(unit, isa):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (37, 50), dtype=np.int8), rng.integers(-128, 128, (50, 300), dtype=np.int8)
    out = np.empty((37, 300), np.int32)
    _core.gemm_on_unit(a, ek.pack_weights(b), out, unit, isa=isa)
    np.testing.assert_array_equal(out, a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_repeated_products_through_the_c_table_are_right(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 128, (9, 33)).astype(dtype), rng.integers(-128, 128, (33, 70), dtype=np.int8)
    out = np.empty((9, 70), np.int32)
    _core.repeat_c_gemm(a, b, out, repeats=3)
    np.testing.assert_array_equal(out, a.astype(np.int32) @ b.astype(np.int32))


def test_probes_refuse_what_does_not_fit():
    a, b, out = np.zeros((2, 8), np.uint8), np.zeros((8, 16), np.int8), np.empty((2, 16), np.int32)
    with pytest.raises(ek.errors.ArgumentValueError, match="unit must be"):
        _core.gemm_on_unit(a, ek.pack_weights(b), out, "tensor")
    for run in (
        lambda x, y: _core.gemm_on_unit(x, ek.pack_weights(b), y, "cube"),
        lambda x, y: _core.repeat_c_gemm(x, b, y),
    ):
        with pytest.raises(ek.errors.ArgumentValueError, match="inner dimensions must match"):
            run(a[:, :7].copy(), out)
        with pytest.raises(ek.errors.ArgumentValueError, match="out must have shape"):
            run(a, out[:1])
    with pytest.raises(ek.errors.ArgumentValueError, match=r"repeat_c_gemm: .*c overlaps a"):
        _core.repeat_c_gemm(out.view(np.uint8)[:, :8], b, out)


# --- contenders, each with whatever peers are installed


def _agree(contenders):
    for contender in contenders:
        contender.check(contender.run())


@pytest.mark.parametrize("copies", [1, 3])
def test_gemm_contenders_give_the_exact_product(copies):
    _agree(bench_gemm.contenders(Shape(7, 33, 19, "odd"), 1, copies, peers=False))


def test_a_contender_that_is_off_by_one_is_caught():
    ours = bench_gemm.contenders(Shape(7, 33, 19, "odd"), 1, peers=False)[0]
    result = ours.run().copy()
    result[3, 5] += 1
    with pytest.raises(AssertionError):
        ours.check(result)


def test_tolerances_are_no_wider_than_said():
    peers.within_one_step(np.array([4, 5]))(np.array([5, 4], np.uint8))
    with pytest.raises(AssertionError):
        peers.within_one_step(np.array([4, 5]))(np.array([6, 5], np.uint8))
    peers.close(np.array([3.0, 4.0]), 0.1)(np.array([3.0, 4.4]))
    with pytest.raises(AssertionError):
        peers.close(np.array([3.0, 4.0]), 0.1)(np.array([3.0, 4.6]))
    with pytest.raises(AssertionError):
        peers.equals([np.zeros(1)] * 2)([np.zeros(1)])


@pytest.mark.parametrize("copies", [1, 2])
def test_peers_give_the_right_answers(copies):
    shape = Shape(5, 33, 64, "odd")
    with peers.peer_threads(1):
        _agree(bench_gemm.contenders(shape, 1, copies))
        _agree(bench_linear.dynamic(shape, 1, copies))
        _agree(bench_linear.static(shape, 1, copies))
        _agree(bench_int4.int8_contenders(2, 96, 256, 1, copies))
        _agree(bench_int4.int4_contenders(2, 96, 256, 32, 1, copies))


@pytest.mark.parametrize("layer", [Conv(3, 8, 9, 3, stride=2), Conv(16, 16, 8, 3, groups=16), Conv(8, 24, 5, 1)])
def test_convolutions_give_the_right_answers(layer):
    _agree(bench_conv.contenders(layer, 1))


def test_a_peer_that_is_absent_or_refuses_is_named_once(capsys, monkeypatch):
    monkeypatch.setattr(peers, "_said", set())
    monkeypatch.setitem(peers.PEERS, "nobody", "no-such-package")

    def refuse():
        raise RuntimeError("not on this machine")

    for _ in range(2):
        assert peers.join(("nobody", refuse), ("numpy", refuse)) == []
    assert capsys.readouterr().out.splitlines() == [
        "peer nobody is absent: no-such-package is not installed",
        "peer numpy refuses a case: not on this machine",
    ]


# --- commands


def test_dispatcher_knows_its_benches(capsys):
    everything = {
        "accuracy",
        "attention",
        "binary_size",
        "boxes",
        "c_api",
        "call",
        "callers",
        "conv",
        "coverage",
        "cube",
        "decode",
        "dynamic",
        "equalization",
        "formats",
        "gemm",
        "gemm_f32",
        "host",
        "int2",
        "int4",
    }
    assert set(names()) == everything | {
        "kv",
        "linear",
        "llm_methods",
        "load",
        "memory",
        "memory_plans",
        "methods",
        "models",
        "modes",
        "observers",
        "operators",
        "pareto",
        "peers_accuracy",
        "photos",
        "planner",
        "quantized",
        "ranges",
        "recipes",
        "recovery",
        "report",
        "sentences",
        "sizes",
        "small_nets",
        "thresholds",
        "transformers",
        "versus",
    }
    assert main(["no-such-bench"]) == 2
    assert "gemm" in capsys.readouterr().err


def test_photos_measures_the_command_and_onnxruntime(tmp_path):
    image, onnx = pytest.importorskip("PIL.Image"), pytest.importorskip("onnx")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        image.fromarray(pixels).save(tmp_path / f"{number}.png")
    onnx.save(small_cnn(), tmp_path / "m.onnx")
    path = tmp_path / "rows.json"
    data = ["--model", str(tmp_path / "m.onnx"), "--photos", str(tmp_path), "--count", "3", "--json", str(path)]
    assert main(["photos", *data, "--how", "--preset", "unit"]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()][1:]
    assert [row["who"] for row in rows] == ["edgekern", "MinMax", "Entropy"]
    assert rows[0]["allowed_mb"] > 0


def test_memory_measures_every_step(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert main(["memory", "--quick", "--json", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()][1:]
    steps = ["onnxruntime float", "calibrate", "quantize", "compile", "compile float"]
    assert [(row["model"], row["step"]) for row in rows] == [(name, step) for name in ("cnn", "bert") for step in steps]
    assert all(row["growth_mb"] > 0 for row in rows)
    assert "growth_mb" in capsys.readouterr().out


def test_sizes_are_compared_and_timed(tmp_path, capsys):
    model, path = tmp_path / "digits.onnx", tmp_path / "rows.json"
    model.write_bytes(quickstart.MODEL.read_bytes())
    assert main(["sizes", str(model), "--batch", "1,3", "--every", "N", "--json", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["sizes"] for row in rows] == ["1", "3", "3 rows, one by one"]
    assert "3 sizes of N: the bytes of a program for each" in capsys.readouterr().out


def test_modes_are_compared_and_timed(tmp_path, capsys):
    path = tmp_path / "rows.json"
    paths = []
    for name in ("a", "b"):
        paths.append(f"{name}={tmp_path / name}.ekm")
        ek.compile(quickstart.MODEL, batch=1).save(tmp_path / f"{name}.ekm")
    assert main(["modes", *paths, "--switches", "9", "--json", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["mode"], row["same_bits"]) for row in rows[:2]] == [("a", "yes"), ("b", "yes")]
    assert [row["file"] for row in rows[2:]] == ["a", "b", "all in one"]
    assert rows[4]["blobs"] == rows[2]["blobs"] + 1
    assert "apart in ['b'] are" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["modes", paths[0]])


PLAIN = [
    "attention",
    "call",
    "callers",
    "conv",
    "cube",
    "decode",
    "gemm",
    "gemm_f32",
    "int2",
    "int4",
    "kv",
    "linear",
    "load",
]


@pytest.mark.parametrize("name", PLAIN)
def test_every_command_runs_and_keeps_every_row(name, tmp_path, capsys):
    path = tmp_path / "run.json"
    assert main([name, "--quick", "--seconds", "0", "--json", str(path)]) == 0
    headers, cases, [facts] = bench_report.read_run(path)
    assert [header["bench"] for header in headers] == [facts["bench"]] == [name]
    printed = capsys.readouterr().out
    for case in cases:
        assert case["case"] in printed
        assert case["timings"][case["ours"]]["best"] > 0
    assert ("THIS RUN IS VOID" in printed) == any(case["void"] for case in cases)


def test_formats_are_ranked_as_the_docs_say():
    """K needs the bits, and a rotation spreads its outliers: on heads of 64 and of 128 with outlier channels."""
    for dim in (64, 128):
        rows = {row["format"]: row for row in bench_formats.heads(dim)}
        order = ["float16", "int8", "int4", "int4, K not rotated"]
        assert sorted(order, key=lambda name: rows[name]["kl"]) == order
        assert rows["k8v4"]["kl"] == rows["int8"]["kl"]
        assert rows["k8v4"]["kl"] < rows["article"]["kl"] / 20
        assert rows["k8v4"]["error"] < rows["article"]["error"] / 2
        same_bytes = rows["k8v4, V symmetric"]
        assert same_bytes["bits"] == rows["article"]["bits"]
        assert same_bytes["error"] < rows["article"]["error"] / 2


def test_whole_networks_run(tmp_path, test_data):
    assert main(["models", "--quick", "--seconds", "0", "--json", str(tmp_path / "run.json")]) == 0
    [case] = bench_report.read_run(tmp_path / "run.json")[1]
    assert case["case"] == "keywords"


def test_a_step_of_the_ring_cache_is_checked_against_its_stored_rows():
    [ours] = bench_kv._step_case(2, 64, 1).contenders
    found = ours.run()
    ours.check(found)
    with pytest.raises(AssertionError):
        ours.check(found[:, ::-1])


def test_only_named_cases_are_built():
    def build():
        raise AssertionError("nobody asked for this case")

    assert suite._measure_all("gemm", [("64x64x64", build)], FakeProbe(1e12), options_of(only=["1x"])) == []


def test_a_build_beside_itself_gives_a_row_for_each_of_our_contenders(capsys, tmp_path):
    path = tmp_path / "rows.json"
    options = ["--other", sys.executable, "--benches", "call", "--rounds", "1", "--only", "1x16x4", "--json", str(path)]
    assert main(["versus", *options]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["case"].split(", ")[-1] for row in rows] == ["edgekern_u8", "edgekern_s8"]  # the C loop is a reference
    assert [row["this/other"] for row in rows] == pytest.approx([row["this_us"] / row["other_us"] for row in rows])
    assert "over 2 rows" in capsys.readouterr().out
    assert main(["versus", *options[:7], "no such case"]) == 0
    assert "no case" in capsys.readouterr().out
