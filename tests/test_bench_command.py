"""A model's costs on this machine: answers are compared first, everybody takes turns, and what is said was measured."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import edgekern as ek
from edgekern import _onnxruntime, cli, quickstart
from edgekern.benchmark import bench_decoder, bench_model, models, sides
from edgekern.benchmark.answers import difference
from edgekern.benchmark.fresh import Job, measured
from edgekern.benchmark.others import Others
from edgekern.benchmark.report import ModelReport
from edgekern.benchmark.rounds import MOST_ROUNDS, Timing, ratio, timed
from edgekern.benchmark.text import aligned, milliseconds
from edgekern.benchmark.work import KINDS, by_kind, told
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError
from edgekern.llm import ModelConfig
from edgekern.machine import cpu_model
from edgekern.runtime import StepTime, random_feeds
from edgekern.runtime import profile as profiling
from test_cli import _without_toolkit

from float_models import build, f32, helper, ranges_of, samples, small_cnn
from llm_files import random_tensors, write_llama2c


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A float model, its QDQ model, and its program."""
    folder = tmp_path_factory.mktemp("bench")
    model = small_cnn()
    qdq = ek.quantize(model, ranges_of(model, samples(np.random.default_rng(1), 4)))
    (folder / "float.onnx").write_bytes(model.SerializeToString())
    (folder / "qdq.onnx").write_bytes(qdq.SerializeToString())
    ek.compile(qdq).save(folder / "model.ekm")
    return folder


@pytest.fixture(scope="module")
def report(folder) -> ModelReport:
    return bench_model(folder / "qdq.onnx", versus=folder / "float.onnx", num_threads=[1], runs=6)


EVERYBODY = ["edgekern", "onnxruntime", "edgekern float", "onnxruntime float"]


def test_everybody_is_compared_timed_and_weighed(report):
    assert [row.who for row in report.rows] == EVERYBODY
    assert [cost.who for cost in report.costs] == EVERYBODY
    assert sorted(report.differences) == sorted(EVERYBODY)
    assert [gain.than for gain in report.gains] == EVERYBODY[1:]
    assert report.from_float is not None
    assert 10 < report.from_float.sqnr_db < 80  # 8 bits against float
    assert report.differences["edgekern float"].sqnr_db > 80
    for row in report.rows:
        assert row.timing.runs == 6
        assert 0 < row.timing.p50_us <= row.timing.p95_us <= row.timing.p99_us
        assert row.peak_share > 0
    for cost in report.costs:
        assert cost.fresh.peak_bytes >= cost.fresh.import_bytes > 1 << 20
        assert cost.fresh.open_ms > 0
        assert cost.fresh.first_run_ms > 0
        assert (cost.arena_bytes is None) == cost.who.startswith("onnxruntime")
    [work] = report.work
    assert work.quantized
    assert list(work.kinds) == ["edgekern", "edgekern float"]


def test_the_text_and_the_json_say_the_same(report, folder):
    shown, held = str(report), json.loads(report.to_json())
    for row in report.rows:
        [line] = [line for line in shown.splitlines() if line.strip().startswith(f"1  {row.who}  ")]
        assert milliseconds(row.timing.p50_us) in line
    assert f"edgekern from the float model: {report.from_float.sqnr_db:.1f} dB" in shown
    assert [row["timing"]["p50_us"] for row in held["rows"]] == [row.timing.p50_us for row in report.rows]
    assert held["gains"][0]["ratio"]["median"] == report.gains[0].ratio.median
    assert held["model"] == str(folder / "qdq.onnx")
    assert held["rule"] in " ".join(shown.split())
    assert held["cpu"] == cpu_model() != ""
    assert max(map(len, shown.splitlines()[3:])) <= 120


