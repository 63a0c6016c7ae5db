"""The whole chain in one call: the same program as the steps by hand, a report that counts, gates that hold."""

import json

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.errors import ArgumentTypeError, ArgumentValueError

from gated_models import COUNT, feeds, gated, helper, labels, net, outputs, sqnr_db


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return gated(tmp_path_factory.mktemp("compress"))


def calibrating():
    train, _ = quickstart.load_digits()
    return [{"image": train.images[at : at + 64]} for at in range(0, 256, 64)]


@pytest.fixture(scope="module")
def done():
    """With an evaluation of one's own, on other samples than those of calibration."""
    return ek.compress(
        quickstart.MODEL,
        calibrating(),
        right_ones,
        held_out=feeds(),
        method="mse",
        runs=2,
        max_drop=0.05,
        max_bytes="1M",
        progress=False,
    )


def right_ones(run):
    scores = np.concatenate([run(feed)["logits"] for feed in feeds()])
    return float((scores.argmax(1) == labels()).mean())


def test_it_is_the_steps_by_hand(done):
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect_many(calibrating())
    ranges = calibrator.compute_ranges(method="mse")
    qdq = ek.quantize(quickstart.MODEL, ranges)
    assert done.ranges == ranges
    assert done.qdq == qdq
    assert done.program == ek.compile(qdq)


def test_the_report_counts(done, tmp_path):
    report = done.report
    done.program.save(tmp_path / "m.ekm")
    ours, real = outputs(tmp_path / "m.ekm")
    assert report.score == np.mean(ours.argmax(1) == labels())
    assert report.float_score == np.mean(real.argmax(1) == labels())
    assert report.drop == report.float_score - report.score
    assert report.float_bytes == quickstart.MODEL.stat().st_size
    assert report.program_bytes == (tmp_path / "m.ekm").stat().st_size
    assert (report.samples, report.held_out) == (COUNT, True)
    [row] = report.outputs
    assert row.name == "logits"
    assert row.sqnr_db == pytest.approx(sqnr_db(ours, real), abs=0.01)
    worst = ek.compare(quickstart.MODEL, done.program, feeds()[:16]).worst(10)
    assert report.rows == worst
    assert report.latency_ms > 0
    assert report.passed
    told = json.loads(report.to_json(tmp_path / "report.json"))
    assert told == json.loads((tmp_path / "report.json").read_text())
    assert told["drop"] == report.drop
    assert told["gates"]["passed"] is True
    assert [row["name"] for row in told["rows"]] == [row.name for row in worst]
    assert len(report.to_csv().splitlines()) == 1 + len(worst)
    for word in ("worst layers", "logits", "all gates passed", "other samples than those of calibration"):
        assert word in str(report)


def test_without_a_method_the_nearest_one_is_taken():
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect_many(calibrating())
    wanted = ek.choose_ranges(calibrator, quickstart.MODEL)
    assert ek.compress(quickstart.MODEL, calibrating(), progress=False).ranges == wanted


def test_labels_score_where_no_function_does():
    report = ek.compress(
        quickstart.MODEL, calibrating(), held_out=feeds(), labels=labels(), method="max", max_drop=0.05, progress=False
    ).report
    assert report.float_score == 1.0
    assert report.drop == report.gates.rows[0].measured
    unscored = ek.compress(quickstart.MODEL, calibrating(), method="max", progress=False).report
    assert (unscored.drop, unscored.gates, unscored.passed) == (None, None, True)


