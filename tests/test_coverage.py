"""coverage: what ranges leave out of other data, and whether their steps still move."""

import csv
import io
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError

from graphs import Graph, onnxruntime_session


def model():
    g = Graph()
    y = g.op(
        "Relu", g.op("Conv", g.input("x", ("N", 2, 6, 6)), g.const(g.rng.normal(0, 0.3, (4, 2, 3, 3)), np.float32))
    )
    return g.model(g.op("Gemm", g.op("Flatten", y), g.const(g.rng.normal(0, 0.1, (64, 5)), np.float32)))


def batches(count, size=4, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0, spread, (size, 2, 6, 6)).astype(np.float32)} for _ in range(count)]


DATA = batches(8)


@pytest.fixture(scope="module", params=["max", "mse", "percentile", "entropy"])
def ranges(request):
    return ek.Calibrator(model(), progress=False).collect_many(DATA).compute_ranges(request.param)


def test_of_the_data_of_calibration_what_was_clipped_lies_outside(ranges):
    report = ek.coverage(model(), ranges, DATA, first=8, last=32)
    assert {row.tensor for row in report.rows} == set(ranges)
    for row in report.rows:
        assert row.outside <= ranges[row.tensor].clipped_fraction + 2 / row.count
        assert row.calibrated == ranges[row.tensor].clipped_fraction
    assert ranges.method != "max" or [row.outside for row in report.rows] == [0.0] * len(report.rows)


@pytest.mark.parametrize("spread", [1.5, 4.0])
def test_what_lies_outside_is_counted_and_named(ranges, spread):
    wider = batches(3, spread=spread, seed=5)
    report = ek.coverage(model(), ranges, wider)
    x = np.concatenate([feeds["x"] for feeds in wider])
    row = next(row for row in report.rows if row.tensor == "x")
    lo, hi = codes_of(ranges["x"])
    assert row.outside == ((x < lo) | (x > hi)).mean()
    assert (row.seen_lo, row.seen_hi, row.count) == (x.min(), x.max(), x.size)
    out = np.concatenate([onnxruntime_session(model()).run(None, feeds)[0] for feeds in wider])
    last = next(row for row in report.rows if row.tensor == model().graph.output[0].name)
    lo, hi = codes_of(ranges[last.tensor])
    assert last.outside == pytest.approx(((out < lo) | (out > hi)).mean(), abs=1e-3)
    assert "x" in report.outside
    assert "outside" in row.mark
    assert report.samples == 12
    shares = [row.outside - row.calibrated for row in report.rows]
    assert shares == sorted(shares, reverse=True)


def codes_of(tensor):
    """What 8 bits hold: half a step beyond the ends a value still goes to its code."""
    half = (tensor.hi - tensor.lo) / 255 / 2
    return tensor.lo - half, tensor.hi + half


def test_nan_and_infinities_lie_outside():
    ranges = ek.Calibrator(model(), progress=False, tensors=["x"]).collect_many(DATA).compute_ranges("max")
    odd = DATA[0]["x"].copy()
    odd.flat[:6] = np.nan, np.inf, -np.inf, 0, 0, 0
    [row] = ek.coverage(model(), ranges, {"x": odd}).rows
    assert row.outside == 3 / odd.size


def test_steps_of_the_first_samples_are_those_that_calibration_would_choose(ranges):
    """After the batch with which so many are reached."""
    data = batches(10, spread=1.0) + batches(10, spread=3.0, seed=3)
    report = ek.coverage(model(), ranges, data, first=30, last=61)
    assert (report.first, report.last, report.samples) == (32, 64, 80)
    for count, figure in ((8, "scale_first"), (16, "scale_last")):
        expected = ek.Calibrator(model(), progress=False).collect_many(data[:count]).compute_ranges(ranges.method)
        for row in report.rows:
            width = expected[row.tensor].hi - expected[row.tensor].lo
            assert getattr(row, figure) == pytest.approx(width / 255, rel=1e-6)
    assert "x" in report.moving
    assert all(row.moved == pytest.approx(row.scale_last / row.scale_first - 1) for row in report.rows)


@pytest.mark.parametrize("method", ["max", "mse"])
def test_steps_that_do_not_move_are_not_said_to(method):
    """The same values again."""
    ranges = ek.Calibrator(model(), progress=False).collect_many(DATA).compute_ranges(method)
    report = ek.coverage(model(), ranges, DATA[:4] * 5, first=16, last=80)
    assert report.moving == ()
    assert all(row.moved == pytest.approx(0, abs=1e-6) for row in report.rows)