def test_a_program_alone_has_no_peer_and_says_that_nothing_was_compared(folder):
    found = bench_model(folder / "model.ekm", num_threads=[2, 1, 2], runs=3)
    assert [(row.who, row.num_threads) for row in found.rows] == [("edgekern", 2), ("edgekern", 1)]
    assert found.differences == {}
    assert found.gains == ()
    assert "outputs are compared with nothing" in str(found)
    assert found.costs[0].file_bytes == (folder / "model.ekm").stat().st_size
    assert found.costs[0].num_threads == 2


def test_of_several_sizes_the_smallest_is_timed(tmp_path):
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": f32(np.eye(16))}, ["N", 16])
    ek.compile(model, batch=(2, 4)).save(tmp_path / "sizes.ekm")
    found = bench_model(tmp_path / "sizes.ekm", num_threads=[1], runs=2)
    assert found.inputs == {"x": [2, 16]}
    assert sum(found.multiply_adds.values()) == 2 * 16 * 16
    assert "the smallest of several sizes" in str(found)


def test_a_peer_whose_answer_is_wrong_is_not_timed(folder, monkeypatch):
    other = small_cnn()
    for tensor in other.graph.initializer:
        if tensor.raw_data and tensor.data_type == 1:
            tensor.raw_data = (-np.frombuffer(tensor.raw_data, np.float32)).tobytes()
    (folder / "other.onnx").write_bytes(other.SerializeToString())
    opened = _onnxruntime.open_peer
    monkeypatch.setattr(_onnxruntime, "open_peer", lambda _, **given: opened(str(folder / "other.onnx"), **given))
    found = bench_model(folder / "float.onnx", num_threads=[1], runs=2)
    assert [row.who for row in found.rows] == ["edgekern"]
    assert "from what ONNX defines" in found.left_out["onnxruntime"]
    assert "onnxruntime is not timed: its output" in str(found)


def test_a_wrong_answer_of_ours_ends_it_before_anything_is_timed(folder, monkeypatch):
    honest = sides.our_run

    def wrong(session, feeds):
        run, found = honest(session, feeds)
        return run, lambda: {name: array[..., ::-1] + 1 for name, array in found().items()}

    monkeypatch.setattr(sides, "our_run", wrong)
    monkeypatch.setattr(models, "timed", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(EdgekernError, match=r"output '.*' of edgekern is .* dB .* from what ONNX defines"):
        bench_model(folder / "float.onnx", num_threads=[1], runs=2)


def test_a_model_that_onnxruntime_refuses_is_timed_alone(folder, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such\nthing")

    monkeypatch.setattr(_onnxruntime, "open_session", refuse)
    found = bench_model(folder / "float.onnx", num_threads=[1], runs=2)
    assert found.left_out == {"onnxruntime": "onnxruntime refuses the model: no such thing"}
    assert [row.who for row in found.rows] == ["edgekern"]


def test_codes_at_the_border_stand_beside_the_floats_that_they_stand_for(folder):
    model = small_cnn()
    config = ek.QuantConfig(inputs="uint8", outputs="uint8")
    qdq = ek.quantize(model, ranges_of(model, samples(np.random.default_rng(1), 4)), config)
    (folder / "codes.onnx").write_bytes(qdq.SerializeToString())
    found = bench_model(folder / "codes.onnx", versus=folder / "float.onnx", num_threads=[1], runs=2)
    assert found.from_float is not None
    assert found.from_float.sqnr_db > 10


def test_another_model_is_no_float_model_of_it(folder):
    with pytest.raises(ArgumentValueError, match=r"the float model has inputs \['image'\], and the model \['x'\]"):
        bench_model(folder / "qdq.onnx", versus=quickstart.MODEL, num_threads=[1], runs=2)
    with pytest.raises(ArgumentValueError, match="--vs takes a float ONNX model"):
        bench_model(folder / "qdq.onnx", versus=folder / "model.ekm", num_threads=[1], runs=2)


@pytest.mark.parametrize("own", ["qdq.onnx", "model.ekm"])
@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (TensorProto.FLOAT, [1, 3, 13, 12], "does not take what the model takes; .* 12 for dimension 2, which is 13"),
        (TensorProto.FLOAT, [1, 3], "does not take what the model takes; .* has 4 sizes"),
        (TensorProto.INT64, [1, 3, 12, 12], "input 'x' of the float model is int64, and of the model float32"),
    ],
)
def test_what_another_model_takes_is_named(folder, tmp_path, own, kind, shape, message):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    sides = [helper.make_tensor_value_info(name, k, shape) for name, k in (("x", kind), ("y", TensorProto.FLOAT))]
    model = helper.make_model(helper.make_graph(nodes, "g", sides[:1], sides[1:]), ir_version=8)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 17))
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArgumentValueError, match=f"bench: .*{message}"):
        bench_model(folder / own, versus=tmp_path / "other.onnx", num_threads=[1], runs=2)


