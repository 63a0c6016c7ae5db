"""search and pareto: one budget, measured losses and costs, a plan that is written as it says."""

from itertools import pairwise

import numpy as np
import pytest

import edgekern as ek
from edgekern.analysis import search_plan, trace_pareto
from edgekern.analysis.layer_units import units_of
from edgekern.analysis.switchboard import Switchboard
from edgekern.errors import ArgumentTypeError, ArgumentValueError, QuantizationError
from edgekern.quantization import plan_of
from edgekern.quantization.quantize_model import quantize_switchable
from test_sensitivity import DATA, W8A8, chain, ranges_of, residual, weights

from graphs import Graph

MODELS = {"chain": chain(), "residual": residual()}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture
def clock(monkeypatch):
    """A machine on which floats cost four times as much, and a run half as much again as its steps say."""

    def took(session):
        dear = {"float32": 4.0, "16 bits": 3.0, "8 bits": 1.0, "host": 9.0}
        program = session.program
        return [
            (step.name, (1e3 + step.macs) * dear[how] * 1e-3)
            for step, how in zip(program.steps, program.precisions, strict=True)
        ]

    def steady_steps(sessions, feeds, **_):
        return [(took(session), 0.1) for session in sessions]

    def steady_ms(sessions, feeds, **_):
        return [1.5 * (sum(ms for _, ms in took(session)) + 0.1) for session in sessions]

    monkeypatch.setattr("edgekern.analysis.price_layers.steady_steps", steady_steps)
    monkeypatch.setattr("edgekern.analysis.price_layers.conversion_ms", lambda: 1e-3)
    for module in (search_plan, trace_pareto):
        monkeypatch.setattr(module, "steady_ms", steady_ms)
    return steady_ms


def whole(model, data=DATA):
    """Ranges that cut nothing off, which 16 bits want."""
    return ranges_of(model, data, "max")


def search(model, **budget):
    return ek.search(model, whole(model), DATA, progress=False, **budget)


@pytest.mark.parametrize("method", ["ilp", "greedy"])
def test_milliseconds_are_measured_and_the_budget_is_corrected(model, clock, method):
    def measured(recipe):
        qdq = model if recipe == "float32" else ek.quantize(model, whole(model), ek.QuantConfig(recipe=recipe))
        return clock([ek.InferenceSession(ek.compile(qdq))], None)[0]

    fast, slow = measured("w8a8"), measured("float32")
    budget = (fast + slow) / 2
    found = search(model, max_ms=budget, method=method)
    assert found.is_within
    assert found.cost == pytest.approx(clock([ek.InferenceSession(found.program)], None)[0])
    assert found.rows[0].measured > budget  # the sum of the parts knows nothing of the half that a run adds
    assert len(found.rows) <= search_plan.TRIES
    assert found.db > search(model, max_ms=fast, method=method).db


def test_milliseconds_that_no_plan_takes_are_refused(clock):
    with pytest.raises(ArgumentValueError, match=r"max_ms must be at least [\d.]+, which a run of the cheapest plan"):
        search(MODELS["chain"], max_ms=1.0)


@pytest.mark.parametrize("kind", ["bytes", "bits", "share"])
def test_a_budget_is_kept_and_more_of_it_loses_no_more(model, kind):
    limits = {"bytes": (4000, 8000, 40000), "bits": (8, 16, 32), "share": (0.0, 0.34, 1.0)}[kind]
    found = [search(model, **{f"max_{kind}": limit}) for limit in limits]
    for result, limit in zip(found, limits, strict=True):
        assert result.is_within
        assert result.cost <= limit
        assert result.plan.budget == {f"max_{kind}": limit}
    losses = [sum(choice.loss or 0.0 for choice in result.plan.choices) for result in found]
    assert losses[0] >= losses[1] >= losses[2]
    assert kind != "share" or not {"w8a16", "float32"} & set(found[0].plan.counts())
    assert found[-1].db > 40


def test_the_plan_is_what_the_model_was_written_by(model, tmp_path):
    found = search(model, max_bits=16)
    told = {choice.node: choice.recipe for choice in found.plan.choices}
    for choice in plan_of(found.model).choices:
        assert told[choice.node] == choice.recipe
    found.plan.save(tmp_path / "plan.json")
    again = ek.quantize(model, whole(model), ek.Plan.load(tmp_path / "plan.json").config(model))
    assert again.graph == found.model.graph


def test_the_curve_rises(model, clock):
    curve = ek.pareto(model, whole(model), DATA, points=6, progress=False)
    searched = sorted((row for row in curve.rows if row.is_searched), key=lambda row: row.cost)
    assert len(searched) > 2
    assert "w8a8" in {row.name for row in curve.rows}
    for first, second in pairwise(searched):
        assert first.db <= second.db
    assert [row.measured for row in curve.rows] == sorted(row.measured for row in curve.rows)
    assert set(curve.front) <= set(curve.rows)


def test_pareto_scores_draws_and_tells(model, clock, tmp_path):
    calls = []

    def evaluate(run):
        calls.append(run(DATA[0]))
        return float(len(calls))

    curve = ek.pareto(model, whole(model), DATA, points=3, evaluate=evaluate, progress=False)
    assert len(calls) == len(curve.rows) + 1
    assert curve.float_score == len(calls)
    for ending in ("svg", "png"):
        curve.plot(tmp_path / f"curve.{ending}")
        assert (tmp_path / f"curve.{ending}").stat().st_size > 2000
    with pytest.raises(ArgumentValueError, match=r"Pareto\.plot: path must end in one of"):
        curve.plot(tmp_path / "curve.docx")
    for plan, row in zip(curve.plans, curve.rows, strict=True):
        assert plan.seen["ms"] == row.measured
    assert str(curve).count("\n") == len(curve.rows) + 2
    assert '"over": "ms"' in curve.to_json()
    assert "recipes" in curve.to_csv()