def test_a_program_that_fails_is_given_all_the_same():
    scores = iter([0.9, 0.5])
    result = ek.compress(
        quickstart.MODEL, calibrating(), lambda run: next(scores), method="max", max_drop=0.1, progress=False
    )
    assert result.report.gates.failures == ("max_drop",)
    assert result.report.drop == pytest.approx(0.4)
    assert not result.report.passed
    assert result.program.nbytes


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_drop": 0.1}, ArgumentValueError, "max_drop must have labels"),
        ({"max_bytes": "some"}, ArgumentValueError, "max_bytes must be at least one byte"),
        ({"evaluate": 3}, ArgumentTypeError, "evaluate must be a function, got int"),
        ({"data": iter([])}, ArgumentTypeError, "data must be feeds that can be read twice"),
        ({"held_out": iter([])}, ArgumentTypeError, "data must be feeds that can be read twice"),
        ({"top": 0}, ArgumentValueError, "top must be at least 1"),
        ({"runs": -1}, ArgumentValueError, "runs must be at least 1, got -1"),
        ({"runs": "3"}, ArgumentTypeError, "runs must be an integer"),
        ({"runs": False}, ArgumentTypeError, "runs must be an integer"),
        ({"batch": 3}, ArgumentValueError, "batch must divide the rows of each feed, got batch=3 and 64 rows"),
        ({"batch": 2, "held_out": feeds()}, ArgumentValueError, "batch must divide .* got batch=2 and 1 rows"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(given, error, message, monkeypatch):
    monkeypatch.setattr("edgekern.analysis.compress_model.Calibrator", lambda *_, **__: pytest.fail("begun"))
    with pytest.raises(error, match=f"compress: {message}"):
        ek.compress(quickstart.MODEL, given.pop("data", calibrating()), progress=False, **given)


def test_free_sizes_are_told_before_the_work(monkeypatch):
    monkeypatch.setattr("edgekern.analysis.compress_model.Calibrator", lambda *_, **__: pytest.fail("begun"))
    model = net([helper.make_node("Relu", ["x"], ["y"])], inputs={"x": ["n", "length", 6]})
    with pytest.raises(ArgumentValueError, match=r"compress: input 'x' must have sizes .*\(n, length, 6\).*--shape x="):
        ek.compress(model, [{"x": np.ones((1, 4, 6), np.float32)}], progress=False)


def test_free_sizes_can_be_given():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(np.float32)
    model = net(nodes, {"w": weights}, inputs={"x": ["n", "length", 6]})
    data = [{"x": np.random.default_rng(at).normal(0, 1, (1, 4, 6)).astype(np.float32)} for at in range(4)]
    done = ek.compress(model, data, shapes={"length": 4}, progress=False)
    assert done.program.inputs[0].shape == (1, 4, 6)


def test_a_model_whose_results_are_classes_is_scored():
    weights = np.random.default_rng(0).normal(0, 1, (6, 6)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("ArgMax", ["s"], ["y"], axis=1)]
    model = net(nodes, {"w": weights})
    model.graph.output[0].type.tensor_type.elem_type = 7
    data = [{"x": row[None]} for row in np.random.default_rng(1).normal(0, 1, (20, 6)).astype(np.float32)]
    truth = [int((feed["x"] @ weights).argmax()) for feed in data]

    def right(run):
        return float(np.mean([run(feed)["y"].item() == label for feed, label in zip(data, truth, strict=True)]))

    done = ek.compress(model, data, right, method="max", max_drop=0.5, progress=False)
    assert done.report.float_score == 1
    assert done.report.outputs == ()
    with pytest.raises(ArgumentValueError, match="compress: min_sqnr_db must have a float output"):
        ek.compress(model, data, method="max", min_sqnr_db=3, progress=False)
    lines = ek.checklist(done.program, data, float_model=model, runs=1, progress=False).rows
    assert [row.verdict for row in lines if "above" in row.check] == ["not checked"] * 2


def test_the_command_makes_feeds_of_the_program_s_batch(folder, monkeypatch):
    monkeypatch.chdir(folder)
    command = ["compress", str(quickstart.MODEL), "x.npz", "-o", "five.ekm", "--method", "max", "--batch", "5"]
    assert cli.run([*command, "--labels", "labels.npy", "--max-drop", "0.05"]) == 0
    assert ek.Program.load("five.ekm").inputs[0].shape[0] == 5


def test_a_score_that_is_no_number_is_told():
    with pytest.raises(ArgumentTypeError, match="compress: what evaluate returns must be a number, got str"):
        ek.compress(quickstart.MODEL, calibrating(), lambda run: "good", method="max", progress=False)


def test_the_command_writes_a_program_that_passes_and_no_other(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    command = ["compress", str(quickstart.MODEL), "x.npz", "-o", "new.ekm", "--labels", "labels.npy", "--method", "mse"]
    before = {path.name for path in folder.iterdir()}
    assert cli.run([*command, "--min-sqnr", "300", "--report", "report.json"]) == 1
    shown = capsys.readouterr().out
    assert "new.ekm was not written, for a gate failed" in shown
    assert {path.name for path in folder.iterdir()} == before | {"report.json"}
    assert json.loads((folder / "report.json").read_text())["gates"]["failures"] == ["min_sqnr_db"]
    assert cli.run([*command, "--max-drop", "0.05", "--max-latency", "60s", "--runs", "2", "--json"]) == 0
    both = capsys.readouterr()
    told = json.loads(both.out)
    assert told["passed"] is True
    [timed] = [row["measured"] for row in told["gates"]["rows"] if row["name"] == "max_latency_ms"]
    assert told["latency_ms"] == timed  # runs are timed once
    assert "new.ekm: " in both.err
    assert ek.Program.load("new.ekm").nbytes == (folder / "new.ekm").stat().st_size
    old = (folder / "new.ekm").read_bytes()
    assert cli.run([*command, "--max-bytes", "1K"]) == 1
    assert (folder / "new.ekm").read_bytes() == old
    assert cli.run([*command, "--report", "new.ekm"]) == 2
    assert cli.run([*command[:4], "x.npz"]) == 2
    assert cli.run([*command, "--recipe", "w7a7"]) == 2
    assert "recipe must be one of" in capsys.readouterr().err


def test_labels_are_those_of_the_held_out_samples(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    train, _ = quickstart.load_digits()
    np.savez(folder / "train.npz", image=train.images[:64])
    command = ["compress", str(quickstart.MODEL), "train.npz", "--held-out", "x.npz", "--labels", "labels.npy"]
    assert cli.run([*command, "-o", "held.ekm", "--method", "max", "--max-drop", "0.05", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["held_out"], told["float_score"]) == (COUNT, True, 1.0)


def test_what_is_warned_about_points_at_the_caller():
    weights = np.ones((6, 3), np.float32) * 1e-20
    model = net([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": weights, "b": np.ones(3, np.float32)})
    data = [{"x": np.random.default_rng(0).random((4, 6), np.float32)}]
    with pytest.warns(ek.errors.WidenedScaleWarning) as said:
        ek.compress(model, data, config=ek.QuantConfig(recipe="w8a8"), method="max", progress=False)
    assert {warning.filename for warning in said} == {__file__}