def test_several_batches_have_a_line_each(folder, capsys):
    command = ["bench", str(folder / "qdq.onnx"), "--batch", "1,4", "--threads", "1", "--runs", "2"]
    assert cli.run(command) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line[:3] for line in lines if line and line[0] in ("1", "4")]
    assert rows == [[batch, "1", who] for batch in ("1", "4") for who in EVERYBODY[:2]]
    assert cli.run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["batch"], one["inputs"]["x"][0]) for one in told] == [(1, 1), (4, 4)]


def test_16_bits_are_called_so(folder):
    model = small_cnn()
    config = ek.QuantConfig(recipe="w8a16")
    calibrator = ek.Calibrator(model, progress=False).collect({"x": samples(np.random.default_rng(1), 4)})
    wide = ek.quantize(model, calibrator.compute_ranges(method="max"), config)
    (folder / "wide.onnx").write_bytes(wide.SerializeToString())
    told = str(bench_model(folder / "wide.onnx", versus=folder / "float.onnx", num_threads=[1], runs=2))
    assert "16 bits are " in told
    assert "8 bits are " not in told


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"runs": 0}, ArgumentValueError),
        ({"runs": True}, ArgumentTypeError),
        ({"seconds": 0}, ArgumentValueError),
        ({"seconds": math.nan}, ArgumentValueError),
        ({"seconds": "1"}, ArgumentTypeError),
        ({"num_threads": [0]}, ArgumentValueError),
        ({"num_threads": [1, 2000]}, ArgumentValueError),
        ({"isa": "abacus"}, EdgekernError),
        ({"batch": 2}, ArgumentValueError),
        ({"shapes": {"x": (1, 3, 12, 12)}}, ArgumentValueError),
    ],
)
def test_wrong_arguments_are_refused(folder, arguments, error):
    with pytest.raises(error):
        bench_model(folder / "model.ekm", **arguments)


def test_so_many_runs_are_timed_and_who_begins_changes():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    ticks = []
    found = timed(contenders, runs=7, seconds=1, advance=lambda: ticks.append(1))
    assert {name: timing.runs for name, timing in found.items()} == {"a": 7, "b": 7, "c": 7}
    assert [len(timing.medians_us) for timing in found.values()] == [7] * 3
    assert len(ticks) == MOST_ROUNDS
    turns = [name for name, _ in itertools.groupby(calls)]
    whole = [name for turn in range(7) for name in ("abc" * 2)[turn % 3 : turn % 3 + 3]]
    assert turns == [name for name, _ in itertools.groupby(whole)]


def test_a_ratio_is_the_median_of_the_rounds():
    def timing(*medians):
        return Timing(1.0, 1.0, 1.0, 3, medians)

    found = ratio(timing(1.0, 2.0, 1.0), timing(3.0, 4.0, 5.0))
    assert (found.median, found.lowest, found.highest) == (3.0, 2.0, 5.0)
    assert str(found) == "3.00 (2.00 to 5.00)"