def test_attention_and_what_is_written_out_are_one_unit_each():
    g = Graph()
    x = g.input("x", (1, 6, 8))
    q, k, v = (g.op("MatMul", x, weights(g, 8, 8)) for _ in range(3))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]))
    mixed = g.op("MatMul", g.op("Softmax", g.op("Mul", scores, g.const(0.35, np.float32)), axis=-1), v)
    y = g.op("MatMul", mixed, weights(g, 8, 8))
    y = g.op("Mul", y, g.op("Sigmoid", y))
    model = g.model(g.op("MatMul", y, weights(g, 8, 4)))
    feeds = [{"x": np.random.default_rng(at).normal(0, 1, (1, 6, 8)).astype(np.float32)} for at in range(3)]
    ranges = ranges_of(model, feeds)
    made = quantize_switchable(model, ranges, W8A8, function="test")
    products = [choice.node for choice in plan_of(ek.quantize(model, ranges, W8A8)).choices]
    units = units_of(Switchboard(made, function="test"), products)
    between = [unit for unit in units.rows if not unit.is_product]
    names = {node.name or node.output[0]: node.op_type for node in model.graph.node}
    assert [names[node] for node in between[0].nodes] == ["MatMul", "Mul", "Softmax", "MatMul"]
    assert len([unit for unit in units.rows if unit.is_product]) == 5
    found = ek.search(model, ranges, feeds, max_share=0.5, candidates=["w8a8", "float32"], progress=False)
    assert found.is_within


def test_rows_need_no_ranges():
    model = chain()
    rows = ["w8a8-dynamic", "w4a8-g32", "float32"]
    found = ek.search(model, None, DATA, max_bits=20, candidates=rows, progress=False)
    assert found.is_within
    assert set(found.plan.counts()) <= set(rows)
    with pytest.raises(QuantizationError, match="ranges must be given for the candidates"):
        ek.search(model, None, DATA, max_bits=20, progress=False)


@pytest.mark.parametrize(
    ("budget", "kind", "said"),
    [
        ({}, ArgumentValueError, "exactly one budget must be given"),
        ({"max_ms": 1, "max_bits": 8}, ArgumentValueError, "exactly one budget must be given"),
        ({"max_ms": 0}, ArgumentValueError, "max_ms must be a positive number"),
        ({"max_ms": "3"}, ArgumentTypeError, "max_ms must be a number"),
        ({"max_ms": True}, ArgumentTypeError, "max_ms must be a number"),
        ({"max_share": np.True_}, ArgumentTypeError, "max_share must be a number"),
        ({"max_bits": 8, "candidates": [["w8a8"]]}, ArgumentValueError, "candidates must be some of"),
        ({"max_share": 1.5}, ArgumentValueError, "max_share must be between 0 and 1"),
        ({"max_bytes": "much"}, ArgumentValueError, "max_bytes must be at least one byte"),
        ({"max_bits": 2}, ArgumentValueError, "max_bits must be at least 4"),
        ({"max_bits": 8, "method": "magic"}, ArgumentValueError, "method must be one of"),
        ({"max_bits": 8, "candidates": "w8a8"}, ArgumentValueError, "candidates must be some of"),
        ({"max_bits": 8, "candidates": ["float32"]}, ArgumentValueError, "a recipe that rounds"),
        ({"max_bits": 8, "config": ek.QuantConfig(keep_float=["Conv"])}, ArgumentValueError, "leave recipes to"),
        ({"max_bits": 8, "config": ek.QuantConfig(rounding="gptq")}, ArgumentValueError, "must round without samples"),
    ],
)
def test_refusals(budget, kind, said):
    with pytest.raises(kind, match=f"search: .*{said}"):
        search(MODELS["chain"], **budget)


def test_four_bits_of_columns_stand_beside_eight():
    model = MODELS["residual"]
    names = ["w4a8", "w8a8", "float32"]
    found = [search(model, max_bits=bits, candidates=names) for bits in (4, 5, 8)]
    assert [result.cost <= bits for result, bits in zip(found, (4, 5, 8), strict=True)] == [True] * 3
    chosen = [{choice.recipe for choice in plan_of(result.model).choices} for result in found]
    assert chosen[0] == {"w4a8"}
    assert chosen[1] >= {"w4a8", "w8a8"}
    assert found[0].db < found[1].db < found[2].db


def test_a_calibrator_gives_ranges_and_samples():
    model = MODELS["chain"]
    calibrator = ek.Calibrator(model, progress=False).collect_many(DATA)
    narrow = ["w8a8", "float32"]
    found = ek.search(model, calibrator, calibrator, max_bits=8, candidates=narrow, progress=False)
    assert found.plan.model_hash == calibrator.model_hash
    assert "within the budget" in str(found)


@pytest.mark.parametrize("method", ["ilp", "greedy"])
def test_samples_that_tell_nothing_are_refused(method):
    spoilt = [{name: np.full_like(array, np.nan) for name, array in feeds.items()} for feeds in DATA]
    model = chain()
    with pytest.raises(ArgumentValueError, match="data must tell layers apart, and the model gives NaN"):
        ek.search(model, ranges_of(model), spoilt, max_bits=6, method=method, progress=False)