def test_all_samples_count_where_there_are_less_than_wanted():
    ranges = ek.Calibrator(model(), progress=False).collect_many(DATA).compute_ranges()
    report = ek.coverage(model(), ranges, DATA, first=8)
    assert (report.first, report.last) == (8, 32)
    few = ek.coverage(model(), ranges, DATA[:2])
    assert (few.first, few.last) == (None, None)
    assert all(row.moved is None for row in few.rows)
    assert "too few samples" in str(few)


def test_ranges_of_an_unknown_method_have_no_steps():
    ranges = ek.Calibrator(model(), progress=False).collect_many(DATA).compute_ranges()
    other = replace(ranges, method="by hand", options={})
    report = ek.coverage(model(), other, DATA, first=8, last=16)
    assert all(row.scale_first is None for row in report.rows)
    assert "a method that cannot choose anew" in str(report)


def test_the_report_prints_and_saves_itself(ranges, tmp_path):
    pytest.importorskip("matplotlib")
    report = ek.coverage(model(), ranges, batches(3, spread=4.0), first=4, last=8)
    assert all(row.tensor in str(report) for row in report.rows)
    assert f"{len(report.outside)} outside" in repr(report)
    assert json.loads(report.to_json())["rows"][0]["outside"] == report.rows[0].outside
    assert [row["mark"] for row in csv.DictReader(io.StringIO(report.to_csv()))] == [row.mark for row in report.rows]
    report.plot(tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_ranges_save_themselves_in_other_forms(ranges, tmp_path):
    pytest.importorskip("matplotlib")
    assert json.loads(ranges.to_json()) == json.loads(json.dumps(ranges.to_dict()))
    (tmp_path / "r.json").write_text(ranges.to_json())
    assert ek.Ranges.load(tmp_path / "r.json") == ranges
    rows = list(csv.DictReader(io.StringIO(ranges.to_csv(tmp_path / "r.csv"))))
    assert {row["tensor"]: (float(row["lo"]), float(row["hi"])) for row in rows} == {
        name: (r.lo, r.hi) for name, r in ranges.items()
    }
    assert (tmp_path / "r.csv").read_text() == ranges.to_csv()
    ranges.plot(tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ranges": {}}, ArgumentTypeError, "coverage: ranges must be Ranges, got dict"),
        ({"ranges": ek.Ranges({}, "0" * 64, "max")}, CalibrationError, "ranges must be of float_model, got .* another"),
        ({"data": []}, ArgumentValueError, "coverage: data is empty; give at least one feed"),
        ({"data": DATA[0]["x"]}, ArgumentTypeError, "coverage: data must be a dict of arrays by input name"),
        ({"data": {"y": DATA[0]["x"]}}, ArgumentValueError, "coverage: feeds has 'y', but the model's inputs are"),
        ({"data": {"x": DATA[0]["x"][:, :1]}}, ArgumentValueError, r"coverage: feeds\['x'\] has shape"),
        ({"first": 0}, ArgumentValueError, "coverage: first must be at least 1 and at most last, got 0 and 500"),
        ({"first": 9, "last": 8}, ArgumentValueError, "first must be at least 1 and at most last, got 9 and 8"),
        ({"last": "all"}, ArgumentTypeError, "coverage: last must be an integer"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    ranges = ek.Calibrator(model(), progress=False).collect_many(DATA).compute_ranges()
    given = {"ranges": ranges, "data": DATA} | arguments
    with pytest.raises(error, match=message):
        ek.coverage(model(), given.pop("ranges"), given.pop("data"), **given)


def test_the_largest_numbers_lie_in_their_own_range():
    """A mask holds them, and half a step more is infinite."""
    largest = np.finfo(np.float32).max
    masked = [{"x": np.where(np.arange(72) % 2, -largest, largest).astype(np.float32).reshape(1, 2, 6, 6)}]
    g = Graph()
    halved = g.op("Mul", g.input("x", ("N", 2, 6, 6)), g.const(np.float32(0.5), np.float32))
    doubtful = g.model(halved)
    ranges = ek.Calibrator(doubtful, progress=False).collect_many(masked).compute_ranges("max")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = ek.coverage(doubtful, ranges, masked)
    assert [row.outside for row in report.rows] == [0.0] * len(report.rows)