def test_seconds_become_runs_of_each_in_five_rounds_at_least():
    found = timed({"slow": lambda: sum(range(20_000)), "fast": lambda: None}, runs=None, seconds=1e-9)
    assert {timing.runs for timing in found.values()} == {5}


def test_the_difference_is_that_of_the_worst_output():
    x = np.float32([3.0, 4.0, np.nan, np.inf])
    assert difference({"x": x}, {"x": x.copy()}).sqnr_db == math.inf
    assert str(difference({"x": x}, {"x": x.copy()})) == "the same"
    found = difference({"x": x[:2], "y": x[:2]}, {"x": x[:2], "y": x[:2] + np.float32([0.5, 0])})
    assert found.output == "y"
    assert found.sqnr_db == pytest.approx(20)
    assert found.max_difference == 0.5
    for wrong in (np.float32([3, 4, 0, np.inf]), np.float32([3, 4, np.nan, -np.inf])):
        assert difference({"x": x}, {"x": wrong}).sqnr_db == -math.inf
    assert difference({"x": np.zeros(2)}, {"x": np.ones(2)}).sqnr_db == -math.inf
    for other in ({}, {"x": np.zeros((2, 2))}):
        with pytest.raises(ArgumentValueError, match="output 'x' of the model has shape"):
            difference({"x": x}, other)


def test_kinds_of_work_add_up_to_the_run(folder):
    session = ek.InferenceSession(folder / "model.ekm", num_threads=1)
    profile = session.profile(random_feeds(session.program.inputs), runs=20)
    kinds = by_kind(profile)
    assert tuple(kinds) == KINDS
    summed = sum(step.p50_us for step in profile.steps)
    assert sum(kinds.values()) == pytest.approx(max(profile.p50_us, summed))
    assert kinds["products"] == sum(step.p50_us for step in profile.steps if step.macs)
    rows = told({**dict.fromkeys(KINDS, 0.0), "products": 10.0}, {**dict.fromkeys(KINDS, 0.0), "products": 25.0})
    assert rows == [("products", "10.0", "25.0", "2.50")]


def _step(us, share, *, nbytes=0, peak_share=None, kind="MAP"):
    return StepTime("s", "Op", kind, "map", "float32", us, us, us, share, 0, nbytes, peak_share)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (_step(100.0, 0.5, nbytes=600_000), "50% of the time: 1 step of memory's: they read and write 6.0 GB/s"),
        (_step(100.0, 0.5, nbytes=400_000), None),  # far from the 10 GB/s below
        (_step(100.0, 0.09, nbytes=600_000), None),  # hardly any time
        (_step(100.0, 0.5, nbytes=600_000, peak_share=0.5), None),  # arithmetic's
        (_step(4.0, 0.5), "50% of the time: 1 step of less than 5 us each, too small to fill tiles and threads"),
        (_step(4.0, 0.5, nbytes=400_000), "too small to fill tiles and threads"),  # from a cache
        (_step(4.0, 0.5, kind="host"), None),
        (_step(4.0, 0.5, peak_share=0.5), None),
    ],
)
def test_small_steps_and_steps_of_memory_are_named(folder, step, said):
    program = ek.Program.load(folder / "model.ekm")
    rest = _step(1000.0, 1 - step.share, peak_share=1.0)
    causes = profiling._causes(program, [step, rest], 1000.0 + step.p50_us, 10e9)
    found = [text for text in causes if "of memory's" in text or "too small" in text]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_a_process_of_its_own_that_fails_says_why(tmp_path):
    np.savez(tmp_path / "feeds.npz", x=np.zeros(1))
    job = Job("edgekern", str(tmp_path / "absent.ekm"), str(tmp_path / "feeds.npz"), 1, {})
    with pytest.raises(EdgekernError, match=r"a process of its own for .*absent.ekm failed: .*absent.ekm"):
        measured(job)


def test_what_others_did_meanwhile_is_told(report, monkeypatch):
    ticks = iter([(10.0, 5.0, 1.0), (12.0, 9.0, 2.0)])
    monkeypatch.setattr(Others, "_read", lambda _: next(ticks))
    assert Others().cpus() == 1.5  # of 2 s four of CPUs, one of them ours
    monkeypatch.setattr(Others, "_read", lambda _: None)
    assert Others().cpus() is None
    shown = [str(dataclasses.replace(report, others_busy=busy)) for busy in (1.5, 0.05, None)]
    assert ["other processes kept 1.5 of" in text for text in shown] == [True, False, False]


def test_columns_are_as_wide_as_their_cells():
    assert aligned([("a", "bb"), ("ccc", "d")], "<>") == ["a    bb", "ccc   d"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    config = ModelConfig(dim=64, layers=2, heads=4, kv_heads=2, head_dim=16, hidden=128, vocab=96, context=64)
    path = tmp_path_factory.mktemp("llm") / "model.bin"
    write_llama2c(path, config, random_tensors(config))
    return path


def test_language_models_have_rates_behind_prompts(llama):
    found = bench_decoder(llama, weights=["int8", "float32"], prompts=[4, 16, 64], num_threads=[1], runs=4)
    assert [(row.weights, row.prompt) for row in found.rows] == [
        *(("int8", 4), ("int8", 16)),
        *(("float32", 4), ("float32", 16)),
    ]
    assert found.too_long == (64,)
    assert all(row.prompt_rate > 0 and row.rate > 0 and row.read_share > 0 for row in found.rows)
    assert found.costs[0].weight_bytes < found.costs[1].weight_bytes
    assert "a prompt of 64 leaves no room" in str(found)
    assert json.loads(found.to_json())["rows"][0]["step"]["runs"] == 4


def test_the_command_prints_text_or_json(folder, llama, capsys):
    fixed = ["--threads", "1", "--runs", "2"]
    np.savez(folder / "x.npz", x=np.ones((1, 3, 12, 12), np.float32))
    assert cli.run(["bench", str(folder / "qdq.onnx"), str(folder / "x.npz"), *fixed, "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["data"] == "the data given"
    assert [row["num_threads"] for row in held["rows"]] == [1, 1]
    assert cli.run(["bench", str(llama), *fixed, "--weights", "int8"]) == 0
    assert "prompt tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.ekm", "--runs", "1", "--seconds", "1"], "--runs or --seconds, not both"),
        (["model.ekm", "--weights", "int8"], "--weights is of language models"),
        (["model.ekm", "--batch", "2"], "batch and shapes are of ONNX models"),
        (["model.ekm", "--batch", "1,2"], "batch and shapes are of ONNX models"),
        (["qdq.onnx", "--batch", "0"], "--batch takes a size, or several as 1,2,4,8, got '0'"),
        (["feeds.npz"], "NumPy arrays"),
        (["feeds.npz", "--vs", "float.onnx"], "are of programs and ONNX models"),
    ],
)
def test_what_does_not_fit_together_is_one_readable_line(folder, arguments, message, capsys):
    np.savez(folder / "feeds.npz", x=np.ones(1))
    paths = [str(folder / text) if "." in text else text for text in arguments]
    assert cli.run(["bench", *paths]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("edgekern: error: ")
    assert len(error.splitlines()) == 1


def test_the_base_install_times_programs(folder):
    child = _without_toolkit("bench", str(folder / "model.ekm"), "--threads", "1", "--runs", "2", "--json")
    assert child.returncode == 0, child.stderr
    assert [row["who"] for row in json.loads(child.stdout)["rows"]] == ["edgekern"]


def test_a_process_that_imports_the_room_has_no_toolkit_yet():
    code = "import sys, edgekern.benchmark; print(sorted({'onnx', 'onnxruntime', 'rich'} & set(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
    assert Path(models.__file__).parent.name == "benchmark"
